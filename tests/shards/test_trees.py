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
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import InputError
from shards.images import ImageError
from shards.trees import Folder, Mounted, Tar, Tree, Zip, open_inside, open_tree, without_suffix

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


def test_a_zip_member_that_claims_little_and_holds_much(tmp_path):
    path = write(tmp_path / "it.zip", "zip", {"a": bytes(10**6)})
    data = bytearray(path.read_bytes())
    for header, at in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        place = data.index(header) + at
        data[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImageError):
        opened(path).read("a", 1000)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_archive_that_is_cut_off_is_named(tmp_path, kind):
    path = write(tmp_path / f"it.{kind}", kind, {f"{i}": os.urandom(3000) for i in range(5)})
    whole = path.read_bytes()
    for keep in (0, 5, 300, len(whole) // 2, len(whole) - 1):
        if kind == "tar" and keep == len(whole) - 1:
            continue  # the last byte of the zeros that end a tar is no loss
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match=r"it\.\S+ is not a whole"):
            opened(path)


def test_a_damaged_header_does_not_end_a_tar_in_silence(tmp_path):
    path = write(tmp_path / "it.tar", "tar")
    data = bytearray(path.read_bytes())
    data[2048 + 100] ^= 1  # of the second or third member: tarfile ends its listing there without an error
    path.write_bytes(data)
    with pytest.raises(InputError, match="breaks off after"):
        opened(path)


def test_what_is_no_archive(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "data.gz").write_bytes(__import__("gzip").compress(b"hello" * 200))
    assert open_tree(tmp_path / "notes.txt") is None
    assert open_tree(tmp_path / "data.gz") is None
    assert open_tree(tmp_path / "missing") is None
    (tmp_path / "notes.tgz").write_text("hello")
    with pytest.raises(InputError, match="not a whole archive"):
        open_tree(tmp_path / "notes.tgz")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_left_out(tmp_path, kind):
    files = {"../up.bin": b"1", "/root.bin": b"2", "a/../../b": b"3", "./in.bin": b"4", ".hidden/x": b"5"}
    tree = opened(write(tmp_path / "it", kind, files))
    assert tree.files == {"root.bin": 1, "in.bin": 1}  # a name is a name: nothing is ever written to it
    assert tree.left_out == {"with a name that leads out of the archive": 2, "hidden": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_what_systems_leave_behind_is_counted_apart(tmp_path, kind):
    files = {"pets/1.jpg": b"x", "__MACOSX/pets/._1.jpg": b"y", "__MACOSX/pets/._2.jpg": b"y", "@eaDir/t.jpg": b"z"}
    tree = opened(write(tmp_path / "it", kind, files))
    assert list(tree.files) == ["pets/1.jpg"]
    assert tree.left_out == {"in __MACOSX": 2, "in @eaDir": 1}


def test_zip_names_of_windows_and_of_macos(tmp_path):
    path = tmp_path / "it.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("pets\\cat\\1.jpg".replace("\\", "\\")), b"1")
        archive.writestr("pets/café/2.jpg", b"2")
    data = path.read_bytes().replace(b"\x00\x08\x00\x00", b"\x00\x00\x00\x00")  # macOS does not say that it is UTF-8
    path.write_bytes(data)
    tree = opened(path)
    assert sorted(tree.files) == ["pets/café/2.jpg", "pets/cat/1.jpg"]
    assert [tree.read(name) for name in sorted(tree.files)] == [b"2", b"1"]


def test_links_in_archives_are_counted_and_not_followed(tmp_path):
    with tarfile.open(tmp_path / "it.tar", "w") as tar:
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "a.jpg")):
            member = tarfile.TarInfo(f"{kind!r}.jpg")
            member.type, member.linkname = kind, target
            tar.addfile(member)
        fifo = tarfile.TarInfo("pipe.jpg")
        fifo.type = tarfile.FIFOTYPE
        tar.addfile(fifo)
    tree = opened(tmp_path / "it.tar")
    assert not tree.files
    assert tree.left_out == {"links": 2, "neither files nor folders": 1}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_twice_is_the_last_and_the_other_is_counted(tmp_path, kind):
    file = tmp_path / "it"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", "old")
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("a", "newer")
    else:
        file.write_bytes(tar_bytes({"a": b"old"})[:1024] + tar_bytes({"a": b"newer"}))
    tree = opened(file)
    assert tree.files == {"a": 5}
    assert tree.read("a") == b"newer"
    assert tree.left_out == {"of a name that comes once more": 1}


def test_hard_links_in_a_tar_are_files(tmp_path):
    with tarfile.open(tmp_path / "it.tar", "w") as tar:
        member = tarfile.TarInfo("./a/1.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"one"))
        for name, target in (("b/1.jpg", "./a/1.jpg"), ("b/2.jpg", "gone.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
    tree = opened(tmp_path / "it.tar")
    assert {name: tree.read(name) for name in tree.files} == {"a/1.jpg": b"one", "b/1.jpg": b"one"}
    assert tree.left_out == {"links": 1}


@pytest.mark.parametrize(("encoding", "name"), [("gbk", "猫咪"), ("cp932", "ねこ"), ("cp437", "café")])
def test_names_in_an_unknown_encoding_are_said(tmp_path, encoding, name):
    marker = "x" * len(name.encode(encoding))
    data = zip_bytes({f"{marker}/1.jpg": b"1"}).replace(marker.encode(), name.encode(encoding))
    (tmp_path / "it.zip").write_bytes(data)
    tree = opened(tmp_path / "it.zip")
    assert [tree.read(each) for each in tree.files] == [b"1"]
    assert "does not say how 1 of its names are encoded" in tree.notes[0]
    assert tree.notes == Mounted(Folder(tmp_path), {"it.zip": tree}).notes


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


def test_without_suffix():
    assert [without_suffix(name) for name in ("a/b.zip", "x.tar.gz", "y.TGZ", "z")] == ["a/b", "x", "y", "z"]


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


@given(
    kind=st.sampled_from(KINDS[1:]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
)
@settings(max_examples=200)
def test_any_damage_is_an_error_for_people(tmp_path_factory, kind, flips):
    path = write(tmp_path_factory.mktemp("set") / f"it.{kind}", kind, {f"{i}.jpg": bytes([i]) * 9 for i in range(3)})
    data = bytearray(path.read_bytes())
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    path.write_bytes(data)
    try:
        tree = open_tree(path)
    except InputError:
        return
    assert isinstance(tree, (Zip, Tar))
    for name in tree.files:
        try:
            tree.read(name)
        except (ImageError, OSError):
            continue
