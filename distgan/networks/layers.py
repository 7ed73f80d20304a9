"""Layers that torch does not have: they take labels, add to maps, or draw random numbers that depend on no rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Uniform = Callable[[str, Sequence[int]], Tensor]
"""(purpose, shape) → U[0, 1) of (N, *shape), a row for each image of the batch."""


class Labelled(nn.Module):
    """A layer that takes labels beside its input, or has such layers in it: ``forward(x, labels)``."""


class Layers(nn.Sequential, Labelled):
    """One layer after the other, the labels given to those that take them."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The last layer's output for the first one's input and labels (N, K); a critic's have none that takes any."""
        return through(self, x, labels)


def through(layers: Iterable[nn.Module], x: Tensor, labels: Tensor | None = None) -> Tensor:
    """The last layer's output for the first one's input; labels (N, K) are given to the layers that take them."""
    for layer in layers:
        x = layer(x, labels) if isinstance(layer, Labelled) else layer(x)
    return x


class Residual(Labelled):
    """What a shortcut leaves of maps, and what other layers add to it (He et al. 2016, arXiv:1512.03385).

    Args:
        residual: To maps of the shortcut's shape. They must not change their input in place.
        shortcut: No layers leave the maps as they are.
    """

    def __init__(self, residual: Layers, shortcut: Layers) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The sum of both, for maps (N, C, H, W) and labels (N, K)."""
        maps: Tensor = self.shortcut(x, labels) + self.residual(x, labels)
        return maps


class LeakyReLU(nn.LeakyReLU):
    """torch's, whose derivative of a derivative is not computed where it is 0.

    torch computes it, and sends zeros back through all layers before: a third of a gradient penalty's work in a critic
    without normalisation.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name of it)
        """Negative numbers times the slope."""
        return _activated(input, self.negative_slope, inplace=self.inplace)


class ReLU(nn.ReLU):
    """Likewise."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Negative numbers as 0."""
        return _activated(input, 0.0, inplace=self.inplace)


def _activated(x: Tensor, slope: float, *, inplace: bool) -> Tensor:
    if torch.compiler.is_compiling():  # for which it is one operation of many; nothing goes back through it twice
        return F.leaky_relu(x, slope)
    activated: Tensor = _Activation.apply(x, slope, inplace)
    return activated


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, inplace: bool) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.slope = slope
        activated = F.leaky_relu(x, slope, inplace)
        if inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(activated)  # its signs are those of x
        return activated

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        if gradient is None:
            return None, None, None
        (activated,) = ctx.saved_tensors
        # Detached: the signs do not change with x.
        return torch.ops.aten.leaky_relu_backward(gradient, activated.detach(), ctx.slope, True), None, None


class SumPooling(nn.Module):
    """The sum over all places."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C)."""
        return x.sum((2, 3))


class ConditionalBatchNorm2d(Labelled):
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
