"""Checksums of whole files."""

from __future__ import annotations

import hashlib
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
