"""WebDataset tars that others made: samples of files that share a key, read through the webdataset library.

The tars are read once to learn what is in them, and once more when they are packed, each process from the beginning of
a tar on: nothing is kept but what is known about the samples.
"""

from __future__ import annotations

import glob
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import braceexpand
import numpy as np

from shards import images
from shards.cache import is_remote
from shards.errors import InputError
from shards.images import ImageError, Look
from shards.names import canonical_split
from shards.sources.base import (
    SPLITS,
    Found,
    Listed,
    Recognised,
    Sample,
    Wish,
    displayed,
    listed_identity,
    sample_keys,
)
from shards.sources.pictures import SUFFIXES, look_notes, recognise
from shards.trees import Folder, Tar, Tree, open_tree

LOOKS_FOR = "tars called 000000.tar and so on, or a tar in which images have .cls, .json or .txt files of their key"
COMPANIONS = frozenset({"cls", "json", "txt", "cap", "caption", "id", "index", "label"})
LOOKED_AT = 100
ATTRIBUTE_VALUES = (1, -1, 0)
CLASS_FIELDS = ("class", "class_name", "label", "category")
"""What a .json calls the class of its image."""

_NUMBERED = re.compile(r"(?P<set>.*?)(?P<number>[0-9]{2,})\.(tar|tgz|tar\.gz)", re.I)
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def find(tree: Tree, names: Sequence[str], wish: Wish) -> list[Found]:
    """A tar of samples, or folders with tars of samples."""
    if isinstance(tree, Tar):
        if _has_companions(names):
            build = partial(_build, [str(tree.path)])
            return [Found("webdataset", "", f"{len(names):,} files of WebDataset samples", frozenset(names), build)]
        return []
    if not isinstance(tree, Folder):
        return []
    folders: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith((".tar", ".tgz", ".tar.gz")):
            folders.setdefault(name.rpartition("/")[0], []).append(name)
    found = []
    for folder, tars in folders.items():
        numbered = len(tars) > 1 and all(_NUMBERED.fullmatch(name.rpartition("/")[2]) for name in tars)
        inner = open_tree(tree.path / tars[0])
        if inner is None or not (numbered or _has_companions(list(inner.files))):
            continue
        urls = [str(tree.path / name) for name in tars]
        what = f"{len(tars):,} tars of WebDataset samples"
        found.append(Found("webdataset", folder, what, frozenset(tars), partial(_build, urls)))
    return found


def expand(text: str) -> list[str] | None:
    """The tars that a brace expression, a pattern or a URL names, or None where the text is something else.

    Raises:
        InputError: It names no tar.
    """
    if text.startswith("pipe:"):
        raise InputError(f"{text}: distgan runs no commands; give files or URLs that fsspec reads")
    remote, expression = is_remote(text), any(letter in text for letter in "{*?[") or "::" in text
    if not remote and (not expression or Path(text).exists()):
        return None
    try:
        urls = [url for part in text.split("::") for url in braceexpand.braceexpand(part)]
    except ValueError as error:
        raise InputError(f"{text}: {error}") from error
    if not remote:
        urls = [url for part in urls for url in (sorted(glob.glob(part)) if glob.has_magic(part) else [part])]  # noqa: PTH207
    if not urls or not all(re.search(r"\.(tar|tgz|tar\.gz)([?#].*)?$", url) for url in urls):
        if remote:
            return None
        raise InputError(f"{text} names no tars: write, for example, pool/{{00000..00031}}.tar")
    return urls


def open_urls(urls: Sequence[str]) -> Listed:
    """The samples of some tars.

    Raises:
        InputError: One cannot be read, or there is no image in them.
    """
    return _build(urls, {})


def _has_companions(names: Sequence[str]) -> bool:
    """Whether half of the images have a file of the same key that says something of them."""
    fields: dict[str, set[str]] = {}
    for name in names:
        key, field = split_key(name)
        fields.setdefault(key, set()).add(_ending(field))
    with_image = [each for each in fields.values() if any(_is_image(field) for field in each)]
    return bool(with_image) and 2 * sum(bool(each & COMPANIONS) for each in with_image) >= len(with_image)


def split_key(name: str) -> tuple[str, str]:
    """A member's key and its field: what ends its name, beginning with the first part after which all are words.

    webdataset's own rule splits at the first dot, which takes photo.0001.jpg for a field 0001.jpg of photo.
    """
    folder, slash, last = name.rpartition("/")
    parts = last.split(".")
    start = len(parts)
    while start > 1 and _FIELD.fullmatch(parts[start - 1]):
        start -= 1
    return folder + slash + ".".join(parts[:start]), ".".join(parts[start:]).lower()


def _ending(field: str) -> str:
    """What a field holds: "jpg" for seg.jpg."""
    return field.rpartition(".")[2]


def _is_image(field: str) -> bool:
    return f".{_ending(field)}" in SUFFIXES


