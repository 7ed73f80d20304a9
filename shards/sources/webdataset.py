"""WebDataset tars that others made.

The tars are read once to learn what is in them, and once more when they are packed, each process from the beginning of
a tar on: nothing is kept but what is known about the samples.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shards import images
from shards.archives import Tar, without_suffix
from shards.cache import is_remote
from shards.errors import InputError
from shards.images import ImageError, Look
from shards.names import canonical_split, in_a_row
from shards.sources.base import (
    SPLITS,
    Found,
    Listed,
    Recognised,
    Sample,
    Wish,
    choices,
    displayed,
    distinct,
    listed_identity,
    sample_keys,
)
from shards.sources.folder import Arrangement
from shards.sources.pictures import look_notes, recognise
from shards.sources.tarred import Tarred, at_urls, ending, is_image, read_tar, split_key, with_image
from shards.trees import Tree, open_inside

LOOKS_FOR = "tars called 000000.tar and so on, or a tar in which images have .cls, .json or .txt files of their key"
COMPANIONS = frozenset({"cls", "json", "txt", "cap", "caption", "id", "index", "label"})
TARS = (".tar", ".tgz", ".tar.gz")
LAYOUT = "webdataset"
PADDED = 4
"""Numbers of so many digits are those of shards; shorter ones may be anything."""
LOOKED_AT = 100
MOST_TARS = 1_000_000
ATTRIBUTE_VALUES = (1, -1, 0)
CLASS_FIELDS = ("class", "class_name", "label", "category")
"""What a .json calls the class of its image."""


def find(tree: Tree, names: Sequence[str], wish: Wish) -> list[Found]:
    """A tar of samples, or sets of tars of samples.

    Tars in folders train and val, or so called, are one set. If the user says that this is the layout, all tars are.

    Raises:
        InputError: Tars are called like shards but may each hold a class; a tar may hold class folders with files
            beside the images; or a part of a tar of samples is asked for.
    """
    asked = wish.layout == LAYOUT
    if isinstance(tree, Tar) and (_has_companions(names) or (asked and any(map(_is_picture, names)))):
        part = len(names) < len(tree.files)
        if not asked and _are_folders(tree, str(tree.path), wish, part=part):
            return []
        if part:
            raise InputError(
                f"{tree.path} holds samples of WebDataset, which are packed whole: leave --sub and --exclude away, or "
                "give --layout folder, which takes the images without what is said of them"
            )
        tar = Tarred(str(tree.path), tree.path.name, tree.opening)
        what = f"{len(names):,} files of WebDataset samples"
        return [Found(LAYOUT, "", what, frozenset(names), partial(_build, [tar]))]
    sets: dict[object, list[str]] = {}
    for name in names:
        if name.lower().endswith(TARS):
            sets.setdefault(None if asked else _set_of(name), []).append(name)
    found = []
    for tars in sets.values():
        if asked or _are_shards(tree, tars, wish):
            place = tars[0] if len(tars) == 1 else os.path.commonpath(tars)
            what = f"{len(tars):,} tar{'s' * (len(tars) > 1)} of WebDataset samples, {displayed(tars[0])}"
            members = [Tarred(str(tree.path / name), name, partial(tree.open, name)) for name in tars]
            found.append(Found(LAYOUT, place, what, frozenset(tars), partial(_build, members)))
    return found


def _set_of(name: str) -> tuple[str, ...]:
    """What the tars of one set have in common: their names but for numbers and splits."""
    *folders, last = without_suffix(name).split("/")
    words = re.split(r"[-_.]", last.rstrip("0123456789"))
    return (*(each for each in folders if not canonical_split(each)), "", *(w for w in words if not canonical_split(w)))


def _are_folders(tree: Tree, called: str, wish: Wish, *, part: bool = False) -> bool:
    """Whether a tar of images with files of their names is meant as folders, by what the user asks for.

    A .cls is only in samples. Where there is none, folders may be classes or splits, with captions or boxes beside the
    images.

    Args:
        tree: The tar.
        called: Its name, for messages.
        wish: What the user said.
        part: Whether a part of it is asked for.

    Raises:
        InputError: The folders say something, and nothing of them is asked for.
    """
    if any(ending(split_key(name)[1]) == "cls" for name in tree.files):
        return False
    arranged = Arrangement(tree, [name for name in tree.files if _is_picture(name)])
    try:
        arranged.decide(Wish())
    except InputError:
        said = "folders, of which more will be asked"
    else:
        classes, splits = arranged.class_names, [split for split in SPLITS if split in arranged.splits]
        found = [f"{len(classes):,} classes"] * bool(classes) + [f"splits {', '.join(splits)}"] * bool(splits)
        if not found:
            return False
        said = f"folders: {' and '.join(found)}"
    if part or wish.classes or wish.inner:
        return True
    raise InputError(
        f"{called} holds images in folders, and files of their names beside them: what is meant?"
        + choices(
            [
                (f"--layout {LAYOUT}", "samples of WebDataset, whatever their folders are called"),
                ("--layout folder", f"{said}, without the files beside the images"),
            ]
        )
    )


def _are_shards(tree: Tree, tars: Sequence[str], wish: Wish) -> bool:
    """Whether tars are samples and not folders that somebody packed: the first one's files say so, or all their names.

    Raises:
        InputError: It may be one or the other.
    """
    inner = open_inside(tree, tars[:1]).get(tars[0])
    if inner is None:
        return False
    if _has_companions(list(inner.files)):
        return not _are_folders(inner, str(tree.path / tars[0]), wish)
    folders = {name.rpartition("/")[0] for name in inner.files if _is_picture(name)}
    if len(tars) < 2 or len(folders) != 1:
        return False
    runs: dict[str, list[str]] = {}
    for name in map(without_suffix, tars):
        runs.setdefault(name.rstrip("0123456789"), []).append(name)
    whole = all(map(in_a_row, runs.values()))
    if whole and all(len(name) - len(start) >= PADDED for start, run in runs.items() for name in run):
        return True
    only_numbers = _set_of(tars[0])[-1] == ""
    if folders != {""} or not (whole or only_numbers):
        return False
    raise InputError(
        f"{tree.path} holds {len(tars):,} tars of images ({displayed(tars[0])}, …): what is meant?"
        + choices(
            [
                (f"--layout {LAYOUT}", "parts of one set, without classes"),
                ("--layout folder", "archived folders, each of them a class"),
            ]
        )
    )


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
    import braceexpand  # here: of all layouts only this one needs it

    if _stands_for(text) > MOST_TARS:
        raise InputError(f"{text} stands for more than {MOST_TARS:,} tars: write the numbers of the first and the last")
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


def _stands_for(text: str) -> int:
    """How many names an expression in braces stands for, or more: braceexpand makes all before it gives the first."""
    found = 1
    for inside in re.findall(r"\{([^{}]*)", text):
        bounds = [int(number) for number in re.findall(r"-?[0-9]{1,18}", inside)]
        found *= abs(bounds[0] - bounds[1]) + 1 if ".." in inside and len(bounds) > 1 else inside.count(",") + 1
    return found


def open_urls(urls: Sequence[str]) -> Listed:
    """The samples of some tars.

    Raises:
        InputError: One cannot be read, or there is no image in them.
    """
    return _build(at_urls(urls), {})


def _has_companions(names: Sequence[str]) -> bool:
    """Whether half of the images have a file of the same key that says something of them.

    A .cls is such a file wherever in the tar it lies; others may be of another data set's folders.
    """
    fields: dict[str, set[str]] = {}
    classes = 0
    for name in names:
        key, field = split_key(name)
        fields.setdefault(key, set()).add(ending(field))
        classes += ending(field) == "cls"
    images = [each for each in fields.values() if any(map(is_image, each))]
    described = sum(bool(each & COMPANIONS) for each in images)
    return bool(images) and 2 * max(described, classes) >= len(images)


def _is_picture(name: str) -> bool:
    return is_image(split_key(name)[1])


class _Row(NamedTuple):
    """What is kept of a sample: its tar, key and image field, the image's size in bytes, and what is said of it."""

    tar: int
    key: str
    field: str
    size: int
    label: str | None
    facts: Mapping[str, Any]


