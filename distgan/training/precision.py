"""Which floating point type the networks compute in, and how they lie in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class Precision:
    """The run's floating point types on a device.

    Args:
        name: As in ``training.precision``; ``auto`` is bfloat16 on a GPU that computes in it, else float32.
        device: Where the networks are.
    """

    def __init__(self, name: Literal["auto", "float32", "bfloat16", "float64"], device: torch.device) -> None:
        if name == "auto":
            name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        self.name = name
        self.device = device
        self.dtype = torch.float64 if name == "float64" else torch.float32
        """Of weights, images and latents. bfloat16 is for what autocast thinks fit, inside the networks."""

    def place(self, network: Module) -> Module:
        """The network on the device, in its type, channels last: the layout that convolutions are fastest in."""
        return network.to(device=self.device, dtype=self.dtype).to(memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager[None]:
        """The context that forward passes run in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.name == "bfloat16")
