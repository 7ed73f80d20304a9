"""What an objective is made of: two sides, each a module whose forward is that side's whole loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from distgan.spec import Options


class Draw(Protocol):
    """Random numbers that depend on (seed, purpose, update, slot in the global batch), never on a rank."""

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """N(0, 1), (slots of this rank, *shape)."""

    def uniform(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """U[0, 1), (slots of this rank, *shape)."""


class Loss(NamedTuple):
    """A scalar to go down, and scalars to look at (detached, on the device: reading one there costs a wait)."""

    value: Tensor
    figures: dict[str, Tensor]


class Side(nn.Module):
    """One side of the game: the network it trains is a submodule, the opponent is not.

    So ``side.parameters()`` are what this side's optimizer moves, and DistributedDataParallel around a side reduces
    exactly those, once for the one backward of the one forward.
    """

    def __init__(self, options: Options, trained: nn.Module, opponent: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.options = options
        self.trained = trained
        self._opponent = (opponent,)  # in a tuple, where nn.Module does not register it
        self.latent_dim = latent_dim

    @property
    def opponent(self) -> nn.Module:
        """The network that this side plays against and must not change."""
        return self._opponent[0]

    def judge(self, critic: nn.Module, images: Tensor) -> Tensor:
        """A critic's outputs (N,) in the weights' own type: under autocast they come in less, too little for a loss."""
        outputs: Tensor = critic(images)
        return outputs.to(next(self.parameters()).dtype)

    def latents(self, draw: Draw) -> Tensor:
        """Fresh latents (N, latent_dim)."""
        return draw.normal("latent", (self.latent_dim,))


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """The network with constant weights: gradients flow through it, none is computed for it."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield network
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
