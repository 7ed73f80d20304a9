"""What users have on disk, as one kind of thing: a sequence of samples, whatever holds the files and however they lie.

What holds them is a tree (shards.trees). A layout finds data sets in a tree; adding one is a file with ``find`` and a
line in LAYOUTS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shards.cache import local_path
from shards.errors import InputError
from shards.names import canonical_split, counts, near
from shards.sources import celeba, cifar, folder, mnist, stylegan, webdataset
from shards.sources.base import (
    SPLITS,
    Found,
    LayoutError,
    Listed,
    Recognised,
    Sample,
    Source,
    Wish,
    attribute_counts,
    displayed,
)
from shards.sources.pictures import find_pictures, suffix
from shards.trees import ARCHIVES, Excluding, Folder, Mounted, Tree, is_archive_name, open_tree, without_suffix

__all__ = ["LAYOUTS", "LayoutError", "Recognised", "Sample", "Source", "open_source"]


class Layout(NamedTuple):
    """How files may be arranged.

    Attributes:
        find: The data sets of this layout among some files of a tree.
        looks_for: What find looks for, for people.
        by_default: Whether it is tried where no layout is named.
    """

    find: Callable[[Tree, Sequence[str], Wish], list[Found]]
    looks_for: str
    by_default: bool = True


LAYOUTS: dict[str, Layout] = {
    "celeba": Layout(celeba.find, celeba.LOOKS_FOR),
    "mnist": Layout(mnist.find, mnist.LOOKS_FOR),
    "cifar10": Layout(cifar.find_10, cifar.LOOKS_FOR_10),
    "cifar100": Layout(cifar.find_100, cifar.LOOKS_FOR_100),
    "cifar100-coarse": Layout(cifar.find_100_coarse, cifar.LOOKS_FOR_100, by_default=False),
    "stylegan": Layout(stylegan.find, stylegan.LOOKS_FOR),
    "webdataset": Layout(webdataset.find, webdataset.LOOKS_FOR),
    "folder": Layout(lambda tree, names, wish: folder.find(tree, find_pictures(tree, names), wish), folder.LOOKS_FOR),
}
"""Images in folders come last: they are what nothing more particular has claimed."""

OFFICIAL_ARCHIVES = frozenset({"img_align_celeba.zip", "img_celeba.zip", *cifar.ARCHIVES})
"""Archives that are looked into wherever they lie; others only where there are no images beside them."""
A_FEW = 0.01
"""Other images than a data set's that are so few of all are left out; more are another data set."""
UNPACK_FIRST = frozenset(
    {".7z", ".rar", ".zst", ".lz4", ".parquet", ".h5", ".hdf5", ".lmdb", ".mdb", ".tfrecord", ".npz"}
)
"""Containers that distgan does not read."""


