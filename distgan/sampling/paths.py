"""Ways through the latent space: between two latents, and nearer to its middle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distgan.spec import Latent
from shards.errors import InputError


def between(first: Tensor, second: Tensor, shares: Tensor, latent: Latent) -> Tensor:
    """Latents (shares, n, latent_dim) on the way from first (n, latent_dim) to second, at shares in [0, 1] of it.

    Normal latents of many dimensions all lie near a sphere, and the straight way leads through its middle, where no
    latent ever is. So theirs is spherical (White 2016, https://arxiv.org/abs/1609.04468): along the great circle of
    their directions, at lengths that change evenly. Uniform ones fill a cube, in which the straight way stays.
    """
    shares = shares.view(-1, 1, 1).to(first)
    if latent == "uniform":
        return torch.where(shares == 1, second, first + (second - first) * shares)
    lengths = first.norm(dim=-1, keepdim=True), second.norm(dim=-1, keepdim=True)
    one, other = first / lengths[0].clamp_min(1e-12), second / lengths[1].clamp_min(1e-12)
    # Not acos of their product, which loses half of the digits where they are near each other.
    angle = 2 * torch.atan2((one - other).norm(dim=-1, keepdim=True), (one + other).norm(dim=-1, keepdim=True))
    sine = angle.sin()
    straight = sine < 1e-6  # the same direction, or opposite ones, between which no great circle is the one
    sine = sine.where(~straight, 1.0)
    of_one = (((1 - shares) * angle).sin() / sine).where(~straight, 1 - shares)
    of_other = ((shares * angle).sin() / sine).where(~straight, shares)
    way = (of_one * one + of_other * other) * torch.lerp(*lengths, shares)
    return torch.where(shares == 0, first, torch.where(shares == 1, second, way))  # the ends without rounding


def check_truncation(limit: float | None) -> None:
    """See that latents can be truncated so.

    Raises:
        InputError: The limit is not above 0.
    """
    if limit is not None and not (limit > 0 and math.isfinite(limit)):
        raise InputError(f"--truncation is a number above 0, such as 2, not {limit:g}")


def truncated(latents: Tensor, limit: float | None, latent: Latent) -> Tensor:
    """The latents (n, latent_dim) that are drawn within ±limit of the middle instead (Brock et al. 2019).

    https://arxiv.org/abs/1809.11096: less variety, and each picture more typical. Every number keeps its rank: z
    becomes Φ⁻¹(Φ(−limit) + Φ(z) · (Φ(limit) − Φ(−limit))), which is distributed as numbers that are drawn again until
    they are within the limit, and moves evenly with it, so that a picture stays recognisable. Uniform latents are
    multiplied.

    Args:
        latents: N(0, 1), or U[-1, 1).
        limit: Above 0; None leaves them as they are.
        latent: What they were drawn from.
    """
    if limit is None:
        return latents
    if latent == "uniform":
        return latents * min(limit, 1.0)
    bound = torch.tensor(limit, dtype=torch.float64)
    low, high = torch.special.ndtr(-bound), torch.special.ndtr(bound)
    within: Tensor = torch.special.ndtri(low + torch.special.ndtr(latents.double()) * (high - low))
    return within.clamp(-bound, bound).to(latents)
