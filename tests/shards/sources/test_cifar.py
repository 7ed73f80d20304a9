import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import InputError
from shards.sources import Source, open_source
from shards.sources.cifar import BATCHES

RNG = np.random.default_rng(0)
SIZES = (4, 3, 5, 1, 260)  # unequal, so that a wrong batch is noticed; the last needs two-byte counts
PIXELS = [RNG.integers(0, 256, (size, 3072), dtype=np.uint8) for size in SIZES]
LABELS = [RNG.integers(0, 10, size).tolist() for size in SIZES]
IMAGES = np.concatenate(PIXELS).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


Batch = Callable[..., bytes]


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2's cPickle wrote its strings, which is what the official batches are made of."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_bytes(self: Any, data: bytes) -> None:
        short = len(data) < 256
        self.write(b"U" + bytes([len(data)]) + data if short else b"T" + len(data).to_bytes(4, "little") + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def official(pixels: np.ndarray, labels: list[int], number: int = 1) -> bytes:
    file = io.BytesIO()
    batch = {
        b"batch_label": b"training batch %d of 5" % number,
        b"labels": labels,
        b"data": pixels,
        b"filenames": [b"leptodactylus_pentadactylus_s_%06d.png" % i for i in range(len(labels))],
    }
    Python2Pickler(file, 2).dump(batch)
    return file.getvalue()


def binary(pixels: np.ndarray, labels: list[int], number: int = 1) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True))


def repickled(protocol: int) -> Batch:
    def make(pixels: np.ndarray, labels: list[int], number: int = 1) -> bytes:
        return pickle.dumps({"batch_label": "mine", "labels": labels, "data": pixels}, protocol)

    return make


def files(make: Batch, suffix: str = "") -> dict[str, bytes]:
    data = zip(BATCHES, PIXELS, LABELS, range(1, 6), strict=True)
    return {name + suffix: make(pixels, labels, number) for name, pixels, labels, number in data}


def write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def write_archive(path: Path, contents: dict[str, bytes], folder: str = "cifar-10-batches-py") -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in reversed(contents.items()):  # the official archive has its own order too
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def check(source: Source) -> None:
    assert (source.layout, len(source), source.channels()) == ("cifar10", sum(SIZES), 3)
    assert source.class_names[3] == "cat"
    assert len(source.class_names) == 10
    for copy in (source, pickle.loads(pickle.dumps(source))):
        samples = [copy.sample(i) for i in range(len(copy))]
        np.testing.assert_array_equal([sample.image for sample in samples], IMAGES)
        assert [sample.label for sample in samples] == [label for labels in LABELS for label in labels]
        assert len({sample.key for sample in samples}) == len(copy)
    assert source.sample(5).key == "data_batch_2-00001"
    assert source.name(5).removesuffix("[1]") in ("data_batch_2", "data_batch_2.bin")


def test_this_tests_pickles_are_what_python_2_wrote():
    batch = pickle.loads(official(PIXELS[0], LABELS[0]), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], PIXELS[0])
    assert batch[b"labels"] == LABELS[0]


MAKERS = [official, repickled(2), repickled(3), repickled(4)]


@pytest.mark.parametrize("make", MAKERS)
def test_python_batches(tmp_path, make):
    write_folder(tmp_path / "cifar-10-batches-py", {**files(make), "batches.meta": b""})
    check(open_source(tmp_path))
    check(open_source(tmp_path / "cifar-10-batches-py"))


def test_binary_batches(tmp_path):
    write_folder(tmp_path / "cifar-10-batches-bin", files(binary, ".bin"))
    check(open_source(tmp_path))
    check(open_source(tmp_path / "cifar-10-batches-bin"))


def test_archives(tmp_path):
    (tmp_path / "py").mkdir()
    (tmp_path / "bin").mkdir()
    write_archive(tmp_path / "py/cifar-10-python.tar.gz", files(official))
    write_archive(tmp_path / "bin/cifar-10-binary.tar.gz", files(binary, ".bin"), "cifar-10-batches-bin")
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / "py", tmp_path / "bin", tmp_path / "py/cifar-10-python.tar.gz"):
        check(open_source(path))
    assert sorted(tmp_path.rglob("*")) == before  # nothing was extracted


def test_identity_is_that_of_the_batches(tmp_path):
    write_folder(tmp_path / "a", files(official))
    write_folder(tmp_path / "b", files(binary, ".bin"))
    write_folder(tmp_path / "c", {**files(official), "data_batch_3": official(PIXELS[2], [9 - x for x in LABELS[2]])})
    a, b, c = (open_source(tmp_path / name).identity() for name in "abc")
    assert a == b != c


