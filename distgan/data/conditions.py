"""What ``model.condition`` asks of each image: label vectors, and how often each of them occurs.

The entries of a label vector are attributes (1 or -1), then, if asked for, classes (one-hot). In training, fakes get
the labels of real images. Pictures of which somebody asks for only some of the entries get the others as the data has
them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from distgan.data.order import Ids
from distgan.spec import ConditionSpec
from shards.errors import InputError
from shards.index import Index
from shards.names import as_written, near

Vectors = NDArray[np.int8]
_CLASS = "class="


def label_names(spec: ConditionSpec | None, index: Index) -> tuple[str, ...]:
    """The entries of the label vector: attributes, and ``class=NAME`` for each class. () without a condition.

    Raises:
        InputError: The data set has no such attribute, or no classes.
    """
    if spec is None:
        return ()
    for name in spec.attributes:
        if name not in index.attribute_names:
            raise InputError(
                f"model.condition.attributes: {index.root} has no attribute {name!r}: "
                f"{near(name, index.attribute_names)}"
            )
    if spec.classes and not index.class_names:
        raise InputError(f"model.condition.classes: {index.root} has no classes")
    return (*spec.attributes, *(f"{_CLASS}{name}" for name in index.class_names if spec.classes))


def label_vectors(spec: ConditionSpec | None, index: Index, ids: Ids) -> Vectors:
    """The label vectors of samples: int8 (n, K).

    Raises:
        InputError: As :func:`label_names`; or there are samples without a class although classes are asked for.
    """
    vectors = np.zeros((len(ids), len(label_names(spec, index))), np.int8)
    if spec is None:
        return vectors
    for column, name in enumerate(spec.attributes):
        vectors[:, column] = np.where(index.attribute(name)[ids], 1, -1)
    if spec.classes:
        labels = index.label[ids]
        without = int((labels < 0).sum())
        if without:
            raise InputError(
                f"model.condition.classes: {without:,} of {len(ids):,} samples of {index.root} have no class; "
                "keep some classes by data.where, or pack the set with a class for each image"
            )
        vectors[np.arange(len(ids)), len(spec.attributes) + labels] = 1
    return vectors


class LabelDistribution:
    """How often each label vector occurs.

    Args:
        names: The entries of a vector, attributes before classes.
        rows: int8 (r, K): the vectors that occur, each once, in ascending order.
        counts: int64 (r,): how often.

    Attributes:
        attributes: What the run is conditioned on, but for the class.
        classes: The names of the classes, where it is conditioned on that.
    """

    def __init__(self, names: tuple[str, ...], rows: Vectors, counts: NDArray[np.int64]) -> None:
        self.names = names
        self.rows = rows
        self.counts = counts
        self.attributes = [name for name in names if not name.startswith(_CLASS)]
        self.classes = [name.removeprefix(_CLASS) for name in names if name.startswith(_CLASS)]

    @classmethod
    def of(cls, names: tuple[str, ...], vectors: Vectors, counts: NDArray[np.int64] | None = None) -> LabelDistribution:
        """The distribution of the vectors (n, K) of a data set; with ``counts`` they stand for so many samples each."""
        weights = np.ones(len(vectors), np.int64) if counts is None else counts
        if not names:
            return cls(names, vectors[:1], weights.sum(keepdims=True))
        bits = np.packbits(vectors > 0, axis=1)  # in the same order as the vectors, and faster to sort
        _, first, row = np.unique(bits, axis=0, return_index=True, return_inverse=True)
        return cls(names, vectors[first], np.bincount(row.reshape(-1), weights).astype(np.int64))  # exact below 2⁵³

    @property
    def width(self) -> int:
        """Entries of a vector; 0 without a condition."""
        return len(self.names)

    @property
    def has_classes(self) -> bool:
        """Whether a vector holds a class."""
        return bool(self.classes)

    @property
    def choices(self) -> int:
        """What a vector is made of: each attribute, and the class; at least 1."""
        return max(1, len(self.attributes) + bool(self.classes))

    def draw(self, uniform: Tensor) -> Tensor:
        """Label vectors as the data has them.

        The first entries are drawn with a number each, given the entries before them, and the rest of the vector with
        the last number. With a number for each of the ``choices``, what :meth:`given` is asked for changes few of the
        entries that it says nothing about; a single number costs least.

        Args:
            uniform: U[0, 1): (n,), or (n, m) with 1 ≤ m ≤ ``choices``.

        Returns:
            float32 (n, K), on the device of ``uniform``.
        """
        numbers = uniform.reshape(len(uniform), -1).double()
        rows = torch.from_numpy(self.rows).to(uniform.device)
        before = pad(torch.from_numpy(self.counts).to(uniform.device).cumsum(0), (1, 0))  # samples before each row
        low = torch.zeros(len(uniform), dtype=torch.int64, device=uniform.device)
        high = low + len(rows)  # what may yet be drawn are the rows from low to high

        def position(number: Tensor) -> Tensor:
            return before[low] + (number * (before[high] - before[low])).long()

        *of_entries, of_the_rest = numbers.unbind(1)
        for entry, number in enumerate(of_entries):
            below = pad((rows[:, entry] <= 0).cumsum(0), (1, 0))
            split = low + below[high] - below[low]  # rows are in ascending order: here the entry turns to 1
            lower = position(number) < before[split]
            low, high = torch.where(lower, low, split), torch.where(lower, split, high)
        return rows[torch.searchsorted(before, position(of_the_rest), right=True) - 1].float()

    def given(self, where: Mapping[str, object]) -> LabelDistribution:
        """The distribution among the vectors that meet every condition.

        Where none does, it is that of all vectors, with the entries that were asked for set; each of several classes is
        equally frequent then.

        Args:
            where: As in :meth:`shards.index.Index.select`: attribute name to 1 or -1 (or true, false); "class" to a
                class name or a list of them. {} is all.

        Raises:
            InputError: The run was not conditioned on that (near names are suggested), another value, or "class" may
                mean two things.
        """
        attributes, classes = self._asked(where)
        values = np.array(list(attributes.values()), np.int8)
        meets = (self.rows[:, list(attributes)] == values).all(1)
        if classes:
            meets &= (self.rows[:, classes] == 1).any(1)
        if meets.any():
            return LabelDistribution(self.names, self.rows[meets], self.counts[meets])
        rows, counts = np.repeat(self.rows, len(classes) or 1, axis=0), np.repeat(self.counts, len(classes) or 1)
        rows[:, list(attributes)] = values
        if classes:
            rows[:, len(self.attributes) :] = 0
            rows[np.arange(len(rows)), np.tile(classes, len(self.rows))] = 1
        return LabelDistribution.of(self.names, rows, counts)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the names: a bit for each entry and a count for each row."""
        return {
            "positive": torch.from_numpy(np.packbits(self.rows > 0, axis=1)),
            "counts": torch.from_numpy(self.counts),
        }

    @classmethod
    def from_tensors(cls, names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> LabelDistribution:
        """What :meth:`tensors` was made of."""
        positive = np.unpackbits(tensors["positive"].numpy(), axis=1, count=len(names)).astype(bool)
        negative = np.array([0 if name.startswith(_CLASS) else -1 for name in names], np.int8)
        return cls(names, np.where(positive, np.int8(1), negative), tensors["counts"].numpy())

    def _asked(self, where: Mapping[str, object]) -> tuple[dict[int, int], list[int]]:
        """The values that some columns must have, and the columns of the classes of which one must be it, if any."""
        if where and not self.names:
            raise InputError("this run was trained without model.condition: its pictures cannot be asked for anything")
        known = [*self.attributes, *(["class"] if self.classes else [])]
        attributes: dict[int, int] = {}
        wanted: list[str] = []
        for name, value in where.items():
            if name not in known:
                raise InputError(f"this run was not conditioned on {name!r}: {near(name, known)}")
            if name == "class" and name in self.attributes and self.classes:
                raise InputError("'class' is ambiguous: this run was conditioned on an attribute of that name too")
            if name == "class" and self.classes:
                wanted = as_written(value, "class")
                for each in wanted or [""]:
                    if each not in self.classes:
                        hint = near(each, self.classes)
                        raise InputError(f"this run was not conditioned on a class {each!r}: {hint}")
            elif value in (1, -1) or value is False:
                attributes[self.attributes.index(name)] = 1 if value == 1 else -1
            else:
                raise InputError(f"attribute {name} is 1 or -1, not {value!r}")
        return attributes, [self.names.index(_CLASS + each) for each in dict.fromkeys(wanted)]


NO_LABELS = LabelDistribution.of((), np.zeros((1, 0), np.int8))
"""Without a condition."""
