import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgan.sampling.paths import between, check_truncation, truncated
from shards.errors import InputError

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), dim=st.integers(2, 20))
def test_a_spherical_way_is_a_rotation_at_lengths_that_change_evenly(seed, share, dim):
    first, second = normal(2, 1, dim, seed=seed)
    ((there,),) = between(first, second, torch.tensor([share], dtype=DOUBLE), "normal")
    length = (1 - share) * first.norm() + share * second.norm()
    assert there.norm().item() == pytest.approx(length.item(), rel=1e-9)
    whole = torch.arccos(torch.nn.functional.cosine_similarity(first, second)).item()
    part = torch.arccos(torch.nn.functional.cosine_similarity(first, there[None]).clamp(-1, 1)).item()
    assert part == pytest.approx(share * whole, abs=1e-6)
    basis = torch.linalg.qr(torch.cat([first, second]).T).Q  # it stays in the plane of the two
    torch.testing.assert_close(basis @ (basis.T @ there), there, rtol=0, atol=1e-9)


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_a_way_begins_and_ends_where_it_should(latent):
    first, second = normal(2, 3, 7).float()
    way = between(first, second, torch.linspace(0, 1, 5), latent)
    assert way.shape == (5, 3, 7)
    assert torch.equal(way[0], first)
    assert torch.equal(way[-1], second)


@pytest.mark.parametrize("second", [[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0], [0.0, 0.0], [1.0, 2.0 + 1e-9]])
def test_latents_between_which_no_great_circle_is_the_one(second):
    ends = torch.tensor([[1.0, 2.0]], dtype=DOUBLE), torch.tensor([second], dtype=DOUBLE)
    way = between(*ends, torch.linspace(0, 1, 3), "normal")
    assert way.isfinite().all()
    torch.testing.assert_close(way[0], ends[0])
    torch.testing.assert_close(way[-1], ends[1])


def test_the_way_of_uniform_latents_is_straight():
    first, second = torch.tensor([[-1.0, 0.5]]), torch.tensor([[1.0, -0.5]])
    torch.testing.assert_close(between(first, second, torch.tensor([0.25]), "uniform"), torch.tensor([[[-0.5, 0.25]]]))


@pytest.mark.parametrize("limit", [0.3, 1.0, 2.5])
def test_truncated_latents_are_those_that_are_drawn_again_until_they_fit(limit):
    latents = normal(200_000, seed=4)
    found = truncated(latents, limit, "normal")
    drawn = normal(400_000, seed=5)
    again = drawn[drawn.abs() <= limit][: len(found)]
    assert found.abs().max() <= limit
    shares = torch.linspace(0.01, 0.99, 30, dtype=DOUBLE)
    apart = found[:100_000].quantile(shares) - again[:100_000].quantile(shares)
    assert apart.abs().max() < 0.02 * limit
    order = latents[:1000].argsort()
    assert (found[order].diff() >= 0).all()  # each keeps its rank


def test_truncation_has_two_ends():
    latents = normal(50, 3).float()
    assert truncated(latents, None, "normal") is latents
    torch.testing.assert_close(truncated(latents, 30.0, "normal"), latents)
    assert truncated(latents, 1e-3, "normal").abs().max() <= 1e-3
    uniform = latents.tanh()
    torch.testing.assert_close(truncated(uniform, 0.5, "uniform"), uniform / 2)
    torch.testing.assert_close(truncated(uniform, 3.0, "uniform"), uniform)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_that_is_none(limit):
    with pytest.raises(InputError, match="--truncation is a number above 0"):
        check_truncation(limit)
