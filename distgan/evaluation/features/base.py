"""What turns pictures into vectors that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shards.errors import InputError


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


def frozen(network: nn.Module) -> nn.Module:
    """A network that is only asked."""
    return network.eval().requires_grad_(False)