def _build(tars: Sequence[Tarred], left_out: Mapping[str, int]) -> Listed:
    rows: list[_Row] = []
    others: Counter[str] = Counter(left_out)
    looks: list[Look] = []
    grey = True
    joined = 0
    for number, tar in enumerate(tars):
        first = len(rows)
        apart: dict[str, tuple[str | None, Mapping[str, Any]]] = {}
        for sample in read_tar(tar):
            fields = sorted((name for name in sample if is_image(name)), key=lambda name: (name.count("."), name))
            if not fields:
                label, facts = _facts(tar.url, sample, Counter())
                if label is None and not facts:
                    others["samples without an image"] += 1
                else:
                    apart[sample["__key__"]] = label, facts
                continue
            data = sample[fields[0]]
            if grey or (len(looks) < LOOKED_AT and len(rows) - first < 4):
                try:
                    look = images.look(data)
                except ImageError:
                    pass
                else:
                    grey = grey and look.grey
                    looks.append(look)
            label, facts = _facts(tar.url, sample, others)
            others.update(f".{name} of samples" for name in fields[1:])
            rows.append(_Row(number, sample["__key__"], fields[0], len(data), label, facts))
        rows[first:], count = _joined(rows[first:], apart)
        joined += count
        others["samples without an image"] += len(apart) - count
    if not rows:
        raise InputError(
            f"{tars[0].url}{' and the others hold' if len(tars) > 1 else ' holds'} no samples with an image"
        )
    notes = [f"{joined:,} .cls or .json lie apart from their images, and go with those of their name"] * bool(joined)
    return WebShards(tars, rows, looks[:LOOKED_AT], grey and bool(looks), +others, notes)


