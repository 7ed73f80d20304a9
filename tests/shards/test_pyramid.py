"""Pyramids: what is in them, and that a set with them is packed, read, checked and mended as any other."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shards import pyramid, writer
from shards.errors import DamageError, InputError
from shards.images import Transform
from shards.index import Index, parse_columns, parse_document, seal
from shards.reader import Reader
from shards.verify import repair, verify
from shards.writer import pack
from tests.shards.conftest import FakeSource, files_of

SIZE, SIZES = 32, (16, 8)
SOURCE = FakeSource(sizes=(SIZE, SIZE))
TRANSFORM = Transform(SIZE, 3)
BEHIND = SIZE**2 * 3 + 512
"""Bytes from where an image begins to where its pyramid does: it fills whole tar blocks."""


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 40 samples with pyramids in 4 shards; tests leave it as it is."""
    out = tmp_path_factory.mktemp("whole") / "set"
    pack(SOURCE, out, TRANSFORM, with_pyramid=True, shard_samples=10, workers=1)
    return out


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy to do damage to."""
    (tmp_path / "copy").mkdir()
    for name, data in files_of(whole).items():
        (tmp_path / "copy" / name).write_bytes(data)
    return tmp_path / "copy"


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


def rounded_means(pixels: np.ndarray, size: int) -> np.ndarray:
    """Of each block, exactly, in float64: sums of bytes over a power of two."""
    times = len(pixels) // size
    means = pixels.astype(np.float64).reshape(size, times, size, times, -1).mean((1, 3))
    return np.floor(means + 0.5).astype(np.uint8)


HALVED = [
    (64, (32, 16, 8)),
    (16, (8,)),
    (8, ()),
    (15, ()),
    (48, (24, 12)),
    (100, (50, 25)),
    (4096, (2048, 1024, 512, 256, 128, 64, 32, 16, 8)),
]


@pytest.mark.parametrize(("size", "sizes"), HALVED)
def test_sizes_are_halved_as_long_as_they_can_be(size, sizes):
    assert pyramid.sizes_of(size) == sizes


@given(arrays.arrays("uint8", st.tuples(st.just(32), st.just(32), st.sampled_from([1, 3]))))
def test_a_pixel_is_the_rounded_mean_of_its_place(pixels):
    channels = pixels.shape[2]
    expected = [rounded_means(pixels, size) for size in SIZES]
    built = pyramid.build(pixels)
    assert built == b"".join(image.tobytes() for image in expected)
    places = pyramid.starts(SIZES, channels)
    assert places == [0, 256 * channels, 320 * channels]
    assert len(built) == places[-1]


def test_members_stand_behind_the_images(whole):
    with tarfile.open(whole / "shard-000002.tar") as tar:
        names = [member.name for member in tar]
        built = tar.extractfile("images/0023.pyramid.raw").read()
    assert names == [f"images/{i:04d}.{name}" for i in range(20, 30) for name in ("raw", "pyramid.raw", "cls", "json")]
    assert built == pyramid.build(SOURCE.pixels(23))


def test_every_size_is_read(whole):
    index = Index.load(whole)
    assert index.pyramid == SIZES
    ids = np.array([39, 0, 17, 17])
    with Reader(index) as reader:
        for size in (SIZE, *SIZES):
            images = reader.read(ids, size=size)
            assert images.shape == (4, size, size, 3)
            for image, i in zip(images, ids, strict=True):
                assert np.array_equal(image, rounded_means(SOURCE.pixels(i), size))
        assert np.array_equal(reader.read(ids), reader.read(ids, size=SIZE))
        with pytest.raises(ValueError, match="uint8"):
            reader.read(ids, out=np.empty((4, SIZE, SIZE, 3), np.uint8), size=8)


def test_the_same_bytes_for_any_number_of_processes(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "WORTH_STARTING_S", 0.0)
    pack(SOURCE, tmp_path / "set", TRANSFORM, with_pyramid=True, shard_samples=10, workers=3)
    assert files_of(tmp_path / "set") == files_of(whole)


def test_all_else_is_as_without(whole, tmp_path):
    plain = pack(SOURCE, tmp_path / "set", TRANSFORM, shard_samples=10, workers=1).index
    index = Index.load(whole)
    assert plain.pyramid == ()
    assert plain.pyramid_crc32.shape == (40, 0)
    assert "pyramid" not in (tmp_path / "set" / "index.json").read_text()
    assert "pyramid_crc32" not in np.load(tmp_path / "set" / "index.npz")
    for name in ("shard", "size", "crc32", "label", "attributes", "key", "extension"):
        assert np.array_equal(getattr(index, name), getattr(plain, name))
    assert index.fingerprint != plain.fingerprint
    assert (plain.summary()["pyramid"], index.summary()["pyramid"]) == ("none", "16, 8")


def test_readers_of_others_are_unharmed(whole):
    index = Index.load(whole)
    urls = [str(whole / entry.url) for entry in index.shards]
    streamed = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"].encode() for sample in streamed] == index.key.tolist()
    for i, sample in enumerate(streamed):
        assert sample["raw"] == SOURCE.pixels(i).tobytes()
        assert sample["pyramid.raw"] == pyramid.build(SOURCE.pixels(i))
        assert int(sample["cls"]) == i % 3
    document = json.loads((whole / "index.json").read_text())
    assert [entry["nsamples"] for entry in document["shardlist"]] == [10] * 4
    assert document["pyramid"] == [16, 8]


def test_every_bit_of_a_small_image_counts(copied):
    index = Index.load(copied)
    path, begins = copied / "shard-000000.tar", int(index.offset[3]) + BEHIND
    sound = path.read_bytes()
    for place in (0, 255 * 3, 256 * 3, 320 * 3 - 1):
        flip(path, begins + place)
        size = 16 if place < 256 * 3 else 8
        with Reader(index) as reader:
            with pytest.raises(DamageError, match=r"shard-000000\.tar, sample images/0003: its bytes"):
                reader.read(np.array([3]), size=size)
            reader.read(np.array([3]))
            reader.read(np.array([3]), size=24 - size)
        (damage,) = verify(copied)
        assert damage.keys == ("images/0003",)
        assert "pyramid" in damage.reason
        path.write_bytes(sound)
    assert verify(copied) == []


def test_damage_is_located_and_mended(copied, whole, tmp_path):
    index = Index.load(copied)
    path = copied / "shard-000001.tar"
    flip(path, int(index.offset[12]) + BEHIND + 5)  # a pyramid
    flip(path, int(index.offset[14]) + BEHIND - 300)  # the header of one
    flip(path, int(index.offset[16]) + 5)  # an image
    image, smaller, around = verify(copied)
    assert (image.keys, smaller.keys, around.keys) == (("images/0016",), ("images/0012",), ("images/0014",))
    assert "image bytes" in image.reason
    assert "pyramid" in smaller.reason
    assert "header" in around.reason
    report = repair(copied, tmp_path / "mended", workers=1)
    assert [loss.keys for loss in report.lost] == [("images/0016",)]
    without = FakeSource(sizes=(SIZE, SIZE), broken=frozenset({16}))
    pack(without, tmp_path / "fresh", TRANSFORM, with_pyramid=True, shard_samples=10, workers=1)
    assert files_of(tmp_path / "mended") == files_of(tmp_path / "fresh")
    repair(whole, tmp_path / "copy of it", workers=1)
    assert files_of(tmp_path / "copy of it") == files_of(whole)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoding": "png"}, "encoding raw, not png"),
        ({"transform": Transform(8, 3)}, "images of 8 pixels have no pyramid"),
        ({"transform": Transform(31, 3)}, "images of 31 pixels have no pyramid"),
    ],
)
def test_what_can_have_none_is_said_before_anything_is_written(tmp_path, options, said):
    asked = {"transform": TRANSFORM, "encoding": "raw", **options}
    with pytest.raises(InputError, match=said):
        pack(SOURCE, tmp_path / "set", asked["transform"], encoding=asked["encoding"], with_pyramid=True)
    assert not (tmp_path / "set").exists()


def test_what_was_begun_without_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "write_index", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack(SOURCE, tmp_path / "set", TRANSFORM, shard_samples=10, workers=1)
    monkeypatch.undo()
    with pytest.raises(InputError, match="begun with pyramid as always, not "):
        pack(SOURCE, tmp_path / "set", TRANSFORM, with_pyramid=True, shard_samples=10, workers=1)


def test_shards_are_no_larger_for_it():
    source = FakeSource(100_000, sizes=(512, 512))
    with_it = writer._choose_shard_samples(source, Transform(512, 3), "raw", pyramid.sizes_of(512))
    assert with_it * pyramid.starts((512, *pyramid.sizes_of(512)), 3)[-1] <= writer.SHARD_BYTES


def forged(root: Path, **changes: Any) -> bytes:
    """An index.json that is sealed and says other things."""
    document = json.loads((root / "index.json").read_text())
    document.pop("fingerprint")
    return seal({**document, **changes})


@pytest.mark.parametrize("sizes", [[16], [8, 16], [16, 8, 4], ["16", "8"], 16, None])
def test_an_index_that_lies_of_its_pyramid_is_refused(copied, sizes):
    (copied / "index.json").write_bytes(forged(copied, pyramid=sizes))
    with pytest.raises(InputError, match=r"index\.(json|npz) is damaged or foreign"):
        Index.load(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"pyramid_crc32": lambda column: column[:, :1]},
        {"pyramid_crc32": lambda column: column.astype(np.int64)},
        {"pyramid_crc32": lambda column: None},
        {"offset": lambda column: np.where(np.arange(40) == 39, -(SIZE**2) * 3 - 600, column)},
    ],
)
def test_rows_that_lie_are_refused(whole: Path, change: dict[str, Callable[[Any], Any]]) -> None:
    columns = dict(np.load(whole / "index.npz"))
    for name, function in change.items():
        columns[name] = function(columns[name])
    if "offset" in change:  # counted from the end of the shard: the image lies in it, its pyramid does not
        columns["offset"][39] += (whole / "shard-000003.tar").stat().st_size
    file = BytesIO()
    np.savez(file, **{name: column for name, column in columns.items() if column is not None})
    digest = {"sha256": hashlib.sha256(file.getvalue()).hexdigest(), "filesize": 0}
    document = parse_document(forged(whole, index_npz=digest))
    with pytest.raises(ValueError, match=r"it has (rows|no column)|column"):
        parse_columns(file.getvalue(), document)
