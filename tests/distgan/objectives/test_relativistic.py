from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.distgan.objectives.conftest import COUNT, Duel, assert_same_gradients, batch, dcgan_networks, draw


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=1, max_size=5))
def test_the_critic_s_loss_is_the_paper_s(pairs):
    game = Duel({"kind": "relativistic"}).game
    real, fake = (torch.tensor(each, dtype=torch.float64) for each in zip(*pairs, strict=True))
    expected = sum(softplus(-(x - g)) for x, g in pairs) / len(pairs)
    assert game.critic.loss(real, fake, draw()).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("weights", [{}, {"r1": 2.0}, {"r2": 3.0}, {"r1": 2.0, "r2": 3.0}], ids=str)
def test_the_critic_s_loss_and_gradient_are_the_paper_s(weights):
    """Pair by pair; the penalties' gradients are second derivatives of the critic."""
    duel = Duel({"kind": "relativistic", **weights})
    real = batch()
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    fakes = duel.fakes(real.labels).detach()
    judged = zip(duel.judged(real.images, real.labels), duel.judged(fakes, real.labels), strict=True)
    expected = sum(torch.log1p(torch.exp(-(x - g))) for x, g in judged) / COUNT
    for name, points in (("r1", real.images), ("r2", fakes)):
        if name in weights:
            squares = sum(slope.square().sum() for slope in duel.slopes(points, real.labels)) / COUNT
            expected = expected + weights[name] / 2 * squares
            figure = {"r1": "critic/penalty", "r2": "critic/penalty_fake"}[name]
            assert loss.figures[figure].item() == pytest.approx(squares.item(), rel=1e-10)
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.critic, duel.plain_critic)


@pytest.mark.parametrize("networks", [None, "batch", "none"])
def test_the_generator_s_gradient_is_the_paper_s(networks):
    duel = Duel({"kind": "relativistic"}, dcgan_networks(networks) if networks else None)
    real = batch(size=16 if networks else 8)
    loss = duel.game.generator(real, draw())
    loss.value.backward()
    reals = duel.plain_critic(real.images, real.labels).detach()  # BatchNorm knows whole batches alone
    fakes = duel.plain_critic(duel.fakes(real.labels), real.labels)
    expected = sum(torch.log1p(torch.exp(x - g)) for x, g in zip(reals, fakes, strict=True)) / COUNT
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.generator, duel.plain_generator)
    assert all(parameter.grad is None for parameter in duel.critic.parameters())
