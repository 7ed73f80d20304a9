"""What users have on disk, as one kind of thing: a sequence of samples, whatever holds the files and however they lie.

What holds them is a tree (shards.trees). A layout finds data sets in a tree; adding one is a file with ``find`` and a
line in LAYOUTS.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from shards.archives import ARCHIVES, Tar, is_archive_name, join_zip
from shards.cache import local_path
from shards.errors import InputError
from shards.names import canonical_split, near
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
    choices,
    displayed,
    quoted,
)
from shards.sources.chosen import Chosen
from shards.sources.nested import UNPACK_FIRST, look_into, look_into_others
from shards.sources.pictures import find_pictures, suffix
from shards.trees import Excluding, Folder, Tree, below, folders_of, open_tree

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

A_FEW = 0.01
"""Other images than a data set's that are so few of all are left out; more are another data set."""
_PIECE = re.compile(r"(.+(?:\.zip|\.tar|\.tgz|\.gz|\.bz2|\.xz|\.7z))[._-]?(?:part)?([0-9]{1,3}|a[a-z])", re.I)
"""Names of the pieces that a large archive was cut into."""
_PIECE_OF_ZIP = re.compile(r"(.+)\.z[0-9]{2,3}", re.I)
"""The same, of all but the last that zip makes itself."""


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
        if sub or exclude:
            raise InputError(f"{path}: --sub and --exclude are for folders and archives; name the tars that are meant")
        source: Listed = webdataset.open_urls(remote)
    else:
        source = _open_local(local_path(path), Wish(sub.strip("/"), classes, inner, layout), exclude, wanted)
    without_classes = classes is False and bool(source.class_names)
    return Chosen(source, wanted, without_classes=without_classes) if wanted or without_classes else source


def _open_local(path: Path, wish: Wish, exclude: Sequence[str], split: str | None) -> Listed:
    look = partial(look_into, wish=wish, holds=_holds)
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist: give the folder or the archive that holds the images")
        if path.is_file() and (hints := _pieces([str(path)])):
            raise InputError(hints[0].strip())
        tree = open_tree(path)
        if tree is None:
            return _open_file(path, wish)
        of_tars = wish.layout in (None, "webdataset")
        if (
            exclude
            and of_tars
            and isinstance(tree, Tar)
            and webdataset.find(tree, list(Excluding(tree, exclude).files), wish)
        ):
            raise InputError(f"{path} holds samples of WebDataset, which are packed whole: leave --exclude away")
        tree = _without(exclude, tree, look)
        found, wish = _find_split(tree, wish, split)
        if not found and not _pieces(tree.files) and (other := look_into_others(tree, wish)):
            tree = Excluding(look(other), exclude)
            found, wish = _find_split(tree, wish, split)
        return _build_the_one(tree, found, wish)
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error


def _open_file(path: Path, wish: Wish) -> Listed:
    """The data set that a file belongs to, such as one of MNIST's.

    Raises:
        InputError: It belongs to none, or is a picture.
    """
    if is_archive_name(path.name) or suffix(path.name) in UNPACK_FIRST:
        raise InputError(
            f"{path}: distgan reads {', '.join(ARCHIVES)}; unpack it, or convert it to images, and give the folder"
        )
    tree = Folder(path.absolute().parent, flat=True)
    if find_pictures(tree, [path.name]).names:
        options = [
            (str(path.parent), "the folder"),
            (f"{quoted(str(path.parent))} --sub {quoted(path.name)}", "it alone"),
        ]
        raise InputError(f"{path} is one picture: which are meant?" + choices(options))
    wish = wish._replace(sub=path.name) if mnist.is_table_name(path.name) else wish
    found = [each for each in _find(tree, wish) if path.name in each.claimed]
    if not found:
        lines = [f"no data set was found in {path}: give the folder that holds the images"]
        raise InputError("\n".join([*lines, *_looked_for(wish.layout)]))
    return _build_the_one(tree, found, wish)


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


def _find_split(tree: Tree, wish: Wish, split: str | None) -> tuple[list[Found], Wish]:
    """All data sets in a tree, or, where that is not clear, in the folder of it that is called like the wanted split.

    Returns:
        They, and what was wished with that folder.
    """
    try:
        return _find(tree, wish), wish
    except InputError:
        if split is None:
            raise
        folders = folders_of(_below(tree, wish.sub))
        called = [folder for folder in folders if canonical_split(folder.rpartition("/")[2]) == split]
        outer = [folder for folder in called if not any(folder.startswith(each + "/") for each in called)]
        if len(outer) != 1 or outer[0] == wish.sub:
            raise
        wish = wish._replace(sub=outer[0])
        return _find(tree, wish), wish


