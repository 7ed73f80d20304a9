"""Features of real images on disk: the same for every generator, and dear to make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shards.cache import default_cache
from shards.errors import InputError
from shards.files import write_atomically


class KeptVectors:
    """A folder of one file a block, for one choice of images and one choice of features.

    Args:
        cache: The folder that holds such folders.
        key: All that the vectors depend on.
    """

    def __init__(self, cache: Path, key: Mapping[str, object]) -> None:
        text = json.dumps(key, sort_keys=True)
        self.folder = cache / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._key = text

    def get(self, block: int) -> Tensor | None:
        """The vectors float32 (n, d) of a block, or None where they are not there or cannot be read."""
        try:
            with (self.folder / f"{block:06d}.npy").open("rb") as file:
                return torch.from_numpy(np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError):
            return None

    def put(self, block: int, vectors: Tensor) -> None:
        """Keep the vectors of a block; nothing half-written is ever there, and other runs may be doing the same.

        Raises:
            InputError: The folder cannot be written, or the disk is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "key.json").exists():
                with write_atomically(self.folder / "key.json", shared=True) as file:
                    file.write(self._key.encode())
            with write_atomically(self.folder / f"{block:06d}.npy", shared=True) as file:
                np.save(file, vectors.numpy(), allow_pickle=False)
        except OSError as error:
            raise InputError(
                f"features of real images cannot be kept in {self.folder}: {error.strerror or error}; "
                "make room, or set XDG_CACHE_HOME to a folder that has it"
            ) from None


def default_folder() -> Path:
    """Where features are kept unless told otherwise: ``~/.cache/distgan/features``."""
    return default_cache("features")
