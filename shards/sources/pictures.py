"""Image files in a tree: which files are images, what they look like, and a source made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from shards import images
from shards.images import ImageError, Look
from shards.names import counts
from shards.sources.base import (
    SPLITS,
    Listed,
    Recognised,
    Sample,
    attribute_counts,
    displayed,
    distinct,
    listed_identity,
    sample_keys,
)
from shards.trees import Tree

T = TypeVar("T")

HEAD_BYTES = 1 << 16
"""So much of a file usually holds all that says what it is; a long EXIF block can need more."""
LOOKED_AT = 100
"""Pictures, evenly over all, that are looked at for their size and kind before packing."""

_ENDINGS = "jpg jpeg jpe jfif png bmp dib gif webp tif tiff ppm pgm pbm pnm jp2 j2k j2c avif mpo"
SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""Files of these names are taken for images, and found out on decoding where they are none; others are looked into."""


@dataclass
class Pictures:
    """The image files of a tree, and how many other files there are.

    Attributes:
        names: Of the images, in the tree's order.
        left_out: Other files, by the reason or by their kind.
        notes: Sentences on what was left out.
    """

    names: list[str]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def find_pictures(tree: Tree, names: Iterable[str]) -> Pictures:
    """Those of some files of a tree that are images, by their bytes where the name does not say so.

    Raises:
        OSError: The tree cannot be read.
    """
    found = Pictures([])
    for name in names:
        kind = suffix(name)
        if kind in SUFFIXES:
            found.names.append(name)
            continue
        try:
            form = images.sniff(tree.head(name, 64))
        except (ImageError, OSError):
            form = None
        if form is None:
            found.left_out[kind or "without a suffix"] += 1
        elif (missing := images.readable(form)) is not None:
            found.left_out[f"{kind or form} ({missing})"] += 1
        else:
            found.names.append(name)
    return found


def suffix(name: str) -> str:
    """A file name's ending in lower case, with its dot; "" where there is none."""
    dot = name.rfind(".")  # not splitext, which takes three times as long: all files are asked several times
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""


def stem(name: str) -> str:
    """A path's last part without its ending."""
    start, dot = name.rfind("/") + 1, name.rfind(".")
    return name[start:dot] if dot > start else name[start:]


def look_at(tree: Tree, name: str) -> Look:
    """What an image file is, from as few of its bytes as will do.

    Raises:
        OSError, ImageError: It cannot be read, or is no image.
    """
    return _from_its_head(images.look, tree, name)


def is_grey(tree: Tree, name: str) -> bool:
    """Whether an image file is grey by its header. Raises what look_at does."""
    return _from_its_head(images.is_grey, tree, name)


def _from_its_head(inspect: Callable[[bytes], T], tree: Tree, name: str) -> T:
    head = tree.head(name, HEAD_BYTES)
    try:
        return inspect(head)
    except ImageError:
        if len(head) < HEAD_BYTES:
            raise
        return inspect(tree.read(name))


def evenly(all_of_them: Sequence[T], most: int) -> list[T]:
    """At most so many of some names or others, evenly spread, with the first and the last."""
    if len(all_of_them) <= most:
        return list(all_of_them)
    return [all_of_them[round(place)] for place in np.linspace(0, len(all_of_them) - 1, most)]


