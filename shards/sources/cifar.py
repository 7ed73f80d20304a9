"""CIFAR-10's and CIFAR-100's official batches, python or binary, in a folder or in their archive."""

from __future__ import annotations

import pickletools
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from shards.errors import InputError
from shards.images import ImageError
from shards.sources.arrays import Arrays, Part
from shards.sources.base import SPLITS, Found, Listed, Wish
from shards.trees import Tree

LOOKS_FOR_10 = "data_batch_1 to data_batch_5 and test_batch, python or .bin, or their archive"
LOOKS_FOR_100 = "cifar-100's train and test, python or .bin, or their archive"
PIXELS = 3 * 32 * 32
MAX_BYTES = 2**28
"""The most a batch may hold; the official ones have at most 155 MB."""
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "cifar-100-python.tar.gz", "cifar-100-binary.tar.gz")

# The opcodes with which pickle protocols 2 to 4 write strings and whole numbers.
STRINGS = frozenset({"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE"})
INTEGERS = frozenset({"BININT", "BININT1", "BININT2"})

CLASSES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES_100 = tuple(
    re.findall(
        r"\S+",
        """apple
        aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
        caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
        flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
        maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
        plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
        snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
        trout tulip turtle wardrobe whale willow_tree wolf woman worm""",
    )
)
CLASSES_20 = tuple(
    re.findall(
        r"\S+",
        """aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
        household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
        large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
        vehicles_1 vehicles_2""",
    )
)
"""CIFAR-100's coarse classes."""


class _Edition(NamedTuple):
    """One of the data sets, and one choice of labels.

    Attributes:
        layout: Its name.
        title: For people.
        class_names: In the order of the labels.
        field: What the labels are called in a pickle.
        label_bytes: How many bytes of label a row of the binary edition begins with.
        label_byte: Which of them.
    """

    layout: str
    title: str
    class_names: tuple[str, ...]
    field: bytes
    label_bytes: int
    label_byte: int


TEN = _Edition("cifar10", "CIFAR-10", CLASSES_10, b"labels", 1, 0)
FINE = _Edition("cifar100", "CIFAR-100", CLASSES_100, b"fine_labels", 2, 1)
COARSE = _Edition("cifar100-coarse", "CIFAR-100", CLASSES_20, b"coarse_labels", 2, 0)


def find_10(tree: Tree, names: Sequence[str], wish: Wish) -> list[Found]:
    """Folders with batches of CIFAR-10."""
    files = {name + ending for name in (*BATCHES, "test_batch") for ending in ("", ".bin")}
    folders: dict[str, set[str]] = defaultdict(set)
    for name in names:
        folder, _, last = name.rpartition("/")
        if last in files:
            folders[folder].add(last)
    return [_found(tree, TEN, folder, last) for folder, last in sorted(folders.items())]


def find_100(tree: Tree, names: Sequence[str], wish: Wish, edition: _Edition = FINE) -> list[Found]:
    """Folders with CIFAR-100's two files: called cifar-100-…, or with the official file of names beside them."""
    folders: dict[str, set[str]] = defaultdict(set)
    for name in names:
        folder, _, last = name.rpartition("/")
        folders[folder].add(last)
    found = []
    for folder, inside in sorted(folders.items()):
        python, binary = inside & {"train", "test"}, inside & {"train.bin", "test.bin"}
        official = "cifar-100" in folder.rpartition("/")[2] or "cifar-100" in tree.path.name
        if (python and ("meta" in inside or official)) or (binary and ("fine_label_names.txt" in inside or official)):
            found.append(_found(tree, edition, folder, python | binary))
    return found


find_100_coarse = partial(find_100, edition=COARSE)


def _found(tree: Tree, edition: _Edition, folder: str, files: set[str]) -> Found:
    prefix = folder + "/" if folder else ""
    beside = {"batches.meta", "batches.meta.txt", "meta", "fine_label_names.txt", "coarse_label_names.txt"}
    beside |= {"readme.html", "file.txt~"}
    claimed = frozenset(prefix + name for name in {*files, *beside} if prefix + name in tree.files)
    return Found(edition.layout, folder, edition.title, claimed, partial(_build, tree, edition, folder, files))


