"""What the adversarial objectives share: a critic that tells real from fake, and a generator that it must not tell."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor

from distgan.moving import moving, times
from distgan.networks.convolutions import penalised
from distgan.networks.normalisation import in_parts
from distgan.networks.spectral import spectral_vectors
from distgan.objectives.side import Batch, Draw, Loss, Side, frozen
from distgan.spec import Count, MovingWeight, Options, greatest, value_at


class AdversarialOptions(Options):
    """Options that every adversarial objective has."""

    r1: MovingWeight = 0.0
    """Weight γ of the R1 penalty: γ/2 · mean ‖∇D(x)‖² over real images (Mescheder, Geiger and Nowozin 2018). It may
    move: ``{base: 2.0, final: 0.2, images: 10_000_000}``."""
    r2: MovingWeight = 0.0
    """Weight of the R2 penalty: the same over generated images."""
    penalty_every: Count = 1
    """k: the penalties are computed at every k-th critic update alone, beginning with the first, and weigh k times as
    much there (Karras et al. 2020, arXiv:1912.04958, section 3.1), in one optimizer step with the loss."""
    share_fakes: bool = False
    """Judge the generator by the very images that the critic has just learnt from, as PyTorch's DCGAN tutorial does,
    and not by fresh ones: one of a step's two generator passes fewer, a twelfth of its work where both networks cost
    the same. A run's numbers change with it, as each step has one batch of latents. It wants ``n_critic: 1``, and
    memory for the generator's maps while the critic learns."""


