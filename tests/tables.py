"""Published tables of layers, written down row by row with nothing but torch.nn.functional."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAME = None
"""Padding by which the map shrinks by the stride alone."""


class Table:
    """The rows of a table, applied to ``x`` one after the other with the weights of a network, in their order."""

    def __init__(self, network: nn.Module, x: Tensor, *, keras: bool = False) -> None:
        self.x = x
        self.training = network.training
        self.keras = keras
        self.weights = [value for name, value in network.state_dict().items() if "num_batches" not in name]

    def take(self, *shape: int) -> Tensor:
        weight = self.weights.pop(0)
        assert weight.shape == shape
        return weight

    def dense(self, out: int, *, bias: bool = True, shape: tuple[int, ...] | None = None) -> Table:
        """A product of all inputs and a matrix, whose shape may be written as another layer's."""
        flat = self.x.flatten(1)
        weight = self.take(*(shape or (out, flat.shape[1]))).reshape(out, flat.shape[1])
        self.x = torch.einsum("ni,oi->no", flat, weight) + (self.take(out) if bias else 0)
        return self

    def project(self, out: int, *, bias: bool = False) -> Table:
        """z to 4×4 maps: a product, whose weights are those of a transposed convolution of 1×1 maps."""
        weight = self.take(self.x.shape[1], out, 4, 4)
        self.x = torch.einsum("ni,iohw->nohw", self.x, weight)
        if bias:
            self.x = self.x + self.take(out)[:, None, None]
        return self

    def reshape(self, *shape: int) -> Table:
        self.x = self.x.reshape(-1, *shape)
        return self

    def conv(self, out: int, kernel: int, stride: int = 1, padding: int | None = 0, *, bias: float = 1.0) -> Table:
        """A convolution, with so much of a bias; ``SAME`` pads as TensorFlow says: what is odd comes after."""
        total = max((-(-self.x.shape[2] // stride) - 1) * stride + kernel - self.x.shape[2], 0)
        before, after = (total // 2, total - total // 2) if padding is None else (padding, padding)
        padded = F.pad(self.x, (before, after, before, after))
        weight = self.take(out, self.x.shape[1], kernel, kernel)
        self.x = F.conv2d(padded, weight, bias * self.take(out) if bias else None, stride)
        return self

    def conv_t(self, out: int, kernel: int, *, bias: bool = True) -> Table:
        """A transposed convolution of stride 2 that doubles the map: what is too much is cut, the larger half after."""
        weight, size = self.take(self.x.shape[1], out, kernel, kernel), 2 * self.x.shape[2]
        full = F.conv_transpose2d(self.x, weight, self.take(out) if bias else None, stride=2)
        cut = (full.shape[2] - size) // 2
        self.x = full[:, :, cut : cut + size, cut : cut + size]
        return self

    def batch_norm(self) -> Table:
        channels = self.x.shape[1]
        scale, shift, mean, variance = (self.take(channels)[:, None, None] for _ in range(4))
        if self.training:
            mean = self.x.mean((0, 2, 3), keepdim=True)
            variance = (self.x - mean).square().mean((0, 2, 3), keepdim=True)
        self.x = (self.x - mean) / (variance + (1e-3 if self.keras else 1e-5)).sqrt() * scale + shift
        return self

    def layer_norm(self) -> Table:
        """Over all values of an image; a scale and a shift for each channel."""
        scale, shift = (self.take(self.x.shape[1])[:, None, None] for _ in range(2))
        mean = self.x.mean((1, 2, 3), keepdim=True)
        variance = (self.x - mean).square().mean((1, 2, 3), keepdim=True)
        self.x = (self.x - mean) / (variance + 1e-5).sqrt() * scale + shift
        return self

    def relu(self) -> Table:
        self.x = self.x.clamp(min=0)
        return self

    def leaky(self) -> Table:
        """LeakyReLU with the slope 0.2, Keras's with 0.3."""
        self.x = torch.where(self.x > 0, self.x, (0.3 if self.keras else 0.2) * self.x)
        return self

    def tanh(self) -> Table:
        self.x = self.x.tanh()
        return self

    def out(self) -> Tensor:
        assert not self.weights, "the network has weights that are in no row"
        return self.x


class ResidualTable(Table):
    """Rows that may be added to what came before, of layers that may be spectral or equalised.

    Args:
        network: Whose weights are used.
        x: What the first row is applied to.
        spectral: The weights are divided by σ = uᵀWv, from one power iteration with the u that the network holds.
        equalised: The weights are multiplied by gain/√fan_in.
    """

    def __init__(self, network: nn.Module, x: Tensor, *, spectral: bool = False, equalised: bool = False) -> None:
        super().__init__(network, x)
        self.spectral, self.equalised = spectral, equalised

    def add(
        self, residual: Callable[[ResidualTable], object], shortcut: Callable[[ResidualTable], object] | None = None
    ) -> ResidualTable:
        """What the rows of ``residual`` make of the maps, and what those of ``shortcut`` do."""
        before = self.x
        residual(self)
        added, self.x = self.x, before
        if shortcut:
            shortcut(self)
        self.x = self.x + added
        return self

    def layer(self, shape: tuple[int, ...], *, bias: bool = True, gain: float = 1.0) -> tuple[Tensor, Tensor | float]:
        """The weights as they are used, and the biases."""
        weight = self.take(*shape)
        added = self.take(shape[0]) if bias else 0.0
        if self.spectral:
            matrix, left = weight.flatten(1), self.take(shape[0])
            right = matrix.T @ left / (matrix.T @ left).norm()
            left = matrix @ right / (matrix @ right).norm()
            weight = weight / (left @ matrix @ right)
        if self.equalised:
            weight = weight * gain / sqrt(prod(shape[1:]))
        return weight, added

    def linear(self, out: int, *, bias: bool = True, gain: float = 1.0) -> ResidualTable:
        """A dense layer of vectors."""
        weight, added = self.layer((out, self.x.shape[1]), bias=bias, gain=gain)
        self.x = torch.einsum("ni,oi->no", self.x, weight) + added
        return self

    def convolve(
        self, out: int, kernel: int, padding: int = 0, *, groups: int = 1, bias: bool = True, gain: float = 1.0
    ) -> ResidualTable:
        """A convolution of stride 1."""
        shape = (out, self.x.shape[1] // groups, kernel, kernel)
        weight, added = self.layer(shape, bias=bias, gain=gain)
        self.x = F.conv2d(self.x, weight, padding=padding, groups=groups)
        self.x = self.x + (added[:, None, None] if isinstance(added, Tensor) else added)
        return self

    def nearest(self) -> ResidualTable:
        """Each pixel becomes four."""
        self.x = self.x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self

    def average(self) -> ResidualTable:
        """Four pixels become their mean."""
        self.x = sum(self.x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4  # type: ignore[assignment]
        return self

    def tent(self, change: str) -> ResidualTable:
        """Twice or half the size, by the filter [1, 3, 3, 1]."""
        channels = self.x.shape[1]
        line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=self.x.dtype) / 8
        weight = (line[:, None] * line).expand(channels, 1, 4, 4)
        if change == "double":
            self.x = F.conv_transpose2d(self.x, 4 * weight, stride=2, padding=1, groups=channels)
        else:
            self.x = F.conv2d(self.x, weight, stride=2, padding=1, groups=channels)
        return self

    def pixel_norm(self) -> ResidualTable:
        self.x = self.x / (self.x.square().mean(1, keepdim=True) + 1e-8).sqrt()
        return self

    def deviation(self) -> ResidualTable:
        """The mean deviation over the batch as one more channel."""
        mean = self.x.mean(0)
        deviation = ((self.x - mean).square().mean(0) + 1e-8).sqrt().mean()
        self.x = torch.cat([self.x, torch.full_like(self.x[:, :1], float(deviation))], 1)
        return self

    def sum_places(self) -> ResidualTable:
        self.x = self.x.sum((2, 3))
        return self


def sngan_generator(network: nn.Module, z: Tensor, widths: tuple[int, ...], channels: int = 3) -> Tensor:
    """Miyato et al. 2018: dense to 4×4, blocks that double it, BatchNorm, ReLU, 3×3 convolution, tanh."""
    table = ResidualTable(network, z).linear(widths[0] * 16)
    table.reshape(widths[0], 4, 4)
    for width in widths[1:]:

        def residual(rows: ResidualTable, width: int = width) -> None:
            rows.batch_norm().relu()
            rows.nearest().convolve(width, 3, 1).batch_norm().relu()
            rows.convolve(width, 3, 1)

        def shortcut(rows: ResidualTable, width: int = width) -> None:
            rows.nearest().convolve(width, 1)

        table.add(residual, shortcut)
    table.batch_norm().relu()
    table.convolve(channels, 3, 1).tanh()
    return table.out()


def sngan_critic(network: nn.Module, x: Tensor, widths: tuple[int, ...], final_size: int) -> Tensor:
    """The block that takes the image, blocks that halve, ReLU, a sum over all places, a dense layer; all spectral."""
    table = ResidualTable(network, x, spectral=True)

    def of_image(rows: ResidualTable) -> None:
        rows.convolve(widths[0], 3, 1).relu()
        rows.convolve(widths[0], 3, 1).average()

    table.add(of_image, lambda rows: rows.average().convolve(widths[0], 1))
    for before, width in pairwise(widths):
        halves = table.x.shape[2] > final_size

        def residual(rows: ResidualTable, before: int = before, width: int = width, halves: bool = halves) -> None:
            rows.relu()
            rows.convolve(before, 3, 1).relu()
            rows.convolve(width, 3, 1)
            if halves:
                rows.average()

        def shortcut(rows: ResidualTable, before: int = before, width: int = width, halves: bool = halves) -> None:
            if halves or before != width:
                rows.convolve(width, 1)
            if halves:
                rows.average()

        table.add(residual, shortcut)
    table.relu()
    return table.sum_places().linear(1).out().flatten()


def _r3gan_block(table: ResidualTable, group_width: int) -> None:
    def residual(rows: ResidualTable) -> None:
        width, hidden = rows.x.shape[1], 2 * rows.x.shape[1]
        rows.convolve(hidden, 1).leaky()
        rows.convolve(hidden, 3, 1, groups=hidden // group_width).leaky()
        rows.convolve(width, 1, bias=False)

    table.add(residual)


def r3gan_generator(network: nn.Module, z: Tensor, widths: tuple[int, ...], group_width: int) -> Tensor:
    """Huang et al. 2024: a basis at 4×4, two blocks at each size, 1×1 convolution and filter between, no tanh."""
    table = ResidualTable(network, z)
    maps = table.take(widths[0], 4, 4)
    table.linear(widths[0], bias=False)
    table.x = table.x[:, :, None, None] * maps
    for place, width in enumerate(widths):
        if place:
            if table.x.shape[1] != width:
                table.convolve(width, 1, bias=False)
            table.tent("double")
        for _ in range(2):
            _r3gan_block(table, group_width)
    return table.convolve(3, 1, bias=False).out()


def r3gan_critic(network: nn.Module, x: Tensor, widths: tuple[int, ...], group_width: int) -> Tensor:
    """Its mirror: at the end a 4×4 filter for each channel, and a linear layer."""
    table = ResidualTable(network, x).convolve(widths[0], 1, bias=False)
    for place, width in enumerate(widths):
        if place:
            table.tent("halve")
            if table.x.shape[1] != width:
                table.convolve(width, 1, bias=False)
        for _ in range(2):
            _r3gan_block(table, group_width)
    table.convolve(widths[-1], 4, groups=widths[-1], bias=False).reshape(widths[-1])
    return table.linear(1, bias=False).out().flatten()


def pggan_generator(network: nn.Module, z: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Table 2 of Karras et al. 2018, from 4×4 on."""
    root = sqrt(2)
    table = ResidualTable(network, z, equalised=True).pixel_norm()
    table.linear(widths[0] * 16, gain=root / 4).reshape(widths[0], 4, 4).leaky()
    table.pixel_norm().convolve(widths[0], 3, 1, gain=root).leaky()
    table.pixel_norm()
    for width in widths[1:]:
        table.nearest().convolve(width, 3, 1, gain=root).leaky()
        table.pixel_norm().convolve(width, 3, 1, gain=root).leaky()
        table.pixel_norm()
    return table.convolve(3, 1).out()


def pggan_critic(network: nn.Module, x: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Table 2 of Karras et al. 2018, from the image to one number."""
    root = sqrt(2)
    table = ResidualTable(network, x, equalised=True)
    table.convolve(widths[0], 1, gain=root).leaky()
    for before, width in pairwise(widths):
        table.convolve(before, 3, 1, gain=root).leaky()
        table.convolve(width, 3, 1, gain=root).leaky()
        table.average()
    table.deviation().convolve(widths[-1], 3, 1, gain=root).leaky()
    table.convolve(widths[-1], 4, gain=root).leaky()
    table.reshape(widths[-1])
    return table.linear(1).out().flatten()
