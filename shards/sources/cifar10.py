"""CIFAR-10's official training batches, python or binary, in a folder or in their tar.gz."""

from __future__ import annotations

import gzip
import pickletools
import struct
import tarfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from shards.errors import InputError
from shards.sources import LayoutError, Sample, listing_identity

PIXELS = 3 * 32 * 32
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
FOLDERS = (".", "cifar-10-batches-py", "cifar-10-batches-bin")
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
FILES = frozenset(name + suffix for name in BATCHES for suffix in ("", ".bin"))
MAX_BYTES = 2**28
"""The most a batch may hold; the official ones have 31 MB."""

# The opcodes with which pickle protocols 2 to 4 write strings and whole numbers.
STRINGS = frozenset({"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE"})
INTEGERS = frozenset({"BININT", "BININT1", "BININT2"})


class Cifar10Source:
    """data_batch_1 to data_batch_5 (with .bin: the binary edition): a folder of them, its parent, or the archive.

    The archive is read in memory; nothing is extracted.

    Raises:
        LayoutError: No batch is there.
        InputError: A batch is missing, or not what it should be.
    """

    layout: str = "cifar10"
    attribute_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    def __init__(self, path: Path) -> None:
        self.path = _find(path)
        self.files = tuple(batch.file for batch in self.batches)
        self.ends = np.cumsum([len(batch.labels) for batch in self.batches])
        self.labels = np.concatenate([batch.labels for batch in self.batches])

    @cached_property
    def batches(self) -> list[_Batch]:
        """Each process reads them for itself, once."""
        return [_parse(self.path, file, data) for file, data in _read_files(self.path)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "batches"}

    def __len__(self) -> int:
        return len(self.labels)

    def _locate(self, i: int) -> tuple[int, int]:
        """The batch that sample i is in, and its row there."""
        batch = int(np.searchsorted(self.ends, i, side="right"))
        return batch, i - int(self.ends[batch - 1]) if batch else i

    def name(self, i: int) -> str:
        """The batch's name and the position in it, from 0."""
        batch, row = self._locate(i)
        return f"{self.files[batch]}[{row}]"

    def sample(self, i: int) -> Sample:
        """Sample i: uint8 (32, 32, 3)."""
        batch, row = self._locate(i)
        image = self.batches[batch].pixels[row].reshape(3, 32, 32).transpose(1, 2, 0)
        key = f"{PurePosixPath(self.files[batch]).stem}-{row:05d}"
        return Sample(key, np.ascontiguousarray(image), int(self.labels[i]), None)

    def channels(self) -> int:
        """Always 3."""
        return 3

    def identity(self) -> str:
        """A sha256 (hex) over the batches' sizes and labels; alike for all editions of the same batches."""
        sizes = np.diff(self.ends, prepend=0) * PIXELS
        files = ((PurePosixPath(file).stem, int(size)) for file, size in zip(self.files, sizes, strict=True))
        return listing_identity(self.layout, files, [self.labels.tobytes()])


class _Batch(NamedTuple):
    file: str
    labels: np.ndarray  # uint8 (n,)
    pixels: np.ndarray  # uint8 (n, 3072): red, green and blue planes, row major


def _find(path: Path) -> Path:
    """The folder or the archive that holds batches."""
    if path.is_file() and path.name.endswith(".tar.gz"):
        return path
    for folder in (path / name for name in FOLDERS):
        if any((folder / name).is_file() for name in FILES):
            return folder
    for archive in (path / name for name in ARCHIVES):
        if archive.is_file():
            return archive
    raise LayoutError(f"cifar10: no {BATCHES[0]} to {BATCHES[-1]} (python or .bin), and no {' or '.join(ARCHIVES)}")


def _read_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the five batches, in order."""
    files = _read_archive(path) if path.is_file() else _read_folder(path)
    suffix = "" if BATCHES[0] in files else ".bin"
    for name in (batch + suffix for batch in BATCHES):
        if name not in files:
            raise InputError(f"{path} has no {name}: the training set is {BATCHES[0]} to {BATCHES[-1]}")
        if len(files[name]) > MAX_BYTES:
            raise InputError(f"{path / name} is larger than {MAX_BYTES:,} bytes: no batch is")
        yield name, files[name]


def _read_folder(folder: Path) -> dict[str, bytes]:
    files = {}
    for name in FILES:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                files[name] = file.read(MAX_BYTES + 1)
    return files


def _read_archive(path: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name  # only ever a key here, never a path to write to
                if name in FILES and member.isfile() and (file := archive.extractfile(member)):
                    files[name] = file.read(MAX_BYTES + 1)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise InputError(f"{path} is not a whole tar.gz file ({error}): fetch it again") from error
    return files


def _parse(folder: Path, name: str, data: bytes) -> _Batch:
    try:
        labels, pixels = _parse_binary(data) if name.endswith(".bin") else _parse_pickle(data)
        if not labels.size or pixels.size != labels.size * PIXELS:
            raise ValueError(f"{pixels.size:,} bytes of pixels for {labels.size:,} labels")
        if labels.min() < 0 or labels.max() > 9:
            raise ValueError("labels other than 0 to 9")
    except (ValueError, struct.error, IndexError, OverflowError) as error:
        raise InputError(f"{folder / name} is not a CIFAR-10 batch: {error}") from error
    return _Batch(name, labels.astype(np.uint8), pixels.reshape(-1, PIXELS))


def _parse_binary(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one byte of label and the pixels."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 0], rows[:, 1:]


def _parse_pickle(data: bytes) -> tuple[np.ndarray, np.ndarray]:
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
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in STRINGS:
            text = argument if isinstance(argument, bytes) else argument.encode("latin-1")
            if len(text) > len(pixels):
                pixels, pixels_column_major = text, column_major
        elif opcode.name in INTEGERS and text == b"labels":
            labels.append(argument)
        elif opcode.name in ("NEWTRUE", "NEWFALSE"):
            column_major = opcode.name == "NEWTRUE"  # an array's state is (…, whether it is column-major, its bytes)
    if pixels_column_major is not False:
        raise ValueError("its array is not stored row by row, as in the official batches")
    return np.array(labels, np.int64), np.frombuffer(pixels, np.uint8)
