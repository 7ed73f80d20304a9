"""CelebA's aligned faces: a folder or the official zip of images, with the text files beside it."""

from __future__ import annotations

import csv
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from shards.errors import InputError
from shards.images import ImageError
from shards.sources import (
    MAX_FILE_BYTES,
    LayoutError,
    Sample,
    bounded,
    displayed,
    file_size,
    is_image_name,
    listing_identity,
    read_image_file,
    sample_keys,
)

IMAGES = "img_align_celeba"
PLACES = (".", "Img", "celeba")  # below the given folder: Kaggle's, the official share's and torchvision's habit
ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv")  # the official one and Kaggle's
INT8 = {"-1": 0xFF, "1": 0x01}


class CelebASource:
    """img_align_celeba as a folder (Kaggle nests two of that name) or as a zip, which is read in place.

    path is the folder above, the folder of images itself, or the zip. The samples are the images that are there, in the
    order of their names: the first thousand images with the full text file are a fine set. An image without a row in
    the attribute file is an error; where there is no attribute file there are no attributes.

    Raises:
        LayoutError: No img_align_celeba with images is there.
        InputError: The zip is broken, or the attribute file has a line that makes no sense or lacks one.
    """

    layout: str = "celeba"

    def __init__(self, path: Path) -> None:
        self.images = _find_images(path.absolute())
        self.names = sorted(self.images.sizes())
        self.keys = sample_keys([PurePosixPath(name).name for name in self.names])
        self.class_names: tuple[str, ...] = ()
        self.attribute_names: tuple[str, ...] = ()
        self.attributes: np.ndarray | None = None
        table = _find_attribute_file(self.images.path)
        if table is not None:
            self.attribute_names, rows = _read_attributes(table)
            self.attributes = self._match(rows, table)

    def _match(self, rows: dict[str, bytes], table: Path) -> np.ndarray:
        """The rows of the images that are there: int8 (n, A)."""
        stems = [PurePosixPath(name).stem for name in self.names]
        missing = [name for name, stem in zip(self.names, stems, strict=True) if stem not in rows]
        if missing:
            some = ", ".join(displayed(name) for name in missing[:5])
            raise InputError(
                f"{table} has no row for {len(missing):,} of the {len(self.names):,} images in {self.images.path}: "
                f"{some}{', …' if len(missing) > 5 else ''}; give it the rows it lacks, or move those images away"
            )
        return np.frombuffer(b"".join(rows[stem] for stem in stems), np.int8).reshape(len(stems), -1)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The image's path in the folder or the zip."""
        return displayed(self.names[i])

    def sample(self, i: int) -> Sample:
        """Read sample i: the file's bytes and its row of attributes.

        Raises:
            OSError, ImageError: The file or the zip's member cannot be read.
        """
        attributes = None if self.attributes is None else self.attributes[i]
        return Sample(self.keys[i], self.images.read(self.names[i]), -1, attributes)

    def channels(self) -> int:
        """Always 3: CelebA is in colour."""
        return 3

    def identity(self) -> str:
        """A sha256 (hex) over the images' names and sizes and their attributes."""
        sizes = self.images.sizes()
        attributes = b"" if self.attributes is None else self.attributes.tobytes()
        return listing_identity(
            self.layout,
            ((name, sizes[name]) for name in self.names),
            [" ".join(self.attribute_names).encode(), attributes],
        )


class _Images(Protocol):
    """Where the image files are."""

    path: Path

    def sizes(self) -> dict[str, int]:
        """Every image's name, and its size in bytes."""
        ...

    def read(self, name: str) -> bytes: ...


class _FolderOfImages:
    def __init__(self, path: Path) -> None:
        self.path = path

    def sizes(self) -> dict[str, int]:
        return {path.name: file_size(path) for path in self.path.iterdir() if is_image_name(path.name)}

    def read(self, name: str) -> bytes:
        return read_image_file(self.path / name)


class _ZipOfImages:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}

    def _open(self) -> zipfile.ZipFile:
        # Once a process: a forked one would share the file's position with its parent.
        if self._archive is None or self._process != os.getpid():
            try:
                self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
            except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
                raise InputError(f"{self.path} is not a whole zip file ({error}): fetch it again") from error
        return self._archive

    def sizes(self) -> dict[str, int]:
        members = self._open().infolist()
        return {
            member.filename: member.file_size
            for member in members
            if is_image_name(PurePosixPath(member.filename).name)
        }

    def read(self, name: str) -> bytes:
        archive = self._open()
        try:
            with archive.open(name) as member:
                return bounded(member.read(MAX_FILE_BYTES + 1))
        except ImageError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, RuntimeError (encrypted), NotImplementedError…
            raise ImageError(f"cannot be read from the zip: {error}") from error


def _find_images(path: Path) -> _Images:
    candidates = [path / place / name for place in PLACES for name in (IMAGES, f"{IMAGES}.zip")]
    if path.suffix == ".zip" or path.name == IMAGES or any((path / name).is_file() for name in ATTRIBUTE_FILES):
        candidates.append(path)
    for candidate in candidates:
        if candidate.is_file():
            archive = _ZipOfImages(candidate)
            if archive.sizes():
                return archive
        elif candidate.is_dir():
            nested = candidate / IMAGES
            folder = nested if nested.is_dir() else candidate
            if any(is_image_name(entry.name) for entry in folder.iterdir()):
                return _FolderOfImages(folder)
    raise LayoutError(f"celeba: no {IMAGES}/ or {IMAGES}.zip with images in it")


def _find_attribute_file(images: Path) -> Path | None:
    for folder in (images.parent, images.parent.parent, images):
        for candidate in (folder / place / name for place in (".", "Anno") for name in ATTRIBUTE_FILES):
            if candidate.is_file():
                return candidate
    return None


def _read_attributes(table: Path) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """The attributes' names, and of each image (by its stem: the PNG edition has the same table) its int8 values."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".csv":
                rows = enumerate(([field.strip() for field in row] for row in csv.reader(file)), 1)
                _, header = next(rows, (1, []))
                names = header[1:]
            else:
                rows = enumerate((line.split() for line in file), 1)
                _, count = next(rows, (1, []))
                if not count or not count[0].isdecimal():
                    raise InputError(f"{table}, line 1: the number of images should be here")
                _, names = next(rows, (2, []))
            if not names or len(set(names)) < len(names) or INT8.keys() & names:
                raise InputError(f"{table} should begin with the attributes' names, each once")
            return tuple(names), dict(_read_rows(table, rows, len(names)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} is not the text it should be: {error}") from error


def _read_rows(table: Path, rows: Iterable[tuple[int, list[str]]], count: int) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for line, fields in rows:
        if not fields:
            continue
        stem, values = PurePosixPath(fields[0]).stem, fields[1:]
        if len(values) != count:
            raise InputError(f"{table}, line {line}: {len(values)} values for {count} attributes")
        try:
            row = bytes(map(INT8.__getitem__, values))
        except KeyError as wrong:
            raise InputError(f"{table}, line {line}: {wrong} is neither -1 nor 1") from None
        if stem in seen:
            raise InputError(f"{table}, line {line}: a second row for {fields[0]}")
        seen.add(stem)
        yield stem, row
