"""What an image is, to a network."""

from __future__ import annotations

from typing import NamedTuple


class ImageShape(NamedTuple):
    """``size`` × ``size`` pixels of ``channels`` values in [-1, 1]."""

    channels: int
    size: int
