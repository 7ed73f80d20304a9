"""The Wasserstein distance's dual: the critic is kept from being steep by clipping or by a penalty.

The critic's side: mean D(G(z)) − mean D(x); the generator's: −mean D(G(z)) (Arjovsky, Chintala and Bottou 2017,
https://arxiv.org/abs/1701.07875). With clipping, every weight of the critic is brought back to ±c after each update.
With the penalty (Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028), λ · mean (‖∇D(x̂)‖₂ − 1)² is added, where
x̂ = εx + (1 − ε)G(z) with ε ~ U[0, 1) for each image; and, if wanted, ε_drift · mean D(x)² (Karras et al. 2018,
https://arxiv.org/abs/1710.10196, appendix A.1), as nothing else says where 0 is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distgan.moving import moving, times
from distgan.objectives.adversarial import AdversarialOptions, CriticSide, GeneratorSide
from distgan.objectives.side import Batch, Draw
from distgan.spec import MovingWeight, Rate, Weight, greatest

TINY = 1e-12
"""Added to a squared norm: the square root has no derivative at 0, where NaN would come from."""


class ClippedOptions(AdversarialOptions):
    """Options of the ``wasserstein_clip`` objective."""

    clip: Rate = 0.01
    """Every weight of the critic stays within ±this."""


class PenalisedOptions(AdversarialOptions):
    """Options of the ``wasserstein_gp`` objective."""

    penalty: MovingWeight = 10.0
    """Weight λ of the gradient penalty."""
    drift: Weight = 0.0
    """Weight of mean D(x)² over real images, which keeps the outputs near 0; 0.001 in Karras et al. 2018."""


class WassersteinCritic(CriticSide):
    """Real images as far above generated ones as the critic may."""

    def loss(self, real: Tensor, fake: Tensor, draw: Draw) -> Tensor:
        """The scalar to go down."""
        return fake.mean() - real.mean()

    def figures(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The estimate of the Wasserstein distance beside the others: of it itself where the critic's slope is 1."""
        figures = super().figures(real, fake)
        return {**figures, "critic/wasserstein": figures["critic/real"] - figures["critic/fake"]}


class ClippedCritic(WassersteinCritic):
    """A critic with clipped weights."""

    options: ClippedOptions

    @torch.no_grad()
    def constrain(self) -> None:
        """Clip every weight, BatchNorm's included, as the authors' code does."""
        weights = tuple(self.parameters())
        torch._foreach_clamp_min_(weights, -self.options.clip)
        torch._foreach_clamp_max_(weights, self.options.clip)


class PenalisedCritic(WassersteinCritic):
    """A critic whose slope should be 1 between real and generated images."""

    options: PenalisedOptions
    _weights = ("r1", "r2", "penalty")

    def loss(self, real: Tensor, fake: Tensor, draw: Draw) -> Tensor:
        """The scalar to go down."""
        value = super().loss(real, fake, draw)
        return value + self.options.drift * real.square().mean() if self.options.drift else value

    @property
    def penalised(self) -> bool:
        """Whether the loss holds gradients for single images."""
        return greatest(self.options.penalty) > 0 or super().penalised

    def penalty(self, real: Batch, fake: Tensor, draw: Draw) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The gradient penalty, beside R1's and R2's; its figure takes the place of R1's."""
        value, figures = super().penalty(real, fake, draw)
        if not self._weight("penalty"):
            return value, figures
        epsilon = draw.uniform("epsilon", ())[:, None, None, None]
        between = epsilon * real.images + (1 - epsilon) * fake
        norms = (self.squared_slopes(between, real.labels, draw, "between") + TINY).sqrt()
        penalty = (norms - 1).square().mean()
        weighed = times(penalty, moving(lambda: self._weight("penalty")))
        return value + weighed, {**figures, "critic/penalty": penalty.detach()}


class WassersteinGenerator(GeneratorSide):
    """Generated images as high as they go."""

    def loss(self, fake: Tensor) -> Tensor:
        """The scalar to go down."""
        return -fake.mean()