def test_a_pickled_source_leaves_the_pixels_behind(tmp_path):
    write_folder(tmp_path, files(official))
    assert len(pickle.dumps(open_source(tmp_path))) < IMAGES.nbytes / 50


class Bomb:
    """What a malicious pickle does."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_runs_nothing(tmp_path, protocol):
    marker = tmp_path / "executed"
    folder = tmp_path / "set"
    batch = {"labels": LABELS[0], "data": PIXELS[0], "zz": Bomb(os.mkdir, str(marker))}
    pickle.loads(pickle.dumps(batch, protocol))
    assert marker.is_dir()  # the bomb is a real one
    marker.rmdir()
    write_folder(folder, {**files(official), "data_batch_1": pickle.dumps(batch, protocol)})
    check(open_source(folder))
    for bomb in (Bomb(os.mkdir, str(marker)), {"labels": Bomb(os.mkdir, str(marker)), "data": PIXELS[0]}):
        write_folder(folder, {"data_batch_1": pickle.dumps(bomb, protocol)})
        with pytest.raises(InputError, match="data_batch_1 is not a CIFAR-10 batch"):
            open_source(folder)
    assert not marker.exists()


def test_a_pickle_that_crashes_unpicklers_is_only_refused(tmp_path):
    nested = b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."  # a dict key so deep that hashing it overflows the stack
    huge_memo = b"\x80\x02}r\xff\xff\xff\x7f."
    huge_string = b"\x80\x04\x8e" + b"\xff" * 8 + b"."
    for data in (nested, huge_memo, huge_string):
        write_folder(tmp_path, {**files(official), "data_batch_2": data})
        with pytest.raises(InputError, match="data_batch_2"):
            open_source(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02.",
        official(PIXELS[0], LABELS[0])[:-400],
        official(PIXELS[0], LABELS[0][:-1]),
        official(PIXELS[0], [10, *LABELS[0][1:]]),
        official(PIXELS[0], [-1, *LABELS[0][1:]]),
        official(PIXELS[0], [300, *LABELS[0][1:]]),
        official(PIXELS[0], []),
        official(PIXELS[0][:, :-1].copy(), LABELS[0]),
        official(np.asfortranarray(PIXELS[0]), LABELS[0]),  # the right bytes in another order
        official(PIXELS[0].astype(np.int16), LABELS[0]),
        repickled(5)(np.asfortranarray(PIXELS[0]), LABELS[0]),
        *(repickled(protocol)(PIXELS[0].reshape(-1, 32, 32, 3), LABELS[0]) for protocol in (2, 4)),
        repickled(4)(PIXELS[0].reshape(-1), LABELS[0]),
        pickle.dumps({"labels": LABELS[0], "data": "\u20ac" * 9}, 2),
    ],
)
def test_a_broken_python_batch_is_named(tmp_path, data):
    write_folder(tmp_path, {**files(official), "data_batch_4": data})
    with pytest.raises(InputError, match="data_batch_4 is not a CIFAR-10 batch"):
        open_source(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x0a" + bytes(3072), bytes(3072), bytes(3074)])
def test_a_broken_binary_batch_is_named(tmp_path, data):
    write_folder(tmp_path, {**files(binary, ".bin"), "data_batch_4.bin": data})
    with pytest.raises(InputError, match=r"data_batch_4\.bin is not a CIFAR-10 batch"):
        open_source(tmp_path)


@pytest.mark.parametrize(("make", "suffix"), [(official, ""), (binary, ".bin")])
def test_a_missing_batch_is_named(tmp_path, make, suffix):
    write_folder(tmp_path, files(make, suffix))
    (tmp_path / f"data_batch_1{suffix}").unlink()
    with pytest.raises(InputError, match="has no data_batch_1"):
        open_source(tmp_path)


def test_a_broken_archive_is_named(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    write_archive(path, files(official))
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[: len(whole) // 2], whole[:3000] + bytes(100) + whole[3100:]):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz"):
            open_source(tmp_path)


def test_links_in_an_archive_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name in BATCHES:
            member = tarfile.TarInfo(f"../../{name}")
            member.type, member.linkname = tarfile.SYMTYPE, f"../../{name}"
            archive.addfile(member)
    with pytest.raises(InputError, match="no data set was found"):
        open_source(tmp_path)


WHOLE = official(PIXELS[0], LABELS[0])


@given(
    flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1) | st.integers(0, 200), st.integers(1, 255)), max_size=5),
    keep=st.integers(0, len(WHOLE)),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, flips, keep):
    data = bytearray(WHOLE)
    for position, mask in flips:
        data[position] ^= mask
    folder = tmp_path_factory.mktemp("set")
    write_folder(folder, dict.fromkeys(BATCHES, WHOLE) | {"data_batch_5": bytes(data[:keep])})
    try:
        source = open_source(folder)
    except InputError as error:
        message = str(error)
    else:
        message = "data_batch_5 was read"
        assert len(source) == 5 * SIZES[0]
    assert "data_batch_5" in message


# ---- the test batch, and CIFAR-100 ----


@pytest.mark.parametrize(("make", "suffix"), [(official, ""), (binary, ".bin")])
def test_the_test_batch_is_a_split(tmp_path, make, suffix):
    write_folder(tmp_path, {**files(make, suffix), f"test_batch{suffix}": make(PIXELS[0], LABELS[0])})
    source = open_source(tmp_path)
    assert source.recognised.splits == {"train": sum(SIZES), "test": SIZES[0]}
    check(open_source(tmp_path, split="train"))
    test = open_source(tmp_path, split="test")
    assert [test.sample(i).label for i in range(SIZES[0])] == LABELS[0]
    assert test.sample(0).key == "test_batch-00000"


def hundred(pixels: np.ndarray, fine: list[int], coarse: list[int]) -> bytes:
    file = io.BytesIO()
    batch = {b"filenames": [b"x.png"] * len(fine), b"fine_labels": fine, b"coarse_labels": coarse, b"data": pixels}
    Python2Pickler(file, 2).dump(batch)
    return file.getvalue()


FINE = [0, 99, 50]
COARSE = [19, 3, 0]


@pytest.mark.parametrize("kind", ["python", "binary", "archive"])
def test_cifar_100(tmp_path, kind):
    pixels = PIXELS[1]
    if kind == "binary":
        rows = b"".join(bytes([c, f]) + row.tobytes() for c, f, row in zip(COARSE, FINE, pixels, strict=True))
        contents = {"train.bin": rows, "test.bin": rows, "fine_label_names.txt": b"apple\n"}
        write_folder(tmp_path / "cifar-100-binary", contents)
    else:
        data = hundred(pixels, FINE, COARSE)
        contents = {"train": data, "test": data, "meta": b""}
        if kind == "python":
            write_folder(tmp_path / "cifar-100-python", contents)
        else:
            write_archive(tmp_path / "cifar-100-python.tar.gz", contents, "cifar-100-python")
    fine, coarse = open_source(tmp_path), open_source(tmp_path, "cifar100-coarse")
    assert (fine.layout, len(fine.class_names), len(coarse.class_names)) == ("cifar100", 100, 20)
    assert fine.class_names[0] == "apple"
    assert fine.class_names[99] == "worm"
    assert coarse.class_names[19] == "vehicles_2"
    assert [fine.sample(i).label for i in range(6)] == FINE * 2
    assert [coarse.sample(i).label for i in range(6)] == COARSE * 2
    assert fine.recognised.splits == {"train": 3, "test": 3}
    assert any("cifar100-coarse" in note for note in fine.recognised.notes)
    np.testing.assert_array_equal(fine.sample(1).image, pixels[1].reshape(3, 32, 32).transpose(1, 2, 0))


def test_another_archive_is_one_of_pictures(tmp_path):
    write_archive(tmp_path / "faces.tar.gz", {"1.jpg": b"\xff\xd8\xff", "2.jpg": b"\xff\xd8\xff"}, "faces/anna")
    source = open_source(tmp_path / "faces.tar.gz")
    assert (source.layout, source.class_names) == ("folder", ("anna",))


def test_the_archive_beside_what_was_in_it(tmp_path):
    write_folder(tmp_path / "cifar-10-batches-py", files(official))
    write_archive(tmp_path / "cifar-10-python.tar.gz", files(official))
    source = open_source(tmp_path)
    check(source)
    assert source.recognised.left_out == {"archives that lie unpacked beside themselves": 1}


def test_both_editions_in_one_folder(tmp_path):
    write_folder(tmp_path, files(official) | files(binary, ".bin"))
    source = open_source(tmp_path)
    check(source)
    assert source.recognised.left_out == {"more of the same files": 5}
