"""Pictures of the data set itself: what a packed set holds, and what a run trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distgan.data.order import Ids, Order
from distgan.sampling import MOST_IN_A_GRID, check_numbers, check_png, save_grid_or_say
from shards.errors import InputError
from shards.index import Index
from shards.names import counts
from shards.reader import Reader


@dataclass(frozen=True)
class Shown:
    """What a grid of real images shows.

    Attributes:
        count: Images in it.
        matching: Samples that meet all conditions.
        samples: Samples in the set.
        classes: How many of the images are of each class that there are any of.
    """

    count: int
    matching: int
    samples: int
    classes: dict[str, int]


def show(
    root: str,
    out: Path,
    *,
    count: int = 64,
    seed: int = 0,
    columns: int | None = None,
    where: Mapping[str, object] | None = None,
) -> Shown:
    """Write a grid of random samples of a packed set.

    Args:
        root: The set's folder or URL.
        out: A ``.png`` file.
        count: How many; all that match where there are fewer.
        seed: Which ones depends on the seed and on the set alone; none is shown twice.
        columns: Images in a row; None for the squarest grid.
        where: As in :meth:`shards.index.Index.select`.

    Raises:
        InputError: A number is out of range, there is no such set, no sample matches, or ``out`` cannot be written.
        DamageError: A sample is not what was packed.
    """
    check_numbers(count, seed, columns)
    check_png(out)
    if count > MOST_IN_A_GRID:
        raise InputError(f"a grid holds at most {MOST_IN_A_GRID} images, not {count}")
    index = Index.load(root)
    matching = index.select(where or {})
    ids = matching[Order(len(matching), seed)(np.arange(min(count, len(matching))))]
    with Reader(index) as reader:
        images = list(reader.read(ids))
    save_grid_or_say(images, out, columns)
    classes = {name: number for name, number in counts(index.class_names, index.label[ids]).items() if number}
    return Shown(len(ids), len(matching), len(index), classes)


def first_trained_on(kept: Ids, seed: int, count: int, *, block: int | None = None, lanes: int = 1) -> Ids:
    """The ids of the samples that a run trains on first, each once; with lanes, of those in rank 0's own part.

    Args:
        kept: The ids that the run trains on.
        seed: The run's.
        count: How many; fewer where an epoch has fewer.
        block: As in the run's ``data`` section.
        lanes: As in the run's ``data`` section.
    """
    positions = np.arange(0, min(count * lanes, len(kept)), lanes)  # rank 0 always has the first lane
    return kept[Order(len(kept), seed, block=block, lanes=lanes)(positions)]