class CriticSide(Side):
    """The critic's side. A subclass says what it loses, and may add penalties."""

    trains = ("critic",)
    threshold: ClassVar[float | None] = None
    """Outputs above it say "real", and the accuracy is how often that is right; None where an output says nothing by
    itself: then the ranking is how often a real image's is above a generated one's."""
    options: AdversarialOptions
    _kept: Tensor | None = None
    _weights: ClassVar[tuple[str, ...]] = ("r1", "r2")
    """The options that are penalties' weights: one that weighs nothing is not computed."""

    def take_fakes(self) -> Tensor:
        """The last update's generated images, (N, C, S, S), with their graph: once, with ``share_fakes``."""
        assert self._kept is not None
        kept, self._kept = self._kept, None
        return kept

    @property
    def penalised(self) -> bool:
        """Whether the loss holds gradients for single images."""
        return greatest(self.options.r1) > 0 or greatest(self.options.r2) > 0

    def loss(self, real: Tensor, fake: Tensor, draw: Draw) -> Tensor:
        """The scalar to go down.

        Args:
            real: Outputs (N,) for real images.
            fake: Outputs (N,) for generated images.
            draw: For objectives that draw numbers of their own.
        """
        raise NotImplementedError

    def penalty(self, real: Batch, fake: Tensor, draw: Draw) -> tuple[Tensor | float, dict[str, Tensor]]:
        """What is added to the loss for slopes that are not as they should be, and figures of it, without weights."""
        value: Tensor | float = 0.0
        figures: dict[str, Tensor] = {}
        if self._weight("r1"):
            squares = self.squared_slopes(real.images, real.labels, draw, "real").mean()  # of the D(x) that is judged
            value = times(squares, moving(lambda: self._weight("r1") / 2))
            figures["critic/penalty"] = squares.detach()
        if self._weight("r2"):
            squares = self.squared_slopes(fake, real.labels, draw, "fake").mean()
            value = value + times(squares, moving(lambda: self._weight("r2") / 2))
            figures["critic/penalty_fake"] = squares.detach()
        return value, figures

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """What the next forward computes: which penalties, if any."""
        penalties = tuple(self._weight(name) > 0 for name in self._weights) if self._penalised_now else ()
        return (*super().kind, *penalties)

    @property
    def _penalised_now(self) -> bool:
        return self.updates % self.options.penalty_every == 0

    def _weight(self, name: str) -> float:
        """What an option that may move is now."""
        return value_at(getattr(self.options, name), self.images)

    def both(self, real: Batch, fake: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Outputs (N,) for the real and for the generated images, each a batch of its own.

        In one pass, which is faster than two. Spectral layers alone have two: in each their vectors come nearer once.
        """
        if spectral_vectors(self.trained):
            return (
                self.judge(self.trained, real.images, real.labels, draw, "real"),
                self.judge(self.trained, fake, real.labels, draw, "fake"),
            )
        with in_parts(self.trained, 2):
            return self.at_once(real, fake, draw)

    def at_once(self, real: Batch, fake: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Outputs (N,) for the real and for the generated images, which are judged in one pass."""
        images, labels = torch.cat([real.images, fake]), torch.cat([real.labels, real.labels])
        of_real, of_fake = self.judge(self.trained, images, labels, draw, "real", "fake").chunk(2)
        return of_real, of_fake

    def forward(self, real: Batch, draw: Draw) -> Loss:
        """The loss of one critic update."""
        every = self.options.penalty_every
        with torch.set_grad_enabled(self.options.share_fakes):
            drawn = self.opponent(self.latents(draw), real.labels)
        self._kept = drawn if self.options.share_fakes else None
        fake = drawn.detach()
        real_outputs, fake_outputs = self.both(real, fake, draw)
        penalty, figures = self.penalty(real, fake, draw) if self._penalised_now else (0.0, {})
        with torch.no_grad():
            figures = {**self.figures(real_outputs, fake_outputs), **figures}
            if self.threshold is not None:
                held_real = self.says_real(real_outputs)
                right = torch.cat([held_real, ~self.says_real(fake_outputs)])
                figures["critic/accuracy"] = right.to(real_outputs.dtype).mean()
                figures["critic/sign"] = 2 * held_real.to(real_outputs.dtype).mean() - 1
            else:
                # Pairs by slot, of independent images: so it is a mean over slots, for any number of processes.
                figures["critic/ranking"] = (real_outputs > fake_outputs).to(real_outputs.dtype).mean()
            if self.augmentation.spec.on:
                figures["augmentation/probability"] = torch.zeros_like(figures["critic/real"]) + self.probability()
        return Loss(self.loss(real_outputs, fake_outputs, draw) + every * penalty, figures, fake)

    def figures(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """What is written down of the outputs (N,) for real and for generated images: D(x) and D(G(z))."""
        return {"critic/real": real.mean(), "critic/fake": fake.mean()}

    def says_real(self, outputs: Tensor) -> Tensor:
        """Which images (bool, (N,)) are held to be real."""
        assert self.threshold is not None
        return outputs > self.threshold

    def squared_slopes(self, images: Tensor, labels: Tensor, draw: Draw, part: str) -> Tensor:
        """‖∇ D(x)‖² for each image, (N,), differentiable in the critic's weights.

        Without autocast: a squared gradient in bfloat16 is no number to build a loss on. And without torch.compile,
        whose backward passes cannot be differentiated.
        """
        compiled = self.trained._compiled_call_impl is not None  # entering a stance takes a while
        as_written = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
        with torch.autocast(images.device.type, enabled=False), as_written, penalised():
            points = images.detach().to(next(self.parameters()).dtype).requires_grad_(True)
            outputs = self.judge(self.trained, points, labels, draw, part)
            (slopes,) = torch.autograd.grad(outputs.sum(), points, create_graph=True)
        return slopes.square().sum((1, 2, 3))


class GeneratorSide(Side):
    """The generator's side: a subclass says what it loses when its images are judged."""

    trains = ("generator",)
    options: AdversarialOptions
    _drawn_by: tuple[CriticSide, ...] = ()

    def share(self, critic_side: CriticSide) -> None:
        """Be judged from now on by the images that the critic's side has drawn for its own update before."""
        self._drawn_by = (critic_side,)  # in a tuple, where nn.Module does not register it

    def images_to_judge(self, real: Batch, draw: Draw) -> Tensor:
        """Images (N, C, S, S) with their graph: fresh ones, or those that the critic's side shares."""
        if self._drawn_by:
            return self._drawn_by[0].take_fakes()
        images: Tensor = self.trained(self.latents(draw), real.labels)
        return images

    def loss(self, fake: Tensor) -> Tensor:
        """The scalar to go down, given the critic's outputs (N,) for generated images."""
        raise NotImplementedError

    def forward(self, real: Batch, draw: Draw) -> Loss:
        """The loss of one generator update."""
        images = self.images_to_judge(real, draw)
        with frozen(self.opponent) as critic:
            outputs = self.judge(critic, images, real.labels, draw, "fake")
        return Loss(self.loss(outputs), {}, images.detach())
