"""CelebA and CelebA-HQ: a folder of faces, with the table of their attributes and the list of their splits near it."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shards.errors import InputError
from shards.images import ImageError
from shards.names import canonical_split
from shards.sources.base import SPLITS, Found, Listed, Wish, displayed
from shards.sources.pictures import SUFFIXES, PictureFiles, evenly, stem, suffix
from shards.trees import Tree

LOOKS_FOR = "a folder img_align_celeba with images in it, or images and a list_attr_celeba.txt or .csv"
IMAGES = re.compile(r"img_align_celeba(_png|_jpg)?|img_celeba|celeba[-_]?hq[-_]?(img|images)", re.I)
TABLE = re.compile(r"list_attr_celeba.*\.(txt|csv|tsv)|celebamask-hq-attribute-anno\.txt", re.I)
PARTITION = re.compile(r"list_eval_partition.*\.(txt|csv|tsv)", re.I)
NEAR = (".", "Anno", "Eval")
"""Below a folder near the images: where the official share keeps its tables."""
NO_ATTRIBUTES = frozenset({"partition", "split", "set", "identity", "id"})
"""Columns of tables that people have joined."""
COPY = re.compile(r"(.+?)( ?\([0-9]+\)| ?- ?copy.*|_copy.*)", re.I)
"""What browsers and desktops call a second copy of a file."""
VALUES = {"-1": 0xFF, "1": 0x01}
MORE_VALUES = {**VALUES, "0": 0x00, "-1.0": 0xFF, "1.0": 0x01, "0.0": 0x00, "true": 0x01, "false": 0x00}
"""What re-saved tables say instead; 0 is -1 where the table has no -1."""
SOME = 50
SHOWN = 5
MOST_TABLE_BYTES = 2**30


class Table(NamedTuple):
    """A text file about images: its path for messages, and its bytes."""

    path: str
    data: bytes


def find(tree: Tree, names: Sequence[str], wish: Wish) -> list[Found]:
    """Folders of CelebA's images: by their names, or by what a table in the tree says of what is in them.

    The samples are the images that are there: the first thousand with the full table are a fine set.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if suffix(name) in SUFFIXES:
            folders[name.rpartition("/")[0]].append(name)
    named = {
        folder: [folder]
        for folder in folders
        if IMAGES.fullmatch(folder.rpartition("/")[2] or tree.path.absolute().name.partition(".")[0])
    }
    if not named and any(TABLE.fullmatch(name.rpartition("/")[2]) for name in tree.files):
        named = _described(tree, folders)
    found = []
    for place, members in sorted(named.items()):
        images = [name for folder in members for name in folders[folder]]
        tables = {each for pattern in (TABLE, PARTITION) if (each := _nearest(tree.files, place, pattern))}
        build = partial(_build, tree, place, images)
        found.append(Found("celeba", place, f"{len(images):,} faces of CelebA", frozenset(images) | tables, build))
    return found


