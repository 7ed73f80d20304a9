"""Scores of a generator against real images, by blocks: each worker draws and reads its own, and only sums travel.

A block is one worker's from beginning to end, and what it gives depends on its number alone. So the same numbers come
out for any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from distgan.evaluation.features import Described, Features
from distgan.evaluation.metrics import Block, Metric, Part, Setting, build_metrics
from shards.errors import InputError

BATCH = 64
"""Images that are drawn, read and described at a time."""
LARGEST_BLOCK = 512

Images = Callable[[int, int], Tensor]
"""Images from a position on, so many: uint8 (n, c, s, s) on the device, the same for the same positions."""
Progress = Callable[[int, int], None]
"""Called with how many images this worker has dealt with, and of how many."""


class Adder(Protocol):
    """What adds tensors of all workers up, and knows which of them this is."""

    rank: int
    world_size: int
    device: torch.device

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers of a tensor on the device."""
        ...


class Vectors(Protocol):
    """Where features of real images are kept."""

    def get(self, block: int) -> Tensor | None:
        """The vectors float32 (n, d) of a block, if they are there."""
        ...

    def put(self, block: int, vectors: Tensor) -> None:
        """Keep the vectors of a block."""
        ...


def block_size(count: int) -> int:
    """Images in a block: so many that there are ten of them or more, at most 512, and at least 2."""
    return min(LARGEST_BLOCK, max(2, count // 10))


def setting_of(count: int, real_count: int, channels: int, size: int, features: Features | None) -> Setting:
    """What scores are of.

    Args:
        count: How many images to draw.
        real_count: How many real ones to take: at most ``count``.
        channels: Of both.
        size: Of both, in pixels.
        features: What describes images.

    Raises:
        InputError: Too few images.
    """
    if not 2 <= real_count <= count:
        raise InputError(f"scores need at least 2 real images and as many generated ones, not {real_count} and {count}")
    width, classes = features.shape(size) if features else (0, 0)
    return Setting(count, real_count, block_size(real_count), channels, size, width, classes)


def gather(
    generated: Images,
    real: Images,
    setting: Setting,
    *,
    metrics: Sequence[str],
    features: Features | None,
    workers: Adder,
    kept: Vectors | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Metric]:
    """Draw, read and describe this worker's share of the images. Nothing is said to the others.

    Args:
        generated: What is drawn.
        real: What it is to be like.
        setting: How many of both, and what they are.
        metrics: Names in :data:`distgan.evaluation.metrics.METRICS`. What cannot be had is left out.
        features: What describes images; on the workers' device.
        workers: This process and the others: which share is this one's.
        kept: The features of the real images, as far as they are known.
        progress: Told how far this worker is.

    Returns:
        What :func:`add_up` wants.

    Raises:
        InputError: Features that give no vector of finite numbers for each image.
    """
    made = build_metrics(metrics, setting)
    mine = range(workers.rank * setting.block, setting.drawn, workers.world_size * setting.block)
    for done, block in enumerate(_blocks(generated, real, setting, mine, features, kept), start=1):
        for metric in made:
            metric.add(block)
        progress(min(done * setting.block, setting.drawn), len(mine) * setting.block)
    return made


def _blocks(
    generated: Images,
    real: Images,
    setting: Setting,
    firsts: Sequence[int],
    features: Features | None,
    kept: Vectors | None,
) -> Iterator[Block]:
    def describe(part: Part) -> Described:
        assert features is not None
        found = [features(batch) for batch in part.batches]
        logits = [each.logits.float().cpu() for each in found if each.logits is not None]
        return Described(
            torch.cat([each.vectors.float().cpu() for each in found]), torch.cat(logits) if logits else None
        )

    def look_up(part: Part) -> Described:
        number = part.first // setting.block
        vectors = kept.get(number) if kept else None
        if vectors is None:
            vectors = describe(part).vectors
            if kept:
                kept.put(number, vectors)
        return Described(vectors)

    for first in firsts:
        drawn, known = (max(0, min(setting.block, most - first)) for most in (setting.drawn, setting.real))
        yield Block(
            Part(first, partial(_batches, generated, first, drawn), describe),
            Part(first, partial(_batches, real, first, known), look_up) if known else None,
            whole=drawn == known == setting.block,
        )


def _batches(images: Images, first: int, count: int) -> list[Tensor]:
    return [images(start, min(BATCH, first + count - start)) for start in range(first, first + count, BATCH)]


def add_up(made: Sequence[Metric], workers: Adder) -> None:
    """Add up what all workers have gathered. All of them call this."""
    for metric in made:
        for sums in metric.sums:
            sums.copy_(workers.sum(sums.to(workers.device)).cpu())


def scores(made: Sequence[Metric]) -> dict[str, float]:
    """Scores by name ("frechet", "kernel", "kernel_error", "precision", …) of what has been added up.

    Raises:
        InputError: There were too few images.
    """
    found: dict[str, float] = {}
    for metric in made:
        found |= metric.scores()
    return found
