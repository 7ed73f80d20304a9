"""What a machine can do at best in a floating point type: a large product of matrices, and a network's heaviest layer."""

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


def heaviest_convolution(forward: Callable[[], object], device: torch.device, dtype: torch.dtype) -> Ceiling | None:
    """The convolution, transposed or not, that takes the most FLOPs of a forward pass: that layer alone, on random maps.

    Its own forward and backward pass (the gradients of its input and of its weights), channels last.

    Args:
        forward: The pass. Of several layers that take as much it is the first.
        device: Where to compute.
        dtype: In what.

    Returns:
        None where there is no convolution.
    """
    with torch.no_grad(), _Convolutions() as seen:  # type: ignore[no-untyped-call]
        forward()
    if seen.heaviest is None:
        return None
    flops, inputs, weights, (stride, *rest) = seen.heaviest
    transposed = rest[2]

    def random(shape: torch.Size) -> Tensor:
        tensor = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        return tensor.requires_grad_(True)

    maps, kernel = random(inputs), random(weights)

    def run() -> object:
        out = torch.ops.aten.convolution(maps, kernel, None, stride, *rest)
        return torch.autograd.grad(out, (maps, kernel), torch.ones_like(out))

    before, after = weights[:2] if transposed else (inputs[1], weights[0])
    name = (
        f"{before} to {after} channels, {weights[2]}×{weights[3]}, stride {stride[0]}{', transposed' * transposed}, "
        f"of maps {inputs[2]}×{inputs[3]}"
    )
    return Ceiling(run, 3 * flops, name)


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the heaviest convolution: its FLOPs, the shapes of input and weights, and how it moves."""

    heaviest: tuple[int, torch.Size, torch.Size, tuple[Any, ...]] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.convolution:
            flops = flop_registry[torch.ops.aten.convolution](*args, out_val=out)
            if self.heaviest is None or flops > self.heaviest[0]:
                inputs, weights, _, *rest = args
                self.heaviest = flops, inputs.shape, weights.shape, tuple(rest)
        return out