class _Row(NamedTuple):
    """What is kept of a sample: its tar, key and image field, the image's size in bytes, and what is said of it."""

    url: int
    key: str
    field: str
    size: int
    label: str | None
    facts: Mapping[str, Any]


def _build(urls: Sequence[str], left_out: Mapping[str, int]) -> Listed:
    rows: list[_Row] = []
    others: Counter[str] = Counter(left_out)
    looks: list[Look] = []
    grey = True
    for number, url in enumerate(urls):
        before = len(rows)
        for sample in read_tar(url):
            fields = sorted((name for name in sample if _is_image(name)), key=lambda name: (name.count("."), name))
            if not fields:
                others["samples without an image"] += 1
                continue
            data = sample[fields[0]]
            if grey or (len(looks) < LOOKED_AT and len(rows) - before < 4):
                try:
                    look = images.look(data)
                except ImageError:
                    pass
                else:
                    grey = grey and look.grey
                    looks.append(look)
            label, facts = _facts(url, sample, others)
            others.update(f".{name} of samples" for name in fields[1:])
            rows.append(_Row(number, sample["__key__"], fields[0], len(data), label, facts))
    if not rows:
        raise InputError(f"{urls[0]}{' and the others hold' if len(urls) > 1 else ' holds'} no samples with an image")
    return WebShards(urls, rows, looks[:LOOKED_AT], grey and bool(looks), others)


def _facts(url: str, sample: Mapping[str, Any], others: Counter[str]) -> tuple[str | None, Mapping[str, Any]]:
    """A sample's class as it is written, and what its .json says; what says nothing here is counted."""
    label: str | None = None
    facts: Mapping[str, Any] = {}
    for name, data in sample.items():
        if name.startswith("__") or _is_image(name):
            continue
        if _ending(name) in ("cls", "label", "class"):
            label = data.decode("utf-8", "replace").strip()
        elif _ending(name) == "json":
            try:
                found = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{url}, sample {sample['__key__']}: its .json is none ({error})") from error
            facts = found if isinstance(found, dict) else {"label": found}
        else:
            others[f".{name} of samples"] += 1
    return label, facts


