"""Spectral normalisation (Miyato et al. 2018, https://arxiv.org/abs/1802.05957): a layer that stretches nothing.

A weight, as a matrix with a row for each output channel, is divided by its largest singular value σ = uᵀWv. The vectors
come from one power iteration a forward pass in training, beginning where the last one ended. u is a buffer: it is in
checkpoints, and depends on the weights alone, so that it is the same in all processes. The gradient takes u and v for
constants, and goes through W in σ.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.networks.convolutions import Conv2d

FIRST_ITERATIONS = 32
"""Power iterations that an initialised layer begins with."""


class Spectral(nn.Module):
    """What layers with such a weight have in common."""

    weight: Tensor
    left: Tensor
    """u, (rows of the matrix,), of length 1."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("left", F.normalize(torch.ones(len(self.weight)), dim=0))

    def normalised(self) -> Tensor:
        """The weight, divided by its largest singular value; in training the vectors come nearer first."""
        # A singular value in bfloat16 would be off by percents.
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight / self.largest_singular_value(iterate=self.training)

    def largest_singular_value(self, *, iterate: bool = False) -> Tensor:
        """σ of the weight, a scalar, as near as the vectors are.

        Args:
            iterate: Bring the vectors nearer first, and keep that.
        """
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            right = F.normalize(matrix.T @ self.left, dim=0)
            left = F.normalize(matrix @ right, dim=0)
            if iterate:
                self.left.copy_(left)
        value: Tensor = left @ matrix @ right
        return value

    @torch.no_grad()
    def begin(self, random: torch.Generator) -> None:
        """Have the vectors belong to the weights that there are now.

        Args:
            random: The CPU generator to draw the first one from.
        """
        self.left.copy_(F.normalize(torch.empty(len(self.weight)).normal_(generator=random), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self.largest_singular_value(iterate=True)


class SpectralConv2d(Spectral, Conv2d):
    """A convolution whose weight is divided by its largest singular value; arguments are those of ``nn.Conv2d``."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name of it)
        """Maps (N, out_channels, …) of maps (N, in_channels, …)."""
        maps: Tensor = self._conv_forward(input, self.normalised(), self.bias)
        return maps


class SpectralLinear(Spectral, nn.Linear):
    """A linear layer whose weight is divided by its largest singular value; arguments are those of ``nn.Linear``."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(…, out_features) of (…, in_features)."""
        return F.linear(input, self.normalised(), self.bias)


def spectral_vectors(*networks: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass in training brings nearer: u of each such layer."""
    return [module.left for network in networks for module in network.modules() if isinstance(module, Spectral)]
