"""What an objective is made of: two sides, each a module whose forward is that side's whole loss."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from distgan.moving import moving
from distgan.networks.layers import dropout_from
from distgan.objectives.augmentation import Augmentation
from distgan.spec import AugmentationSpec, Latent, Options


class Draw(Protocol):
    """Random numbers that depend on (seed, purpose, update, slot in the global batch), never on a rank."""

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """N(0, 1), (slots of this rank, *shape)."""

    def uniform(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """U[0, 1), (slots of this rank, *shape)."""


def draw_latents(draw: Draw, latent_dim: int, latent: Latent) -> Tensor:
    """Latents (slots, latent_dim): N(0, 1), or U[-1, 1)."""
    if latent == "normal":
        return draw.normal("latent", (latent_dim,))
    return draw.uniform("latent", (latent_dim,)) * 2 - 1


class Batch(NamedTuple):
    """This rank's part of a global batch."""

    images: Tensor
    """(N, C, S, S) in [-1, 1]."""
    labels: Tensor
    """(N, K): what ``model.condition`` asks of each image; K is 0 without it."""


class Loss(NamedTuple):
    """A scalar to go down, and what there is to look at (detached, on the device: reading it there costs a wait)."""

    value: Tensor
    figures: dict[str, Tensor]
    """Scalars, by the names they are logged under."""
    fake: Tensor
    """The generator's images of this update, (N, C, S, S)."""

    @classmethod
    def of_parts(cls, parts: Sequence[Loss], sizes: Sequence[int]) -> Loss:
        """The loss of a batch that was dealt with in parts of so many images. That of several has no graph any more.

        Losses and figures are means over images.
        """
        if len(parts) == 1:
            return parts[0]
        shares = [size / sum(sizes) for size in sizes]

        def mean(of_each: Sequence[Tensor]) -> Tensor:
            return torch.stack([x.detach() * share for x, share in zip(of_each, shares, strict=True)]).sum(0)

        figures = {name: mean([part.figures[name] for part in parts]) for name in parts[0].figures}
        return cls(mean([part.value for part in parts]), figures, torch.cat([part.fake for part in parts]))


class Side(nn.Module):
    """One side of the game: the networks it trains are submodules, the opponent is not.

    So ``side.parameters()`` are what this side moves, and DistributedDataParallel around a side reduces exactly those,
    once for the one backward of the one forward. Both sides are called with (Batch, Draw): the critic's with a real
    batch, the generator's with the last one of these, whose labels have the data's own distribution.
    """

    trains: ClassVar[tuple[str, ...]]
    """The networks that this side moves: "generator", "critic" or both."""

    def __init__(
        self,
        options: Options,
        trained: nn.Module,
        opponent: nn.Module,
        latent_dim: int,
        latent: Latent = "normal",
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.options = options
        self.trained = trained
        self._opponent = (opponent,)  # in a tuple, where nn.Module does not register it
        self.latent_dim = latent_dim
        self.latent: Latent = latent
        self.augmentation = augmentation or Augmentation(AugmentationSpec())
        """The same object on both sides: what adapts does so for both."""
        self.updates = 0
        self.images = 0

    def at(self, updates: int, images: int) -> None:
        """Say how far the run is, before each forward: penalties are not of every update, and weights may move.

        Args:
            updates: Updates that this side has done before this one.
            images: Real images that the run has shown before it.
        """
        self.updates, self.images = updates, images

    @property
    def opponent(self) -> nn.Module:
        """The network that this side plays against and must not change."""
        return self._opponent[0]

    @property
    def penalised(self) -> bool:
        """Whether the loss holds gradients of the critic for single images, which BatchNorm would mix."""
        return False

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """What the next forward computes, where that depends on how far the run is.

        Forwards of one kind do the same operations, and a CUDA graph of one stands for all of them: the numbers that
        differ are :func:`~distgan.moving.moving`.
        """
        probability = self.augmentation.probability(self.images)
        return (isinstance(probability, Tensor) or probability > 0,)

    def probability(self) -> float | Tensor:
        """That an image is augmented now: a scalar on the device where it adapts."""
        if not self.augmentation.spec.on:
            return 0.0
        now = self.augmentation.probability(self.images)
        if isinstance(now, Tensor) or not now:
            return now
        # In the type of what it is compared with.
        return moving(lambda: float(self.augmentation.probability(self.images)), next(self.parameters()).dtype)

    def constrain(self) -> None:
        """Bring the weights back to where they may be. Called after each update of this side."""

    def judge(self, critic: nn.Module, images: Tensor, labels: Tensor, draw: Draw, *parts: str) -> Tensor:
        """A critic's outputs (N,) in the weights' own type: under autocast they come in less, too little for a loss.

        The images are augmented first. Those of the same part of the same update are augmented the same every time.

        Args:
            critic: The network.
            images: (N, C, S, S): as many times the slots of this rank as there are parts.
            labels: (N, K).
            draw: Where augmentation and dropout draw from.
            parts: What the images are, such as "real" or "real", "fake": keys of what is drawn.
        """

        def uniform(purpose: str, shape: Sequence[int]) -> Tensor:
            return torch.cat([draw.uniform(f"{purpose}/{part}", shape) for part in parts])

        augmented = self.augmentation(images, uniform, self.probability())
        with dropout_from(critic, uniform):
            outputs: Tensor = critic(augmented, labels)
        return outputs.to(next(self.parameters()).dtype)

    def latents(self, draw: Draw) -> Tensor:
        """Fresh latents (N, latent_dim)."""
        return draw_latents(draw, self.latent_dim, self.latent)


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
