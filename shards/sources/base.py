"""What every layout is made of: samples, what was recognised, keys, and errors."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from shards.errors import InputError

MAX_KEY = 80
_NO_KEY = re.compile(r"[^A-Za-z0-9_/-]")
SPLITS = ("train", "val", "test")
"""The parts that people divide data into, by the one name each has here."""


@dataclass(frozen=True)
class Sample:
    """One image as it was found, with what is known about it.

    Attributes:
        key: Unique in its source; only A-Z a-z 0-9 _ / -, no dots, at most 80 characters.
        image: An image file's bytes as found, or uint8 pixels (H, W) or (H, W, 3) in 0..255.
        label: Index into the source's class_names, -1 where there is none.
        attributes: int8 (A,) of -1 and 1, or None where the source has none.
        split: Index into the source's split_names, -1 where there is none.
    """

    key: str
    image: bytes | np.ndarray
    label: int
    attributes: np.ndarray | None
    split: int = -1


@dataclass(frozen=True)
class Recognised:
    """What a source was taken for. It is said before packing and stays in index.json.

    Attributes:
        container: What holds the files: "folder", "zip", "tar", "tar.gz", …, or "shards".
        layout: How they are arranged: a name in LAYOUTS.
        place: The folder in the container that the samples are in; "" is all of it.
        samples: How many.
        classes: Samples by class.
        splits: Samples by split.
        attributes: Samples that have it, by attribute.
        formats: Samples by kind of image file, as far as names tell; empty for arrays.
        smallest: Width and height of the smallest picture among those looked at; None where none could be.
        largest: Of the largest.
        looked_at: How many pictures that is from.
        left_out: Files that are not packed, by the reason, or by the kind of file.
        notes: What was decided and could have been decided otherwise, in sentences.
    """

    container: str
    layout: str
    place: str = ""
    samples: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    attributes: Mapping[str, int] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    looked_at: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts of these."""
        return {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for name, value in vars(self).items()
        }


def recognised_text(found: Recognised, channels: int) -> str:
    """A few lines for people: what was recognised, and what is left out and why."""
    place = f", in {found.place}" if found.place else ""
    lines = [("recognised", f"{found.container}, layout {found.layout}{place}")]
    kinds = f" ({_listed(found.formats, _OF_A_KIND)})" if found.formats else ""
    lines.append(("images", f"{found.samples:,}{kinds}, packed in {'grey' if channels == 1 else 'colour'}"))
    if found.smallest and found.largest:
        sizes = ["×".join(map(str, each)) for each in (found.smallest, found.largest)]
        span = sizes[0] if sizes[0] == sizes[1] else f"{sizes[0]} to {sizes[1]}"
        lines.append(("pixels", f"{span} (width × height, of {found.looked_at:,} looked at)"))
    number = f"{len(found.classes):,}: " if found.classes else ""
    lines.append(("classes", number + _parts(found.classes, found.samples)))
    lines.append(("splits", _parts(found.splits, found.samples)))
    if found.attributes:
        lines.append(("attributes", f"{len(found.attributes)}: {_listed(found.attributes)}"))
    left_out = sum(found.left_out.values())
    lines.append(
        (
            "left out",
            f"{left_out:,} file{'s' * (left_out != 1)}: {_listed(found.left_out, _OF_A_KIND, 20)}"
            if left_out
            else "nothing",
        )
    )
    lines += [("note", note) for note in found.notes]
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def _parts(counts: Mapping[str, int], samples: int) -> str:
    """Samples by class or split, and how many have none."""
    without = samples - sum(counts.values())
    return f"{_listed(counts)}{f', none {without:,}' * bool(without)}" if counts else "none"


def _listed(counts: Mapping[str, int], form: str = "{name} {count:,}", most: int = 12) -> str:
    """Numbers by name, the first of them. A name with a comma is quoted, as ``--where`` takes it."""
    first = [(f'"{name}"' if "," in name else name, count) for name, count in list(counts.items())[:most]]
    shown = [form.format(name=name, count=count) for name, count in first]
    return ", ".join(shown) + (f", and {len(counts) - most} more" if len(counts) > most else "")


_OF_A_KIND = "{count:,} {name}"


