"""What a machine can do at best in a floating point type: a large product of matrices, and a network's heavy layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SIDES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices, by device."""


class Ceiling(NamedTuple):
    """Work that does nothing but compute.

    Attributes:
        run: Do it once.
        flops: What that takes.
        name: What it is, for people.
    """

    run: Callable[[], object]
    flops: int
    name: str


def matrix_product(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """The product of two large square matrices."""
    side = SIDES.get(device.type, SIDES["cpu"])
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return Ceiling(lambda: left @ right, 2 * side**3, f"{side} × {side}")


def heaviest_convolutions(forward: Callable[[], object], device: torch.device, dtype: torch.dtype) -> list[Ceiling]:
    """The convolutions, transposed or not, that take the most FLOPs of a pass: each such layer alone, on random maps.

    Its own forward and backward pass (the gradients of its input and of its weights), channels last. In most networks
    several layers take as much, and are not equally fast.

    Args:
        forward: The forward pass.
        device: Where to compute.
        dtype: In what.

    Returns:
        Those of different shapes; none where there is no convolution.
    """
    with torch.no_grad(), _Convolutions() as seen:
        forward()
    most = max(seen.flops.values(), default=0)
    return [_alone(layer, flops, device, dtype) for layer, flops in seen.flops.items() if flops == most]


class _Convolution(NamedTuple):
    """What is asked of ``aten::convolution``, but for numbers."""

    maps: tuple[int, ...]
    weights: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def _alone(layer: _Convolution, flops: int, device: torch.device, dtype: torch.dtype) -> Ceiling:
    def random(shape: tuple[int, ...]) -> Tensor:
        tensor = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        return tensor.requires_grad_(True)

    maps, weights = random(layer.maps), random(layer.weights)

    def run() -> object:
        out = torch.ops.aten.convolution(maps, weights, None, *layer[2:])
        return torch.autograd.grad(out, (maps, weights), torch.ones_like(out))

    before, after = layer.maps[1], layer.weights[1] * layer.groups if layer.transposed else layer.weights[0]
    name = f"{before} to {after} channels, {_product(layer.weights)}, stride {layer.stride[0]}"
    return Ceiling(run, 3 * flops, f"{name}{', transposed' * layer.transposed}, of maps {_product(layer.maps)}")


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the FLOPs of each convolution of a forward pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: dict[_Convolution, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.convolution:
            maps, weights, _, *how = args
            how = (tuple(each) if isinstance(each, list) else each for each in how)
            layer = _Convolution(tuple(maps.shape), tuple(weights.shape), *how)
            self.flops[layer] = flop_registry[torch.ops.aten.convolution](*args, out_val=out)
        return out


def _product(shape: tuple[int, ...]) -> str:
    """Height and width, for people."""
    return f"{shape[2]}×{shape[3]}"
