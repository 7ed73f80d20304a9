"""The smaller images beside a raw one: of half its size, a quarter and so on, for runs that begin with small images.

A pyramid is one member of a shard, KEY.pyramid.raw, behind the image's: one size after the other, the largest first,
each uint8 (size, size, channels), row major. A pixel is the mean of the image's in its place, rounded, halves up.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

EXTENSION = "pyramid.raw"
LEAST = 8
"""Height and width of the smallest image of a pyramid."""


def sizes_of(size: int) -> tuple[int, ...]:
    """The sizes in the pyramid of an image of a size, descending; none where it has no half, or one below the least."""
    found = []
    while size % 2 == 0 and size // 2 >= LEAST:
        size //= 2
        found.append(size)
    return tuple(found)


def build(pixels: np.ndarray) -> bytes:
    """The pyramid of an image, uint8 (size, size) or (size, size, channels)."""
    sums, images = pixels.astype(np.uint32), []
    for level, size in enumerate(sizes_of(len(pixels)), start=1):
        sums = sums.reshape(size, 2, size, 2, -1).sum((1, 3), dtype=np.uint32)
        block = 4**level  # of whole sums, so that nothing is rounded twice
        images.append(((sums + block // 2) // block).astype(np.uint8).tobytes())
    return b"".join(images)


def first_byte(image_bytes: int) -> int:
    """Where the pyramid of an image of so many bytes begins, from where the image does: after a header of its own."""
    return image_bytes + -image_bytes % tarfile.BLOCKSIZE + tarfile.BLOCKSIZE


def starts(sizes: Sequence[int], channels: int) -> list[int]:
    """Where in a pyramid the image of each size begins; at last, where the pyramid ends."""
    return list(accumulate((size**2 * channels for size in sizes), initial=0))


def checksums(pyramid: bytes, sizes: Sequence[int], channels: int) -> list[int]:
    """The crc32 of the image of each size."""
    return [zlib.crc32(memoryview(pyramid)[start:end]) for start, end in pairwise(starts(sizes, channels))]
