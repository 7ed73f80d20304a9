"""A trained generator, for programs and notebooks: ``distgan.load("runs/faces").sample(64)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distgan.checkpoint import Checkpoint, find_checkpoint
from distgan.devices import device_for
from distgan.sampling import BATCH, Bytes, draw_images, load_generator, load_labels, sample_labels, sample_latents
from distgan.sampling.paths import check_truncation, truncated
from distgan.spec import RunSpec
from shards.errors import InputError


def load(run: str | Path, *, ema: bool = True, device: str | torch.device = "cpu") -> Generator:
    """The generator of a run.

    Args:
        run: A run's folder, for its newest checkpoint; or a checkpoint's own.
        ema: The averaged weights, which draw best; else those that training goes on with.
        device: What it computes on. Another device rounds differently.

    Raises:
        InputError: There is no checkpoint, or it is damaged.
    """
    return Generator(find_checkpoint(Path(run)), ema=ema, device=device)


class Generator:
    """Draws images. Picture i of a seed depends on the seed, on i and on what is asked for alone.

    Attributes:
        spec: The run that trained it, complete.
        step: Generator steps that it was trained for.
        module: The network, in evaluation mode: latents (N, latent_dim) and labels (N, K) to images (N, C, H, W) in
            [-1, 1].
    """

    def __init__(self, checkpoint: Checkpoint, *, ema: bool = True, device: str | torch.device | None = None) -> None:
        """Load it; arguments are those of :func:`load`, but that without a device a GPU is taken where there is one."""
        self.spec: RunSpec = checkpoint.state.spec
        self.step: int = checkpoint.state.step
        self.module: nn.Module = load_generator(checkpoint, ema=ema).to(device_for(device))
        self._labels = load_labels(checkpoint)

    def sample(
        self,
        count: int = 1,
        *,
        seed: int = 0,
        where: Mapping[str, object] | None = None,
        truncation: float | None = None,
    ) -> Bytes:
        """Images uint8 (count, H, W, C), as ``distgan sample`` draws them.

        Args:
            count: How many.
            seed: The same seed gives the same pictures.
            where: What they are to show, for a run with ``model.condition``: ``{"Smiling": 1, "class": "cat"}``. What
                is not asked for is as the data has it.
            truncation: Draw latents within plus or minus this only: less variety, each picture more typical.

        Raises:
            InputError: A number is out of range, or the run does not know what is asked for.
        """
        return np.stack(list(self.images(count, seed=seed, where=where, truncation=truncation)))

    def images(
        self,
        count: int,
        *,
        seed: int = 0,
        where: Mapping[str, object] | None = None,
        truncation: float | None = None,
    ) -> Iterator[Bytes]:
        """The same images, uint8 (H, W, C) each, one after the other: any number without holding them all.

        Raises:
            InputError: As :meth:`sample`, at once.
        """
        _check(count, seed)
        check_truncation(truncation)
        distribution, model = self._labels.given(where or {}), self.spec.model

        def drawn() -> Iterator[Bytes]:
            for first in range(0, count, BATCH):
                some = min(BATCH, count - first)
                labels = sample_labels(distribution, seed, first, some)
                latents = truncated(sample_latents(seed, first, some, model), truncation, model.latent)
                yield from self.draw_with(latents, labels)

        return drawn()

    def latents(self, count: int = 1, *, seed: int = 0, truncation: float | None = None, first: int = 0) -> Tensor:
        """The latents (count, latent_dim) of the pictures first, first + 1, … of a seed, float32 on the CPU.

        Raises:
            InputError: A number is out of range.
        """
        _check(count, seed)
        check_truncation(truncation)
        return truncated(sample_latents(seed, first, count, self.spec.model), truncation, self.spec.model.latent)

    def labels(
        self, count: int = 1, *, seed: int = 0, where: Mapping[str, object] | None = None, first: int = 0
    ) -> Tensor:
        """The labels (count, K) of the same pictures, float32 on the CPU; K is 0 without ``model.condition``.

        Raises:
            InputError: A number is out of range, or the run does not know what is asked for.
        """
        _check(count, seed)
        return sample_labels(self._labels.given(where or {}), seed, first, count)

    def draw(self, latents: Tensor, *, seed: int = 0, where: Mapping[str, object] | None = None) -> Bytes:
        """Images uint8 (N, H, W, C) of given latents (N, latent_dim): of a path between two, for example.

        Args:
            latents: On any device.
            seed: For what is not asked for, where the run has ``model.condition``.
            where: As in :meth:`sample`.

        Raises:
            InputError: The latents are of another shape, or the run does not know what is asked for.
        """
        if latents.ndim != 2 or latents.shape[1] != self.spec.model.latent_dim or not len(latents):
            raise InputError(f"latents are (N, {self.spec.model.latent_dim}), not {tuple(latents.shape)}")
        return np.stack(list(self.draw_with(latents, self.labels(len(latents), seed=seed, where=where))))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device

    def draw_with(self, latents: Tensor, labels: Tensor, batch: int = BATCH) -> Iterator[Bytes]:
        """Images uint8 (H, W, C) of latents (N, latent_dim) and labels (N, K), one after the other.

        The batch is as :func:`distgan.sampling.draw_images` takes it.
        """
        weight = next(self.module.parameters())
        yield from draw_images(self.module, latents.to(weight), labels.to(weight), batch)


def _check(count: int, seed: int) -> None:
    if count < 1 or seed < 0:
        raise InputError(f"count is at least 1 and seed at least 0, not {count} and {seed}")
