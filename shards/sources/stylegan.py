"""Images with StyleGAN's dataset.json beside them, which gives their labels."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from shards.errors import InputError
from shards.images import ImageError
from shards.sources.base import Found, Listed, Wish, displayed
from shards.sources.pictures import SUFFIXES, PictureFiles, Pictures, find_pictures, suffix
from shards.trees import Tree

LOOKS_FOR = "images with a dataset.json beside them that lists them under labels"
TABLE = "dataset.json"
MOST_BYTES = 2**30
MOST_CLASSES = 1_000_000
SHOWN = 60


def find(tree: Tree, names: Sequence[str], wish: Wish) -> list[Found]:
    """Folders with a dataset.json that gives labels; of several around a picture it is the outermost.

    What is asked for may be a folder in such a folder.
    """
    pool = [name for name in tree.files if name.rpartition("/")[2] == TABLE]
    tables = [name for name in pool if name in names] or _around(pool, wish.sub)
    found: list[Found] = []
    for name in sorted(tables, key=lambda name: (name.count("/"), name)):
        folder = name.rpartition("/")[0]
        prefix = folder + "/" if folder else ""
        inside = [each for each in names if each.startswith(prefix) and each != name]
        if any(inside and inside[0] in each.claimed for each in found) or not _is_one(tree, name):
            continue
        pictures = find_pictures(tree, inside)
        if pictures.names:
            claimed = frozenset([name, *inside])
            what = f"{len(pictures.names):,} images with {TABLE}"
            build = partial(_build, tree, name, folder, pictures)
            found.append(Found("stylegan", folder if name in names else wish.sub, what, claimed, build))
    return found


def _around(tables: Sequence[str], sub: str) -> list[str]:
    """The innermost table of a folder around one."""
    around = [name for name in tables if f"{sub}/".startswith(name.removesuffix(TABLE))]
    return sorted(around, key=len)[-1:]


def _is_one(tree: Tree, table: str) -> bool:
    """Whether a dataset.json is StyleGAN's, if perhaps a damaged one: nnU-Net's and others' give numbers to classes."""
    try:
        data = tree.read(table, MOST_BYTES)
    except ImageError as error:
        raise InputError(f"{tree.path / table}: {error}") from error
    try:
        document = json.loads(data) if b'"labels"' in data.replace(b"\0", b"") else None
    except (ValueError, RecursionError):
        return True
    if not isinstance(document, dict) or "labels" not in document:
        return False
    labels = document["labels"]
    return labels is None or isinstance(labels, list) or (isinstance(labels, dict) and any(map(_is_picture, labels)))


def _is_picture(name: str) -> bool:
    return suffix(name) in SUFFIXES


def _build(tree: Tree, table: str, folder: str, pictures: Pictures, left_out: Mapping[str, int]) -> Listed:
    path, names = str(tree.path / table), pictures.names
    labels = _labels(path, tree, table)
    notes = []
    prefix = folder + "/" if folder else ""
    numbers = [labels.get(name.removeprefix(prefix), -1) for name in names]
    if not labels:
        notes.append(f"{displayed(path)} has no labels: no classes")
    elif numbers.count(-1):
        missing = numbers.count(-1)
        if missing == len(names):
            raise InputError(
                f"{path} speaks of none of the {len(names):,} images beside it: its names are relative to it"
            )
        notes.append(f"{missing:,} images are not in {displayed(table)}: they have no class")
    unknown = len(labels.keys() - {name.removeprefix(prefix) for name in tree.files})
    if unknown:
        notes.append(f"{displayed(table)} speaks of {unknown:,} images that are not there")
    classes = range(max(labels.values()) + 1) if labels else ()
    return PictureFiles(
        tree,
        "stylegan",
        names,
        place=folder,
        labels=numbers,
        class_names=[str(each) for each in classes],
        left_out=Counter(left_out) + pictures.left_out,
        notes=[*notes, f"labels from {displayed(path)}"] if labels else notes,
    )


def _labels(path: str, tree: Tree, table: str) -> dict[str, int]:
    """Of each image, by its path beside the table, its label; {} where the table has none.

    Raises:
        InputError: The table is not what StyleGAN's dataset_tool writes.
    """
    try:
        rows = json.loads(tree.read(table, MOST_BYTES))["labels"]
        if rows is None:
            return {}
        labels: dict[str, int] = {}
        for row in rows.items() if isinstance(rows, dict) else rows:
            name, label = _row(row)
            if labels.setdefault(name, label) != label:
                raise ValueError(f"{name} has two labels, {labels[name]} and {label}")
        return labels
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise InputError(
            f'{path} should say {{"labels": [["00000/img00000000.png", 6], …]}} or have null there: {error}. '
            "--layout folder takes the images without it"
        ) from error


def _row(row: Any) -> tuple[str, int]:
    """An image's path, and its class: a number, or a vector with a single one."""
    if not isinstance(row, (list, tuple)) or len(row) != 2 or not isinstance(row[0], str):
        raise ValueError(f"{json.dumps(row)[:SHOWN]} is no pair of a name and a label")
    name, value = posixpath.normpath(row[0].replace("\\", "/")), row[1]
    if isinstance(value, list) and value.count(1) == 1 and value.count(0) == len(value) - 1:
        return name, value.index(1)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if whole and not isinstance(value, bool) and 0 <= value < MOST_CLASSES:
        return name, int(value)
    raise ValueError(f"{json.dumps(value)[:SHOWN]} is no label: whole numbers from 0, or vectors with a single 1")
