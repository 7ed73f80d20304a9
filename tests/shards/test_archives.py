import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.archives import Tar, Zip, without_suffix
from shards.errors import InputError
from shards.images import ImageError
from shards.trees import Folder, Mounted, open_tree
from tests.shards.test_trees import KINDS, opened, tar_bytes, write, zip_bytes


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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("tar")])
@given(first=st.integers(0, 3), second=st.integers(1, 3), blocks=st.integers(0, 40))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_tar_that_goes_on_after_its_end_is_not_read_by_half(tmp_path, kind, first, second, blocks):
    parts = [tar_bytes({f"{i}.png": b"x" for i in range(count)}) + bytes(512 * blocks) for count in (first, second)]
    compress = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}.get(kind, bytes)
    path = tmp_path / f"it.{kind}"
    for whole in {compress(parts[0] + parts[1]), compress(parts[0]) + compress(parts[1])}:  # cat a.tar.gz b.tar.gz
        path.write_bytes(whole)
        with pytest.raises(InputError, match=rf"it\.{kind} goes on after the end of a tar.*tar --ignore-zeros"):
            opened(path)
    path.write_bytes(compress(parts[1]))
    assert len(opened(path).files) == second


def test_a_zip_behind_another_is_not_taken_for_all(tmp_path):
    one, other = zip_bytes({"a.png": b"1"}), zip_bytes({"b.png": b"2"})
    (tmp_path / "it.zip").write_bytes(one + other)
    with pytest.raises(InputError, match=r"it\.zip begins with files that .* does not have"):
        opened(tmp_path / "it.zip")
    (tmp_path / "it.zip").write_bytes(b"MZ a program that unpacks itself" + other)
    assert opened(tmp_path / "it.zip").read("b.png") == b"2"


def test_a_header_of_zeros_does_not_end_a_tar_in_silence(tmp_path):
    path = write(tmp_path / "it.tar", "tar")
    data = bytearray(path.read_bytes())
    data[1024:1536] = bytes(512)  # of the second member
    path.write_bytes(data)
    with pytest.raises(InputError, match="goes on after the end"):
        opened(path)


def test_what_is_no_archive(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "data.gz").write_bytes(gzip.compress(b"hello" * 200))
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


def test_without_suffix():
    assert [without_suffix(name) for name in ("a/b.zip", "x.tar.gz", "y.TGZ", "z")] == ["a/b", "x", "y", "z"]


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


@pytest.mark.parametrize(
    ("pieces", "large", "refused"),
    [(1, 0, False), (6, 0, True), (1, 3, True), (0x10000, 3, True)],
)
def test_the_pieces_of_a_zip_are_to_be_joined(tmp_path, pieces, large, refused):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = b"of some length"
        archive.writestr("1.jpg", b"1")
    data = file.getvalue()
    end = data.rindex(b"PK\5\6")
    locator = b"PK\6\7" + bytes(12) + large.to_bytes(4, "little") if large else b""
    number = (pieces - 1).to_bytes(2, "little")
    (tmp_path / "it.zip").write_bytes(data[:end] + locator + data[end : end + 4] + number + data[end + 6 :])
    if refused:
        with pytest.raises(InputError, match=r"it\.zip is one piece of several: join them \(zip -s 0 \S+it\.zip --out"):
            open_tree(tmp_path / "it.zip")
    else:
        assert list(opened(tmp_path / "it.zip").files) == ["1.jpg"]
