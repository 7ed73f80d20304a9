"""Archives among files: which of them hold the data, and as what folders they are looked into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from shards.errors import InputError
from shards.images import ImageError
from shards.names import canonical_split, in_a_row
from shards.sources import cifar
from shards.sources.base import Wish, displayed
from shards.sources.folder import choices, quoted
from shards.sources.pictures import SUFFIXES, find_pictures, suffix
from shards.trees import ARCHIVE_HEAD, Mounted, Tree, archive_kind, is_archive_name, open_inside, without_suffix

OFFICIAL = frozenset({"img_align_celeba.zip", "img_celeba.zip", *cifar.ARCHIVES})
"""Archives that are looked into wherever they lie; others only where no data set lies beside them."""
DEPTH = 4
"""So many archives are looked into one within another; a zip may hold itself."""
SOME = 8
"""Archives that a question lists."""
UNPACK_FIRST = frozenset(
    {".7z", ".rar", ".zst", ".lz4", ".parquet", ".h5", ".hdf5", ".lmdb", ".mdb", ".tfrecord", ".npz"}
)
"""Containers that distgan does not read."""
NO_DATA = UNPACK_FIRST | {".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub", ".jar", ".whl", ".pt", ".pth"}
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
    archives = [name for name in tree.files if is_archive_name(name) and _concerns(name, wish.sub)]
    if not archives or depth == 0:
        return tree
    folders = {name[:end] for name in tree.files for end, letter in enumerate(name) if letter == "/"}
    beside = [name for name in archives if without_suffix(name) in folders]
    if beside:
        tree = Mounted(tree, {}, shut=dict.fromkeys(beside, "archives beside a folder of the same name"))
    packed = [name for name in archives if name in tree.files]
    within = [name for name in tree.files if _concerns(name, wish.sub)]
    pictures = find_pictures(tree, [name for name in within if not is_archive_name(name)]).names
    if pictures and wish.layout == "folder":
        return tree
    named = [name for name in packed if wish.sub and f"{wish.sub}/".startswith(without_suffix(name) + "/")]
    official = [name for name in packed if name.rpartition("/")[2].lower() in OFFICIAL]
    chosen = named or official or packed
    shards = chosen is packed or (chosen is named and all(name.startswith(wish.sub) for name in named))
    if not chosen or (shards and holds(tree, within, wish)):
        return tree
    opened = open_inside(tree, chosen)
    unpacked = [name for name, inner in opened.items() if _is_unpacked(tree, name, inner)]
    opened = {name: inner for name, inner in opened.items() if name not in unpacked}
    if chosen is packed and pictures and wish.layout is None:
        opened = {name: inner for name, inner in opened.items() if _holds_data(inner, wish, holds)}
        if opened and wish.classes is None and not wish.inner:
            raise InputError(_beside_pictures(tree, opened, pictures))
    asks = wish.classes is None and not wish.inner and wish.layout in (None, "folder")
    places = _places(tree, opened) if asks else {}
    tree = Mounted(tree, opened, places, shut=dict.fromkeys(unpacked, "archives that lie unpacked beside themselves"))
    if places:
        tree.notes.append(f"{_some(places)} are parts of one set; --classes takes each of them for a class")
    return look_into(tree, wish, holds, depth - 1) if opened else tree


def look_into_others(tree: Tree, wish: Wish) -> Tree | None:
    """The tree with what are archives by their content, whatever their names, as folders; None where there are none.

    Raises:
        InputError: An archive is broken.
        OSError: It cannot be read.
    """
    others = []
    for name in tree.files:
        if _concerns(name, wish.sub) and not is_archive_name(name) and suffix(name) not in NO_DATA:
            try:
                kind = archive_kind(tree.head(name, ARCHIVE_HEAD))
            except (ImageError, OSError):
                continue
            others += [name] if kind else []
    opened = open_inside(tree, others)
    return Mounted(tree, opened) if opened else None


def _concerns(name: str, sub: str) -> bool:
    """Whether a file is in what was asked for, or is an archive that may hold it."""
    return name.startswith(sub) or f"{sub}/".startswith(without_suffix(name) + "/")


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


def _beside_pictures(tree: Tree, opened: Mapping[str, Tree], pictures: Sequence[str]) -> str:
    options = [
        (f"--sub {quoted(without_suffix(name))}", f"{len(inner.files):,} files in {displayed(name)}")
        for name, inner in list(opened.items())[:SOME]
    ]
    options.append(("--layout folder", f"the {len(pictures):,} images that are in no archive"))
    if len(opened) > 1 and all(map(_pictures, opened.values())):
        options.append(("--classes", "each archive as a class, without the images that are in none"))
    options.append(("--no-classes", "all images, without classes"))
    return (
        f"{tree.path} holds data in archives (such as {displayed(next(iter(opened)))}) and images beside them (such as "
        f"{displayed(pictures[0])}): what is meant?" + choices(options)
    )


def _places(tree: Tree, opened: Mapping[str, Tree]) -> dict[str, str]:
    """The folder that several archives become together: those that are parts of one, as their names and folders say.

    Raises:
        InputError: They may be parts, and may be classes.
    """
    names = list(opened)
    shorts = [without_suffix(name).rpartition("/")[2] for name in names]
    tops = [{name.rpartition("/")[0] for name in _pictures(inner)} for inner in opened.values()]
    if len(names) < 2 or not all(tops) or any("" in top for top in tops) or all(map(canonical_split, shorts)):
        return {}
    alike = len({folder.split("/")[0] for top in tops for folder in top}) == 1
    parts = len({name.rpartition("/")[0] for name in names}) == 1 and in_a_row(shorts)
    if parts and len({folder for top in tops for folder in top}) > 1:
        twice = Counter(name for inner in opened.values() for name in _pictures(inner))
        if max(twice.values()) == 1:
            place = without_suffix(names[0]).rstrip("0123456789").rstrip("-_. ") or f"{shorts[0]}-{shorts[-1]}"
            return dict.fromkeys(names, place)
    if alike:
        folder = displayed(min(tops[0]).split("/")[0])
        raise InputError(
            f"{tree.path} holds {len(names):,} archives ({_some(names)}), each with a folder {folder}: what is meant?"
            + choices([("--classes", "each archive is a class"), ("--no-classes", "all images, without classes")])
        )
    return {}


def _some(names: Collection[str]) -> str:
    return ", ".join(map(displayed, list(names)[:SOME])) + (", …" if len(names) > SOME else "")
