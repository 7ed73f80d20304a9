"""Images with StyleGAN's dataset.json beside them, which gives their labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from shards.errors import InputError
from shards.images import ImageError
from shards.sources.base import Found, Listed, Wish, displayed
from shards.sources.pictures import PictureFiles, find_pictures
from shards.trees import Tree

LOOKS_FOR = "images with a dataset.json beside them that lists them under labels"
TABLE = "dataset.json"
MOST_BYTES = 2**30


def find(tree: Tree, names: Sequence[str], wish: Wish) -> list[Found]:
    """Folders with a dataset.json that speaks of labels."""
    found = []
    for name in names:
        folder, _, last = name.rpartition("/")
        if last != TABLE or b'"labels"' not in tree.head(name, 1 << 12):
            continue
        prefix = folder + "/" if folder else ""
        inside = [each for each in names if each.startswith(prefix) and each != name]
        pictures = find_pictures(tree, inside)
        if pictures.names:
            claimed = frozenset([name, *inside])
            what = f"{len(pictures.names):,} images with {TABLE}"
            build = partial(_build, tree, name, folder, pictures.names, pictures.left_out)
            found.append(Found("stylegan", folder, what, claimed, build))
    return found


def _build(
    tree: Tree, table: str, folder: str, names: Sequence[str], others: Counter[str], left_out: Mapping[str, int]
) -> Listed:
    path = str(tree.path / table)
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
    unknown = len(labels.keys() - {name.removeprefix(prefix) for name in names})
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
        left_out=Counter(left_out) + others,
        notes=[*notes, f"labels from {displayed(path)}"] if labels else notes,
    )


def _labels(path: str, tree: Tree, table: str) -> dict[str, int]:
    """Of each image, by its path beside the table, its label; {} where the table has none.

    Raises:
        InputError: The table is not what StyleGAN's dataset_tool writes.
    """
    try:
        document = json.loads(tree.read(table, MOST_BYTES))
        rows = document["labels"]
        return {} if rows is None else {_text(name): _label(value) for name, value in rows}
    except (ValueError, TypeError, KeyError, RecursionError, ImageError, OSError) as error:
        raise InputError(
            f'{path} should say {{"labels": [["00000/img00000000.png", 6], …]}} or have null there: {error}'
        ) from error


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is no name")
    return name.replace("\\", "/")


def _label(value: Any) -> int:
    """A class: its number, or a vector with a single one."""
    if isinstance(value, list) and sorted(value, reverse=True)[:1] == [1] and value.count(0) == len(value) - 1:
        return value.index(1)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000:
        return value
    raise ValueError(f"{value!r} is no label: whole numbers from 0, or vectors with a single 1")
