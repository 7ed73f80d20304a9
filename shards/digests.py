"""Checksums of whole files."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path


def file_digests(path: Path, *algorithms: str) -> list[str]:
    """Checksums of a file in hex, one for each algorithm that hashlib knows, in one pass over the file.

    Raises:
        OSError: It cannot be read.
    """
    hashes = [hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms]
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            for running in hashes:
                running.update(chunk)
    return [running.hexdigest() for running in hashes]


def file_crc32(path: Path) -> int:
    """The crc32 of a file: enough to see that it holds what was written, at a fraction of the others' cost.

    Raises:
        OSError: It cannot be read.
    """
    found = 0
    piece = memoryview(bytearray(1 << 18))  # small enough to be still in a core's cache when it is summed up
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            found = zlib.crc32(piece[:count], found)
    return found
