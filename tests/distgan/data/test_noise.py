from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgan.data.noise import Noise

WORDS = 2**64


def splitmix64(x: int) -> int:
    """The published finaliser, in Python's own integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORDS
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORDS
    return x ^ (x >> 31)


def test_the_finaliser_is_splitmix64():
    from distgan.data.noise import _mix

    values = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF, 0x9E3779B97F4A7C15]
    signed = torch.tensor([value - WORDS if value >= 2**63 else value for value in values])
    assert [value % WORDS for value in _mix(signed).tolist()] == [splitmix64(value) for value in values]


@given(st.integers(8, 40), st.integers(1, 8), st.integers(0, 9))
def test_ranks_draw_what_one_worker_draws(batch_size, world_size, seed):
    whole = Noise(seed, torch.arange(batch_size), "critic/3").normal("latent", (5,))
    for rank in range(world_size):
        slots = torch.arange(rank, batch_size, world_size)
        assert torch.equal(Noise(seed, slots, "critic/3").normal("latent", (5,)), whole[rank::world_size])


def test_everything_in_the_key_matters():
    slots = torch.arange(64)

    def draw(seed: int = 0, update: str = "critic/0", purpose: str = "latent", shift: int = 0) -> torch.Tensor:
        return Noise(seed, slots + shift, update).normal(purpose, (8,))

    draws = [draw(), draw(seed=1), draw(update="critic/1"), draw(update="generator/0"), draw(purpose="epsilon")]
    draws.append(draw(shift=64))
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.2
    assert torch.equal(draw(), draw())


def test_normal_numbers_are_normal():
    x = Noise(0, torch.arange(2000), "u", torch.float64).normal("latent", (100,)).flatten()
    n = len(x)
    assert abs(x.mean()) < 5 / n**0.5
    assert abs(x.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96 / n) ** 0.5
    ordered = x.sort().values
    cdf = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    distance = (cdf - torch.arange(1, n + 1) / n).abs().max()
    assert distance < 1.95 / n**0.5  # Kolmogorov and Smirnov, one in a thousand


def test_uniform_numbers_are_uniform_in_range_and_exact():
    x = Noise(0, torch.arange(2000), "u").uniform("epsilon", (100,)).flatten()
    assert x.min() >= 0
    assert x.max() < 1
    assert torch.equal(x * 2**24, (x * 2**24).round())
    counts = torch.histc(x, 64, 0, 1)
    assert ((counts - len(x) / 64) ** 2 / (len(x) / 64)).sum() < 63 + 6 * (2 * 63) ** 0.5


def test_neighbouring_slots_and_elements_are_independent():
    x = Noise(0, torch.arange(4000), "u").normal("latent", (16,))
    n = 4000 * 15
    assert abs((x[1:] * x[:-1]).mean()) < 5 / n**0.5
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 5 / n**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_types(dtype):
    noise = Noise(0, torch.arange(3), "u", dtype)
    assert noise.uniform("epsilon", (1, 1, 1)).shape == (3, 1, 1, 1)
    assert noise.uniform("flip").shape == (3,)
    assert noise.normal("latent", (7,)).dtype == dtype


def test_float32_is_float64_rounded():
    slots = torch.arange(50)
    exact = Noise(0, slots, "u", torch.float64).normal("latent", (20,))
    assert torch.equal(Noise(0, slots, "u").normal("latent", (20,)), exact.float())
