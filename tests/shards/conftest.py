"""A small source with everything a source may have, and sets packed from it."""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.images import Transform
from shards.sources.base import Recognised, Sample
from shards.writer import pack

SIZE = 8
TRANSFORM = Transform(SIZE, 3)


@dataclass
class FakeSource:
    """Noise, of which sample i depends on (seed, i) alone.

    Attributes:
        count: Samples.
        broken: Samples that are no image.
        unreadable: Samples that raise OSError.
        kind: "array", or the format of the files that are returned instead.
        sizes: Height and width of the images.
    """

    count: int = 40
    seed: int = 0
    broken: frozenset[int] = frozenset()
    unreadable: frozenset[int] = frozenset()
    kind: str = "array"
    sizes: tuple[int, int] = (SIZE, SIZE)
    layout: str = "folder"
    attribute_names: tuple[str, ...] = (
        "Smiling",
        "Eyeglasses",
        "Bald",
        "Male",
        "Young",
        "Hat",
        "Bangs",
        "Pale",
        "Wavy",
    )
    class_names: tuple[str, ...] = ("cat", "dog", "emu")
    split_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        return f"images/{i}.x"

    def pixels(self, i: int) -> np.ndarray:
        return np.random.default_rng((self.seed, i)).integers(0, 256, (*self.sizes, 3), np.uint8)

    def attributes(self, i: int) -> np.ndarray:
        drawn = np.random.default_rng((self.seed, i, 1)).integers(0, 2, len(self.attribute_names))
        return (2 * drawn - 1).astype(np.int8)

    def sample(self, i: int) -> Sample:
        if i in self.unreadable:
            raise PermissionError(13, "Permission denied", self.name(i))
        image: bytes | np.ndarray = self.pixels(i)
        if self.kind != "array":
            file = io.BytesIO()
            Image.fromarray(self.pixels(i)).save(file, self.kind)
            image = file.getvalue()
        if i in self.broken:
            image = b"no image"
        attributes = self.attributes(i) if self.attribute_names else None
        return Sample(
            f"images/{i:04d}",
            image,
            i % 3 if self.class_names else -1,
            attributes,
            i % len(self.split_names) if self.split_names else -1,
        )

    def channels(self) -> int:
        return 3

    def identity(self) -> str:
        return f"{self.count} {self.seed}"  # what is broken may be mended

    @property
    def recognised(self) -> Recognised:
        return Recognised("folder", self.layout, samples=self.count)


# Here and not beside their tests: a worker process imports the module of its source, and that should be a light one.
class SlowSource(FakeSource):
    def sample(self, i: int) -> Any:
        time.sleep(0.01)
        return super().sample(i)


class DyingSource(FakeSource):
    others = True
    """Whether other processes will come, and are waited for: they have to have had a shard to die of."""

    def sample(self, i: int) -> Any:
        if multiprocessing.parent_process() is not None:
            os._exit(1)  # as if for want of memory
        if self.others and i > 0:  # by then others are being started
            deadline = time.monotonic() + 60
            while not multiprocessing.active_children() and time.monotonic() < deadline:
                time.sleep(0.01)
            while multiprocessing.active_children() and time.monotonic() < deadline:
                time.sleep(0.01)
            self.others = False
        return super().sample(i)


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file in a folder, by its name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set of 40 raw samples in 4 shards; tests leave it as it is."""
    out = tmp_path_factory.mktemp("pristine") / "set"
    pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=1)
    return out


@pytest.fixture
def packed(pristine: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes copies of the packed set to do damage to."""

    def copy() -> Path:
        out = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        for name, data in files_of(pristine).items():
            (out / name).write_bytes(data)
        return out

    return copy
