"""Which device a process computes on, where nobody has said otherwise, and whether it has had too little memory."""

from __future__ import annotations

import torch

from shards.errors import InputError


def local_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def device_for(asked: str | torch.device | None) -> torch.device:
    """The device that somebody asks for by name, or :func:`local_device`.

    Raises:
        InputError: There is no such device, or none of that name here.
    """
    if asked is None:
        return local_device()
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {asked}: write cpu, cuda, or cuda:1 for the second GPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {asked}: torch sees {torch.cuda.device_count()} GPUs here")
    return device


def lacks_memory(error: Exception) -> bool:
    """Whether a device has too little. Torch says of cuDNN's algorithms without room to work in that there are none."""
    return isinstance(error, torch.OutOfMemoryError) or "unable to find an engine" in str(error)
