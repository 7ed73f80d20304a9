"""Principal directions of the latent space: those that move a generator's pictures most, found without any labels.

Härkönen et al. 2020, "GANSpace" (https://arxiv.org/abs/2004.02546): the principal components of what a generator makes
of many latents, and for each of them the latent direction that linear regression finds for its coordinate. They take
the output of a layer; here it is the pictures themselves, small, so that any generator has them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distgan.spec import Latent


def principal_directions(latents: Tensor, pictures: Tensor, count: int, latent: Latent) -> tuple[Tensor, Tensor]:
    """The directions that pictures move along most.

    Each is as long as the standard deviation of a number of a latent. Its sign is arbitrary, but always the same.

    Args:
        latents: (n, latent_dim).
        pictures: What was drawn of them, (n, anything), such as :func:`distgan.sampling.thumbnails`.
        count: How many.
        latent: What the latents were drawn from.

    Returns:
        Directions float32 (k, latent_dim), and of each its share of the pictures' variance (k,), in descending order; k
        is ``count``, or less where latents or pictures have fewer dimensions.
    """
    exact = pictures.double() - pictures.double().mean(0)
    variances, components = torch.linalg.eigh(exact.T @ exact)
    count = min(count, latents.shape[1], pictures.shape[1])
    largest = components.flip(1)[:, :count]
    # The slope of the regression from a coordinate to the latents, but for its length.
    slopes = (exact @ largest).T @ (latents.double() - latents.double().mean(0))
    slopes = slopes * slopes.gather(1, slopes.abs().argmax(1, keepdim=True)).sign()
    spread = 1.0 if latent == "normal" else math.sqrt(1 / 3)
    directions = spread * slopes / slopes.norm(dim=1, keepdim=True).clamp_min(1e-12)
    shares = variances.flip(0)[:count].clamp_min(0) / variances.clamp_min(0).sum().clamp_min(1e-12)
    return directions.float(), shares.float()