class PictureFiles:
    """A source made of image files.

    Args:
        tree: What holds them.
        layout: How they were recognised.
        names: Their names in the tree, in the order of the samples.
        place: The folder they are all in; keys and displayed names are relative to it.
        labels: Position in class_names of each, -1 where there is none; None where none has any.
        splits: Position in SPLITS of each, -1 where there is none; None where none has any.
        class_names: In the order of labels.
        attributes: int8 (n, A) of -1 and 1.
        attribute_names: In the order of the columns.
        left_out: What of the tree is not in names, by reason.
        notes: What was decided, in sentences.
    """

    def __init__(
        self,
        tree: Tree,
        layout: str,
        names: Sequence[str],
        *,
        place: str = "",
        labels: Sequence[int] | None = None,
        splits: Sequence[int] | None = None,
        class_names: Sequence[str] = (),
        attributes: np.ndarray | None = None,
        attribute_names: Sequence[str] = (),
        left_out: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.layout = layout
        self.tree = tree
        self.names = list(names)
        self.place = place
        self.class_names = distinct(class_names, "classes", tree.path)
        self.labels = np.full(len(names), -1, np.int32) if labels is None else np.array(labels, np.int32)
        in_use = sorted({split for split in splits or () if split >= 0})
        self.split_names = tuple(SPLITS[split] for split in in_use)
        numbers = np.array([*(in_use.index(i) if i in in_use else -1 for i in range(len(SPLITS))), -1], np.int8)
        self.splits = np.full(len(names), -1, np.int8) if splits is None else numbers[np.array(splits, np.int64)]
        self.attribute_rows = attributes
        self.attribute_names = distinct(attribute_names, "attributes", tree.path)
        self.keys = sample_keys([self._short(name) for name in self.names])
        self._left_out = Counter(left_out or {})
        self._notes = (*map(displayed, tree.notes), *notes)

    def _short(self, name: str) -> str:
        return name[len(self.place) + 1 :] if self.place else name

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "recognised"}

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The file's path below the folder that all are in."""
        return displayed(self._short(self.names[i]))

    def sample(self, i: int) -> Sample:
        """Read sample i: the file's bytes, and what is known about it.

        Raises:
            OSError, ImageError: The file cannot be read.
        """
        attributes = None if self.attribute_rows is None else self.attribute_rows[i]
        image = self.tree.read(self.names[i])
        return Sample(self.keys[i], image, int(self.labels[i]), attributes, int(self.splits[i]))

    def channels(self) -> int:
        """1 where every image whose header can be read is grey, else 3."""
        found: set[bool | None] = set()
        for name in self.names:  # one colour image settles it, usually the first
            found.add(self._is_grey(name))
            if False in found:
                return 3
        return 1 if True in found else 3

    def _is_grey(self, name: str) -> bool | None:
        try:
            return is_grey(self.tree, name)
        except (OSError, ImageError):
            return None

    def identity(self) -> str:
        """A sha256 (hex) over the files' names and sizes and all that is known about them."""
        files = ((self._short(name), self.tree.files.get(name, -1)) for name in self.names)
        return listed_identity(self, files)

    @cached_property
    def recognised(self) -> Recognised:
        """What the files were taken for; some of them are looked at."""
        chosen = evenly(self.names, LOOKED_AT)
        looks, broken = [], 0
        for name in chosen:
            try:
                looks.append(look_at(self.tree, name))
            except (OSError, ImageError):
                broken += 1
        notes = [*self._notes, *look_notes(looks)]
        if broken:
            notes.append(f"{broken} of the {len(chosen)} files looked at cannot be read as images")
        formats = Counter(suffix(name) or "without a suffix" for name in self.names)
        return recognise(self, self.tree.container, self.place, formats, looks, self._left_out, notes)


def recognise(
    source: Listed,
    container: str,
    place: str,
    formats: Counter[str],
    looks: Sequence[Look],
    left_out: Mapping[str, int],
    notes: Sequence[str],
) -> Recognised:
    """What is said of a source of image files, of which some were looked at."""
    sizes = sorted((look.width * look.height, look.width, look.height) for look in looks)
    return Recognised(
        container=container,
        layout=source.layout,
        place=displayed(place),
        samples=len(source),
        classes=counts(source.class_names, source.labels),
        splits=counts(source.split_names, source.splits),
        attributes=attribute_counts(source.attribute_names, source.attribute_rows),
        formats=dict(formats.most_common()),
        smallest=sizes[0][1:] if sizes else None,
        largest=sizes[-1][1:] if sizes else None,
        looked_at=len(looks),
        left_out=dict(sorted((displayed(reason), count) for reason, count in left_out.items())),
        notes=tuple(notes),
    )


def look_notes(looks: Sequence[Look]) -> list[str]:
    """What should be said of pictures that were looked at."""
    notes = []
    deep = [look.brightest for look in looks if look.brightest is not None]
    if deep and 0 < max(deep) < 1 << 15:
        notes.append(
            f"{len(deep)} of the pictures looked at have 16 bits, but no value above {max(deep):,}: nearly black where "
            f"65,535 is white, as it is without --white {2 ** max(deep).bit_length() - 1}"
        )
    reduced = sum(look.bits > 8 and look.brightest is None for look in looks)
    if reduced:
        notes.append(f"{reduced} of the pictures looked at are in colour of more than 8 bits, of which 8 are kept")
    several = sum(look.several for look in looks)
    if several:
        notes.append(
            f"{several} of the pictures looked at are animations or have several pages, of which the first is taken"
        )
    profiles = Counter(look.profile for look in looks if look.profile)
    if profiles:
        listed = ", ".join(f"{count} {displayed(name)}" for name, count in profiles.most_common(3))
        notes.append(f"colours of other profiles than sRGB are converted to it ({listed} of {len(looks)} looked at)")
    return notes