def _find(tree: Tree, wish: Wish) -> list[Found]:
    """All data sets in a tree: those of particular layouts, and then what other images there are."""
    names = _below(tree, wish.sub)
    if wish.layout is not None:
        return LAYOUTS[wish.layout].find(tree, names, wish)
    found = _find_particular(tree, names, wish)
    claimed = frozenset().union(*(each.claimed for each in found))
    rest = [name for name in names if name not in claimed]
    pictures = find_pictures(tree, rest)
    if found and len(pictures.names) <= A_FEW * sum(len(each.claimed) for each in found):
        return found
    return found + folder.find(tree, pictures, wish, beside=bool(found))


def _find_particular(tree: Tree, names: Sequence[str], wish: Wish) -> list[Found]:
    """The data sets of particular layouts, of the one that is asked for or else of any: all but images in folders."""
    return [
        each
        for name, candidate in LAYOUTS.items()
        if (candidate.by_default if wish.layout is None else name == wish.layout) and name != "folder"
        for each in candidate.find(tree, names, wish)
    ]


def _holds(tree: Tree, names: Sequence[str], wish: Wish) -> bool:
    return bool(_find_particular(tree, names, wish))


def _below(tree: Tree, sub: str) -> list[str]:
    """The files in a folder of a tree, or whose names begin so (shards.trees.below).

    Raises:
        InputError: There are none.
    """
    if not sub:
        return list(tree.files)
    inside = below(list(tree.files), sub)
    if not inside:
        folders = sorted(folders_of(tree.files))
        raise InputError(f"--sub {sub}: {tree.path} holds no such folder; {near(sub, folders[:1000])}")
    return inside


def _build_the_one(tree: Tree, found: Sequence[Found], wish: Wish) -> Listed:
    """The source of the one data set that was found.

    Raises:
        InputError: There are several, or there is none.
    """
    if not found:
        raise LayoutError(_nothing(tree, wish))
    if len(found) > 1:
        options = [(_option(tree, each, found, wish), each.what) for each in found]
        if wish.layout is None and {each.layout for each in found} == {"webdataset"}:
            options.append(("--layout webdataset", "all of them together"))
        raise InputError(f"{tree.path} holds {len(found)} data sets: which one is meant?" + choices(options))
    one, inside = found[0], _below(tree, wish.sub)
    left_out = Counter(tree.left_out)
    if wish.sub:
        left_out[f"not in {wish.sub}"] = len(tree.files.keys() - {*inside, *one.claimed})
    if one.layout != "folder":  # which has counted what is no image when it looked for images
        left_out += Counter(suffix(name) or "without a suffix" for name in inside if name not in one.claimed)
    return one.build(+left_out)


def _option(tree: Tree, one: Found, found: Sequence[Found], wish: Wish) -> str:
    """What to say so that of several data sets this one is found."""
    layout = f"--layout {one.layout}"
    start = os.path.commonprefix(sorted(one.claimed))  # noqa: RUF071  (--sub may be the beginning of a name)
    for sub in dict.fromkeys([one.place, start.rpartition("/")[0], start]):
        inside = set(_below(tree, sub))
        if sub != one.place and not one.claimed <= inside:
            continue
        kept = [each for each in found if each is not one and each.claimed & inside]
        chosen = f"--sub {quoted(sub or wish.sub)}" if sub or wish.sub else ""
        if chosen and not kept:
            return chosen if wish.layout is None else f"{chosen} {layout}"
        if all(each.layout != one.layout for each in kept):
            return f"{chosen} {layout}".strip()
    if isinstance(tree, Folder):  # a file stands for the set that it belongs to
        return f"{quoted(str(tree.path / min(one.claimed)))} in place of the folder"
    return "put it into an archive of its own"


def _nothing(tree: Tree, wish: Wish) -> str:
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
    lines += _pieces(tree.files)
    return "\n".join([*lines, *_looked_for(wish.layout)])


def _pieces(names: Iterable[str]) -> list[str]:
    """What to do where an archive lies in pieces."""
    found = set()
    for name in names:
        if match := _PIECE.fullmatch(name):
            whole = quoted(match[1])
            found.add(f"  {displayed(match[1])}.* are pieces of one file: join them (cat {whole}.* > {whole})")
        elif match := _PIECE_OF_ZIP.fullmatch(name):
            last = displayed(f"{match[1]}.zip")
            found.add(f"  {displayed(match[1])}.z01 and so on are pieces of one zip: join them ({join_zip(last)})")
    return sorted(found)


def _looked_for(layout: str | None) -> list[str]:
    looked = [layout] if layout is not None else list(LAYOUTS)
    return [f"  {name}: looked for {LAYOUTS[name].looks_for}" for name in looked]
