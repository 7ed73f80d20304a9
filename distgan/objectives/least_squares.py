"""Least squares (Mao et al. 2017, https://arxiv.org/abs/1611.04076), with a = 0, b = c = 1.

The critic's side: ½ mean (D(x) − 1)² + ½ mean D(G(z))²; the generator's: ½ mean (D(G(z)) − 1)².
"""

from __future__ import annotations

from torch import Tensor

from distgan.objectives.adversarial import AdversarialOptions, CriticSide, GeneratorSide
from distgan.objectives.side import Draw


class LeastSquaresOptions(AdversarialOptions):
    """Options of the ``least_squares`` objective."""


class LeastSquaresCritic(CriticSide):
    """Real images to 1, generated ones to 0."""

    threshold = 0.5

    def loss(self, real: Tensor, fake: Tensor, draw: Draw) -> Tensor:
        """The scalar to go down."""
        return ((real - 1).square().mean() + fake.square().mean()) / 2


class LeastSquaresGenerator(GeneratorSide):
    """Generated images to 1."""

    def loss(self, fake: Tensor) -> Tensor:
        """The scalar to go down."""
        return (fake - 1).square().mean() / 2