def _joined(rows: Sequence[_Row], apart: Mapping[str, tuple[str | None, Mapping[str, Any]]]) -> tuple[list[_Row], int]:
    """The samples of a tar with what lies apart from them in it, by key or by what ends it; and how often it did."""
    found = list(rows)
    ends = Counter(row.key.rpartition("/")[2] for row in rows)
    places = {end: i for i, row in enumerate(rows) if ends[end := row.key.rpartition("/")[2]] == 1}
    places |= {row.key: i for i, row in enumerate(rows)}
    joined = 0
    for key, (label, facts) in apart.items():
        i = places.get(key, places.get(key.rpartition("/")[2]))
        if i is not None:
            joined += 1
            row = found[i]
            found[i] = row._replace(label=label if row.label is None else row.label, facts={**facts, **row.facts})
    return found, joined


def _facts(url: str, sample: Mapping[str, Any], others: Counter[str]) -> tuple[str | None, Mapping[str, Any]]:
    """A sample's class as it is written, and what its .json says; what says nothing here is counted."""
    label: str | None = None
    facts: Mapping[str, Any] = {}
    for name, data in sample.items():
        if name.startswith("__") or is_image(name):
            continue
        if ending(name) in ("cls", "label", "class"):
            label = _text(data)
            others[f".{name} that are empty or no text"] += label is None
        elif ending(name) == "json":
            try:
                found = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{url}, sample {sample['__key__']}: its .json is none ({error})") from error
            facts = found if isinstance(found, dict) else {"label": found}
        else:
            others[f".{name} of samples"] += 1
    return label, facts


