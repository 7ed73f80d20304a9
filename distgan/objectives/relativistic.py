"""The relativistic pairing loss: real images more real than the generated ones that they are paired with.

Image i of the real batch is paired with generated image i; d = D(x) − D(G(z)). The critic's side: mean softplus(−d);
the generator's: mean softplus(d) (Jolicoeur-Martineau 2018, https://arxiv.org/abs/1807.00734; Huang et al. 2024,
https://arxiv.org/abs/2501.05441). The latter show that it converges with both R1 and R2 (``r1``, ``r2``), and that it
then needs no normalisation in the critic. A pair is one slot's, so any number of workers plays the same game.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distgan.objectives.adversarial import AdversarialOptions, CriticSide, GeneratorSide
from distgan.objectives.side import Batch, Draw, Loss, frozen


class RelativisticOptions(AdversarialOptions):
    """Options of the ``relativistic`` objective."""


class RelativisticCritic(CriticSide):
    """Each real image above the generated one of its pair. An output says nothing by itself."""

    def loss(self, real: Tensor, fake: Tensor, draw: Draw) -> Tensor:
        """The scalar to go down."""
        return -F.logsigmoid(real - fake).mean()  # softplus, without torch's approximation above 20


class RelativisticGenerator(GeneratorSide):
    """Each generated image above the real one of its pair."""

    def forward(self, real: Batch, draw: Draw) -> Loss:
        """The loss of one generator update."""
        images = self.images_to_judge(real, draw)
        with frozen(self.opponent) as critic:
            with torch.no_grad():
                outputs = self.judge(critic, real.images, real.labels, draw, "real")
            fake = self.judge(critic, images, real.labels, draw, "fake")
        return Loss(-F.logsigmoid(fake - outputs).mean(), {}, images.detach())
