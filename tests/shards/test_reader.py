from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import reader as reader_module
from shards.errors import DamageError
from shards.index import Index
from shards.reader import Reader
from shards.writer import pack
from tests.shards.conftest import SIZE, TRANSFORM, FakeSource, files_of

EXPECTED = np.stack([FakeSource().pixels(i) for i in range(40)])


@pytest.fixture(scope="module")
def readers(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One reader of each encoding that loses nothing."""
    opened = [Reader(Index.load(pristine))]
    for encoding in ("png", "original"):
        out = tmp_path_factory.mktemp(encoding) / "set"
        report = pack(FakeSource(kind="png"), out, TRANSFORM, encoding=encoding, shard_samples=10, workers=1)
        opened.append(Reader(report.index, threads=2))
    yield opened
    for reader in opened:
        reader.close()


@given(ids=st.lists(st.integers(0, 39), max_size=30))
def test_any_ids_in_any_order(readers: list[Reader], ids: list[int]) -> None:
    for reader in readers:
        out = np.empty((len(ids), SIZE, SIZE, 3), np.uint8)
        assert reader.read(np.array(ids, np.int64), out=out) is out
        assert np.array_equal(out, EXPECTED[ids])
        assert np.array_equal(reader.read(np.array(ids, np.int64)), out)


def test_more_shards_than_open_files(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "MAX_OPEN_FILES", 2)
    ids = np.random.default_rng(0).integers(0, 40, 200)
    with Reader(Index.load(pristine)) as reader:
        assert np.array_equal(reader.read(ids), EXPECTED[ids])
        assert len(reader._files) == 2


def test_a_file_system_that_gives_less_than_it_was_asked_for(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = reader_module._pread_into
    monkeypatch.setattr(reader_module, "_pread_into", lambda file, slot, offset: real(file, slot[:50], offset))
    with Reader(Index.load(pristine)) as reader:
        assert np.array_equal(reader.read(np.arange(40)), EXPECTED)


@pytest.mark.parametrize("ids", [[-1], [40], [0, 2**40]])
def test_ids_that_are_not_there(readers: list[Reader], ids: list[int]) -> None:
    with pytest.raises(IndexError, match="0 to 39"):
        readers[0].read(np.array(ids))


@pytest.mark.parametrize(
    "out",
    [
        np.empty((3, SIZE, SIZE, 3), np.uint8),
        np.empty((2, SIZE, SIZE, 3), np.int8),
        np.empty((2, SIZE, 3, SIZE), np.uint8).swapaxes(2, 3),
    ],
)
def test_outs_that_do_not_fit(readers: list[Reader], out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        readers[0].read(np.arange(2), out=out)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_every_bit_of_an_image_counts(tmp_path: Path, encoding: str) -> None:
    index = pack(FakeSource(1), tmp_path / "set", TRANSFORM, encoding=encoding, workers=1).index
    path = tmp_path / "set/shard-000000.tar"
    data = path.read_bytes()
    start, size = int(index.offset[0]), int(index.size[0])
    with Reader(index, threads=1) as reader:
        for position in range(8 * start, 8 * (start + size), 11):
            flipped = bytearray(data)
            flipped[position // 8] ^= 1 << position % 8
            path.write_bytes(flipped)
            with pytest.raises(DamageError, match=r"shard-000000\.tar, sample images/0000: its bytes"):
                reader.read(np.array([0]))


def test_short_and_missing_files_are_named(packed: Callable[[], Path]) -> None:
    root = packed()
    index = Index.load(root)
    data = (root / "shard-000002.tar").read_bytes()
    (root / "shard-000002.tar").write_bytes(data[: int(index.offset[25]) + 5])
    (root / "shard-000003.tar").unlink()
    with Reader(index) as reader:
        assert np.array_equal(reader.read(np.arange(25)), EXPECTED[:25])  # what is there can be read
        for i, said in ((25, "only 5 of 192 bytes"), (26, "only 0 of 192"), (30, "No such file")):
            with pytest.raises(DamageError, match=rf"shard-00000{i // 10}\.tar, sample images/00{i}: {said}"):
                reader.read(np.array([0, i]))


def test_from_a_url_through_a_cache(pristine: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, data in files_of(pristine).items():
        memory.pipe(f"/reader-test/{name}", data)
    index = Index.load("memory://reader-test")
    with Reader(index, cache=tmp_path / "cache") as reader:
        assert np.array_equal(reader.read(np.array([35, 0])), EXPECTED[[35, 0]])
    copies = {path.name for path in (tmp_path / "cache").glob("*.tar")}
    assert copies == {"shard-000000.tar", "shard-000003.tar"}
    memory.pipe("/reader-test/shard-000001.tar", b"rubbish")
    with Reader(index, cache=tmp_path / "cache") as reader, pytest.raises(DamageError, match=r"shard-000001\.tar"):
        reader.read(np.array([10]))
