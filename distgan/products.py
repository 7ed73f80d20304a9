"""How GPUs multiply float32: in TF32, which rounds factors to 10 bits of mantissa, or as it is.

torch has TF32 off for matrix products and on for convolutions, unless it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def multiply_exactly() -> None:
    """Let no product or convolution of this process be TF32's, but those in :func:`tf32`."""
    _use("ieee")


@contextmanager
def tf32() -> Iterator[None]:
    """A block whose matrix products and convolutions of float32 are TF32's on GPUs that have it."""
    _use("tf32")
    try:
        yield
    finally:
        _use("ieee")


def has_tf32(device: torch.device) -> bool:
    """Whether a device has it: NVIDIA's GPUs from Ampere on, and the AMD ones that torch knows to."""
    return device.type == "cuda" and torch.cuda.is_tf32_supported()


def _use(precision: str) -> None:
    # torch 2.9 and later call these allow_tf32's successors, and warn of that; both must not be mixed.
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
