"""Where in a picture its face is, found by OpenCV's cascade.

That one is old and sees frontal faces only, but it comes with the package: nothing is downloaded, and the same picture
always gives the same square.
"""

from __future__ import annotations

import os
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from shards.errors import InputError

MARGIN = 1.6
"""Sides of the square that is cut out and of the detector's box, which reaches from the middle of the forehead to the
chin. CelebA's aligned pictures come out about as their usual crop of 178×178, with some of the hair."""

RAISED = 0.1
"""How far the square's centre lies above the box's, in sides of the box: there is more head above it than below."""

LONGEST = 640
"""Larger pictures are shrunk to this before the search, so that its cost is bounded: about 50 ms, and 150 where there
is no face."""

SMALLEST = 1 / 8
"""Of a picture's shorter side: what is smaller is somebody in the background, or no face at all."""

BORDER = 1 / 3
"""Of a picture's longer side: how wide a grey border is laid around one in which no face was found, for a second look.
The detector wants something around a face, and a portrait that is cut as tightly as a data set's has nothing."""

_WINDOW = 24  # pixels: the cascade was trained on faces of this size
_CASCADE = "haarcascade_frontalface_default.xml"
_HELP = "pip install 'distgan[faces]'"
_lock = Lock()  # a cascade searches one picture at a time


def require() -> None:
    """See that faces can be found here.

    Raises:
        InputError: OpenCV is missing or is a version without the detector.
    """
    _cascade()


def find_face(image: Image.Image) -> tuple[int, int, int] | None:
    """Find the largest frontal face, upright within some 15 degrees, also where it fills the picture.

    Args:
        image: Any picture, of mode "L" or "RGB".

    Returns:
        (left, top, side) in pixels of the square from forehead to chin, inside the picture; None where no face is.

    Raises:
        InputError: OpenCV is missing or is a version without the detector.
    """
    cascade = _cascade()
    scale = max(1.0, max(image.size) / LONGEST)
    grey = image.convert("L")
    if scale > 1:
        small = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
        grey = grey.resize(small, Image.Resampling.BILINEAR, reducing_gap=2.0)
    smallest = max(_WINDOW, round(min(grey.size) * SMALLEST))
    border = 0
    boxes = _boxes(cascade, grey, smallest)
    if not boxes:
        border = round(max(grey.size) * BORDER)
        boxes = _boxes(cascade, ImageOps.expand(grey, border, 128), smallest)
    if not boxes:
        return None
    left, top, side, _ = max(boxes, key=lambda box: (box[2], -box[1], -box[0]))  # of equals, the first as one reads
    side = min(round(side * scale), *image.size)
    x, y = (left - border) * scale, (top - border) * scale
    return _inside(x, image.width, side), _inside(y, image.height, side), side


def _boxes(cascade: Any, grey: Image.Image, smallest: int) -> list[list[int]]:
    with _lock:
        found = cascade.detectMultiScale(
            np.asarray(grey), scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest)
        )
    boxes: list[list[int]] = np.asarray(found, np.int64).reshape(-1, 4).tolist()
    return boxes


def portrait(face: tuple[int, int, int], size: tuple[int, int], side: int | None = None) -> tuple[int, int, int]:
    """The square to cut out for a face: hair and chin in it, moved as far as it takes to stay inside the picture.

    Args:
        face: What find_face returned.
        size: (width, height) of the picture.
        side: Of the square in pixels, at most the picture's shorter side; None is MARGIN times the face's, or as much
            of that as the picture has.

    Returns:
        (left, top, side) in pixels.
    """
    left, top, length = face
    if side is None:
        side = min(round(length * MARGIN), *size)
    x, y = left + length / 2, top + length * (0.5 - RAISED)
    return _inside(x - side / 2, size[0], side), _inside(y - side / 2, size[1], side), side


def _inside(start: float, length: int, side: int) -> int:
    return min(max(0, round(start)), length - side)


@cache
def _cascade() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(f"to centre on faces takes OpenCV: {_HELP}") from error
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    path = os.path.join(folder, _CASCADE)  # noqa: PTH118 (OpenCV wants a string)
    if not hasattr(cv2, "CascadeClassifier") or (cascade := cv2.CascadeClassifier(path)).empty():
        raise InputError(f"OpenCV {cv2.__version__} comes without its detector of faces: {_HELP}")
    # Every core has a process of packing already; and in one thread the order of what is found is always the same.
    cv2.setNumThreads(1)
    return cascade
