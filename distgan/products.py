"""How GPUs multiply: float32 in TF32, which rounds factors to 10 bits of mantissa, or as it is; by which algorithms.

torch has TF32 off for matrix products and on for convolutions, and takes cuDNN's word for which algorithm is fastest,
unless it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """A block in which matrix products and convolutions of float32 are all TF32's, on GPUs that have it, or none is.

    Then all is as before: these are settings of the process, which others compute in too.
    """
    # torch 2.9 and later have these in place of allow_tf32, which must not be mixed with them.
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextmanager
def convolutions_of_fixed_shapes() -> Iterator[None]:
    """A block in which cuDNN tries its algorithms on the first convolution of each shape, and keeps to the fastest.

    Worth it where the same shapes come again and again. Then all is as before: this is a setting of the process.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def has_tf32(device: torch.device) -> bool:
    """Whether a device has it: NVIDIA's GPUs from Ampere on, and the AMD ones that torch knows to."""
    return device.type == "cuda" and torch.cuda.is_tf32_supported()
