"""Pictures as they stand in a page: the sample grids of a run, some of them, in so much room."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from distgan.tracking.records import REAL, UNREADABLE, evenly, sample_grids

MOST_GRIDS = 60
_QUALITY = 90
_LEAST_PIXELS = 32


@dataclass(frozen=True)
class Grid:
    """A picture as it stands in a page.

    Attributes:
        images: Seen before it was drawn; None where it shows real ones.
        width: In pixels.
        height: In pixels.
        mime: The kind of ``data``.
        data: An image file.
    """

    images: int | None
    width: int
    height: int
    mime: str
    data: bytes

    @property
    def uri(self) -> str:
        """The picture itself, as an address."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Grids:
    """The grids of a run.

    Attributes:
        real: That of real images, if there is one.
        drawn: Those of generated ones, oldest first.
        unreadable: Names of files that are no pictures.
    """

    real: Grid | None
    drawn: list[Grid]
    unreadable: list[str]

    @property
    def compressed(self) -> bool:
        """Whether those before the last have lost a little."""
        return any(grid.mime == "image/jpeg" for grid in self.drawn)


def load_grids(samples: Path, room: int) -> Grids:
    """The grids in a run's folder ``samples``, in about so many bytes as image files.

    Of many grids some are taken, evenly over the run, always with the first and the last. Where there is too little
    room they become JPEG, and smaller where one alone would take much of it; the last one, which is looked at closely,
    only if it is huge.
    """
    unreadable: list[str] = []

    def load(path: Path, images: int | None, most: int | None) -> list[Grid]:
        try:
            return [_load(path, images, most)]
        except FileNotFoundError:  # training has just gone back to before it
            return []
        except UNREADABLE:
            unreadable.append(path.name)
            return []

    path = samples / REAL
    real = load(path, None, room // 8 if _size(path) > room // 8 else None) if path.exists() else []
    room -= sum(len(grid.data) for grid in real)
    found = [path for _, path in sample_grids(samples)]
    chosen = [found[i] for i in evenly(len(found), MOST_GRIDS)]
    compress = sum(map(_size, chosen)) > room
    grids: list[Grid] = []
    for path in chosen:
        huge = _size(path) > room // 2
        as_jpeg = compress and (huge or path != chosen[-1])
        grids += load(path, int(path.stem), room // 3 if as_jpeg else None)
    kept = grids
    while len(kept) > 2 and sum(len(grid.data) for grid in kept) > room:
        kept = [grids[i] for i in evenly(len(grids), len(kept) - 1)]
    return Grids(real[0] if real else None, kept, unreadable)


def encode(image: Image.Image, images: int | None = None, *, as_jpeg: bool) -> Grid:
    """A picture, grey or RGB, as an image file: a PNG, or a JPEG, which is smaller."""
    file = io.BytesIO()
    if as_jpeg:
        image.save(file, "JPEG", quality=_QUALITY)
    else:
        image.save(file, "PNG")
    return Grid(images, image.width, image.height, "image/jpeg" if as_jpeg else "image/png", file.getvalue())


def _load(path: Path, images: int | None, most: int | None) -> Grid:
    """A PNG as it is; or, where it is to have at most so many bytes, a JPEG, half as wide until it has."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        opened.load()
        if most is None:
            return Grid(images, opened.width, opened.height, "image/png", data)
        image = opened.convert("L" if opened.mode == "L" else "RGB")
    grid = encode(image, images, as_jpeg=True)
    while len(grid.data) > most and grid.width > _LEAST_PIXELS:
        image = image.reduce(2)
        grid = encode(image, images, as_jpeg=True)
    return grid


def _size(path: Path) -> int:
    """In bytes; 0 where there is no such file any more."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
