"""Residual blocks, and what is between them: SNGAN's (Miyato et al. 2018) and R3GAN's (Huang et al. 2024).

Blocks of a network without normalisation begin as in Zhang et al. 2019 (Fixup, https://arxiv.org/abs/1901.09321): the
last convolution of each is 0, and where there are L blocks of m convolutions, the others are smaller by
L^(1 / (2m − 2)), so that a deep network is as tame as a shallow one. Others begin as SNGAN's: Glorot's uniform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from distgan.networks.gain import GAINS, LEAK, Change, Conv2d, Initial, Kind, Linear
from distgan.networks.layers import Layers, LeakyReLU, ReLU, Residual
from distgan.networks.resampling import Double, Filter, Halve
from shards.errors import InputError


@dataclass(frozen=True)
class Blocks:
    """Makes a network's residual blocks, and the layers between them.

    Args:
        role: "generator" or "critic", for errors.
        kind: What layers are made of.
        norm: Makes a normalisation for so many channels; [] for none.
        activation: "relu" or "leaky_relu".
        resampling: The filter.
        unnormalised: The number L of blocks in a network without normalisation; None with one.
    """

    role: str
    kind: Kind
    norm: Callable[[int], list[nn.Module]]
    activation: Literal["relu", "leaky_relu"]
    resampling: Filter
    unnormalised: int | None

    @property
    def initial(self) -> Initial:
        """What weights are drawn from."""
        return "glorot" if self.unnormalised is None else "normal"

    @property
    def conv(self) -> partial[Conv2d]:
        """Makes a convolution; arguments are those of :class:`~distgan.networks.gain.Conv2d`."""
        return partial(self.kind.conv, initial=self.initial)

    @property
    def linear(self) -> partial[Linear]:
        """Makes a linear layer, likewise."""
        return partial(self.kind.linear, initial=self.initial)

    def activated(self, channels: int, *, fresh: bool = False) -> list[nn.Module]:
        """Normalisation and activation.

        Args:
            channels: Of the maps.
            fresh: Nobody else needs the maps, so that they may be changed in place.
        """
        norm = self.norm(channels)
        inplace = fresh or bool(norm)
        relu = ReLU(inplace) if self.activation == "relu" else LeakyReLU(LEAK, inplace)
        return [*norm, relu]

    def doubled(self, channels: int, out_channels: int, *, bias: bool = True, gain: float = 1.0) -> list[nn.Module]:
        """Maps doubled, and a 3×3 convolution of them: one layer, where the filter is a box."""
        if self.resampling == "box":
            return [self.conv(channels, out_channels, 3, change="double", bias=bias, gain=gain)]
        return [Double(self.resampling), self.conv(channels, out_channels, 3, bias=bias, gain=gain)]

    def halved(self, channels: int, out_channels: int, *, gain: float = 1.0) -> list[nn.Module]:
        """A 3×3 convolution of maps, halved: one layer, where the filter is a box."""
        if self.resampling == "box":
            return [self.conv(channels, out_channels, 3, change="halve", gain=gain)]
        return [self.conv(channels, out_channels, 3, gain=gain), Halve(self.resampling)]

    def _kept(self, channels: int, out_channels: int, *, gain: float = 1.0) -> list[nn.Module]:
        return [self.conv(channels, out_channels, 3, gain=gain)]

    def plain(
        self, channels: int, out_channels: int, hidden: int, change: Change | None = None, *, activated: bool = True
    ) -> Residual:
        """SNGAN's block: twice a normalisation, an activation and a 3×3 convolution.

        The shortcut is a 1×1 convolution where the block changes the map's size or channels. It is done on the smaller
        map: a filter and a 1×1 convolution may change places (but for the bias at the border of ``bilinear``).

        Args:
            channels: That come in.
            out_channels: That go out.
            hidden: Channels between the two convolutions.
            change: Of the map's size: before the first convolution or after the second one.
            activated: Whether the first convolution is preceded by normalisation and activation; an image is not.
        """
        first, last = self._gains(2)
        begin = self.doubled if change == "double" else self._kept
        end = self.halved if change == "halve" else self._kept
        residual = [
            *(self.activated(channels) if activated else []),
            *begin(channels, hidden, gain=first),
            *self.activated(hidden, fresh=True),
            *end(hidden, out_channels, gain=last),
        ]
        shortcut: list[nn.Module] = []
        if change or channels != out_channels:
            shortcut = [
                *([Halve(self.resampling)] if change == "halve" else []),
                self.conv(channels, out_channels, 1),
                *([Double(self.resampling)] if change == "double" else []),
            ]
        return Residual(Layers(*residual), Layers(*shortcut))

    def bottleneck(self, channels: int, expansion: int, group_width: int | None) -> Residual:
        """R3GAN's block: a 1×1 convolution to more channels, a grouped 3×3 one, a 1×1 one back.

        Args:
            channels: That come in and go out.
            expansion: How many times as many channels the 3×3 convolution has.
            group_width: Channels of each of its groups; None for one group.

        Raises:
            InputError: ``group_width`` does not divide its channels.
        """
        first, last = self._gains(3)
        hidden = expansion * channels
        width = group_width or hidden
        if hidden % width:
            raise InputError(
                f"model.{self.role}.group_width is {width}, which does not divide {hidden}, the channels of a 3×3 "
                f"convolution (expansion × {channels}): use a divisor of that at each size, or another width"
            )
        residual = [
            self.conv(channels, hidden, 1, gain=first),
            *self.activated(hidden, fresh=True),
            self.conv(hidden, hidden, 3, groups=hidden // width, gain=first),
            *self.activated(hidden, fresh=True),
            self.conv(hidden, channels, 1, bias=False, gain=last),
        ]
        return Residual(Layers(*residual), Layers())

    def transition(self, channels: int, out_channels: int, change: Change) -> list[nn.Module]:
        """R3GAN's, between two sizes: the filter and, on the smaller map, a 1×1 convolution if the channels change."""
        fit = [self.conv(channels, out_channels, 1, bias=False)] if channels != out_channels else []
        return [*fit, Double(self.resampling)] if change == "double" else [Halve(self.resampling), *fit]

    def _gains(self, convolutions: int) -> tuple[float, float]:
        """Of a block's convolutions but the last, and of that."""
        gain = GAINS[self.activation]
        if self.unnormalised is None:
            return gain, gain
        return gain * self.unnormalised ** (-1 / (2 * convolutions - 2)), 0.0


class ToMaps(nn.Module):
    """Vectors as 4×4 maps, laid out with their channels last: sums with a shortcut keep the layout that they begin in.

    Args:
        channels: Of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels · 16) to (N, channels, 4, 4)."""
        return x.view(x.shape[0], self.channels, 4, 4).contiguous(memory_format=torch.channels_last)


class Basis(nn.Module):
    """R3GAN's beginning: each channel is a learned 4×4 map, times a number that depends on the latent.

    Args:
        linear: From latents (N, D) to those numbers (N, channels).
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.linear = linear
        self.maps = nn.Parameter(torch.ones(linear.out_features, 4, 4))

    def forward(self, latents: Tensor) -> Tensor:
        """Maps (N, channels, 4, 4), laid out with their channels last."""
        maps: Tensor = self.linear(latents)[:, :, None, None] * self.maps
        return maps.contiguous(memory_format=torch.channels_last)
