"""Features from a file: a TorchScript module, or one that torch.export has saved."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from distgan.evaluation.features.base import Described, Features
from shards.digests import file_digests
from shards.errors import InputError


def load(argument: str) -> Features:
    """A module that takes uint8 pictures (n, 3, s, s) in the shards' size and gives vectors (n, d).

    Args:
        argument: The file: ``.pt2`` as torch.export saves it, else TorchScript.

    Raises:
        InputError: It is missing, or not what it says.
    """
    path = Path(argument)
    try:
        (sha256,) = file_digests(path, "sha256")
    except OSError as error:
        raise InputError(f"features {argument}: cannot be read: {error.strerror}") from None
    try:
        if path.suffix == ".pt2":
            network: nn.Module = torch.export.load(path).module()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch would rather have .pt2; people have both
                network = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever torch makes of a file that is something else
        first = next(iter(re.split(r"\n|\. ", str(error).strip())), "") or type(error).__name__
        kind = "a torch.export module" if path.suffix == ".pt2" else "a TorchScript module"
        raise InputError(f"features {argument}: not {kind}: {first}") from None

    def describe(images: Tensor) -> Described:
        try:
            return Described(network(images))
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise InputError(
                f"features {argument}: does not take uint8 pictures {tuple(images.shape)}: {last}"
            ) from None

    return Features(path.stem, f"FD-{path.stem}", sha256, network, describe, {"input": "as in the shards"})
