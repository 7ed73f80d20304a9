"""MNIST's official IDX files (and of the sets that imitate it: Fashion-MNIST, KMNIST), plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import InputError
from shards.sources import LayoutError, Sample, listing_identity

PLACES = (".", "raw", "MNIST/raw")  # below the given folder: the last two are torchvision's
IMAGES = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")  # the official name, and one that is often met
LABELS = ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte")
MAX_BYTES = 2**31
"""The most an IDX file may hold: a gzip file of a few bytes can claim anything."""


class MnistSource:
    """The training set: train-images-idx3-ubyte and train-labels-idx1-ubyte, with or without .gz.

    Raises:
        LayoutError: No such images are there.
        InputError: The labels are missing, or a file is not what its header says.
    """

    layout: str = "mnist"
    attribute_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = tuple("0123456789")

    def __init__(self, path: Path) -> None:
        images = _find(path, IMAGES)
        if images is None:
            raise LayoutError(f"mnist: no {IMAGES[0]} or {IMAGES[0]}.gz")
        labels = _find(images.parent, LABELS)
        if labels is None:
            raise InputError(f"{images.parent} has {images.name} but no {LABELS[0]} beside it: fetch that as well")
        self.path = images
        self.labels = _read_idx(labels, dimensions=1)
        if len(self.labels) != len(self.images):
            raise InputError(f"{labels} has {len(self.labels)} labels for {len(self.images)} images")
        if self.labels.max() >= len(self.class_names):
            raise InputError(f"{labels} has a label {self.labels.max()}: only 0 to 9 make sense")

    @cached_property
    def images(self) -> np.ndarray:
        """uint8 (n, H, W); each process reads it for itself, once."""
        return _read_idx(self.path, dimensions=3)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "images"}

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        """The file's name and the position in it, from 0."""
        return f"{self.path.name.removesuffix('.gz')}[{i}]"

    def sample(self, i: int) -> Sample:
        """Sample i: uint8 (H, W)."""
        return Sample(f"train-{i:05d}", self.images[i], int(self.labels[i]), None)

    def channels(self) -> int:
        """Always 1."""
        return 1

    def identity(self) -> str:
        """A sha256 (hex) over the images' size and the labels; alike for plain and gzipped files."""
        return listing_identity(self.layout, [(IMAGES[0], self.images.nbytes)], [self.labels.tobytes()])


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    for candidate in (folder / place / (name + suffix) for place in PLACES for name in names for suffix in ("", ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes: two zeros, 8, the number of dimensions; each dimension, big-endian; the bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
                raise InputError(
                    f"{path} is not an IDX file of {dimensions} dimension(s): it begins with {header[:4]!r}"
                )
            shape = [int(size) for size in np.frombuffer(header, ">u4", offset=4)]
            claimed = int(np.prod(shape, dtype=object))
            if not 0 < claimed <= MAX_BYTES:
                raise InputError(f"{path} says that it holds {claimed:,} bytes: 1 to {MAX_BYTES:,} are accepted")
            data = file.read(claimed + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a whole gzip file ({error}): fetch it again") from error
    if len(data) != claimed:
        found = "fewer" if len(data) < claimed else "more"
        raise InputError(f"{path} has {found} bytes than the {claimed:,} that its header says: fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
