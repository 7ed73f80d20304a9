"""CelebA and CelebA-HQ: a folder of faces, with the table of their attributes and the list of their splits near it."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shards.errors import InputError
from shards.sources.base import SPLITS, Found, Listed, Wish, displayed
from shards.sources.pictures import SUFFIXES, PictureFiles, evenly, stem, suffix
from shards.trees import Tree

LOOKS_FOR = "a folder img_align_celeba with images in it, or images and a list_attr_celeba.txt or .csv"
IMAGES = re.compile(r"img_align_celeba(_png|_jpg)?|img_celeba|celeba[-_]?hq[-_]?(img|images)", re.I)
TABLE = re.compile(r"list_attr_celeba.*\.(txt|csv|tsv)|celebamask-hq-attribute-anno\.txt", re.I)
PARTITION = re.compile(r"list_eval_partition.*\.(txt|csv|tsv)", re.I)
NEAR = (".", "Anno", "Eval")
"""Below a folder near the images: where the official share keeps its tables."""
PARTITIONS = {**{str(i): i for i in range(3)}, **{name: i for i, name in enumerate(SPLITS)}}
"""What the list of splits says of a face: 0, 1 or 2 in the official one."""
VALUES = {"-1": 0xFF, "1": 0x01}
MORE_VALUES = {**VALUES, "0": 0x00, "-1.0": 0xFF, "1.0": 0x01, "0.0": 0x00, "true": 0x01, "false": 0x00}
"""What re-saved tables say instead; 0 is -1 where the table has no -1."""
SOME = 50
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
    named = [
        folder
        for folder in folders
        if IMAGES.fullmatch(folder.rpartition("/")[2] or tree.path.absolute().name.partition(".")[0])
    ]
    if not named and any(TABLE.fullmatch(name.rpartition("/")[2]) for name in tree.files):
        named = [folder for folder, inside in folders.items() if _is_described(tree, folder, inside)]
    return [
        Found(
            "celeba",
            folder,
            f"{len(folders[folder]):,} faces of CelebA",
            frozenset(folders[folder])
            | {each for pattern in (TABLE, PARTITION) if (each := _nearest(tree, folder, pattern))},
            partial(_build, tree, folder, folders[folder]),
        )
        for folder in sorted(named)
    ]


def _build(tree: Tree, folder: str, names: Sequence[str], left_out: Mapping[str, int]) -> Listed:
    stems = [stem(name) for name in names]
    notes: list[str] = []
    attributes, splits = None, None
    attribute_names: tuple[str, ...] = ()
    table = _find_table(tree, folder, TABLE)
    if table is not None:
        attribute_names, rows = read_attributes(table)
        where = tree.path / folder if folder else tree.path
        attributes = _match(stems, names, rows, table.path, where)
        notes.append(f"attributes from {displayed(table.path)}")
    partition = _find_table(tree, folder, PARTITION)
    if partition is not None:
        parts = read_partition(partition)
        splits = [parts.get(each, -1) for each in stems]
        missing = splits.count(-1)
        if missing == len(splits):  # CelebA-HQ's images have other names
            notes.append(f"{displayed(partition.path)} speaks of other images: no splits")
            splits = None
        else:
            notes.append(f"splits from {displayed(partition.path)}")
            if missing:
                notes.append(f"which has no row for {missing:,} of the images: those are in no split")
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


def _is_described(tree: Tree, folder: str, names: Sequence[str]) -> bool:
    """Whether the nearest table has rows for half of some of a folder's images."""
    table = _find_table(tree, folder, TABLE)
    if table is None:
        return False
    described = {stem(fields[0]) for _, fields in _lines(table) if fields}
    described |= {stem(fields[1]) for _, fields in _lines(table) if len(fields) > 1}
    some = evenly(names, SOME)
    return 2 * sum(stem(name) in described for name in some) >= len(some)


def _nearest(tree: Tree, folder: str, pattern: re.Pattern[str]) -> str | None:
    """The table in the tree that shares most of its path with the images; .txt is the official one of two."""
    steps = folder.split("/") if folder else []

    def distance(name: str) -> tuple[int, bool, str]:
        parts = name.split("/")[:-1]
        common = 0
        while common < min(len(parts), len(steps)) and parts[common] == steps[common]:
            common += 1
        return len(steps) - common, suffix(name) != ".txt", name

    return min((name for name in tree.files if pattern.fullmatch(name.rpartition("/")[2])), key=distance, default=None)


