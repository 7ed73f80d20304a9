"""A source made of arrays: data sets that come as a few large files of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from shards.names import counts
from shards.sources.base import SPLITS, Recognised, Sample, displayed, listing_identity
from shards.trees import Tree


class Part(NamedTuple):
    """Some of the images of a set, in one file.

    Attributes:
        name: What a person calls the file.
        key: Keys of the samples begin with it.
        split: Position in SPLITS.
        labels: int64 (n,), position in the set's class names, -1 where there is none.
        read: Reads the pixels: uint8 (n, H, W) or (n, H, W, 3). Can be pickled.
    """

    name: str
    key: str
    split: int
    labels: np.ndarray
    read: Callable[[], np.ndarray]


class Arrays:
    """A source made of arrays of pixels; each process reads them for itself, once.

    Args:
        tree: What holds the files.
        layout: How they were recognised.
        parts: The files, in order.
        class_names: In the order of the labels.
        place: The folder they are in.
        grey: Whether there is one channel.
        left_out: What of the tree is not part of it, by reason.
        notes: What was decided, in sentences.
    """

    def __init__(
        self,
        tree: Tree,
        layout: str,
        parts: Sequence[Part],
        class_names: Sequence[str],
        *,
        place: str,
        grey: bool,
        left_out: Mapping[str, int],
        notes: Sequence[str] = (),
    ) -> None:
        self.layout = layout
        self.attribute_names: tuple[str, ...] = ()
        self.class_names = tuple(class_names)
        splits = sorted({part.split for part in parts})
        self.split_names = tuple(SPLITS[split] for split in splits)
        self.labels = np.concatenate([part.labels for part in parts])
        self.splits = np.repeat([splits.index(part.split) for part in parts], [len(part.labels) for part in parts])
        self.attribute_rows: np.ndarray | None = None
        self.parts = list(parts)
        self._ends = np.cumsum([len(part.labels) for part in parts])
        self._container, self._place, self._grey = tree.container, place, grey
        self._left_out, self._notes = Counter(left_out), (*map(displayed, tree.notes), *notes)
        self._pixels: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: {} if name == "_pixels" else value for name, value in self.__dict__.items() if name != "recognised"
        }

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _locate(self, i: int) -> tuple[int, int]:
        """The part that sample i is in, and its row there."""
        part = int(np.searchsorted(self._ends, i, side="right"))
        return part, i - int(self._ends[part - 1]) if part else i

    def name(self, i: int) -> str:
        """The file's name and the position in it, from 0."""
        part, row = self._locate(i)
        return f"{self.parts[part].name}[{row}]"

    def sample(self, i: int) -> Sample:
        """Sample i: uint8 (H, W) or (H, W, 3)."""
        number, row = self._locate(i)
        part = self.parts[number]
        if number not in self._pixels:
            self._pixels = {number: part.read()}  # one at a time: samples come in order
        image = np.ascontiguousarray(self._pixels[number][row])
        return Sample(f"{part.key}-{row:05d}", image, int(part.labels[row]), None, int(self.splits[i]))

    def channels(self) -> int:
        """1 or 3, as the set has it."""
        return 1 if self._grey else 3

    def identity(self) -> str:
        """A sha256 (hex) over the parts' sizes, splits and labels; alike for all editions of the same files."""
        files = ((f"{part.key} {SPLITS[part.split]}", len(part.labels)) for part in self.parts)
        facts = [*(part.labels.astype("<i8").tobytes() for part in self.parts), "\0".join(self.class_names).encode()]
        return listing_identity(self.layout, files, facts)

    @cached_property
    def recognised(self) -> Recognised:
        """What the files were taken for."""
        height, width = self.sample(0).image.shape[:2]  # type: ignore[union-attr]
        return Recognised(
            container=self._container,
            layout=self.layout,
            place=displayed(self._place),
            samples=len(self),
            classes=counts(self.class_names, self.labels),
            splits=counts(self.split_names, self.splits),
            smallest=(width, height),
            largest=(width, height),
            looked_at=1,
            left_out=dict(sorted(self._left_out.items())),
            notes=self._notes,
        )
