"""What turns pictures into vectors that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan.memory import keep_freed_memory
from shards.errors import InputError

ACTIVATION = 30 * 1024**2
"""Bytes of the largest activation that a network makes on a CPU."""


class Described(NamedTuple):
    """What features say of some pictures.

    Attributes:
        vectors: float (n, d).
        logits: (n, c) of a classifier's classes, or None where there are none.
    """

    vectors: Tensor
    logits: Tensor | None = None


@dataclass(frozen=True)
class Features:
    """A network that describes pictures.

    Attributes:
        name: How it is asked for, and what its scores are told apart by: "inception", "lite0-112", a file's name.
        distance: What the Fréchet distance of these features is called: "FID" is the name of Inception's alone.
        sha256: Of its weights, hex.
        network: The network, in evaluation mode, without gradients.
        describe: From uint8 pictures (n, 3, s, s), whatever s, to their description. Uses the network.
        facts: What else decides its scores: the input's size, how pictures are brought to it.
    """

    name: str
    distance: str
    sha256: str
    network: nn.Module
    describe: Callable[[Tensor], Described]
    facts: dict[str, object] = field(default_factory=dict)

    def shape(self, size: int) -> tuple[int, int]:
        """Entries of a vector, and classes (0 where there are none), of pictures of a size."""
        device = next((tensor.device for tensor in self.network.parameters()), torch.device("cpu"))
        described = self(torch.zeros(2, 3, size, size, dtype=torch.uint8, device=device))
        return described.vectors.shape[1], 0 if described.logits is None else described.logits.shape[1]

    def to(self, device: torch.device) -> Features:
        """The same on a device."""
        self.network.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Described:
        """Describe uint8 pictures (n, c, s, s), grey or in colour.

        Raises:
            InputError: What comes out is not a vector of finite numbers for each picture.
        """
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        described = self.describe(colour)
        vectors = described.vectors
        if vectors.ndim != 2 or len(vectors) != len(images) or not vectors.is_floating_point():
            shape = tuple(vectors.shape)
            raise InputError(
                f"features {self.name}: gives {vectors.dtype} {shape} for {len(images)} pictures, not a vector each"
            )
        if not torch.isfinite(vectors).all():
            raise InputError(f"features {self.name}: gives numbers that are not finite")
        return described


def in_parts(describe: Callable[[Tensor], Described], floats: int) -> Callable[[Tensor], Described]:
    """The same description, on a CPU of so many pictures at a time that no activation is larger than 30 MiB.

    Whatever :func:`keep_freed_memory` asks for, larger ones are memory that the system clears anew each time.

    Args:
        describe: Describes any number of pictures.
        floats: Numbers in the largest activation of one picture.
    """
    most = max(1, ACTIVATION // (4 * floats))

    def describe_in_parts(images: Tensor) -> Described:
        if images.device.type != "cpu" or len(images) <= most:
            return describe(images)
        parts = [describe(part) for part in torch.split(images, most)]
        logits = [part.logits for part in parts if part.logits is not None]
        return Described(torch.cat([part.vectors for part in parts]), torch.cat(logits) if logits else None)

    return describe_in_parts


def frozen(network: nn.Module) -> nn.Module:
    """A network that is only asked."""
    keep_freed_memory()
    return network.eval().requires_grad_(False)
