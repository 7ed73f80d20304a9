"""BatchNorm statistics for averaged weights.

The statistics that training gathers belong to the training weights. Averaged weights produce other activations, so
their mean and variance are measured anew, over latents of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distgan.data.conditions import LabelDistribution
from distgan.data.noise import Noise
from distgan.objectives import draw_latents
from distgan.sampling import BATCH
from distgan.spec import ModelSpec

BATCHES = 8

Inputs = Callable[[int], tuple[Tensor, Tensor]]
"""Batch number to latents (N, latent_dim) and labels (N, K)."""


def calibration_inputs(
    model: ModelSpec, seed: int, labels: LabelDistribution, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Inputs:
    """The inputs that a run's averaged generators are calibrated with: as the data has them, the same at any time."""
    slots = torch.arange(BATCH, device=device)

    def inputs(batch: int) -> tuple[Tensor, Tensor]:
        noise = Noise(seed, slots, f"calibration/{batch}", dtype)
        asked = labels.draw(noise.uniform("labels"))
        return draw_latents(noise, model.latent_dim, model.latent), asked.to(dtype)

    return inputs


def calibrate(generator: nn.Module, inputs: Inputs, batches: int = BATCHES) -> nn.Module:
    """Give a generator statistics of its own weights, and put it into evaluation mode.

    Args:
        generator: The network, changed in place; one without BatchNorm is left as it is.
        inputs: What it is measured on.
        batches: How many to average over.

    Returns:
        The generator.
    """
    norms = [module for module in generator.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    generator.train()
    with torch.no_grad():
        for batch in range(batches if norms else 0):
            generator(*inputs(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return generator.eval()
