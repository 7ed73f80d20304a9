"""Layers that torch does not have: they take labels, or random numbers that depend on no rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Uniform = Callable[[str, Sequence[int]], Tensor]
"""(purpose, shape) → U[0, 1) of (N, *shape), a row for each image of the batch."""


class Layers(nn.Sequential):
    """One layer after the other, the labels given to those that take them."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """The last layer's output for the first one's input and labels (N, K)."""
        return through(self, x, labels)


def through(layers: Iterable[nn.Module], x: Tensor, labels: Tensor) -> Tensor:
    """The last layer's output for the first one's input; labels (N, K) are given to the layers that take them."""
    for layer in layers:
        x = layer(x, labels) if isinstance(layer, ConditionalBatchNorm2d) else layer(x)
    return x


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm whose scale and shift are affine in the label vector (de Vries et al. 2017, arXiv:1707.00683).

    Args:
        channels: Of the feature map.
        labels: Length of the label vector.
        options: Of ``nn.BatchNorm2d``.
    """

    def __init__(self, channels: int, labels: int, **options: Any) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, **options)
        self.scale = nn.Linear(labels, channels, bias=False)
        self.shift = nn.Linear(labels, channels, bias=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Feature maps (N, C, H, W), normalised, scaled and shifted as labels (N, K) say."""
        scale, shift = self.scale(labels)[:, :, None, None], self.shift(labels)[:, :, None, None]
        normalised: Tensor = self.norm(x)
        changed: Tensor = normalised * (1 + scale) + shift
        return changed


class Dropout(nn.Module):
    """Dropout whose random numbers come from :func:`dropout_from`: by slot, so that no rank and no restart matters.

    Args:
        probability: That an element is set to 0; the others are divided by what is left of 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._uniform: Callable[[Sequence[int]], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """In training mode (N, …) with elements dropped, else unchanged."""
        if not self.training or not self.probability:
            return x
        assert self._uniform is not None, "call the network within dropout_from"
        keep = self._uniform(x.shape[1:]) >= self.probability
        return torch.where(keep, x / (1 - self.probability), 0.0)


@contextmanager
def dropout_from(network: nn.Module, uniform: Uniform) -> Iterator[None]:
    """Have the dropout layers of a network, if it has any, draw from ``uniform`` within the block."""
    layers = [layer for layer in network.modules() if isinstance(layer, Dropout)]
    for i, layer in enumerate(layers):
        layer._uniform = partial(uniform, f"dropout/{i}")
    try:
        yield
    finally:
        for layer in layers:
            layer._uniform = None
