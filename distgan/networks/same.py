"""Keras's "same" padding: with a stride it is uneven, one pixel more after than before where it does not come out even.

For input n, kernel k and stride s, the output is ⌈n / s⌉ and max((⌈n / s⌉ − 1)·s + k − n, 0) pixels are padded, the
smaller half of them before (TensorFlow's documentation of ``tf.nn.convolution``). The transposed convolution is the
gradient of that convolution: input n becomes n·s, and what the padding would have covered is cut away.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distgan.networks.convolutions import Conv2d, ConvTranspose2d, conv2d, conv_transpose2d


class SameConv2d(Conv2d):
    """A convolution with "same" padding; the kernel and the stride are square."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, ⌈H/s⌉, ⌈W/s⌉)."""
        (top, bottom), (left, right) = (same_padding(n, self.kernel_size[0], self.stride[0]) for n in x.shape[2:])
        if (top, left) == (bottom, right):  # what the convolution itself can pad, without a copy
            return conv2d(x, self.weight, self.bias, self.stride, (top, left), quick=self.quick)
        padded = F.pad(x, (left, right, top, bottom))
        return conv2d(padded, self.weight, self.bias, self.stride, (0, 0), quick=self.quick)


class SameConvTranspose2d(ConvTranspose2d):
    """A transposed convolution with "same" padding; the kernel and the stride are square."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int, stride: int = 2) -> None:
        super().__init__(channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) to (N, out, H·s, W·s)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = x.shape[2] * stride, x.shape[3] * stride
        before, after = same_padding(height, kernel, stride)  # of a multiple of the stride: the width's are the same
        # A kernel smaller than the stride reaches no pixel after the last one's own.
        beyond = max(stride - kernel, 0)
        full = conv_transpose2d(
            x, self.weight, self.bias, self.stride, (before, before), (beyond, beyond), quick=self.quick
        )
        return full if before == after else full[:, :, :height, :width]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after, for a convolution's input of ``size``."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
