"""Convolutions and linear layers that know how large their weights should be.

A layer's gain says how much larger than 1/√fan_in, the size that leaves the variance of independent inputs as it is
(He et al. 2015, https://arxiv.org/abs/1502.01852). ``plain`` layers begin with such weights. ``equalised`` ones begin
with weights N(0, 1), and multiply them by gain/√fan_in each time they are used, so that an optimizer that divides a
gradient by its size moves all layers equally fast (Karras et al. 2018, https://arxiv.org/abs/1710.10196, section 4.1).
``spectral`` ones divide their weights by the largest singular value (:mod:`distgan.networks.spectral`).
"""

from __future__ import annotations

from math import prod, sqrt
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.networks import convolutions
from distgan.networks.convolutions import conv2d, conv_transpose2d
from distgan.networks.spectral import SpectralConv2d, SpectralLinear

LayerGain = Literal["plain", "equalised"]
Change = Literal["double", "halve"]
Initial = Literal["normal", "glorot"]

LEAK = 0.2
"""The negative slope of LeakyReLU."""
GAINS = {"relu": sqrt(2), "leaky_relu": sqrt(2 / (1 + LEAK**2))}
"""By activation: the gain that makes up for what it takes off a variance."""


class Gained(nn.Module):
    """What layers that know their gain have in common."""

    weight: Tensor
    gain: float
    """0 for weights that begin at 0."""
    initial: Initial
    """What plain weights are drawn from: N(0, gain²/fan_in), or Glorot and Bengio's uniform distribution times the
    gain."""

    @property
    def fan_in(self) -> int:
        """Inputs that an output is made of."""
        return prod(self.weight.shape[1:])

    @torch.no_grad()
    def begin_weight(self, random: torch.Generator) -> None:
        """Draw the weights, from a CPU generator."""
        if not self.gain:
            self.weight.zero_()
        elif self.initial == "glorot":
            nn.init.xavier_uniform_(self.weight, self.gain, random)
        else:
            self.weight.normal_(0.0, self.gain / sqrt(self.fan_in), generator=random)


class Equalised(Gained):
    """What equalised layers have in common."""

    def used_weight(self) -> Tensor:
        """The weights times gain/√fan_in; the gain of those that begin at 0 is 1 from there on."""
        return self.weight * ((self.gain or 1.0) / sqrt(self.fan_in))

    @torch.no_grad()
    def begin_weight(self, random: torch.Generator) -> None:
        """Draw the weights, from a CPU generator."""
        self.weight.normal_(generator=random)
        if not self.gain:
            self.weight.zero_()


class Conv2d(Gained, convolutions.Conv2d):
    """A convolution that may double or halve its maps as it goes. The padding leaves odd kernels the size of the map.

    A 3×3 kernel after ``double`` by the box filter is one transposed convolution with 4×4 weights, and a 3×3 kernel
    before ``halve`` one convolution with 4×4 weights and stride 2: the same maps for 4/9 of the multiplications (as the
    code of Karras et al. 2018 has it). With ``change``, a 4×4 kernel is taken for such weights as it is.

    Args:
        channels: That come in.
        out_channels: That go out.
        kernel_size: 1, 3 or 4; with ``change`` 3 or 4. 4×4 without ``change`` takes 3 pixels off the map.
        change: Of the map's size.
        groups: As in ``nn.Conv2d``; without ``change``.
        bias: As in ``nn.Conv2d``.
        gain: See above.
        initial: See above.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        change: Change | None = None,
        groups: int = 1,
        bias: bool = True,
        gain: float = 1.0,
        initial: Initial = "normal",
    ) -> None:
        assert change is None or (groups == 1 and kernel_size in (3, 4))
        padding = (kernel_size - 1) // 2 if kernel_size % 2 else 0
        super().__init__(channels, out_channels, kernel_size, padding=padding, groups=groups, bias=bias)
        self.change = change
        self.gain = gain
        self.initial = initial

    @property
    def fan_in(self) -> int:
        """Inputs that an output is made of: of a 4×4 kernel that doubles, a quarter meets each pixel."""
        return super().fan_in // (4 if self.change == "double" and self.kernel_size == (4, 4) else 1)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 (torch's own)
        if self.change is None:
            same: Tensor = super()._conv_forward(input, weight, bias)
            return same
        bias = self._used(bias)
        if self.kernel_size == (3, 3):
            # Sums over 2×2 neighbours, 0 beyond the kernel; the mean of four outputs has a quarter of them. Not by
            # divisor_override, which torch.onnx passes over without a word.
            weight = F.avg_pool2d(weight, 2, stride=1, padding=1)
            weight = 4 * weight.flip(2, 3) if self.change == "double" else weight
        if self.change == "double":
            return conv_transpose2d(input, weight.transpose(0, 1), bias, (2, 2), (1, 1), quick=self.quick)
        return conv2d(input, weight, bias, (2, 2), (1, 1), quick=self.quick)


class Linear(Gained, nn.Linear):
    """A linear layer; arguments as in ``nn.Linear`` and :class:`Conv2d`."""

    def __init__(
        self,
        features: int,
        out_features: int,
        *,
        bias: bool = True,
        gain: float = 1.0,
        initial: Initial = "normal",
    ) -> None:
        super().__init__(features, out_features, bias)
        self.gain = gain
        self.initial = initial


class EqualisedConv2d(Equalised, Conv2d):
    """Its weights are multiplied by gain/√fan_in when they are used."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Maps of maps (N, channels, H, W)."""
        return self._conv_forward(input, self.used_weight(), self.bias)


class EqualisedLinear(Equalised, Linear):
    """Its weights are multiplied by gain/√fan_in when they are used."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(…, out_features) of (…, features)."""
        return F.linear(input, self.used_weight(), self.bias)


class SpectralGainedConv2d(SpectralConv2d, Conv2d):
    """A :class:`Conv2d` whose weights are divided by their largest singular value, before they become 4×4."""


class SpectralGainedLinear(SpectralLinear, Linear):
    """A :class:`Linear` whose weights are divided by their largest singular value."""


class Kind(NamedTuple):
    """The layers that a network is made of."""

    conv: type[Conv2d]
    linear: type[Linear]


KINDS = {
    "plain": Kind(Conv2d, Linear),
    "equalised": Kind(EqualisedConv2d, EqualisedLinear),
    "spectral": Kind(SpectralGainedConv2d, SpectralGainedLinear),
}


def check_layer_gain(layer_gain: LayerGain, normalisation: str) -> None:
    """See that a critic's layers are not equalised and divided by their largest singular value at once.

    Raises:
        ValueError: They are; for an options' own validator.
    """
    if normalisation == "spectral" and layer_gain == "equalised":
        raise ValueError(
            "normalisation: spectral divides out what layer_gain: equalised multiplies by; leave out one of them"
        )
