"""The evidence lower bound: what a variational autoencoder goes up (Kingma and Welling 2014, arXiv:1312.6114).

With an encoder's mean μ and log-variance log σ², z = μ + σ·noise and the decoder's image x̂, the loss of an image is
½ Σ (x − x̂)² over its values (−log N(x; x̂, I) without its constant) plus β · KL, where
KL = ½ Σ (σ² + μ² − 1 − log σ²) over the latent (appendix B of the paper).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distgan.objectives.side import Batch, Draw, Loss, Side
from distgan.spec import Options, Weight


class ELBOOptions(Options):
    """Options of the ``elbo`` objective."""

    beta: Weight = 1.0
    """Weight of the KL term (Higgins et al. 2017)."""


class ELBO(Side):
    """The one side of an autoencoder: it trains the encoder, ``model.critic``, and the decoder, ``model.generator``."""

    trains = ("critic", "generator")
    options: ELBOOptions

    def __init__(self, options: ELBOOptions, trained: nn.Module, opponent: nn.Module, **rest: Any) -> None:
        super().__init__(options, trained, opponent, **rest)
        self.decoder = opponent  # registered: here it is no opponent

    def forward(self, real: Batch, draw: Draw) -> Loss:
        """The loss of one update of both networks."""
        mean, log_variance = (self._exact(each) for each in self.trained(real.images, real.labels))
        latents = mean + (log_variance / 2).exp() * draw.normal("latent", (self.latent_dim,))
        images = self._exact(self.decoder(latents, real.labels))
        reconstruction = (images - real.images).square().sum((1, 2, 3)).mean() / 2
        kl = (log_variance.expm1() - log_variance + mean.square()).sum(1).mean() / 2  # exp(x) − 1 loses its digits
        figures = {"elbo/reconstruction": reconstruction.detach(), "elbo/kl": kl.detach()}
        return Loss(reconstruction + self.options.beta * kl, figures, images.detach())

    def _exact(self, x: Tensor) -> Tensor:
        """In the weights' own type: autocast's is too coarse for sums over an image."""
        return x.to(next(self.parameters()).dtype)