def open_source(
    path: str | Path,
    layout: str | None = None,
    *,
    sub: str = "",
    split: str | None = None,
    classes: bool | None = None,
    inner: bool = False,
    exclude: Sequence[str] = (),
) -> Source:
    """Open the data set at path.

    Args:
        path: A folder, a zip, a tar, or shards that others made: a tar, a brace expression or a URL of tars.
        layout: A name in LAYOUTS; None recognises it from what is there.
        sub: Only what is in this folder of it, or whose name begins so; where what belongs to it lies elsewhere, such
            as a table, that is found all the same.
        split: Only this split: "train", "val", "test", or another word for one of them.
        classes: Whether folders are classes; None finds out.
        inner: Whether, of folders in folders, the inner ones are the classes.
        exclude: Folders or files that are left out, as patterns (shards.trees.Excluding).

    Raises:
        InputError: Nothing there, nothing recognised, something that can be understood in several ways (the message
            has the choices), or something in it is wrong.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"no layout is called {layout!r}: {near(layout, LAYOUTS)}")
    wanted = None
    if split is not None and (wanted := canonical_split(split)) is None:
        raise InputError(f"--split is one of {', '.join(SPLITS)}, not {split!r}")
    if layout in (None, "webdataset") and (remote := webdataset.expand(str(path))) is not None:
        source: Listed = webdataset.open_urls(remote)
    else:
        source = _open_local(local_path(path), layout, Wish(sub.strip("/"), classes, inner), exclude)
    return source if wanted is None else Split(source, wanted)


class Split:
    """Those samples of a source that are in one split.

    Args:
        source: The source.
        split: "train", "val" or "test".

    Raises:
        InputError: It has no such split.
    """

    def __init__(self, source: Listed, split: str) -> None:
        if split not in source.split_names:
            has = ", ".join(f"{name} ({count:,})" for name, count in source.recognised.splits.items()) or "none"
            raise InputError(f"there is no split {split}: there are {has}")
        self._source = source
        self._name = split
        number = source.split_names.index(split)
        self._ids = np.flatnonzero(source.splits == number)
        self.layout = source.layout
        self.attribute_names = source.attribute_names
        self.class_names = source.class_names
        self.split_names = source.split_names
        self.labels = source.labels[self._ids]
        self.splits = source.splits[self._ids]
        self.attribute_rows = None if source.attribute_rows is None else source.attribute_rows[self._ids]

    def __len__(self) -> int:
        return len(self._ids)

    def name(self, i: int) -> str:
        """What a person would call sample i."""
        return self._source.name(int(self._ids[i]))

    def sample(self, i: int) -> Sample:
        """Read sample i. Raises what the source's sample does."""
        return self._source.sample(int(self._ids[i]))

    def channels(self) -> int:
        """As the source has it."""
        return self._source.channels()

    def identity(self) -> str:
        """The source's, with the split."""
        return f"{self._source.identity()} {self._name}"

    @property
    def recognised(self) -> Recognised:
        """What the whole source was taken for, and what of it is not in the split."""
        whole = self._source.recognised
        others = Counter({f"of split {name}": count for name, count in whole.splits.items() if name != self._name})
        others["of no split"] = whole.samples - sum(whole.splits.values())
        return replace(
            whole,
            samples=len(self),
            classes=counts(self.class_names, self.labels),
            splits=counts(self.split_names, self.splits),
            attributes=attribute_counts(self.attribute_names, self.attribute_rows),
            left_out={**whole.left_out, **+others},
        )


def _open_local(path: Path, layout: str | None, wish: Wish, exclude: Sequence[str]) -> Listed:
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist: give the folder or the archive that holds the images")
        tree = open_tree(path)
        if tree is None:
            if is_archive_name(path.name) or suffix(path.name) in UNPACK_FIRST:
                raise InputError(f"{path}: distgan reads {', '.join(ARCHIVES)}; unpack it, and give the folder")
            tree = Folder(path.absolute().parent, flat=True)
            wish = wish._replace(sub=path.name) if suffix(path.name) == ".csv" else wish
            found = [each for each in _find(tree, layout, wish) if path.name in each.claimed]
            if not found:
                lines = [f"no data set was found in {path}: give the folder that holds the images"]
                raise InputError("\n".join([*lines, *_looked_for(layout)]))
        else:
            tree = _without(exclude, tree, lambda tree: _look_into_archives(tree, wish))
            found = _find(tree, layout, wish)
        return _build_the_one(tree, found, layout, wish)
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error


def _without(patterns: Sequence[str], tree: Tree, look: Callable[[Tree], Tree]) -> Tree:
    """A tree and the archives in it, without what is excluded.

    Raises:
        InputError: A pattern excludes nothing.
    """
    if not patterns:
        return look(tree)
    outside = Excluding(tree, patterns)
    inside = Excluding(look(outside), patterns)
    for pattern in patterns:
        if pattern not in outside.matched | inside.matched:
            parts = {part for name in inside.files for part in name.split("/")[:-1]}
            raise InputError(
                f"--exclude {pattern}: {tree.path} holds nothing of this name; {near(pattern, sorted(parts)[:1000])}"
            )
    return inside


def _find(tree: Tree, layout: str | None, wish: Wish) -> list[Found]:
    """All data sets in a tree: those of particular layouts, and then what other images there are."""
    names = _below(tree, wish.sub)
    if layout is not None:
        return LAYOUTS[layout].find(tree, names, wish)
    found = [
        each
        for name, candidate in LAYOUTS.items()
        if candidate.by_default and name != "folder"
        for each in candidate.find(tree, names, wish)
    ]
    claimed = frozenset().union(*(each.claimed for each in found))
    rest = [name for name in names if name not in claimed]
    pictures = find_pictures(tree, rest)
    if found and len(pictures.names) <= A_FEW * sum(len(each.claimed) for each in found):
        return found
    return found + folder.find(tree, pictures, wish, beside=bool(found))