class WebShards:
    """The samples of tars in their order.

    Args:
        urls: The tars: files or URLs.
        rows: What is known of each sample.
        looks: What some of the images are.
        grey: Whether all images are.
        left_out: What is not packed, by reason.
    """

    layout = "webdataset"

    def __init__(
        self, urls: Sequence[str], rows: Sequence[_Row], looks: Sequence[Look], grey: bool, left_out: Counter[str]
    ) -> None:
        self._urls = list(urls)
        self._numbers = np.array([row.url for row in rows], np.int32)
        self._fields = [row.field for row in rows]
        self._members = [row.key for row in rows]
        self._sizes = [row.size for row in rows]
        self._looks, self._grey = list(looks), grey
        unique = len(set(self._members)) == len(rows)
        shorts = [displayed(url.rpartition("/")[2]) for url in urls]
        names = [row.key if unique else f"{shorts[row.url].partition('.')[0]}/{row.key}" for row in rows]
        self.keys = sample_keys([f"{name}.{field}" for name, field in zip(names, self._fields, strict=True)])
        self._names = [f"{shorts[row.url]}/{row.key}.{row.field}" for row in rows]
        notes = []
        labels, notes_of_labels = _labels(rows)
        notes += notes_of_labels
        self.class_names = _class_names(labels)
        index = {name: i for i, name in enumerate(self.class_names)}
        self.labels = np.array([-1 if label is None else index[label] for label in labels], np.int32)
        self.attribute_names, self.attribute_rows, ignored = _attributes(rows)
        if ignored:
            notes.append(f"fields of .json that are neither class nor attribute: {', '.join(map(displayed, ignored))}")
        of_urls = [_split_of(short) for short in shorts]
        in_use = [split for split in SPLITS if split in of_urls]
        self.split_names = tuple(in_use)
        self.splits = np.array([in_use.index(s) if (s := of_urls[row.url]) else -1 for row in rows], np.int8)
        if in_use:
            notes.append("splits by the tars' names")
        self._left_out, self._notes = left_out, notes
        self._at: tuple[int, int, Iterator[dict[str, Any]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_at": None}

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, i: int) -> str:
        """The tar and the member."""
        return displayed(self._names[i])

    def sample(self, i: int) -> Sample:
        """Read sample i; quick where it comes after the one that was read before.

        Raises:
            ImageError: It is not there any more.
        """
        number = int(self._numbers[i])
        if self._at is None or self._at[0] != number or self._at[1] > i:
            first = int(np.searchsorted(self._numbers, number))
            self._at = (number, first, _with_image(read_tar(self._urls[number])))
        _, position, samples = self._at
        found = next(islice(samples, i - position, None), None)
        self._at = (number, i + 1, samples)
        if found is None or found["__key__"] != self._members[i]:
            raise ImageError(f"{self._urls[number]} has changed")
        attributes = None if self.attribute_rows is None else self.attribute_rows[i]
        return Sample(self.keys[i], found[self._fields[i]], int(self.labels[i]), attributes, int(self.splits[i]))

    def channels(self) -> int:
        """1 where every image is grey, else 3."""
        return 1 if self._grey else 3

    def identity(self) -> str:
        """A sha256 (hex) over the samples' names, sizes, labels and attributes."""
        return listed_identity(self, zip(self._names, self._sizes, strict=True))

    @property
    def recognised(self) -> Recognised:
        """What the tars hold."""
        place = self._urls[0] if len(self._urls) == 1 else f"{self._urls[0]} … {self._urls[-1]}"
        formats = Counter(f".{field}" for field in self._fields)
        notes = [*self._notes, *look_notes(self._looks)]
        return recognise(self, "shards", place, formats, self._looks, self._left_out, notes)


# ---- what samples say ----


def _labels(rows: Sequence[_Row]) -> tuple[list[str | None], list[str]]:
    """The class of each sample as text: what .cls says, or else what .json calls so."""
    if any(row.label is not None for row in rows):
        return [row.label for row in rows], ["classes from .cls"]
    for name in CLASS_FIELDS:
        values = [row.facts.get(name) for row in rows]
        if any(isinstance(value, (str, int)) for value in values):
            labels = [str(v) if isinstance(v, (str, int)) and not isinstance(v, bool) else None for v in values]
            return labels, [f"classes from {name} in .json"]
    return [None] * len(rows), []


def _class_names(labels: Iterable[str | None]) -> tuple[str, ...]:
    """The classes in the order of their numbers (those without a sample too), or else of their characters."""
    found = {label for label in labels if label is not None}
    if found and all(re.fullmatch(r"[0-9]{1,6}", label) for label in found):
        if all(label == str(int(label)) for label in found) and max(map(int, found)) < 10_000:
            return tuple(str(i) for i in range(max(map(int, found)) + 1))
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _attributes(rows: Sequence[_Row]) -> tuple[tuple[str, ...], np.ndarray | None, list[str]]:
    """Fields of .json that are 1 or -1 (or 1 or 0, or true or false) in every sample; and the others."""
    names = list(dict.fromkeys(name for row in rows for name in row.facts))
    kept: list[str] = []
    columns = []
    for name in names:
        values = [row.facts.get(name) for row in rows]
        if all(isinstance(value, (bool, int)) and value in ATTRIBUTE_VALUES for value in values):
            kinds = {int(value) for value in values if value is not None}
            if name not in CLASS_FIELDS and not {0, -1} <= kinds:
                kept.append(name)
                columns.append(np.array([1 if value == 1 else -1 for value in values], np.int8))
    ignored = [name for name in names if name not in kept and name not in CLASS_FIELDS]
    return tuple(kept), np.stack(columns, 1) if columns else None, ignored


def _split_of(name: str) -> str | None:
    """The split that a tar's name speaks of: imagenet-train-000000.tar."""
    words = re.split(r"[-_.]", name)
    return next((split for word in words if (split := canonical_split(word))), None)


# ---- reading ----


def read_tar(url: str) -> Iterator[dict[str, Any]]:
    """The samples of a tar: fields to bytes, and __key__.

    Raises:
        InputError: It cannot be read, is damaged, or ends too early.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander  # imports torch, which takes seconds

    try:
        with _Watched(url) as stream:
            yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]), keys=split_key)
            stream.check_end()
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # each file system and decompressor has errors of its own
        reason = getattr(error, "strerror", None) or (error.args[0] if error.args else error)
        raise InputError(f"{url} cannot be read: {reason}") from error


def _with_image(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (sample for sample in samples if any(_is_image(name) for name in sample))


class _Watched:
    """A tar's bytes, and whether it has ended as tars do: a damaged one ends early without any error."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._file: BinaryIO
        self._tail = b""
        self._plain: bool | None = None

    def __enter__(self) -> _Watched:
        if is_remote(self._url):
            import fsspec  # here, as shards.cache says why

            self._file = fsspec.open(self._url, "rb").open()
        else:
            self._file = Path(self._url).open("rb")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, count: int = -1) -> bytes:
        """As files do."""
        data = self._file.read(count)
        if self._plain is None:
            self._plain = data[257:262] == b"ustar"
        self._tail = (self._tail + data)[-1024:]
        return data

    def check_end(self) -> None:
        """See that nothing but zeros follows.

        Raises:
            InputError: More does, or the zeros that end a tar are missing.
        """
        if not self._plain:
            return
        ended = self._tail
        while data := self.read(1 << 20):
            if data.strip(b"\0"):
                raise InputError(f"{self._url} is damaged: it ends in the middle for readers of tars. Fetch it again")
        if (ended + self._tail)[-512:].strip(b"\0") or len(self._tail) < 512:
            raise InputError(f"{self._url} is cut off: the zeros that end a tar are missing. Fetch it again")
