import io
import multiprocessing
import os
import pickle
import resource
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from shards.errors import InputError
from shards.images import ImageError
from shards.trees import Folder, Mounted, Tree, open_inside, open_tree

FILES = {f"{folder}/{i}.bin": bytes([i]) * (i * 100) for folder in ("b", "a/deep", "c d") for i in range(1, 5)}
KINDS = ("folder", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def write_folder(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def tar_bytes(files: dict[str, bytes], compression: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def write(path: Path, kind: str, files: dict[str, bytes] = FILES) -> Path:
    """The files in a container of some kind, which is returned; its name does not tell."""
    if kind == "folder":
        write_folder(path, files)
    elif kind == "zip":
        path.write_bytes(zip_bytes(files))
    else:
        path.write_bytes(tar_bytes(files, kind.partition(".")[2]))
    return path


def opened(path: Path) -> Tree:
    tree = open_tree(path)
    assert tree is not None
    return tree


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_holds_the_same_files(tmp_path, kind):
    before = write(tmp_path / "it", kind)
    tree = opened(before)
    assert tree.container == kind
    assert tree.files == {name: len(data) for name, data in FILES.items()}
    assert tree.left_out == Counter()
    backwards = list(FILES)[::-1]
    for copy in (tree, pickle.loads(pickle.dumps(tree))):
        assert [copy.read(name) for name in FILES] == list(FILES.values())
        assert [copy.read(name) for name in backwards] == [FILES[name] for name in backwards]
        assert [copy.head(name, 150) for name in FILES] == [data[:150] for data in FILES.values()]
        with copy.open("b/3.bin") as file:
            file.seek(5)
            assert file.read() == FILES["b/3.bin"][5:]
    assert sorted(tmp_path.iterdir()) == [before]  # nothing was unpacked


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_that_of_names_or_in_compressed_tars_of_the_archive(tmp_path, kind):
    tree = opened(write(tmp_path / "it", kind))
    assert list(tree.files) == (list(FILES) if kind.startswith("tar.") else sorted(FILES))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_larger_than_asked_for_is_refused(tmp_path, kind):
    tree = opened(write(tmp_path / "it", kind, {"a": bytes(2 << 20)}))
    assert tree.read("a", 2 << 20) == bytes(2 << 20)
    with pytest.raises(ImageError, match="larger than 1 MiB"):
        tree.read("a", 1 << 20)


@pytest.mark.parametrize("kind", KINDS)
def test_what_systems_leave_behind_is_counted_apart(tmp_path, kind):
    files = {"pets/1.jpg": b"x", "__MACOSX/pets/._1.jpg": b"y", "__MACOSX/pets/._2.jpg": b"y", "@eaDir/t.jpg": b"z"}
    tree = opened(write(tmp_path / "it", kind, files))
    assert list(tree.files) == ["pets/1.jpg"]
    assert tree.left_out == {"in __MACOSX": 2, "in @eaDir": 1}


# ---- folders and their links ----


def test_a_folder_has_its_own_name_and_not_that_of_a_link_to_it(tmp_path):
    write_folder(tmp_path / "set", {"zoo/1": b"1", "zoo/2": b"2"})
    (tmp_path / "set/alias").symlink_to("zoo")
    (tmp_path / "set/zoo/3").symlink_to("1")
    tree = Folder(tmp_path / "set")
    assert sorted(tree.files) == ["zoo/1", "zoo/2"]
    assert tree.left_out == {
        "link to a folder that is here itself: alias": 1,
        "link to a file that is here itself": 1,
    }


def test_links_that_lead_elsewhere_are_followed_once(tmp_path):
    write_folder(tmp_path / "elsewhere", {"1": b"1", "in/2": b"2"})
    (tmp_path / "set").mkdir()
    for name in ("one", "two"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/up").symlink_to(tmp_path)  # a folder that holds this one would bring the whole disk
    tree = Folder(tmp_path / "set")
    assert sorted(tree.files) == ["one/1", "one/in/2"]
    assert sum(tree.left_out.values()) == 2


def test_two_links_to_one_file_are_one_file(tmp_path):
    write_folder(tmp_path / "elsewhere", {"1": b"1"})
    (tmp_path / "set").mkdir()
    for name in ("b", "a"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere/1")
    tree = Folder(tmp_path / "set")
    assert tree.files == {"a": 1}
    assert tree.left_out == {"link to a file that is here itself": 1}


def test_all_files_of_a_hidden_folder_are_counted(tmp_path):
    write_folder(tmp_path, {"a": b"1", ".git/1": b"1", ".git/in/2": b"2", ".DS_Store": b"3"})
    (tmp_path / ".empty").mkdir()
    assert Folder(tmp_path).left_out == {"hidden": 3}
    (tmp_path / "more").mkdir()
    (tmp_path / "more/.empty").mkdir()
    assert Folder(tmp_path / "more").left_out == {}


def test_a_link_to_itself_fails_alone(tmp_path):
    write_folder(tmp_path, {"a.jpg": b"1"})
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    tree = Folder(tmp_path)
    assert tree.files == {"a.jpg": 1, "loop.jpg": -1}
    with pytest.raises(OSError, match="loop"):
        tree.read("loop.jpg")


def test_archives_of_one_name_are_not_merged(tmp_path):
    write_folder(tmp_path, {"a.zip": zip_bytes({"1": b"1"}), "a.tar": tar_bytes({"2": b"2"})})
    tree = Folder(tmp_path)
    with pytest.raises(InputError, match="several archives called a"):
        Mounted(tree, open_inside(tree, tree.files))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        Folder(tmp_path).read("pipe")


# ---- one in another ----


@pytest.mark.parametrize("outer", ["folder", "zip", "tar", "tar.gz"])
@pytest.mark.parametrize("inner", ["zip", "tar", "tar.xz"])
def test_an_archive_in_a_tree_is_a_folder(tmp_path, outer, inner):
    packed = write(tmp_path / "inner", inner).read_bytes()
    path = write(tmp_path / "outer", outer, {f"some/pets.{inner}": packed, "notes": b"n"})
    outside = opened(path)
    tree = Mounted(outside, open_inside(outside, [f"some/pets.{inner}"]))
    assert tree.files == {"notes": 1} | {f"some/pets/{name}": len(data) for name, data in FILES.items()}
    for copy in (tree, pickle.loads(pickle.dumps(tree))):
        assert [copy.read(f"some/pets/{name}") for name in FILES] == list(FILES.values())
        assert copy.read("notes") == b"n"


def test_more_archives_than_files_may_be_open(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for i in range(40):
        (tmp_path / f"{i:02d}.zip").write_bytes(zip_bytes({"1": b"1"}))
        (tmp_path / f"{i:02d}t.tar").write_bytes(tar_bytes({"1": b"1"}))
    outside = Folder(tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 30, before[1]))
    try:
        tree = Mounted(outside, open_inside(outside, outside.files))
        assert {tree.read(name) for name in tree.files} == {b"1"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_tar_in_a_tar_is_not_taken_into_memory(tmp_path):
    rest, big, outer = tar_bytes({"1": b"one"}), tarfile.TarInfo("big"), tarfile.TarInfo("in.tar")
    big.size = 300 << 20  # more than is read of any file
    outer.size = 512 + big.size + len(rest)
    with (tmp_path / "it.tar").open("wb") as file:
        file.write(outer.tobuf() + big.tobuf())
        file.seek(big.size, io.SEEK_CUR)  # a hole, which takes no room on the disk
        file.write(rest + bytes(1024))
    outside = opened(tmp_path / "it.tar")
    tree = Mounted(outside, open_inside(outside, ["in.tar"]))
    assert tree.files == {"in/1": 3, "in/big": 300 << 20}
    assert pickle.loads(pickle.dumps(tree)).read("in/1") == tree.read("in/1") == b"one"


def read_often(tree: Tree) -> bool:
    return all(tree.read(name) == data for _ in range(20) for name, data in FILES.items())


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_forked_copies_do_not_share_a_position(tmp_path, kind):
    tree = opened(write(tmp_path / "it", kind))
    assert read_often(tree)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=lambda: read_often(tree) or os._exit(1)) for _ in range(2)]
    for child in children:
        child.start()
    assert read_often(tree)
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