def _below(tree: Tree, sub: str) -> list[str]:
    """The files in a folder of a tree, or whose names begin so.

    Raises:
        InputError: There are none.
    """
    if not sub:
        return list(tree.files)
    inside = [name for name in tree.files if name.startswith(sub + "/")]
    inside = inside or [name for name in tree.files if name.startswith(sub)]
    if not inside:
        folders = {name[:end] for name in tree.files for end, letter in enumerate(name) if letter == "/"}
        raise InputError(f"--sub {sub}: {tree.path} holds no such folder; {near(sub, sorted(folders)[:1000])}")
    return inside


def _look_into_archives(tree: Tree, wish: Wish) -> Tree:
    """The tree with the archives in it that hold its data as folders; what is unpacked beside them is left alone."""
    archives = [name for name in tree.files if is_archive_name(name)]
    if not archives:
        return tree
    folders = {name.rpartition("/")[0] for name in tree.files}
    packed = [
        name for name in archives if not any(f"{each}/".startswith(without_suffix(name) + "/") for each in folders)
    ]
    chosen = [name for name in packed if name.rpartition("/")[2].lower() in OFFICIAL_ARCHIVES]
    named = [name for name in packed if wish.sub and f"{wish.sub}/".startswith(without_suffix(name) + "/")]
    if named:
        return Mounted(tree, named)
    if chosen:
        return Mounted(tree, chosen)
    others = [name for name in tree.files if name not in archives]
    if webdataset.find(tree, list(tree.files), wish) or _find_quietly(tree, others, wish):
        return tree
    return Mounted(tree, packed)


def _find_quietly(tree: Tree, names: Sequence[str], wish: Wish) -> bool:
    """Whether there is a data set outside of archives."""
    if any(layout.find(tree, names, wish) for name, layout in LAYOUTS.items() if name != "folder"):
        return True
    return bool(find_pictures(tree, names).names)


def _build_the_one(tree: Tree, found: Sequence[Found], layout: str | None, wish: Wish) -> Listed:
    """The source of the one data set that was found.

    Raises:
        InputError: There are several, or there is none.
    """
    if not found:
        raise LayoutError(_nothing(tree, layout, wish))
    if len(found) > 1:
        options = []
        places = Counter(each.place for each in found)
        for each in found:
            sub = f"--sub {folder.quoted(each.place)}" if each.place else ""
            if places[each.place] > 1 or not each.place:
                sub = f"{sub} --layout {each.layout}".strip()
            options.append((sub, each.what))
        raise InputError(f"{tree.path} holds {len(found)} data sets: which one is meant?" + folder.choices(options))
    one, inside = found[0], _below(tree, wish.sub)
    left_out = tree.left_out + Counter({f"not in {wish.sub}": len(tree.files) - len(inside)})
    if one.layout != "folder":  # which has counted what is no image when it looked for images
        left_out += Counter(suffix(name) or "without a suffix" for name in inside if name not in one.claimed)
    return one.build(left_out)


def _nothing(tree: Tree, layout: str | None, wish: Wish) -> str:
    """What was seen where no data set was, and what was looked for."""
    kinds = Counter(suffix(name) or "without a suffix" for name in _below(tree, wish.sub))
    folders = len({name.rpartition("/")[0] for name in tree.files} - {""})
    seen = ", ".join(f"{count:,} {displayed(kind)}" for kind, count in kinds.most_common(8)) or "none"
    lines = [f"no data set was found at {tree.path}, a {tree.container} of {len(tree.files):,} files ({seen})"]
    lines[0] += f" in {folders:,} folders" if folders else ""
    if tree.left_out:
        lines[0] += "; left out: " + ", ".join(
            f"{count} {displayed(reason)}" for reason, count in tree.left_out.items()
        )
    hopeless = sorted(kinds.keys() & UNPACK_FIRST)
    if hopeless:
        lines.append(f"  {', '.join(hopeless)}: distgan does not read these; unpack or convert them to image files")
    return "\n".join([*lines, *_looked_for(layout)])


def _looked_for(layout: str | None) -> list[str]:
    looked = [layout] if layout is not None else list(LAYOUTS)
    return [f"  {name}: looked for {LAYOUTS[name].looks_for}" for name in looked]
