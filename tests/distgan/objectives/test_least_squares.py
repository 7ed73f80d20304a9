from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.distgan.objectives.conftest import COUNT, Duel, assert_same_gradients, batch, dcgan_networks, draw

outputs = st.lists(st.floats(-100, 100), min_size=1, max_size=5)
A, B, C = 0, 1, 1
"""The paper's codes: for generated images, for real ones, and what the generator wants its own to be."""


@given(outputs, outputs)
def test_the_losses_are_the_paper_s(real, fake):
    game = Duel({"kind": "least_squares"}).game
    value = game.critic.loss(*(torch.tensor(each, dtype=torch.float64) for each in (real, fake)), draw())
    expected = sum((output - B) ** 2 for output in real) / len(real) / 2
    expected += sum((output - A) ** 2 for output in fake) / len(fake) / 2
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    value = game.generator.loss(torch.tensor(fake, dtype=torch.float64))
    assert value.item() == pytest.approx(
        sum((output - C) ** 2 for output in fake) / len(fake) / 2, rel=1e-12, abs=1e-12
    )


def test_the_critic_s_gradient_is_the_paper_s():
    duel = Duel({"kind": "least_squares"})
    real = batch()
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    expected = sum((output - B) ** 2 for output in duel.judged(real.images, real.labels)) / COUNT / 2
    fakes = duel.fakes(real.labels).detach()
    expected = expected + sum((output - A) ** 2 for output in duel.judged(fakes, real.labels)) / COUNT / 2
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.critic, duel.plain_critic)


def test_the_generator_s_gradient_is_the_paper_s():
    duel = Duel({"kind": "least_squares"}, dcgan_networks())
    real = batch()
    labels = real.labels
    loss = duel.game.generator(real, draw())
    loss.value.backward()
    expected = sum((output - C) ** 2 for output in duel.plain_critic(duel.fakes(labels), labels)) / COUNT / 2
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.generator, duel.plain_generator)
