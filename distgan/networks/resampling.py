"""Maps of twice and of half the size, by one of two filters.

``box``: a pixel becomes four, and four become their mean (Miyato et al. 2018; Karras et al. 2018). ``bilinear``: the
tent filter [1, 3, 3, 1] / 4 to double and [1, 3, 3, 1] / 8 to halve, which is what [1, 2, 1] makes of the box's result;
pixels beyond the border are 0 (Huang et al. 2024, https://arxiv.org/abs/2501.05441). Either halving is a quarter of the
transposed doubling.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Filter = Literal["box", "bilinear"]


class Double(nn.Module):
    """Maps (N, C, H, W) to (N, C, 2H, 2W)."""

    def __init__(self, by: Filter) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        """The doubled maps."""
        doubled: Tensor = _Double.apply(x, self.by)
        return doubled


class Halve(nn.Module):
    """Maps (N, C, 2H, 2W) to (N, C, H, W)."""

    def __init__(self, by: Filter) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        """The halved maps."""
        halved: Tensor = _Halve.apply(x, self.by)
        return halved


# Linear maps, each the transposed of the other: with torch's own derivatives, a gradient penalty would send zeros back
# through all layers before them, and one filter for every channel takes several times as long.


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, by: Filter) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.by = by
        if by == "box":
            return F.avg_pool2d(x, 2)
        return F.conv2d(x, _tent(x), stride=2, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        return (None if gradient is None else _Double.apply(gradient, ctx.by) / 4), None


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, by: Filter) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.by = by
        if by == "box":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.conv_transpose2d(x, 4 * _tent(x), stride=2, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        return (None if gradient is None else _Halve.apply(gradient, ctx.by) * 4), None


def _tent(x: Tensor) -> Tensor:
    """The filter of a halving for each channel, (C, 1, 4, 4), made where the maps are: nothing is copied there."""
    tent = (1 - torch.arange(-0.75, 1.0, 0.5, dtype=x.dtype, device=x.device).abs()) / 2
    return (tent[:, None] * tent).expand(x.shape[1], 1, 4, 4)
