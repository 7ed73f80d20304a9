"""Convolutions as torch has them, computed on a CPU by other means where oneDNN is slow for a GAN's shapes.

Three maps belong to a weight (out, in, k, k): the convolution, from a large map (N, in, H, W) to a small one
(N, out, h, w); the transposed convolution, which goes back; and the product of both maps, which is the weight's
gradient. Each is linear in both of its arguments, and its gradients are the other two, so that three functions can be
differentiated any number of times. torch's own second derivative takes the weight's gradient for a convolution with a
kernel as large as a map, which costs up to four times as much; a gradient penalty needs it in every update.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_CHANNELS = 4
"""Up to so many channels a transposed convolution goes to an image."""

DEVICES = {"cpu"}
"""Types of device that these ways are taken on: where they have been measured to be faster. ``distgan bench gpu`` says
what a GPU would make of them."""


class _Slopes:
    """What is being computed in this process: autograd goes back through a GPU's operations in threads of its own."""

    wanted = False
    """Slopes that are differentiated themselves."""


class Geometry(NamedTuple):
    """What beside its weight a convolution is, from the large map to the small one; heights and widths."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    kernel: tuple[int, int]
    size: tuple[int, int]
    """Of the large map."""


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    *,
    quick: bool = True,
) -> Tensor:
    """``F.conv2d``: maps (N, out, h, w) of maps (N, in, H, W), for weights (out, in, k, l)."""
    if not quick or x.device.type not in DEVICES or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, stride, padding)
    kernel, size = (weight.shape[2], weight.shape[3]), (x.shape[2], x.shape[3])
    if kernel == size and padding == (0, 0):
        return F.linear(_flat(x), _flat(weight), bias)[:, :, None, None]
    geometry = Geometry(stride, padding, kernel, size)
    if not (
        _Slopes.wanted
        or (x.requires_grad and _to_an_image(weight, geometry))
        or (weight.requires_grad and _much_weight(weight, geometry, x.dtype))
    ):
        return F.conv2d(x, weight, bias, stride, padding)
    maps: Tensor = _Convolution.apply(*_cast(x, weight, bias), geometry)
    return maps


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
    *,
    quick: bool = True,
) -> Tensor:
    """``F.conv_transpose2d``: maps (N, out, H, W) of maps (N, in, h, w), for weights (in, out, k, l)."""
    if not quick or x.device.type not in DEVICES or torch.compiler.is_compiling():
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    kernel = (weight.shape[2], weight.shape[3])
    if x.shape[2:] == (1, 1) and padding == output_padding == (0, 0):
        maps = (x.flatten(1) @ _flat(weight)).view(len(x), *kernel, weight.shape[1]).permute(0, 3, 1, 2)
        return maps if bias is None else maps + bias.to(maps.dtype)[:, None, None]
    height, width = (
        (n - 1) * s - 2 * p + k + o
        for n, s, p, k, o in zip(x.shape[2:], stride, padding, kernel, output_padding, strict=True)
    )
    geometry = Geometry(stride, padding, kernel, (height, width))
    if not (
        _Slopes.wanted
        or _to_an_image(weight, geometry)
        or (weight.requires_grad and _much_weight(weight, geometry, x.dtype))
    ):
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    large: Tensor = _Transposed.apply(*_cast(x, weight, bias), geometry)
    return large


@contextmanager
def penalised() -> Iterator[None]:
    """For slopes that are differentiated themselves: torch is slow at the second derivative of a convolution.

    Within the block derivatives are those in maps and images alone: none in weights, which nobody wants the slopes of.
    The second derivative, afterwards, is in all.
    """
    before, _Slopes.wanted = _Slopes.wanted, True
    try:
        yield
    finally:
        _Slopes.wanted = before


class Quick(nn.Module):
    """What layers have in common that take :func:`conv2d` or :func:`conv_transpose2d`."""

    quick = True
    """Whether these may go other ways than torch."""


def take_torchs_own(network: nn.Module) -> None:
    """Have a network's convolutions be computed by torch's own functions alone: to count their work, or to compare."""
    for module in network.modules():
        if isinstance(module, Quick):
            module.quick = False


class Conv2d(Quick, nn.Conv2d):
    """torch's, by :func:`conv2d`: padded with zeros and not dilated."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    bias_rate = 1.0
    """How fast the bias moves, as a share of its learning rate: it is multiplied by this when it is used, so that
    optimizers which divide a gradient by its size, such as Adam, move what is added so much less."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 (torch's own)
        bias = self._used(bias)
        if self.groups != 1:
            same: Tensor = super()._conv_forward(input, weight, bias)
            return same
        return conv2d(input, weight, bias, self.stride, self.padding, quick=self.quick)

    def _used(self, bias: Tensor | None) -> Tensor | None:
        return bias if bias is None or self.bias_rate == 1.0 else bias * self.bias_rate


class ConvTranspose2d(Quick, nn.ConvTranspose2d):
    """torch's, by :func:`conv_transpose2d`: neither in groups nor dilated."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """Maps (N, out_channels, H, W) of maps (N, in_channels, h, w)."""
        return conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, self.output_padding, quick=self.quick
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, large: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(large, weight)
        ctx.geometry = geometry
        return _convolution(large, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        large, weight = ctx.saved_tensors
        for_large, for_weight, for_bias = _wanted(ctx)
        return (
            _Transposed.apply(gradient, weight, None, ctx.geometry) if for_large else None,
            _Product.apply(large, gradient, weight.detach(), ctx.geometry) if for_weight else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
            None,
        )


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, small: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(small, weight)
        ctx.geometry = geometry
        if _to_an_image(weight, geometry):
            return _by_phases(small, weight, bias, geometry)
        return _transposed(small, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        small, weight = ctx.saved_tensors
        for_small, for_weight, for_bias = _wanted(ctx)
        return (
            _Convolution.apply(gradient, weight, None, ctx.geometry) if for_small else None,
            _Product.apply(gradient, small, weight.detach(), ctx.geometry) if for_weight else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
            None,
        )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, large: Tensor, small: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(large, small)
        ctx.geometry = geometry
        if _much_weight(weight, geometry, large.dtype):
            return _by_windows(large, small, geometry)
        return _product(large, small, weight, geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        large, small = ctx.saved_tensors
        for_large, for_small, *_ = ctx.needs_input_grad
        return (
            _Transposed.apply(small, gradient, None, ctx.geometry) if for_large else None,
            _Convolution.apply(large, gradient, None, ctx.geometry) if for_small else None,
            None,
            None,
        )


def _convolution(large: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, *_ = geometry
    return torch.convolution(large, weight, bias, stride, padding, (1, 1), False, (0, 0), 1)


def _transposed(small: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, kernel, size = geometry
    beyond = [
        n - (m - 1) * s + 2 * p - k
        for n, m, s, p, k in zip(size, small.shape[2:], stride, padding, kernel, strict=True)
    ]
    return torch.convolution(small, weight, bias, stride, padding, (1, 1), True, beyond, 1)


def _product(large: Tensor, small: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    stride, padding, *_ = geometry
    product: Tensor = torch.ops.aten.convolution_backward.default(
        small, large, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (False, True, False)
    )[1]
    return product


def _by_phases(small: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """A transposed convolution as a plain one to s² times the channels, whose pixels are then put in their places.

    Row s·i + a of the output, with the padding that is cropped, is made of the rows i - u, by the kernel's s·u + a.
    """
    (down, across), (top, left), kernel, (height, width) = geometry
    # Rows of s that the kernel has, and one more where it does not reach the last pixels.
    rows = max(-(-kernel[0] // down), -(-(top + height) // down) - small.shape[2] + 1)
    columns = max(-(-kernel[1] // across), -(-(left + width) // across) - small.shape[3] + 1)
    before, after = weight.shape[:2]
    padded = F.pad(weight, (0, columns * across - kernel[1], 0, rows * down - kernel[0]))
    phases = padded.reshape(before, after, rows, down, columns, across).flip(2, 4)
    phases = phases.permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.repeat(down * across)
    maps = torch.convolution(small, phases, bias, (1, 1), (rows - 1, columns - 1), (1, 1), False, (0, 0), 1)
    large = _empty(small, (len(small), after, height, width))
    for phase, of_phase in enumerate(maps.chunk(down * across, dim=1)):
        a, b = divmod(phase, across)
        y, x = (a - top) % down, (b - left) % across  # of its first pixel that is not cropped
        place = large[:, :, y::down, x::across]
        i, j = (top + y) // down, (left + x) // across
        place.copy_(of_phase[:, :, i : i + place.shape[2], j : j + place.shape[3]])
    return large


def _by_windows(large: Tensor, small: Tensor, geometry: Geometry) -> Tensor:
    """The product of a row for each pixel of the small map with the window of the large map that it is made of."""
    (down, across), (top, left), kernel, _ = geometry
    count, channels, height, width = large.shape
    padded = large.new_zeros((count, height + 2 * top, width + 2 * left, channels))
    padded[:, top : top + height, left : left + width] = large.permute(0, 2, 3, 1)
    image, row, pixel, _ = padded.stride()
    rows, columns = small.shape[2:]
    # A kernel's row is contiguous: its pixels, and their channels.
    windows = padded.as_strided(
        (count, rows, columns, kernel[0], kernel[1] * channels), (image, row * down, pixel * across, row, 1)
    )
    weight = _empty(large, (small.shape[1], channels, *kernel))
    vectors = small.permute(0, 2, 3, 1).reshape(-1, small.shape[1])
    torch.mm(vectors.T, windows.reshape(len(vectors), weight[0].numel()), out=_flat(weight))
    return weight


def _to_an_image(weight: Tensor, geometry: Geometry) -> bool:
    """Whether the transposed convolution is faster :func:`_by_phases`."""
    return weight.shape[1] <= FEW_CHANNELS and max(geometry.stride) > 1


def _much_weight(weight: Tensor, geometry: Geometry, dtype: torch.dtype) -> bool:
    """Whether the product is faster :func:`_by_windows`: where maps are small beside the weight, by measurement."""
    (down, across), _, (rows, columns), (height, width) = geometry
    small = (height // down) * (width // across)
    copies = rows * columns / (down * across)
    least = 512 if dtype == torch.bfloat16 else 1024
    return weight.shape[0] * weight.shape[1] >= least * small * copies


def _wanted(ctx: Any) -> tuple[bool, bool, bool]:
    """Of which of the maps, the weight and the bias the gradient is to be computed."""
    of_maps, of_weight, of_bias, _ = ctx.needs_input_grad
    slopes = _Slopes.wanted
    return of_maps, of_weight and not slopes, of_bias and not slopes


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps or weights, channels last. Not a view, which a custom function must not return to layers that write."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _flat(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H·W·C): no copy of what is channels last."""
    return x.permute(0, 2, 3, 1).flatten(1)


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As autocast has it for a convolution's arguments; of what is float64 it changes nothing."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
