"""MNIST and the sets that imitate it (Fashion-MNIST, KMNIST, EMNIST): IDX files, gzipped or not, or Kaggle's CSV."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import string
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from shards.errors import InputError
from shards.images import ImageError
from shards.sources.arrays import Arrays, Part
from shards.sources.base import SPLITS, Found, Listed, Wish, displayed
from shards.trees import Tree

LOOKS_FOR = "train-images-idx3-ubyte or t10k-images-idx3-ubyte, with or without .gz, or a CSV of label and 784 pixels"
MAX_BYTES = 2**31
"""The most an IDX file may hold: a gzip file of a few bytes can claim anything."""
PIXELS = 28 * 28
HEAD_BYTES = 1 << 14
"""So much of a table has its first line, and tells it from another one."""

_IDX = re.compile(
    r"(?P<set>.*?)(?P<part>train|t10k|test)[-_.](?P<kind>images|labels)[-_.]?idx[13][-_.]?ubyte(?P<gz>\.gz)?", re.I
)
_CSV = re.compile(r"(?P<set>.*?)(?P<part>train|test)\w*\.csv(?P<gz>\.gz)?", re.I)
_GZIP = b"\x1f\x8b"
_LABELS = frozenset({"label", "class", "y", "target"})
_NUMBERS = frozenset({"", "id", "index", "imageid", "unnamed: 0"})
"""What columns of row numbers are called."""
_PARTS = {"train": 0, "t10k": 2, "test": 2}

DIGITS = tuple(string.digits)
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KUZUSHIJI = ("お", "き", "す", "つ", "な", "は", "ま", "や", "れ", "を")
_BALANCED = (*DIGITS, *string.ascii_uppercase, *"abdefghnqrt")
EMNIST = {
    "byclass": (*DIGITS, *string.ascii_uppercase, *string.ascii_lowercase),
    "bymerge": _BALANCED,
    "balanced": _BALANCED,
    "letters": tuple(string.ascii_lowercase),
    "digits": DIGITS,
    "mnist": DIGITS,
}
"""EMNIST's six divisions of the same images, and their classes (Cohen et al. 2017)."""


class _Kind(NamedTuple):
    """Which of the sets files are.

    Attributes:
        name: For people.
        class_names: In the order of the labels.
        first: The label of the first class.
        transposed: Whether rows and columns are exchanged, as in EMNIST's files.
        certain: Whether that is sure; sign_mnist is called after MNIST, and is another alphabet.
    """

    name: str
    class_names: tuple[str, ...]
    first: int = 0
    transposed: bool = False
    certain: bool = True


_FIRST_LABELS = {
    (9, 0, 0, 3, 0, 2, 7, 2, 5, 5): _Kind("Fashion-MNIST", FASHION),
    (8, 7, 0, 1, 4, 2, 4, 8, 1, 1): _Kind("KMNIST", KUZUSHIJI),
}
"""How the official training labels begin, for files whose names do not tell."""


class _Pair(NamedTuple):
    """An image file and the labels that go with it, as found in the tree."""

    images: str
    labels: str | None


def find(tree: Tree, names: Sequence[str], wish: Wish) -> list[Found]:
    """Sets of IDX files or CSV tables; those of one folder and one name belong together.

    Kaggle puts each IDX file into a folder of its own name, and often keeps both; torchvision keeps the .gz as well.
    """
    files: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        folder, _, last = name.rpartition("/")
        match = _IDX.fullmatch(last)
        if match is None:
            continue
        outer, _, inner = folder.rpartition("/")
        if _IDX.fullmatch(inner):
            folder = outer
        key = (match["part"].lower(), match["kind"].lower())
        files[folder, match["set"]][key].append(name)
    found = []
    for (folder, prefix), kinds in sorted(files.items()):
        pairs = {}
        for part in _PARTS:
            images = kinds.get((part, "images"), [])
            if images:
                labels = kinds.get((part, "labels"), [])
                pairs[part] = _Pair(min(images, key=_plainest), min(labels, key=_plainest, default=None))
        if pairs:
            claimed = frozenset(name for each in kinds.values() for name in each)
            place = f"{folder}/{prefix}".strip("/-_.") if prefix else folder
            count = " and ".join(SPLITS[_PARTS[part]] for part in pairs)
            what = f"{_called(tree, folder, prefix, pairs)} ({count}), IDX files"
            twins = len(claimed) - sum(1 + (pair.labels is not None) for pair in pairs.values())
            build = partial(_build_idx, tree, folder, prefix, pairs, twins)
            found.append(Found("mnist", place, what, claimed, build))
    return found + _find_csv(tree, names)


