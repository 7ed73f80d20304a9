from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from distgan.data.order import Order, rank_slots
from distgan.sampling.real import first_trained_on, show
from shards.errors import DamageError, InputError
from shards.index import Index
from shards.reader import Reader


def cells(path, count, columns, size=16):
    """The images of a grid, row by row."""
    grid = np.asarray(Image.open(path))
    for i in range(count):
        top, left = 2 + (size + 2) * (i // columns), 2 + (size + 2) * (i % columns)
        yield grid[top : top + size, left : left + size]


def test_it_shows_random_samples_of_the_set_each_once(labelled, tmp_path):
    shown = show(str(labelled), tmp_path / "deep" / "grid.png", count=12, seed=3, columns=4)
    index = Index.load(labelled)
    with Reader(index) as reader:
        pixels = [image.tobytes() for image in reader.read(np.arange(50))]
    ids = [pixels.index(image.tobytes()) for image in cells(tmp_path / "deep" / "grid.png", 12, 4)]
    assert len(set(ids)) == 12
    assert ids != sorted(ids)
    assert (shown.count, shown.matching, shown.samples) == (12, 50, 50)
    names = [index.class_names[label] for label in index.label[ids]]
    assert shown.classes == {name: names.count(name) for name in index.class_names}


def test_the_seed_decides(labelled, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        show(str(labelled), tmp_path / f"{name}.png", seed=seed, count=9)
    one, same, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "same", "other"))
    assert one == same != other


def test_it_shows_what_matches_and_no_more_than_there_is(labelled, tmp_path):
    shown = show(str(labelled), tmp_path / "grid.png", where={"class": "dog"})
    assert (shown.count, shown.matching, shown.samples, shown.classes) == (17, 17, 50, {"dog": 17})
    with pytest.raises(InputError, match="did you mean 'dog'"):
        show(str(labelled), tmp_path / "other.png", where={"class": "dogs"})
    assert not (tmp_path / "other.png").exists()


def test_grey_images_give_a_grey_picture(pack_discs, discs, tmp_path):
    for shards, mode in ((pack_discs(channels=1), "L"), (discs, "RGB")):
        show(str(shards), tmp_path / "grid.png", count=4)
        assert Image.open(tmp_path / "grid.png").mode == mode
        assert Image.open(tmp_path / "grid.png").size == (38, 38)


@pytest.mark.parametrize(
    ("out", "options"),
    [("x.png", {"count": 0}), ("x.png", {"seed": -1}), ("x.png", {"columns": 0}), ("x.jpg", {}), ("x", {})],
)
def test_what_cannot_be_is_refused(discs, tmp_path, out, options):
    with pytest.raises(InputError):
        show(str(discs), tmp_path / out, **options)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(pack_discs, tmp_path):
    shards = pack_discs()
    path, index = shards / "shard-000001.tar", Index.load(shards)
    content = bytearray(path.read_bytes())
    content[int(index.offset[20])] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamageError, match="disc0020"):
        show(str(shards), tmp_path / "grid.png")


@pytest.mark.parametrize(("block", "lanes"), [(None, 1), (7, 1), (None, 4), (7, 2)])
def test_what_a_run_trains_on_first_is_among_what_rank_0_reads_first(block, lanes):
    kept = np.arange(100, 150)
    ids = first_trained_on(kept, 3, 8, block=block, lanes=lanes)
    positions = np.concatenate([8 * batch + rank_slots(8, 0, lanes) for batch in range(8)])[:8]
    assert ids.tolist() == kept[Order(50, 3, block=block, lanes=lanes)(positions)].tolist()
    many = first_trained_on(kept, 3, 1000, block=block, lanes=lanes)
    assert len(set(many.tolist())) == len(many) == -(-50 // lanes)