class Source(Protocol):
    """A sequence of samples, in an order that does not depend on the machine. Cheap to pickle to worker processes."""

    layout: str
    attribute_names: tuple[str, ...]
    class_names: tuple[str, ...]
    split_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What a person would call sample i: a path relative to the source, or "train-images-idx3-ubyte[17]"."""
        ...

    def sample(self, i: int) -> Sample:
        """Read sample i.

        Raises:
            OSError, ImageError: This one sample cannot be read; the others may well be.
        """
        ...

    def channels(self) -> int:
        """1 where every image is grey, else 3. Looks at headers only."""
        ...

    def identity(self) -> str:
        """A sha256 (hex) over names, sizes, labels, splits and attributes: another one means that it has changed."""
        ...

    @property
    def recognised(self) -> Recognised:
        """What the source was taken for."""
        ...


class Listed(Source, Protocol):
    """A source of which all but the images is known beforehand, so that samples can be chosen by it.

    Attributes:
        labels: int (n,), position in class_names of each sample, -1 where there is none.
        splits: int (n,), position in split_names of each sample, -1 where there is none.
        attribute_rows: int8 (n, A) of -1 and 1, or None where there are no attributes.
    """

    labels: np.ndarray
    splits: np.ndarray
    attribute_rows: np.ndarray | None


class Wish(NamedTuple):
    """What a user says of a data set beside where it is.

    Attributes:
        sub: The folder to take, or the beginning of names; "" is all.
        classes: Whether folders are classes; None decides by their names and contents.
        inner: Whether, of folders in folders, the inner ones are the classes.
        layout: A name in LAYOUTS; None where it is to be recognised.
    """

    sub: str = ""
    classes: bool | None = None
    inner: bool = False
    layout: str | None = None


class Found(NamedTuple):
    """A data set that a layout found in a tree.

    Attributes:
        layout: The layout's name.
        place: What ``--sub`` would say to choose it.
        what: What it is, for people who have to choose.
        claimed: The files that belong to it.
        build: Makes the source, from how many other files there are by reason.
    """

    layout: str
    place: str
    what: str
    claimed: frozenset[str]
    build: Callable[[Mapping[str, int]], Listed]


class LayoutError(InputError):
    """Nothing of this layout is there. The message says what was looked for."""


def attribute_counts(names: Sequence[str], rows: np.ndarray | None) -> dict[str, int]:
    """How many samples have each attribute, of rows int8 (n, A)."""
    return dict(zip(names, (rows > 0).sum(0).tolist(), strict=True)) if rows is not None else {}


def displayed(name: str) -> str:
    """A file name as it can be printed anywhere: bytes that are no UTF-8 and control characters are replaced."""
    with suppress(UnicodeEncodeError):  # a table's half of a character, which no file name has
        name = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def distinct(names: Sequence[str], what: str, where: object) -> tuple[str, ...]:
    """Names of classes or attributes as they can be printed, by which they are asked for afterwards.

    Args:
        names: As they were found, each once.
        what: What they name, for the message: "classes".
        where: What holds them.

    Raises:
        InputError: Two of them cannot be told apart then.
    """
    shown = tuple(map(displayed, names))
    twice = [name for name, times in Counter(shown).items() if times > 1]
    if twice:
        raise InputError(
            f"{displayed(str(where))}: several {what} would be called {some(twice)}, as their names hold what cannot "
            "be printed: rename them"
        )
    return shown


def some(names: Collection[str], between: str = ", ", most: int = 5) -> str:
    """The first of some names, as they can be printed; ``between`` stands between two that are all."""
    if len(names) <= 2:
        return between.join(map(displayed, names))
    return ", ".join(map(displayed, islice(names, most))) + (", …" if len(names) > most else "")


def quoted(name: str) -> str:
    """A name as a shell takes it."""
    return shlex.quote(displayed(name))


def choices(options: Sequence[tuple[str, str]]) -> str:
    """Lines that list what can be said, and what it means."""
    width = max(len(option) for option, _ in options)
    return "".join(f"\n  {option:<{width}}  {meaning}".rstrip() for option, meaning in options)


def sample_keys(names: Sequence[str]) -> list[str]:
    """Keys for files: the path without its extension, every character but A-Z a-z 0-9 _ / - replaced by _.

    Keys that would be alike or too long end in a hash of the whole path instead, so a file's key never depends on the
    order of the others.

    Args:
        names: Paths relative to the source, with "/", each only once.
    """
    plain = [_NO_KEY.sub("_", os.path.splitext(name)[0]) for name in names]  # noqa: PTH122 (a name)
    count = Counter(plain)
    keys = []
    for name, key in zip(names, plain, strict=True):
        if count[key] > 1 or len(key) > MAX_KEY:
            key = f"{key[: MAX_KEY - 17]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        keys.append(key)
    if len(set(keys)) < len(keys):
        twice = next(key for key, times in Counter(keys).items() if times > 1)
        one, other, *_ = (displayed(name) for name, key in zip(names, keys, strict=True) if key == twice)
        if one == other:
            raise InputError(f"two images are called {one}: rename or remove one of them")
        raise InputError(f"{one} and {other} would get the key {twice}: rename one of them")
    return keys


def listing_identity(layout: str, files: Iterable[tuple[str, int]], facts: Iterable[bytes]) -> str:
    """The sha256 (hex) behind Source.identity.

    Args:
        layout: The source's layout.
        files: Name and size in bytes of each file, in order.
        facts: Whatever else counts: labels, attributes, names.
    """
    digest = hashlib.sha256(layout.encode())
    for part in (*(os.fsencode(f"{name}\0{size}") for name, size in files), *facts):
        digest.update(len(part).to_bytes(8, "little"))  # so that no two lists of parts run together into the same bytes
        digest.update(part)
    return digest.hexdigest()


def listed_identity(source: Listed, files: Iterable[tuple[str, int]]) -> str:
    """The identity of a source whose samples are the given files: of them, and of all that is known about them."""
    rows = source.attribute_rows
    names = (source.class_names, source.attribute_names, source.split_names)
    known = [source.labels.tobytes(), source.splits.tobytes(), b"" if rows is None else rows.tobytes()]
    return listing_identity(source.layout, files, [*known, *("\0".join(each).encode() for each in names)])
