"""Which floating point type the networks compute in, and how they lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from distgan.memory import keep_freed_memory
from distgan.products import convolutions_of_fixed_shapes, float32_products, has_tf32
from distgan.spec import PrecisionName
from shards.errors import InputError

Module = TypeVar("Module", bound=nn.Module)


class Precision:
    """The run's floating point types on a device.

    Args:
        name: As in ``training.precision``; ``auto`` is bfloat16 on a device that :func:`computes_in_bfloat16`, else
            float32.
        device: Where the networks are.

    Raises:
        InputError: ``tfloat32`` on a device that has none.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        if name == "auto":
            name = "bfloat16" if computes_in_bfloat16(device) else "float32"
        check_precision(name, device)
        self.name: PrecisionName = name
        self.device = device
        self.dtype = torch.float64 if name == "float64" else torch.float32
        """Of weights, images and latents. bfloat16 is for what autocast thinks fit, inside the networks."""

    def place(self, network: Module) -> Module:
        """The network on the device, in its type, channels last: the layout that convolutions are fastest in."""
        return network.to(device=self.device, dtype=self.dtype).to(memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager[None]:
        """The context that forward passes run in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.name == "bfloat16")

    @contextmanager
    def products(self) -> Iterator[None]:
        """The context that training computes in: on a GPU, ``float32`` without TF32, ``tfloat32`` with it.

        What bfloat16 leaves in float32, such as penalties, is as torch has it: with TF32 in a GPU's convolutions. These
        go by the fastest of cuDNN's algorithms, as a step's shapes are those of the step before.
        """
        with ExitStack() as settings:
            if self.device.type == "cuda":
                settings.enter_context(convolutions_of_fixed_shapes())
                if self.name in ("float32", "tfloat32"):
                    settings.enter_context(float32_products(tf32=self.name == "tfloat32"))
            yield


def check_precision(name: PrecisionName, device: torch.device) -> None:
    """Find out whether a device can compute so.

    Raises:
        InputError: ``tfloat32`` on a device that has none.
    """
    if name == "tfloat32" and not has_tf32(device):
        instead = "bfloat16 or float32" if computes_in_bfloat16(device) else "float32"
        raise InputError(
            f"training.precision is tfloat32, which NVIDIA's GPUs have from Ampere on, and {_called(device)} has "
            f"not: set it to {instead}"
        )


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions of its own for products in bfloat16: those that emulate it are slower for it.

    GPUs before Ampere, such as V100 and T4, have none. Processors have AVX-512 BF16 or AMX, or none; with AVX-512 BF16
    training was 1.4 to 1.8 times as fast. It is asked what the device is, not how long something takes, so that one
    machine always answers the same.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"


def lay_out_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of a parameter's shape, such as a moment of its gradient, laid out in memory as the parameter is.

    An optimizer that walks over both in different orders takes twice as long.
    """
    if tensor.shape != parameter.shape:  # a count of steps, say
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
