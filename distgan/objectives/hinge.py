"""The hinge loss (Lim and Ye 2017, https://arxiv.org/abs/1705.02894; Miyato et al. 2018).

The critic's side: mean max(0, 1 − D(x)) + mean max(0, 1 + D(G(z))); the generator's: −mean D(G(z)).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distgan.objectives.adversarial import AdversarialOptions, CriticSide, GeneratorSide
from distgan.objectives.side import Draw


class HingeOptions(AdversarialOptions):
    """Options of the ``hinge`` objective."""


class HingeCritic(CriticSide):
    """Real images above 1, generated ones below -1; what is beyond costs nothing."""

    threshold = 0.0

    def loss(self, real: Tensor, fake: Tensor, draw: Draw) -> Tensor:
        """The scalar to go down."""
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


class HingeGenerator(GeneratorSide):
    """Generated images as high as they go."""

    def loss(self, fake: Tensor) -> Tensor:
        """The scalar to go down."""
        return -fake.mean()