def _called(tree: Tree, folder: str, prefix: str, pairs: Mapping[str, _Pair]) -> str:
    """Which set it is, where a choice among several is offered; what is wrong with it is said if it is chosen."""
    labels = pairs["train"].labels if "train" in pairs else None
    try:
        return _kind(tree, folder, prefix, _read_idx(tree, labels, dimensions=1) if labels else None).name
    except InputError:
        return prefix.strip("-_.") or "MNIST"


def _plainest(name: str) -> tuple[bool, int, str]:
    return name.lower().endswith(".gz"), name.count("/"), name


def _build_idx(
    tree: Tree, folder: str, prefix: str, pairs: Mapping[str, _Pair], twins: int, left_out: Mapping[str, int]
) -> Listed:
    labels = {}
    for part, pair in pairs.items():
        path = tree.path / pair.images
        if pair.labels is None:
            expected = re.sub("images", "labels", pair.images.rpartition("/")[2], flags=re.I).replace("idx3", "idx1")
            raise InputError(f"{path.parent} has {path.name} but no {expected} beside it: fetch that as well")
        labels[part] = _read_idx(tree, pair.labels, dimensions=1)
        count = len(_read_idx(tree, pair.images, dimensions=3))  # all of it: damage is named before anything is packed
        if len(labels[part]) != count:
            raise InputError(f"{tree.path / pair.labels} has {len(labels[part])} labels for {count} images")
    kind = _kind(tree, folder, prefix, labels.get("train"))
    parts = []
    for part, pair in pairs.items():
        numbers = labels[part].astype(np.int64) - kind.first
        if numbers.max() >= len(kind.class_names) or numbers.min() < 0:
            wrong = int(numbers.max() if numbers.max() >= len(kind.class_names) else numbers.min()) + kind.first
            last = len(kind.class_names) - 1 + kind.first
            raise InputError(
                f"{tree.path / str(pair.labels)} has a label {wrong}: only {kind.first} to {last} make sense"
            )
        split = _PARTS[part]
        name = pair.images.rpartition("/")[2].removesuffix(".gz")
        read = partial(_read_images, tree, pair.images, kind.transposed)
        parts.append(Part(name, SPLITS[split], split, numbers, read))
    left_out = Counter(left_out) + Counter({"more of the same files": twins})
    return Arrays(
        tree, "mnist", parts, kind.class_names, place=folder, grey=True, left_out=left_out, notes=[_note(kind)]
    )


def _note(kind: _Kind) -> str:
    return f"taken for {kind.name}" + (": rows and columns exchanged back" if kind.transposed else "")


def _kind(tree: Tree, folder: str, prefix: str, train: np.ndarray | None) -> _Kind:
    """Which set it is, by the names of files and of the folders they are in, or else by how its labels begin.

    Raises:
        InputError: It is EMNIST, and no name says which division.
    """
    path = tree.path.absolute()
    for name in (prefix, *reversed(folder.split("/")), path.name, path.parent.name):
        words = re.split(r"[^a-z0-9]+", name.lower())
        if "emnist" in words:
            division = next((word for word in re.split(r"[^a-z]+", prefix.lower()) if word in EMNIST), None)
            if division is None:
                raise InputError(
                    f"{path / folder} holds EMNIST, but no name says which of {', '.join(EMNIST)}: give the files "
                    "their official names, such as emnist-letters-train-images-idx3-ubyte.gz"
                )
            return _Kind(f"EMNIST {division}", EMNIST[division], int(division == "letters"), True)
        if any(word.startswith("fashion") for word in words):
            return _Kind("Fashion-MNIST", FASHION)
        if {"kmnist", "kuzushiji"} & set(words):
            return _Kind("KMNIST", KUZUSHIJI)
        if "mnist" in words:
            return _Kind("MNIST", DIGITS, certain={*words} <= {"mnist", ""})
    known = _FIRST_LABELS.get(tuple(train[:10].tolist())) if train is not None else None
    if known is not None:
        return known._replace(name=f"{known.name}, as its labels begin like that")
    return _Kind("MNIST", DIGITS, certain=False)


