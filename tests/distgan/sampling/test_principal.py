from __future__ import annotations

import math

import pytest
import torch

from distgan.sampling.principal import principal_directions


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_of_a_linear_generator_they_are_its_singular_vectors(latent):
    random = torch.Generator().manual_seed(1)
    uniform = torch.rand(200_000, 5, generator=random, dtype=torch.float64)
    latents = torch.special.ndtri(uniform.clamp(1e-9)) if latent == "normal" else 2 * uniform - 1
    left, right = (torch.linalg.qr(torch.randn(n, 5, generator=random, dtype=torch.float64)).Q for n in (12, 5))
    sizes = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    pictures = 7 + latents @ right @ (sizes * left).T
    found, shares = principal_directions(latents.float(), pictures.float(), 3, latent)
    length = 1.0 if latent == "normal" else math.sqrt(1 / 3)
    torch.testing.assert_close(found.norm(dim=1), torch.full((3,), length))
    aligned = (found.double() / length) @ right
    torch.testing.assert_close(aligned.abs(), torch.eye(3, 5, dtype=torch.float64), atol=0.03, rtol=0)
    torch.testing.assert_close(shares.double(), sizes[:3] ** 2 / (sizes**2).sum(), atol=0.01, rtol=0)
    again, _ = principal_directions(latents.float(), -pictures.float(), 3, latent)
    torch.testing.assert_close(again, found)  # one sign, whichever the decomposition takes


def test_no_more_than_there_are():
    latents = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert len(principal_directions(latents, latents[:, :2], 8, "normal")[0]) == 2
    assert len(principal_directions(latents, latents.repeat(1, 4), 8, "normal")[0]) == 3


def test_a_generator_that_always_draws_the_same():
    latents = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    directions, shares = principal_directions(latents, torch.ones(50, 4), 2, "normal")
    assert directions.isfinite().all()
    assert (shares == 0).all()
