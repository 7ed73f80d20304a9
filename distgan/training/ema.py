"""Averages of the generator's weights: the exponential one that draws, and traces from which others are made later."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distgan.checkpoint import Checkpoint
from distgan.sampling.averaging import TRACES
from distgan.spec import Cosine, value_at


class EMA:
    """An average of a generator's weights over training, in which recent images count more.

    Args:
        generator: The network whose weights are averaged; the average begins at its weights.
        half_life_images: Images after which a weight's share in the average has halved; it may move. With 0 the average
            is the weights.
        ramp_up: Early on, the half-life is at most this fraction of the images seen, so that the random weights of the
            beginning are soon forgotten. 0 switches this off.
        came_in: Of weights that come in use later: after how many images. For them, images are seen from then on.
    """

    def __init__(
        self,
        generator: nn.Module,
        half_life_images: int | Cosine[int],
        ramp_up: float,
        came_in: Mapping[nn.Parameter, int] | None = None,
    ) -> None:
        self.network = copy.deepcopy(generator).requires_grad_(False)
        self._groups: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        for average, weight in zip(self.network.parameters(), generator.parameters(), strict=True):
            averages, weights = self._groups.setdefault((came_in or {}).get(weight, 0), ([], []))
            averages.append(average)
            weights.append(weight)
        self._half_life_images = half_life_images
        self._ramp_up = ramp_up

    @torch.no_grad()
    def update(self, images: int, images_per_step: int) -> None:
        """Take in the weights after a step.

        Args:
            images: Real images seen so far.
            images_per_step: Real images of this step.
        """
        for came_in, (averages, weights) in self._groups.items():
            if images <= came_in:
                continue
            half_life = value_at(self._half_life_images, images)
            if self._ramp_up:
                half_life = min(half_life, (images - came_in) * self._ramp_up)
            keep = 0.5 ** (images_per_step / half_life) if half_life else 0.0
            torch._foreach_lerp_(averages, weights, 1.0 - keep)


class Traces:
    """Two averages in which the weights of step s count as a power of s, beside the one that draws.

    Kept now and then, they give the average of any length between them after training:
    :mod:`distgan.sampling.averaging`.

    Args:
        generator: The network whose weights are averaged.
    """

    def __init__(self, generator: nn.Module) -> None:
        self._names = [name for name, _ in generator.named_parameters()]
        self._weights = tuple(generator.parameters())
        self._traces = {trace: [weight.detach().clone() for weight in self._weights] for trace in TRACES}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step; the first is 1."""
        for trace, exponent in TRACES.items():
            keep = (1.0 - 1.0 / step) ** (exponent + 1.0)
            torch._foreach_lerp_(self._traces[trace], self._weights, 1.0 - keep)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The averages by trace and parameter, as a checkpoint has them."""
        return {trace: dict(zip(self._names, weights, strict=True)) for trace, weights in self._traces.items()}

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint holds.

        Raises:
            InputError: It is damaged.
        """
        for trace, weights in self._traces.items():
            saved = checkpoint.tensors(trace)
            for name, weight in zip(self._names, weights, strict=True):
                weight.copy_(saved[name])