def _open_idx(tree: Tree, name: str) -> io.BufferedIOBase:
    """The bytes of a file, whose content says whether it is gzipped, whatever its name."""
    data = tree.read(name, MAX_BYTES)
    file = io.BytesIO(data)
    return gzip.GzipFile(fileobj=file) if data.startswith(_GZIP) else file


def _read_idx(tree: Tree, name: str, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes: two zeros, 8, the number of dimensions; each dimension, big-endian; the bytes."""
    path = str(tree.path / name)
    with _named(tree, name), _open_idx(tree, name) as file:
        header = file.read(4 + 4 * dimensions)
        if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
            raise InputError(f"{path} is not an IDX file of {dimensions} dimension(s): it begins with {header[:4]!r}")
        shape = [int(size) for size in np.frombuffer(header, ">u4", offset=4)]
        claimed = int(np.prod(shape, dtype=object))
        if not 0 < claimed <= MAX_BYTES:
            raise InputError(f"{path} says that it holds {claimed:,} bytes: 1 to {MAX_BYTES:,} are accepted")
        data = file.read(claimed + 1)
    if len(data) != claimed:
        found = "fewer" if len(data) < claimed else "more"
        raise InputError(f"{path} has {found} bytes than the {claimed:,} that its header says: fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_images(tree: Tree, name: str, transposed: bool) -> np.ndarray:
    images = _read_idx(tree, name, dimensions=3)
    return images.swapaxes(1, 2) if transposed else images


class _named:  # noqa: N801  (used like a function)
    """Errors of reading a file, as errors for people that name it."""

    def __init__(self, tree: Tree, name: str) -> None:
        self.path = tree.path / name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error)):
            raise InputError(f"{self.path} is not a whole gzip file ({error}): fetch it again") from error
        if isinstance(error, ImageError):
            raise InputError(f"{self.path}: {error}") from error


# ---- CSV ----


def is_table_name(name: str) -> bool:
    """Whether a file is called like a table of digits."""
    return bool(_CSV.fullmatch(name))


class _Columns(NamedTuple):
    """A table's columns.

    Attributes:
        width: How many there are.
        delimiter: What divides them.
        header: Whether the table begins with a line of names.
        label: The label's, or None where there is none.
        first: The first of the 784 pixels'.
    """

    width: int = PIXELS + 1
    delimiter: str = ","
    header: bool = False
    label: int | None = 0
    first: int = 1


def _find_csv(tree: Tree, names: Sequence[str]) -> list[Found]:
    """Tables of a label and 784 pixels a row, as Kaggle has them, in a folder of the table's own name or not.

    A test table may have no label. Where there are several for the same part, each table is a data set.
    """
    groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    named = [name for name in names if is_table_name(name.rpartition("/")[2])]
    twins = _twins(tree, named)
    for name in named:
        folder, _, last = name.rpartition("/")
        match = _CSV.fullmatch(last)
        if match and name not in twins and _columns(tree, name) is not None:
            outer, _, inner = folder.rpartition("/")
            folder = outer if is_table_name(inner) else folder
            groups[folder, match["set"]][match["part"].lower()].append(name)
    found = []
    for (folder, prefix), tables in sorted(groups.items()):
        one_each = all(len(each) == 1 for each in tables.values())
        sets = [{part: each[0] for part, each in tables.items()}] if one_each else []
        sets += [] if one_each else [{part: name} for part, each in tables.items() for name in each]
        for parts in sets:
            place = (f"{folder}/{prefix}".strip("/-_.") if prefix else folder) if one_each else min(parts.values())
            what = f"{prefix.strip('-_.') or 'MNIST'} ({' and '.join(sorted(parts))}), CSV"
            more = [twin for twin, name in twins.items() if name in parts.values()]
            build = partial(_build_csv, tree, folder, prefix, dict(sorted(parts.items(), reverse=True)), len(more))
            found.append(Found("mnist", place, what, frozenset([*parts.values(), *more]), build))
    return found


def _twins(tree: Tree, names: Sequence[str]) -> dict[str, str]:
    """Tables in a folder of their own name that lie beside it once more, as Kaggle has Sign MNIST; and the others.

    Args:
        tree: What holds them.
        names: All tables in it.
    """
    found: dict[str, str] = {}
    pool = {name: tree.files[name] for name in names}
    for name in names:
        folder, _, last = name.rpartition("/")
        outer, _, inner = folder.rpartition("/")
        other = f"{outer}/{last}".strip("/")
        if inner == last.partition(".")[0] and other in pool and pool[name] == pool[other]:
            found |= {name: other} if _head(tree, name) == _head(tree, other) else {}
    return found


def _head(tree: Tree, name: str) -> bytes:
    try:
        return tree.head(name, HEAD_BYTES)
    except (OSError, ImageError):
        return b""


def _columns(tree: Tree, name: str) -> _Columns | None:
    """A table's columns, by its first line; None for other tables than those of digits."""
    try:
        head = _head(tree, name)
        if head.startswith(_GZIP):
            head = zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
        line = head.split(b"\n", 1)[0].decode("utf-8-sig").strip()
    except (UnicodeDecodeError, zlib.error):
        return None
    delimiter = max(",;\t", key=line.count)
    fields = [field.strip().strip('"').lower() for field in line.split(delimiter)]
    if fields[0].isdecimal():
        return _Columns(delimiter=delimiter) if len(fields) == PIXELS + 1 else None
    label = next((i for i, field in enumerate(fields) if field in _LABELS), None)
    pixels = [i for i, field in enumerate(fields) if i != label and field not in _NUMBERS]
    named = label is not None or (len(pixels) == PIXELS and "pix" in fields[pixels[0]])
    if not named or len(pixels) != PIXELS or pixels[-1] - pixels[0] != PIXELS - 1:
        return None
    return _Columns(len(fields), delimiter, True, label, pixels[0])


def _build_csv(
    tree: Tree, folder: str, prefix: str, tables: Mapping[str, str], twins: int, left_out: Mapping[str, int]
) -> Listed:
    labels = {part: _read_csv(tree, name)[0] for part, name in tables.items()}
    kind = _kind(tree, folder, prefix, labels.get("train"))
    notes = [_note(kind)]
    highest = max(int(each.max()) for each in labels.values())
    if highest >= len(DIGITS) and not kind.certain:
        kind = _Kind("a set like MNIST", tuple(map(str, range(highest + 1))))
        notes = [f"its labels go up to {highest}, so it is not MNIST: the classes are called by their numbers"]
    parts = []
    for part, name in tables.items():
        numbers = np.where(labels[part] < 0, -1, labels[part] - kind.first)
        if numbers.max() >= len(kind.class_names) or numbers.min() < -1:
            raise InputError(f"{tree.path / name} has labels that {kind.name} has not: {int(labels[part].max())}")
        if numbers.max() < 0:
            notes.append(f"{displayed(name)} has no labels")
        split, last = _PARTS[part], name.rpartition("/")[2]
        parts.append(Part(last, SPLITS[split], split, numbers, partial(_csv_images, tree, name, kind.transposed)))
    left_out = Counter(left_out) + Counter({"more of the same files": twins})
    return Arrays(tree, "mnist", parts, kind.class_names, place=folder, grey=True, left_out=left_out, notes=notes)


def _read_csv(tree: Tree, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A table's labels, int64 (n,) with -1 where there are none, and its pixels, uint8 (n, 784).

    Raises:
        InputError: It is not whole, or holds other than 0 to 255.
    """
    columns = _columns(tree, name) or _Columns()
    path = tree.path / name
    with _named(tree, name), _open_idx(tree, name) as file:
        data = file.read(MAX_BYTES).removeprefix(codecs.BOM_UTF8)
    rows = data.partition(b"\n")[2] if columns.header else data
    if not rows.strip():
        raise InputError(f"{path} has no rows: fetch it again")
    try:
        table = np.loadtxt(io.BytesIO(rows), np.int32, delimiter=columns.delimiter, ndmin=2)
    except ValueError as error:
        reason = str(error).partition("; use `usecols`")[0]  # advice to programmers
        raise InputError(f"{path} is not a table of whole numbers: {reason}") from error
    labels = np.full(len(table), -1) if columns.label is None else table[:, columns.label]
    pixels = table[:, columns.first : columns.first + PIXELS]
    if table.shape[1] != columns.width or pixels.min() < 0 or max(pixels.max(), labels.max()) > 255:
        count = PIXELS + (columns.label is not None)
        raise InputError(f"{path} should have {count} numbers of 0 to 255 in each row, and has others")
    return labels.astype(np.int64), pixels.astype(np.uint8)


def _csv_images(tree: Tree, name: str, transposed: bool) -> np.ndarray:
    images = _read_csv(tree, name)[1].reshape(-1, 28, 28)
    return images.swapaxes(1, 2) if transposed else images
