"""A part of a source: the samples of one split, or all without their classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from shards.errors import InputError
from shards.names import counts
from shards.sources.base import Listed, Recognised, Sample, attribute_counts
from shards.sources.pictures import suffix


class Chosen:
    """What a user chose of a source.

    Args:
        source: The source.
        split: Only the samples of this split: "train", "val" or "test"; None takes all.
        without_classes: Leave out which class each sample is of.

    Raises:
        InputError: It has no such split.
    """

    def __init__(self, source: Listed, split: str | None, *, without_classes: bool) -> None:
        if split is not None and split not in source.split_names:
            has = ", ".join(f"{name} ({count:,})" for name, count in source.recognised.splits.items()) or "none"
            raise InputError(f"there is no split {split}: there are {has}")
        self._source = source
        self._split = split
        self._without_classes = without_classes
        chosen = np.ones(len(source), bool) if split is None else source.splits == source.split_names.index(split)
        self._ids = np.flatnonzero(chosen)
        self.layout = source.layout
        self.attribute_names = source.attribute_names
        self.class_names = () if without_classes else source.class_names
        self.split_names = source.split_names
        self.labels = np.full(len(self._ids), -1, np.int32) if without_classes else source.labels[self._ids]
        self.splits = source.splits[self._ids]
        self.attribute_rows = None if source.attribute_rows is None else source.attribute_rows[self._ids]

    def __len__(self) -> int:
        return len(self._ids)

    def name(self, i: int) -> str:
        """What a person would call sample i."""
        return self._source.name(int(self._ids[i]))

    def sample(self, i: int) -> Sample:
        """Read sample i. Raises what the source's sample does."""
        return replace(self._source.sample(int(self._ids[i])), label=int(self.labels[i]))

    def channels(self) -> int:
        """As the source has it."""
        return self._source.channels()

    def identity(self) -> str:
        """The source's, with what was chosen."""
        chosen = [self._split or "", "without classes" if self._without_classes else ""]
        return " ".join([self._source.identity(), *filter(None, chosen)])

    @property
    def recognised(self) -> Recognised:
        """What the whole source was taken for, and what of it was not chosen."""
        whole = self._source.recognised
        splits = {name: count for name, count in counts(self.split_names, self.splits).items() if count}
        others = Counter({f"of split {name}": count for name, count in whole.splits.items() if name not in splits})
        if self._split:
            others["of no split"] = whole.samples - sum(whole.splits.values())
        kinds = Counter(suffix(self.name(i)) or "without a suffix" for i in range(len(self))) if whole.formats else {}
        return replace(
            whole,
            samples=len(self),
            classes=counts(self.class_names, self.labels),
            splits=splits,
            attributes=attribute_counts(self.attribute_names, self.attribute_rows),
            formats=dict(Counter(kinds).most_common()),
            left_out={**whole.left_out, **+others},
            notes=(*whole.notes, *(["its classes are not packed, as --no-classes says"] * self._without_classes)),
        )
