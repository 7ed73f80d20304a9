"""What pictures look like beside each other: masks of others, or the same in another size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shards import images
from shards.images import ImageError
from shards.sources.pictures import evenly, look_at
from shards.trees import Tree

FEW = 6
"""So many pictures of a folder are decoded to see whether they are masks, or the same as others."""
FLAT = 0.9
"""A picture of which a few colours cover this share is no photograph."""
FLAT_COLOURS = 24
FLAT_SHADES = 3
FLAT_AFTER_JPEG = 0.95
"""The same, of so few colours in steps of 16: what JPEG leaves of a mask."""
COLOURED = 8
"""Where channels differ by so many levels on average a picture is in colour."""


def _decoded(tree: Tree, name: str) -> np.ndarray | None:
    """A picture's pixels, uint8 (H, W, 3), or None where it cannot be read."""
    try:
        return np.asarray(images.decode(tree.read(name)).convert("RGB"))
    except (OSError, ImageError):
        return None


def _covered(colours: np.ndarray, most: int) -> float:
    """The share of pixels (n, 3) that the most frequent colours cover."""
    packed = colours[:, 0].astype(np.uint32) << 16 | colours[:, 1].astype(np.uint32) << 8 | colours[:, 2]
    times = np.sort(np.unique(packed, return_counts=True)[1])
    return float(times[-most:].sum() / len(colours))


def are_flat(tree: Tree, names: Sequence[str]) -> bool:
    """Whether pictures have hardly more than a few flat colours each, as masks have, also where they are JPEG files."""
    found = False
    for name in evenly(names, FEW):
        pixels = _decoded(tree, name)
        if pixels is None:
            continue
        found = True
        colours = pixels.reshape(-1, 3)
        in_steps = (colours.astype(np.uint16) + 8) >> 4
        if _covered(colours, FLAT_COLOURS) < FLAT and _covered(in_steps, FLAT_SHADES) < FLAT_AFTER_JPEG:
            return False
    return found


def are_grey_beside_colour(tree: Tree, greys: Sequence[str], pictures: Sequence[str]) -> bool:
    """Whether some pictures are grey, and others in colour: soft masks, mattes and depths beside their photographs."""
    return _are_grey(tree, greys) is True and _are_grey(tree, pictures) is False


def _are_grey(tree: Tree, names: Sequence[str]) -> bool | None:
    """Whether all are grey, or none; None otherwise."""
    grey = set()
    for name in evenly(names, FEW):
        pixels = _decoded(tree, name)
        if pixels is not None:
            spread = pixels.max(-1).astype(np.int16) - pixels.min(-1)
            grey.add(bool(spread.mean() < COLOURED))
    return grey.pop() if len(grey) == 1 else None


def are_equal(tree: Tree, one: str, other: str) -> bool:
    """Whether two files can be read and hold the same bytes."""
    try:
        return tree.read(one) == tree.read(other)
    except (OSError, ImageError):
        return False


def show_the_same(tree: Tree, ones: Sequence[str], others: Sequence[str]) -> bool:
    """Whether namesakes show the same in another size or format.

    Equal files are no sign: they are what two classes may have in common.

    Args:
        tree: What holds them.
        ones: Pictures.
        others: Of each, its namesake.
    """
    for one, other in zip(ones, others, strict=True):
        try:
            pair = [images.decode(tree.read(name)) for name in (one, other)]
        except (OSError, ImageError):
            return False
        if pair[0].size == pair[1].size and one.rsplit(".", 1)[-1].lower() == other.rsplit(".", 1)[-1].lower():
            return False
        small = [np.asarray(image.convert("L").resize((16, 16)), np.float64) for image in pair]
        if small[0].std() < 8 or np.abs(small[0] - small[1]).mean() > 8:
            return False
    return bool(ones)


def sizes(tree: Tree, names: Sequence[str]) -> list[str]:
    """Width × height of pictures, in words where one cannot be read."""
    found = []
    for name in names:
        try:
            look = look_at(tree, name)
        except (OSError, ImageError):
            found.append("unreadable")
        else:
            found.append(f"{look.width}×{look.height} pixels")
    return found
