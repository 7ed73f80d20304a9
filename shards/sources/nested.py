"""Archives among files: which of them hold the data, and as what folders they are looked into."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from shards.archives import ARCHIVE_HEAD, archive_kind, is_archive_name, without_suffix
from shards.errors import InputError
from shards.images import ImageError
from shards.names import canonical_split
from shards.sources import alike, cifar
from shards.sources.base import Wish, choices, displayed, quoted, some
from shards.sources.pictures import HEAD_BYTES, SUFFIXES, evenly, find_pictures, suffix
from shards.trees import Mounted, Tree, below, folders_of, open_inside

OFFICIAL = frozenset({"img_align_celeba.zip", "img_celeba.zip", *cifar.ARCHIVES})
"""Archives that are looked into wherever they lie; others only where no data set lies beside them."""
DEPTH = 4
"""So many archives are looked into one within another; a zip may hold itself."""
A_FEW = 3
"""So many pictures beside archives can be named one by one."""
SOME = 8
"""Archives that a question lists."""
UNPACK_FIRST = frozenset(
    {".7z", ".rar", ".zst", ".lz4", ".parquet", ".arrow", ".h5", ".hdf5", ".lmdb", ".mdb", ".npy", ".npz"}
    | {".tfrecord", ".tfrecords", ".tfrec", ".mat", ".pkl", ".pickle", ".pt", ".pth", ".beton"}
)
"""Containers that distgan does not read."""
NO_DATA = UNPACK_FIRST | {".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub", ".jar", ".whl"}
"""Files that are zips inside and are not meant as archives."""

Holds = Callable[[Tree, Sequence[str], Wish], bool]
"""Whether some files of a tree are a data set of a particular layout: of any, or of the one that is wished for."""


def look_into(tree: Tree, wish: Wish, holds: Holds, depth: int = DEPTH) -> Tree:
    """The tree with the archives in it that hold its data as folders.

    What lies unpacked beside its archive is not looked into twice.

    Raises:
        InputError: An archive is broken, or it is not clear whether it is meant.
        OSError: It cannot be read.
    """
    archives = [name for name in _concerned(tree, wish.sub) if is_archive_name(name)]
    if not archives or depth == 0:
        return tree
    folders = folders_of(tree.files)
    beside = [name for name in archives if without_suffix(name) in folders]
    if beside:
        tree = Mounted(tree, {}, shut=dict.fromkeys(beside, "archives beside a folder of the same name"))
    packed = [name for name in archives if name in tree.files]
    within = _concerned(tree, wish.sub)
    pictures = find_pictures(tree, [name for name in within if not is_archive_name(name)]).names
    if pictures and wish.layout == "folder":
        return tree
    named = [name for name in packed if wish.sub and f"{wish.sub}/".startswith(without_suffix(name) + "/")]
    official = [name for name in packed if name.rpartition("/")[2].lower() in OFFICIAL]
    chosen = named or official or packed
    # Tars of samples are not looked into, unless it is a folder in one that is asked for.
    may_be_shards = chosen is packed or (chosen is named and all(name.startswith(wish.sub) for name in named))
    if not chosen or (may_be_shards and holds(tree, within, wish)):
        return tree
    said = wish.classes is not None or wish.inner
    opened = open_inside(tree, chosen)
    unpacked = [name for name, inner in opened.items() if _is_unpacked(tree, name, inner)]
    shut = dict.fromkeys(unpacked, "archives that lie unpacked beside themselves")
    shut |= _copies({name: inner for name, inner in opened.items() if name not in shut})
    opened = {name: inner for name, inner in opened.items() if name not in shut}
    if chosen is packed and pictures and wish.layout is None:
        opened = {name: inner for name, inner in opened.items() if _holds_data(inner, wish, holds)}
        if opened and not said:
            raise InputError(_beside_pictures(tree, opened, pictures))
    if not said and wish.layout in (None, "folder"):
        _refuse_one_place(tree, opened)
    tree = Mounted(tree, opened, shut=shut)
    return look_into(tree, wish, holds, depth - 1) if opened else tree


def look_into_others(tree: Tree, wish: Wish) -> Tree | None:
    """The tree with what are archives by their content, whatever their names, as folders; None where there are none.

    Raises:
        InputError: An archive is broken.
        OSError: It cannot be read.
    """
    others = []
    for name in _concerned(tree, wish.sub):
        if not is_archive_name(name) and suffix(name) not in NO_DATA:
            try:
                kind = archive_kind(tree.head(name, ARCHIVE_HEAD))
            except (ImageError, OSError):
                continue
            others += [name] if kind else []
    opened = open_inside(tree, others)
    return Mounted(tree, opened) if opened else None


def _concerned(tree: Tree, sub: str) -> list[str]:
    """The files that are in what was asked for, or are archives that may hold it."""
    names = list(tree.files)
    inside = set(below(names, sub))
    return [name for name in names if name in inside or sub.startswith(without_suffix(name) + "/")]


def _pictures(inner: Tree) -> list[str]:
    return [name for name in inner.files if suffix(name) in SUFFIXES]


def _holds_data(inner: Tree, wish: Wish, holds: Holds) -> bool:
    names = list(inner.files)
    return bool(_pictures(inner)) or any(map(is_archive_name, names)) or holds(inner, names, wish._replace(sub=""))


def _is_unpacked(tree: Tree, archive: str, inner: Tree) -> bool:
    """Whether what is in an archive lies beside it, too."""
    folder = archive.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    names = _pictures(inner) or list(inner.files)
    return bool(names) and all(tree.files.get(prefix + name) == inner.files[name] for name in names)


def _copies(opened: Mapping[str, Tree]) -> dict[str, str]:
    """The archives that hold what another one of a shorter name holds, and what to say of each."""
    kept: dict[frozenset[tuple[str, int]], list[Tree]] = defaultdict(list)
    found = {}
    for name in sorted(opened, key=lambda name: (len(name), name)):
        inner = opened[name]
        others = kept[frozenset(inner.files.items())]
        if inner.files and any(_hold_the_same(inner, other) for other in others):
            found[name] = f"the same once more in {name}"
        others.append(inner)
    return found


def _hold_the_same(one: Tree, other: Tree) -> bool:
    """Whether files of the same names in two archives begin with the same bytes, as far as a few of them tell."""
    chosen = evenly(list(one.files), alike.FEW)
    try:
        return all(one.head(name, HEAD_BYTES) == other.head(name, HEAD_BYTES) for name in chosen)
    except (ImageError, OSError):
        return False


def _beside_pictures(tree: Tree, opened: Mapping[str, Tree], pictures: Sequence[str]) -> str:
    options = [
        (f"--sub {quoted(without_suffix(name))}", f"{len(inner.files):,} files in {displayed(name)}")
        for name, inner in list(opened.items())[:SOME]
    ]
    if len(pictures) <= A_FEW:
        option = " ".join(f"--exclude {quoted(f'/{name}')}" for name in pictures)  # and not what is called so elsewhere
        options.append((option, "what is in the archives"))
    options.append(("--layout folder", f"the {len(pictures):,} images that are in no archive"))
    folders = {name.partition("/")[0] for name in pictures if "/" in name}
    if len(opened) + len(folders) > 1 and all(map(_pictures, opened.values())):
        what = "archive and folder" if folders else "archive"
        options.append(("--classes", f"each {what} as a class, without the images that are in none"))
    options.append(("--no-classes", "all images, without classes"))
    return (
        f"{tree.path} holds data in archives (such as {displayed(next(iter(opened)))}) and images beside them (such as "
        f"{displayed(pictures[0])}): what is meant?" + choices(options)
    )


def _refuse_one_place(tree: Tree, opened: Mapping[str, Tree]) -> None:
    """See that archives do not all unpack into the same folder in a folder, as VOCdevkit/VOC2007.

    Raises:
        InputError: They do, so that they may be classes, and may be parts of one set.
    """
    folders = [{name.rpartition("/")[0] for name in _pictures(inner)} for inner in opened.values()]
    are_splits = all(canonical_split(without_suffix(name).rpartition("/")[2]) for name in opened)
    if len(opened) < 2 or not all(folders) or are_splits:
        return
    inside = os.path.commonpath(set().union(*folders))
    if "/" in inside:
        raise InputError(
            f"{tree.path} holds {len(opened):,} archives ({some(opened, most=SOME)}), all of a folder "
            f"{displayed(inside)}: what is meant?"
            + choices([("--classes", "each archive is a class"), ("--no-classes", "all images, without classes")])
        )
