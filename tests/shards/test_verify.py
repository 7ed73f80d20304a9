from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.errors import DamageError, InputError
from shards.index import Index
from shards.reader import Reader
from shards.verify import repair, verify
from shards.writer import pack
from tests.shards.conftest import TRANSFORM, FakeSource, files_of

EXPECTED = np.stack([FakeSource().pixels(i) for i in range(40)])


def flip(path: Path, byte: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def key(i: int) -> str:
    return f"images/{i:04d}"


def test_a_sound_set_is_sound(pristine: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(pristine, progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(10, 40), (20, 40), (30, 40), (40, 40)]


def what_training_sees(root: Path) -> np.ndarray | str:
    """All pixels, or the error that stops it."""
    try:
        index = Index.load(root)
        index.check_files()
        with Reader(index) as reader:
            return reader.read(np.arange(len(index)))
    except (InputError, DamageError) as error:
        return str(error)


@pytest.mark.slow
def test_fuzz_every_damage_is_named_and_none_is_read_in_silence(packed: Callable[[], Path]) -> None:
    root = packed()
    sound = files_of(root)
    names = sorted(sound)
    tars = [name for name in names if name.endswith(".tar")]
    random = np.random.default_rng(0)
    read_anyway = 0
    for case in range(500):
        kind = ["flip", "flip", "truncate", "swap", "delete"][case % 5]
        name = str(random.choice(names))
        hit = {name}
        if kind == "flip":
            flip(root / name, int(random.integers(len(sound[name]))), int(random.integers(8)))
        elif kind == "truncate":
            (root / name).write_bytes(sound[name][: int(random.integers(len(sound[name])))])
        elif kind == "swap":
            hit = set(random.choice(tars, 2, replace=False).tolist())
            for one, other in (sorted(hit), sorted(hit, reverse=True)):
                (root / one).write_bytes(sound[other])
        else:
            (root / name).unlink()

        damages = verify(root)
        assert {damage.file for damage in damages} == hit, (case, kind, hit)
        assert all(damage.reason in str(damage) for damage in damages)
        read = what_training_sees(root)
        if isinstance(read, str):
            assert any(file in read for file in hit), (case, kind, hit, read)
        else:  # the damage was around the images
            assert kind == "flip"
            assert np.array_equal(read, EXPECTED)
            read_anyway += 1
        for file in hit:
            (root / file).write_bytes(sound[file])
    assert verify(root) == []
    assert read_anyway > 50  # both ways are gone


def test_damage_is_located(packed: Callable[[], Path]) -> None:
    root = packed()
    index = Index.load(root)
    shard = root / "shard-000001.tar"
    flip(shard, int(index.offset[13]) + 7)
    flip(shard, int(index.offset[15]) - 500)  # the header before the image
    flip(shard, int(index.offset[17]) + 600)  # the header of the label after it
    image, around = verify(root)
    assert (image.file, image.keys) == ("shard-000001.tar", (key(13),))
    assert "image bytes" in image.reason
    assert (around.file, around.keys) == ("shard-000001.tar", (key(15), key(17)))
    assert "header" in around.reason


@pytest.mark.slow
def test_every_byte_of_a_shard_counts(packed: Callable[[], Path]) -> None:
    root = packed()
    index = Index.load(root)
    path = root / "shard-000000.tar"
    sound = path.read_bytes()
    end = int(index.offset[9]) + 4096
    for byte in range(0, len(sound), 97):
        flip(path, byte, byte % 8)
        (damage,) = verify(root)
        inside = np.flatnonzero((index.offset <= byte) & (byte < index.offset + index.size) & (index.shard == 0))
        if len(inside):
            assert damage.keys == (key(inside[0]),)
        elif byte < end:
            assert len(damage.keys) == 1
        path.write_bytes(sound)


def test_a_shard_that_was_cut_short_or_grew(packed: Callable[[], Path]) -> None:
    root = packed()
    index = Index.load(root)
    path = root / "shard-000002.tar"
    sound = path.read_bytes()
    path.write_bytes(sound[: int(index.offset[27]) + 10])
    first, *_ = verify(root)
    assert first.keys == tuple(key(i) for i in (27, 28, 29))
    assert f"{int(index.offset[27]) + 10} bytes instead of {len(sound)}" in first.reason
    path.write_bytes(sound + b"more")
    (damage,) = verify(root)
    assert (damage.keys, damage.reason) == ((), f"has {len(sound) + 4} bytes instead of {len(sound)}")
    path.write_bytes(b"")
    assert set(verify(root)[0].keys) == {key(i) for i in range(20, 30)}


def test_swapped_missing_and_foreign_shards_are_named(packed: Callable[[], Path]) -> None:
    root = packed()
    (root / "shard-000000.tar").rename(root / "x")
    (root / "shard-000001.tar").rename(root / "shard-000000.tar")
    (root / "x").rename(root / "shard-000001.tar")
    (root / "shard-000002.tar").unlink()
    (root / "other.tar").write_bytes(b"")
    lines = [str(damage) for damage in verify(root)]
    assert lines[0].startswith("shard-000000.tar: holds the bytes of shard-000001.tar")
    assert lines[1].startswith("shard-000001.tar: holds the bytes of shard-000000.tar")
    assert lines[2].startswith(f"shard-000002.tar: is missing; sample {key(20)}, ")
    assert lines[2].endswith("and 5 more")
    assert lines[3].startswith("other.tar: is not part of this set")
    assert len(lines) == 4


def test_shards_are_checked_without_the_rows(packed: Callable[[], Path]) -> None:
    root = packed()
    (root / "index.npz").write_bytes(b"rubbish")
    flip(root / "shard-000002.tar", 1000)
    (root / "shard-000003.tar").unlink()
    assert [damage.file for damage in verify(root)] == ["index.npz", "shard-000002.tar", "shard-000003.tar"]


def test_where_there_is_no_set(tmp_path: Path) -> None:
    for root, said in (
        (tmp_path, "holds no packed set"),
        (tmp_path / "x", "does not exist"),
        (Path(__file__), "is a file"),
        ("s3://x/y", "not on this"),
    ):
        with pytest.raises(InputError, match=said):
            verify(root)
        with pytest.raises(InputError, match=said) as raised:
            repair(root, tmp_path / "out")
        assert "repaired" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["raw", "original"])
def test_repair_gives_what_packing_without_the_lost_gives(tmp_path: Path, encoding: str) -> None:
    source = FakeSource(kind="png")
    index = pack(source, tmp_path / "set", TRANSFORM, encoding=encoding, shard_samples=10, workers=1).index
    flip(tmp_path / "set/shard-000000.tar", int(index.offset[4]))
    flip(tmp_path / "set/shard-000000.tar", int(index.offset[6]) - 300)  # a header: costs nothing
    flip(tmp_path / "set/shard-000001.tar", int(index.offset[12]) + int(index.size[12]) + 1100)  # nor what is after it
    path = tmp_path / "set/shard-000002.tar"
    path.write_bytes(path.read_bytes()[: int(index.offset[28]) + 1])
    (tmp_path / "set/shard-000003.tar").unlink()
    damaged = files_of(tmp_path / "set")
    lost = [4, 28, 29, *range(30, 40)]

    report = repair(tmp_path / "set", tmp_path / "repaired", workers=1)
    assert files_of(tmp_path / "set") == damaged
    assert [(loss.file, name) for loss in report.lost for name in loss.keys] == [
        (f"shard-00000{i // 10}.tar", key(i)) for i in lost
    ]
    assert verify(tmp_path / "repaired") == []
    pack(
        replace(source, broken=frozenset(lost)),
        tmp_path / "fresh",
        TRANSFORM,
        encoding=encoding,
        shard_samples=10,
        workers=1,
    )
    assert files_of(tmp_path / "repaired") == files_of(tmp_path / "fresh")


def test_repair_of_a_sound_set_is_a_copy(pristine: Path, tmp_path: Path) -> None:
    report = repair(pristine, tmp_path / "out", workers=1)
    assert report.lost == []
    assert files_of(tmp_path / "out") == files_of(pristine)


def test_repair_needs_an_index_an_image_and_a_place(packed: Callable[[], Path], tmp_path: Path) -> None:
    root = packed()
    for out in (root, root / "new"):
        with pytest.raises(InputError, match="lies in"):
            repair(root, out)
    assert not (root / "new").exists()
    for path in root.glob("*.tar"):
        path.unlink()
    with pytest.raises(InputError, match="none of the 40 images"):
        repair(root, tmp_path / "out", workers=1)
    flip(root / "index.npz", 100)
    with pytest.raises(InputError, match=r"index\.npz is damaged.*pack the set again.*without the index"):
        repair(root, tmp_path / "out2", workers=1)


def test_tar_files_of_others_are_not_damaged_but_to_be_packed(tmp_path: Path, packed: Callable[[], Path]) -> None:
    for i in range(3):
        (tmp_path / f"{i}.tar").write_bytes(b"tar")
    for root in (tmp_path, tmp_path / "{0..2}.tar", tmp_path / "1.tar", "s3://bucket/{000..127}.tar"):
        with pytest.raises(
            InputError, match=r"that distgan did not pack: pack (it|them) with distgan shards pack .* OUT"
        ):
            verify(root)
    root = packed()
    (root / "index.json").unlink()
    (damage,) = verify(root)
    assert "without it nothing else can be checked" in str(damage)