def _find_table(tree: Tree, folder: str, pattern: re.Pattern[str]) -> Table | None:
    """The nearest table in the tree, or else on the disk near it: the images alone may have been given."""
    name = _nearest(tree, folder, pattern)
    if name is not None:
        return Table(str(tree.path / name), tree.read(name, MOST_TABLE_BYTES))
    path = tree.path.absolute()
    for place in (near / inner for near in (path.parent, path.parent.parent) for inner in NEAR):
        found = sorted(place.iterdir(), key=lambda each: (each.suffix != ".txt", each.name)) if place.is_dir() else []
        for each in found:
            if pattern.fullmatch(each.name) and each.is_file():
                return Table(str(each), each.read_bytes())
    return None


# ---- what the tables say ----


def read_attributes(table: Table) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """The attributes' names, and of each image (by its stem: the PNG edition has the same table) its int8 values.

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
    first = next(((number, fields) for number, fields in lines if fields), None)
    column = 0
    if first is not None and not counted and len(first[1]) == len(header):  # the images have a column with a name
        column = next((i for i, text in enumerate(first[1]) if suffix(text) in SUFFIXES), 0)
        header = header[column + 1 :]
    names = tuple(header)
    if not names or len(set(names)) < len(names) or VALUES.keys() & set(names) or "" in names:
        raise InputError(f"{table.path} should begin with the attributes' names, each once")
    rest = lines if first is None else _with(first, lines)
    return names, dict(_rows(table.path, rest, column, len(names)))


def read_partition(table: Table) -> dict[str, int]:
    """Of each image, by its stem, its position in SPLITS.

    Raises:
        InputError: A line makes no sense.
    """
    parts: dict[str, int] = {}
    for number, fields in _lines(table):
        if len(fields) < 2 or (number == 1 and fields[-1].lower() not in PARTITIONS):
            continue
        part = PARTITIONS.get(fields[-1].lower())
        if part is None:
            raise InputError(f"{table.path}, line {number}: {fields[-1]!r} is none of 0 (train), 1 (val) and 2 (test)")
        parts[stem(fields[-2])] = part
    return parts


def _with(first: tuple[int, list[str]], rest: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _lines(table: Table) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line."""
    try:
        text = table.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{table.path} is not the text it should be: {error}") from error
    lines = text.splitlines()
    counts = Counter(character for line in lines[:2] for character in line if character in ",;\t")
    if not counts:
        yield from enumerate((line.split() for line in lines), 1)
        return
    delimiter = counts.most_common(1)[0][0]
    try:
        for number, row in enumerate(csv.reader(lines, delimiter=delimiter), 1):
            yield number, [field.strip() for field in row]
    except csv.Error as error:
        raise InputError(f"{table.path} is not the text it should be: {error}") from error


def _rows(path: str, lines: Iterable[tuple[int, list[str]]], column: int, count: int) -> Iterator[tuple[str, bytes]]:
    seen: dict[str, bytes] = {}
    zero = None
    negative = False
    for line, fields in lines:
        if not fields:
            continue
        image, values = fields[column] if column < len(fields) else "", fields[column + 1 :]
        if len(values) != count:
            raise InputError(f"{path}, line {line}: {len(values)} values for {count} attributes")
        try:
            row = bytes(map(VALUES.__getitem__, values))
        except KeyError:
            try:
                row = bytes(MORE_VALUES[value.lower()] for value in values)
            except KeyError as wrong:
                raise InputError(f"{path}, line {line}: {wrong} is neither -1 nor 1") from None
            zero = zero or (line if 0 in row else None)
        negative = negative or 0xFF in row
        each = stem(image)
        if each in seen:
            raise InputError(f"{path}, line {line}: a second row for {image}")
        seen[each] = row
    if zero and negative:
        raise InputError(f"{path}, line {zero}: '0' is neither -1 nor 1, and the table has -1 as well")
    for each, row in seen.items():
        yield each, row.replace(b"\0", b"\xff") if zero else row
