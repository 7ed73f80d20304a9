"""What users have on disk, as one kind of thing: a sequence of samples, whatever the layout.

Each layout is a class in a module of its own; its constructor takes a path and raises LayoutError where nothing of that
layout is there. Adding a layout is such a module and a line in SOURCES.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from shards.cache import local_path
from shards.errors import InputError
from shards.images import ImageError
from shards.names import near

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_FILE_BYTES = 256 * 2**20
"""A larger image file is refused unread."""
MAX_KEY = 80


@dataclass(frozen=True)
class Sample:
    """One image as it was found, with what is known about it.

    Attributes:
        key: Unique in its source; only A-Z a-z 0-9 _ / -, no dots, at most 80 characters.
        image: An image file's bytes as found, or uint8 pixels (H, W) or (H, W, 3) in 0..255.
        label: Index into the source's class_names, -1 where there is none.
        attributes: int8 (A,) of -1 and 1, or None where the source has none.
    """

    key: str
    image: bytes | np.ndarray
    label: int
    attributes: np.ndarray | None


class Source(Protocol):
    """A sequence of samples, in an order that does not depend on the machine. Cheap to pickle to worker processes."""

    layout: str
    attribute_names: tuple[str, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What a person would call sample i: a path relative to the source, or "train-images-idx3-ubyte[17]"."""
        ...

    def sample(self, i: int) -> Sample:
        """Read sample i.

        Raises:
            OSError, ImageError: This one sample cannot be read; the others may well be.
        """
        ...

    def channels(self) -> int:
        """1 where every image is grey, else 3. Looks at headers only."""
        ...

    def identity(self) -> str:
        """A sha256 (hex) over names, sizes, labels and attributes: another one means that the source has changed."""
        ...


class LayoutError(InputError):
    """Nothing of this layout is there. The message says what was looked for."""


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden files (and macOS's ._ shadows) are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a name)


def displayed(name: str) -> str:
    """A file name as it can be printed anywhere: bytes that are no UTF-8 and control characters are replaced."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def sample_keys(names: Sequence[str]) -> list[str]:
    """Keys for files: the path without its extension, every character but A-Z a-z 0-9 _ / - replaced by _.

    Keys that would be alike or too long end in a hash of the whole path instead, so a file's key never depends on the
    order of the others.

    Args:
        names: Paths relative to the source, with "/", each only once.
    """
    plain = [re.sub(r"[^A-Za-z0-9_/-]", "_", os.path.splitext(name)[0]) for name in names]  # noqa: PTH122 (a name)
    count = Counter(plain)
    keys = []
    for name, key in zip(names, plain, strict=True):
        if count[key] > 1 or len(key) > MAX_KEY:
            key = f"{key[: MAX_KEY - 17]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        keys.append(key)
    if len(set(keys)) < len(keys):
        twice = next(key for key, times in Counter(keys).items() if times > 1)
        raise InputError(f"two files would get the key {twice}: rename {displayed(names[keys.index(twice)])}")
    return keys


def read_image_file(path: Path) -> bytes:
    """The bytes of one image file.

    Raises:
        OSError, ImageError: It cannot be read, is no regular file, or is larger than MAX_FILE_BYTES.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise ImageError("not a regular file")
    with path.open("rb") as file:
        return bounded(file.read(MAX_FILE_BYTES + 1))


def bounded(data: bytes) -> bytes:
    """The same bytes, unless there are more than MAX_FILE_BYTES of them.

    Raises:
        ImageError: There are.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
    return data


def listing_identity(layout: str, files: Iterable[tuple[str, int]], facts: Iterable[bytes]) -> str:
    """The sha256 (hex) behind Source.identity.

    Args:
        layout: The source's layout.
        files: Name and size in bytes of each file, in order.
        facts: Whatever else counts: labels, attributes, names.
    """
    digest = hashlib.sha256(layout.encode())
    for part in (*(os.fsencode(f"{name}\0{size}") for name, size in files), *facts):
        digest.update(len(part).to_bytes(8, "little"))  # so that no two lists of parts run together into the same bytes
        digest.update(part)
    return digest.hexdigest()


def file_size(path: Path) -> int:
    """A file's size in bytes, -1 where it cannot be asked: a broken link is listed, and fails when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


# The layouts are made of what is defined above, so they can only be imported here.
from shards.sources.celeba import CelebASource  # noqa: E402
from shards.sources.cifar10 import Cifar10Source  # noqa: E402
from shards.sources.folder import FolderSource  # noqa: E402
from shards.sources.mnist import MnistSource  # noqa: E402

# From the most particular to the most general: the first that recognises a path has it.
SOURCES: dict[str, Callable[[Path], Source]] = {
    "celeba": CelebASource,
    "mnist": MnistSource,
    "cifar10": Cifar10Source,
    "folder": FolderSource,
}


def open_source(path: str | Path, layout: str | None = None) -> Source:
    """Open the data set at path.

    Args:
        path: A folder, or one of the archives that a layout knows.
        layout: A name in SOURCES; None recognises it from what is there.

    Raises:
        InputError: Nothing there, nothing recognised, or something in it is wrong; says what was looked for.
    """
    if layout is not None and layout not in SOURCES:
        raise InputError(f"no layout is called {layout!r}: {near(layout, SOURCES)}")
    path = local_path(path)
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist: give the folder that holds the images")
        if layout is not None:
            return SOURCES[layout](path)
        looked_for = []
        for build in SOURCES.values():
            try:
                return build(path)
            except LayoutError as error:
                looked_for.append(f"  {error}")
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    raise InputError("\n".join([f"no data set was found at {path}:", *looked_for]))