def _described(tree: Tree, folders: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The folders of images that a table speaks of, by the folder that they lie in.

    Those that have the same table are one set, such as train, val and test, unless they have an image in common: then
    they are editions of it.
    """
    tables = [name for name in tree.files if TABLE.fullmatch(name.rpartition("/")[2])]
    described = {name: _stems(_read(tree, name)) for name in tables}
    groups: dict[str, list[str]] = defaultdict(list)
    for folder, names in folders.items():
        table, some = str(_nearest(tables, folder, TABLE)), evenly(names, SOME)
        if 2 * sum(stem(name) in described[table] for name in some) >= len(some):
            groups[table].append(folder)
    found: dict[str, list[str]] = {}
    for members in groups.values():
        stems = [stem(name) for folder in members for name in folders[folder]]
        if len(set(stems)) < len(stems):
            found |= {folder: [folder] for folder in members}
        else:
            found[os.path.commonpath(members) if all(members) else ""] = members
    return found


def _stems(table: Table) -> set[str]:
    """The images that a table may speak of."""
    return {_image(field) for _, fields in _lines(table) for field in fields[:2]}


def _build(tree: Tree, folder: str, names: Sequence[str], left_out: Mapping[str, int]) -> Listed:
    notes: list[str] = []
    attributes, splits = None, None
    attribute_names: tuple[str, ...] = ()
    table = _find_table(tree, folder, TABLE)
    if table is not None:
        attribute_names, rows, ignored = read_attributes(table)
        where = tree.path / folder if folder else tree.path
        copies = {name for name in names if _is_copy(stem(name), rows)}
        left_out = Counter(left_out) + Counter(
            {f"copies without a row in {displayed(Path(table.path).name)}": len(copies)}
        )
        names = [name for name in names if name not in copies]
        attributes = _match([stem(name) for name in names], names, rows, table.path, where)
        notes.append(f"attributes from {displayed(table.path)}")
        if ignored:
            notes.append(f"columns of it that are no attributes: {', '.join(map(displayed, ignored))}")
    below = [name[len(folder) + bool(folder) :].split("/")[:-1] for name in names]
    words = [next((split for part in parts if (split := canonical_split(part))), None) for parts in below]
    partition = _find_table(tree, folder, PARTITION)
    if names and None not in words:
        splits = [SPLITS.index(str(word)) for word in words]
        unused = f", and not {displayed(partition.path)}" if partition else ""
        notes.append(f"folders name the splits{unused}")
    elif partition is not None:
        parts = read_partition(partition)
        splits = [parts.get(stem(name), -1) for name in names]
        missing = splits.count(-1)
        if missing == len(splits):  # CelebA-HQ's images have other names
            notes.append(f"{displayed(partition.path)} speaks of other images: no splits")
            splits = None
        else:
            notes.append(f"splits from {displayed(partition.path)}")
            if missing:
                notes.append(f"which has no row for {missing:,} of the images: those are in no split")
    others = sorted({part for parts in below for part in parts if not canonical_split(part)})
    if others:
        notes.append(f"folders {', '.join(map(displayed, others[:SHOWN]))} are no classes")
    return PictureFiles(
        tree,
        "celeba",
        names,
        place=folder,
        splits=splits,
        attributes=attributes,
        attribute_names=attribute_names,
        left_out=left_out,
        notes=notes,
    )


def _is_copy(name: str, rows: Mapping[str, bytes]) -> bool:
    """Whether an image without a row is called like the copy of one with a row."""
    match = None if name in rows else COPY.fullmatch(name)
    return match is not None and match[1] in rows


def _match(
    stems: Sequence[str], names: Sequence[str], rows: Mapping[str, bytes], table: str, where: Path
) -> np.ndarray:
    """The rows of the images that are there: int8 (n, A)."""
    missing = [name for name, each in zip(names, stems, strict=True) if each not in rows]
    if missing:
        some = ", ".join(displayed(name.rpartition("/")[2]) for name in missing[:5])
        raise InputError(
            f"{table} has no row for {len(missing):,} of the {len(names):,} images in {where}: "
            f"{some}{', …' if len(missing) > 5 else ''}; give it the rows it lacks, or move those images away"
        )
    return np.frombuffer(b"".join(rows[each] for each in stems), np.int8).reshape(len(stems), -1)


# ---- where the tables are ----


def _nearest(files: Iterable[str], folder: str, pattern: re.Pattern[str]) -> str | None:
    """The table among files that shares most of its path with the images; .txt is the official one of two."""
    steps = folder.split("/") if folder else []

    def distance(name: str) -> tuple[int, bool, str]:
        parts = name.split("/")[:-1]
        common = 0
        while common < min(len(parts), len(steps)) and parts[common] == steps[common]:
            common += 1
        return len(steps) - common, suffix(name) != ".txt", name

    return min((name for name in files if pattern.fullmatch(name.rpartition("/")[2])), key=distance, default=None)


def _find_table(tree: Tree, folder: str, pattern: re.Pattern[str]) -> Table | None:
    """The nearest table in the tree, or else on the disk near it: the images alone may have been given."""
    name = _nearest(tree.files, folder, pattern)
    if name is not None:
        return _read(tree, name)
    path = tree.path.absolute()
    for place in (near / inner for near in (path.parent, path.parent.parent) for inner in NEAR):
        found = sorted(place.iterdir(), key=lambda each: (each.suffix != ".txt", each.name)) if place.is_dir() else []
        for each in found:
            if pattern.fullmatch(each.name) and each.is_file():
                return Table(str(each), each.read_bytes())
    return None


def _read(tree: Tree, name: str) -> Table:
    try:
        return Table(str(tree.path / name), tree.read(name, MOST_TABLE_BYTES))
    except ImageError as error:
        raise InputError(f"{tree.path / name}: {error}") from error


# ---- what the tables say ----


def read_attributes(table: Table) -> tuple[tuple[str, ...], dict[str, bytes], list[str]]:
    """The attributes' names, of each image its int8 values, and the columns that are no attributes.

    Images go by their stems: the PNG edition has the same table.

    Official: the number of images, the names, then a row an image. Otherwise a header and rows, split by commas,
    semicolons, tabs or spaces, with or without pandas' column of row numbers.

    Raises:
        InputError: A line makes no sense.
    """
    lines = iter(_lines(table))
    number, header = next(lines, (1, []))
    counted = len(header) == 1 and header[0].isdecimal()
    if counted:
        number, header = next(lines, (number + 1, []))
    elif len(header) < 2:
        raise InputError(f"{table.path}, line 1: the number of images or the names of columns should be here")
    begin = list(islice((line for line in lines if line[1]), SOME))
    first = begin[0][1] if begin else []
    column = 0
    if not counted and len(first) == len(header):  # the images have a column with a name
        column = next((i for i, text in enumerate(first) if suffix(text) in SUFFIXES), 0)
        header = header[column + 1 :]
    if not header or len(set(header)) < len(header) or VALUES.keys() & set(header) or "" in header:
        raise InputError(f"{table.path} should begin with the attributes' names, each once")
    kept = [i for i in range(len(header)) if not _is_other(header[i], [row[1][column + 1 :] for row in begin], i)]
    names = tuple(header[i] for i in kept)
    if not names:
        raise InputError(f"{table.path}, line {number}: none of its columns has only -1 and 1")
    rows = dict(_rows(table.path, chain(begin, lines), column, len(header), kept))
    return names, rows, [name for name in header if name not in names]


def _is_other(name: str, rows: Sequence[Sequence[str]], i: int) -> bool:
    """Whether column i of a table is no attribute: by its name, or as most of some rows have other values there."""
    values = [row[i].lower() for row in rows if i < len(row)]
    return name.lower() in NO_ATTRIBUTES or 2 * sum(value not in MORE_VALUES for value in values) > len(values)


def read_partition(table: Table) -> dict[str, int]:
    """Of each image, by its stem, its position in SPLITS.

    Raises:
        InputError: A line makes no sense.
    """
    parts: dict[str, int] = {}
    for number, fields in _lines(table):
        if len(fields) < 2 or (number == 1 and _part(fields[-1]) is None):
            continue
        part, image = _part(fields[-1]), _image(fields[-2])
        if part is None:
            raise InputError(f"{table.path}, line {number}: {fields[-1]!r} is none of 0 (train), 1 (val) and 2 (test)")
        if parts.setdefault(image, part) != part:
            raise InputError(f"{table.path}, line {number}: a second row for {fields[-2]}, with another split")
    return parts


def _part(text: str) -> int | None:
    """The position in SPLITS of what the list of splits says of a face: 0, 1 or 2 in the official one."""
    if match := re.fullmatch(r"([012])(\.0*)?", text):
        return int(match[1])
    split = canonical_split(text)
    return None if split is None else SPLITS.index(split)


def _lines(table: Table) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line."""
    try:
        wide = table.data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = table.data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{table.path} is not the text it should be: {error}") from error
    if text.lstrip().startswith("<"):
        raise InputError(f"{table.path} is a web page and not the table, as downloads that failed are: fetch it again")
    lines = text.splitlines()
    counts = Counter(character for line in lines[:2] for character in line if character in ",;\t")
    if not counts:
        yield from enumerate((line.split() for line in lines), 1)
        return
    delimiter = counts.most_common(1)[0][0]
    try:
        for number, row in enumerate(csv.reader(lines, delimiter=delimiter), 1):
            yield number, [field.strip() for field in (row[:-1] if len(row) > 1 and not row[-1].strip() else row)]
    except csv.Error as error:
        raise InputError(f"{table.path} is not the text it should be: {error}") from error


def _image(field: str) -> str:
    """The image that a row is of, by its stem; the table may be from elsewhere, and have whole paths."""
    return stem(field.replace("\\", "/"))


def _rows(
    path: str, lines: Iterable[tuple[int, list[str]]], column: int, count: int, kept: Sequence[int]
) -> Iterator[tuple[str, bytes]]:
    seen: dict[str, bytes] = {}
    zero = None
    negative = False
    for line, fields in lines:
        if not fields:
            continue
        image, values = fields[column] if column < len(fields) else "", fields[column + 1 :]
        if len(values) != count:
            raise InputError(f"{path}, line {line}: {len(values)} values for {count} attributes")
        if len(kept) < count:
            values = [values[i] for i in kept]
        try:
            row = bytes(map(VALUES.__getitem__, values))
        except KeyError:
            try:
                row = bytes(MORE_VALUES[value.lower()] for value in values)
            except KeyError as wrong:
                raise InputError(f"{path}, line {line}: {wrong} is neither -1 nor 1") from None
            zero = zero or (line if 0 in row else None)
        negative = negative or 0xFF in row
        each = _image(image)
        if each in seen:
            raise InputError(f"{path}, line {line}: a second row for {image}")
        seen[each] = row
    if zero and negative:
        raise InputError(f"{path}, line {zero}: '0' is neither -1 nor 1, and the table has -1 as well")
    for each, row in seen.items():
        yield each, row.replace(b"\0", b"\xff") if zero else row