def _text(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return None
    return text if text and text.isprintable() else None


class WebShards:
    """The samples of tars in their order.

    Args:
        tars: The tars.
        rows: What is known of each sample.
        looks: What some of the images are.
        grey: Whether all images are.
        left_out: What is not packed, by reason.
        notes: What was decided, in sentences.
    """

    layout = LAYOUT

    def __init__(
        self,
        tars: Sequence[Tarred],
        rows: Sequence[_Row],
        looks: Sequence[Look],
        grey: bool,
        left_out: Counter[str],
        notes: Sequence[str],
    ) -> None:
        self._tars = list(tars)
        self._numbers = np.array([row.tar for row in rows], np.int32)
        self._fields = [row.field for row in rows]
        self._members = [row.key for row in rows]
        self._sizes = [row.size for row in rows]
        self._looks, self._grey = list(looks), grey
        unique = len(set(self._members)) == len(rows)
        shorts = [displayed(tar.short) for tar in tars]
        names = [row.key if unique else f"{without_suffix(shorts[row.tar])}/{row.key}" for row in rows]
        self.keys = sample_keys([f"{name}.{field}" for name, field in zip(names, self._fields, strict=True)])
        self._names = [f"{shorts[row.tar]}/{row.key}.{row.field}" for row in rows]
        labels, field, notes_of_labels = _labels(rows)
        class_names = _class_names(labels)
        self.class_names = distinct(class_names, "classes", tars[0].url)
        index = {name: i for i, name in enumerate(class_names)}
        self.labels = np.array([-1 if label is None else index[label] for label in labels], np.int32)
        attribute_names, self.attribute_rows, others = _attributes(rows)
        self.attribute_names = distinct(attribute_names, "attributes", tars[0].url)
        notes = [*notes, *notes_of_labels]
        if ignored := [name for name in others if name != field]:
            notes.append(f"fields of .json that are neither class nor attribute: {', '.join(map(displayed, ignored))}")
        of_tars = [_split_of(short) for short in shorts]
        in_use = [split for split in SPLITS if split in of_tars]
        self.split_names = tuple(in_use)
        self.splits = np.array([in_use.index(s) if (s := of_tars[row.tar]) else -1 for row in rows], np.int8)
        if in_use:
            notes.append("splits by the tars' names")
        if missing := _missing(shorts):
            notes.append(f"the tars' numbers have gaps, such as {missing[0]}: are all of them here?")
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
            self._at = (number, first, with_image(read_tar(self._tars[number])))
        _, position, samples = self._at
        found = next(islice(samples, i - position, None), None)
        self._at = (number, i + 1, samples)
        if found is None or found["__key__"] != self._members[i]:
            raise ImageError(f"{self._tars[number].url} has changed")
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
        place = self._tars[0].url + (f" … {self._tars[-1].url}" if len(self._tars) > 1 else "")
        formats = Counter(f".{field}" for field in self._fields)
        notes = [*self._notes, *look_notes(self._looks)]
        return recognise(self, "shards", place, formats, self._looks, self._left_out, notes)


# ---- what samples say ----


def _labels(rows: Sequence[_Row]) -> tuple[list[str | None], str | None, list[str]]:
    """The class of each sample as text, which is what .cls says, or else .json; the field there; and notes."""
    rest = [row.facts for row in rows if row.label is None]
    said = [name for name in CLASS_FIELDS if any(facts.get(name) is not None for facts in rest)]
    field = next((name for name in said if any(_name(facts.get(name)) is not None for facts in rest)), None)
    labels = [row.label if row.label is not None or field is None else _name(row.facts.get(field)) for row in rows]
    notes = []
    if len(rest) < len(rows):
        notes.append("classes from .cls")
    if field:
        where = f", where there is no .cls ({len(rest):,} samples)" if notes else ""
        notes.append(f"classes from {field} in .json{where}")
    shown = field or (said[0] if said else "")
    odd = [facts[shown] for facts in rest if facts.get(shown) is not None and _name(facts[shown]) is None]
    if odd:
        example = displayed(json.dumps(odd[0])[:60])
        notes.append(
            f"{len(odd):,} samples have a {shown} in .json that is neither text nor a whole number, such as {example}: "
            "they have no class"
        )
    return labels, shown or None, notes


def _name(value: object) -> str | None:
    """A class as .json gives it: a text, or a whole number, also one that pandas wrote as 3.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value).strip() or None


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
    return tuple(kept), np.stack(columns, 1) if columns else None, [name for name in names if name not in kept]


def _missing(shorts: Iterable[str]) -> list[str]:
    """Tars that are not there, of a row that is numbered and has more that are."""
    runs: dict[str, dict[int, str]] = {}
    for short in shorts:
        name = without_suffix(short)
        start = name.rstrip("0123456789")
        if 0 < len(digits := name[len(start) :]) < 10:
            runs.setdefault(start, {})[int(digits)] = digits
    missing = []
    for start, run in runs.items():
        if max(run) - min(run) + 1 < 2 * len(run):
            numbers = [number for number in range(min(run), max(run)) if number not in run]
            missing += [f"{start}{number:0{len(run[min(run)])}}" for number in numbers]
    return missing


def _split_of(short: str) -> str | None:
    """The split that a tar's name speaks of, or its folder's: imagenet-train-000000.tar, train/000000.tar."""
    *folders, last = without_suffix(short).split("/")
    words = [*re.split(r"[-_.]", last), *reversed(folders)]
    return next((split for word in words if (split := canonical_split(word))), None)
