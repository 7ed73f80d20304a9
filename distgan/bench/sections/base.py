"""What the sections have in common: how they say what they measure, and what several of them need."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

import distgan
from distgan.devices import local_device
from distgan.objectives import Batch
from distgan.training.learner import Learner
from shards.images import Transform
from shards.sources import open_source
from shards.synth import synthesize
from shards.writer import pack

CHECKOUT = Path(distgan.__file__).parents[1]
GOOD = "as it should be"
"""The column of a row that says whether what was found is right; rows that only say what there is have none."""
FACES = 2048
"""Invented, to train on."""
CUT_AT = 300
"""Letters of a message that a row shows; the log has all of it."""

Row = dict[str, Any]
Measurement = Callable[[], Iterator[Row]]


class Place(NamedTuple):
    """Where measurements leave things.

    Attributes:
        folder: What is thrown away in the end; measurements of one section find there what those before them left.
        out: What is kept.
        small: Whether to do little, to see on a CPU that all of this works.
    """

    folder: Path
    out: Path
    small: bool


class Section(NamedTuple):
    """Measurements of one kind.

    Attributes:
        title: For people.
        seconds: It is ended after so many.
        each: A single measurement is ended after so many.
        measurements: Them, by name, in the order in which they are made.
    """

    title: str
    seconds: float
    each: float
    measurements: Callable[[Place], dict[str, Measurement]]


def seeded_batch(learner: Learner, random: torch.Generator) -> Batch:
    """A batch of random images that is the same on any device."""
    shape = (learner.slots, learner.image.channels, learner.stage.size, learner.stage.size)
    images = torch.rand(shape, generator=random, dtype=torch.float64) * 2 - 1
    there = images.to(learner.precision.device, learner.precision.dtype).to(memory_format=torch.channels_last)
    return Batch(there, there.new_zeros(len(there), 0))


def little(place: Place) -> list[str]:
    """Changes that make a run of R2 or R5 small enough to try all this on a CPU."""
    small = ["data.image_size=32", "model.generator.width=4", "model.critic.width=4", "training.batch_size=4"]
    return [*small, "training.precision=float32"] if place.small else []


def shards_of(place: Place) -> list[str]:
    """A change that names shards of invented faces, which are made where there are none yet."""
    packed = place.folder / "shards"
    if not (packed / "index.json").exists():
        for _ in draw_faces(place):
            pass
    return [f"data.shards={json.dumps(str(packed))}"]


def draw_faces(place: Place) -> Iterator[Row]:
    """Invent faces and pack them; how fast."""
    drawn, count, size = place.folder / "faces", *((64, 32) if place.small else (FACES, 64))
    workers = 1 if place.small else None
    began = time.perf_counter()
    synthesize(drawn, count, 0, workers=workers)
    yield {"what": "faces drawn a second", "found": count / (time.perf_counter() - began)}
    began = time.perf_counter()
    transform = Transform(size=size, channels=3)
    pack(open_source(drawn, "celeba"), place.folder / "shards", transform, workers=workers)
    yield {"what": "faces packed a second", "found": count / (time.perf_counter() - began)}


def begin_anew() -> None:
    """Give back what the last measurement has left on the GPU, and count its memory from zero."""
    gc.collect()
    if local_device().type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def seconds_of(work: Callable[[], object], repeats: int, rounds: int) -> float:
    """Seconds that some work takes: the median of several rounds of so many repeats."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        if local_device().type == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - began) / repeats)
    return median(found)


class _Lines:
    """The lines of a process, as they come; then its exit status."""

    status: int | None = None

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            sys.stdout.write(line)  # into the log
            self.last = line.strip() or self.last
            yield line.rstrip("\n")


@contextlib.contextmanager
def output_of(
    command: Sequence[str], *, cwd: Path | None = None, needed: int | None = 0, more: Mapping[str, str] | None = None
) -> Iterator[_Lines]:
    """Run a command, with more variables around it; its output goes into the log too.

    Raises:
        RuntimeError: It ended with another status than is needed.
    """
    with subprocess.Popen(  # noqa: S603
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        env={**os.environ, **(more or {})},
    ) as process:
        lines = _Lines(process)
        try:
            yield lines
            lines.status = process.wait()
        finally:
            process.kill()
    if needed is not None and lines.status != needed:
        raise RuntimeError(f"exit status {lines.status}: {lines.last}")