def _build(tree: Tree, edition: _Edition, folder: str, files: set[str], left_out: Mapping[str, int]) -> Listed:
    where = tree.path / folder if folder else tree.path
    if edition is TEN:
        ending = "" if files & {*BATCHES, "test_batch"} else ".bin"
        train, test = [name + ending for name in BATCHES], ["test_batch" + ending]
    else:
        ending = "" if files & {"train", "test"} else ".bin"
        train, test = ["train" + ending], ["test" + ending]
    if files & set(train):
        for name in train:
            if name not in files:
                raise InputError(f"{where} has no {name}: the training set is {train[0]} to {train[-1]}")
    parts = []
    used = [name for name in [*train, *test] if name in files]
    for name in used:
        path = f"{folder}/{name}" if folder else name
        labels, _ = _read(tree, edition, path)
        split = SPLITS.index("test" if name in test else "train")
        parts.append(Part(name, PurePosixPath(name).stem, split, labels, partial(_pixels, tree, edition, path)))
    notes = {
        "cifar100": ["the 100 fine labels; --layout cifar100-coarse takes the 20 coarse ones"],
        "cifar100-coarse": ["the 20 coarse labels; --layout cifar100 takes the 100 fine ones"],
    }.get(edition.layout, [])
    left_out = Counter(left_out) + Counter({"more of the same files": len(files) - len(used)})
    return Arrays(
        tree, edition.layout, parts, edition.class_names, place=folder, grey=False, left_out=left_out, notes=notes
    )


def _pixels(tree: Tree, edition: _Edition, path: str) -> np.ndarray:
    return _read(tree, edition, path)[1].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _read(tree: Tree, edition: _Edition, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 (n,) and pixels uint8 (n, 3072): red, green and blue planes, row major."""
    try:
        data = tree.read(path, MAX_BYTES)
        parse = _parse_binary if path.endswith(".bin") else _parse_pickle
        labels, pixels = parse(data, edition)
        if not labels.size or pixels.size != labels.size * PIXELS:
            raise ValueError(f"{pixels.size:,} bytes of pixels for {labels.size:,} labels")
        most = len(edition.class_names) - 1
        if labels.min() < 0 or labels.max() > most:
            raise ValueError(f"labels other than 0 to {most}")
    except (ValueError, struct.error, IndexError, OverflowError) as error:
        kind = error if isinstance(error, ImageError) else f"is not a {edition.title} batch: {error}"
        raise InputError(f"{tree.path / path} {kind}") from error
    return labels.astype(np.int64), pixels.reshape(-1, PIXELS)


def _parse_binary(data: bytes, edition: _Edition) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the bytes of label and the pixels."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, edition.label_bytes + PIXELS)
    return rows[:, edition.label_byte], rows[:, edition.label_bytes :]


def _parse_pickle(data: bytes, edition: _Edition) -> tuple[np.ndarray, np.ndarray]:
    """Take labels and pixels out of a pickled dict {"labels": [...], "data": uint8 array, ...} without unpickling it.

    A pickle is a program. Even an unpickler that admits a few globals still runs it: it builds objects, calls their
    methods and hashes them, and nested deeply enough that alone ends the process. So the program is only read here,
    instruction by instruction, and what it would push is looked at: the numbers after the string "labels", and the
    longest string, which is the array's bytes.
    """
    labels: list[int] = []
    pixels = text = b""
    column_major = None
    pixels_column_major = None
    rows = pixels_rows = False
    numbers: list[int] = []
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in STRINGS:
            text = argument if isinstance(argument, bytes) else argument.encode("latin-1")
            if len(text) > len(pixels):
                pixels, pixels_column_major, pixels_rows = text, column_major, rows
        elif opcode.name in INTEGERS and text == edition.field:
            labels.append(argument)
        elif opcode.name in ("TUPLE2", "TUPLE") and len(numbers) > 1 and min(numbers) >= 0:
            rows = opcode.name == "TUPLE2" and numbers[-1] == PIXELS  # an array's shape, which is before its bytes
        elif opcode.name in ("NEWTRUE", "NEWFALSE"):
            column_major = opcode.name == "NEWTRUE"  # an array's state is (…, whether it is column-major, its bytes)
        if opcode.name not in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            numbers = [*numbers, argument] if opcode.name in INTEGERS and len(numbers) < 8 else []
    if pixels_column_major is not False:
        raise ValueError("its array is not stored row by row, as in the official batches")
    if not pixels_rows:
        raise ValueError(
            f"its array is not of the official shape, {PIXELS:,} bytes an image: all red, green, then blue"
        )
    return np.array(labels, np.int64), np.frombuffer(pixels, np.uint8)
