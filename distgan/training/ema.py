"""The exponential moving average (EMA) of the generator's weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class EMA:
    """An average of a generator's weights over training, in which recent images count more.

    Args:
        generator: The network whose weights are averaged; the average begins at its weights.
        half_life_images: Images after which a weight's share in the average has halved.
        ramp_up: Early on, the half-life is at most this fraction of the images seen, so that the random weights of the
            beginning are soon forgotten. 0 switches this off.
    """

    def __init__(self, generator: nn.Module, half_life_images: int, ramp_up: float) -> None:
        self.network = copy.deepcopy(generator).requires_grad_(False)
        self._averages = tuple(self.network.parameters())
        self._weights = tuple(generator.parameters())
        self._half_life_images = half_life_images
        self._ramp_up = ramp_up

    @torch.no_grad()
    def update(self, images: int, images_per_step: int) -> None:
        """Take in the weights after a step.

        Args:
            images: Real images seen so far.
            images_per_step: Real images of this step.
        """
        half_life = float(self._half_life_images)
        if self._ramp_up:
            half_life = min(half_life, max(images, 1) * self._ramp_up)
        keep = 0.5 ** (images_per_step / half_life)
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - keep)

    def calibrated(self, inputs: Callable[[int], tuple[Tensor, Tensor]], batches: int = 8) -> nn.Module:
        """The averaged generator in evaluation mode, with BatchNorm statistics of its own.

        The statistics that training gathers belong to the training weights. The averaged weights produce other
        activations, so their mean and variance are measured anew, over latents of their own.

        Args:
            inputs: Batch number to latents (N, latent_dim) and labels (N, K).
            batches: How many to average over.
        """
        norms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over all batches
        self.network.train()
        with torch.no_grad():
            for batch in range(batches if norms else 0):
                self.network(*inputs(batch))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return self.network.eval()
