"""Binary cross-entropy on logits: the original game (Goodfellow et al. 2014), as DCGAN plays it.

With l the critic's logit, σ the sigmoid and softplus(x) = log(1 + eˣ):

- critic: mean of -log σ(l_real) = softplus(-l_real), and mean of -log(1 - σ(l_fake)) = softplus(l_fake);
- generator, non-saturating (section 3 of the paper): mean of -log σ(l_fake) = softplus(-l_fake).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distgan.objectives.side import Draw, Loss, Side, frozen
from distgan.spec import Options


class BCEOptions(Options):
    """Options of the ``bce`` objective."""

    terms: Literal["sum", "mean"] = "sum"
    """Whether the critic's loss is the sum or the mean of its real and its fake term. Undecided, the critic's loss is
    2·log 2 = 1.386 or log 2 = 0.693."""


class BCECritic(Side):
    """The critic's side: real images towards 1, generated ones towards 0; BatchNorm sees each batch alone."""

    options: BCEOptions

    def forward(self, real: Tensor, draw: Draw) -> Loss:
        """The loss of one critic update on real images (N, C, S, S) in [-1, 1]."""
        with torch.no_grad():
            fake = self.opponent(self.latents(draw))
        real_logits, fake_logits = self.judge(self.trained, real), self.judge(self.trained, fake)
        value = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        if self.options.terms == "mean":
            value = value / 2
        return Loss(value, {"critic/real": real_logits.detach().mean(), "critic/fake": fake_logits.detach().mean()})


class BCEGenerator(Side):
    """The generator's side: its images towards the critic's 1."""

    options: BCEOptions

    def forward(self, draw: Draw) -> Loss:
        """The loss of one generator update."""
        with frozen(self.opponent) as critic:
            logits = self.judge(critic, self.trained(self.latents(draw)))
        return Loss(F.softplus(-logits).mean(), {})
