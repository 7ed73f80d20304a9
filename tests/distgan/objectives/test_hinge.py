from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.distgan.objectives.conftest import COUNT, Duel, assert_same_gradients, batch, dcgan_networks, draw

outputs = st.lists(st.floats(-100, 100), min_size=1, max_size=5)


@given(outputs, outputs)
def test_the_losses_are_the_paper_s(real, fake):
    game = Duel({"kind": "hinge"}).game
    value = game.critic.loss(*(torch.tensor(each, dtype=torch.float64) for each in (real, fake)), draw())
    expected = sum(max(0, 1 - output) for output in real) / len(real)
    expected += sum(max(0, 1 + output) for output in fake) / len(fake)
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    value = game.generator.loss(torch.tensor(fake, dtype=torch.float64))
    assert value.item() == pytest.approx(-sum(fake) / len(fake), rel=1e-12, abs=1e-12)


def test_the_critic_s_gradient_is_the_paper_s():
    duel = Duel({"kind": "hinge"})
    with torch.no_grad():  # some outputs beyond the margins, some within
        for critic in (duel.critic, duel.plain_critic):
            critic.head[-1].weight.mul_(8)
    real = batch()
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    outputs = list(duel.judged(real.images, real.labels))
    fakes = list(duel.judged(duel.fakes(real.labels).detach(), real.labels))
    terms = [1 - each for each in outputs if each < 1] + [1 + each for each in fakes if each > -1]
    assert 0 < len(terms) < 2 * COUNT
    expected = sum(terms) / COUNT
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.critic, duel.plain_critic)


def test_the_generator_s_gradient_is_the_paper_s():
    duel = Duel({"kind": "hinge"}, dcgan_networks())
    real = batch()
    labels = real.labels
    loss = duel.game.generator(real, draw())
    loss.value.backward()
    expected = -sum(duel.plain_critic(duel.fakes(labels), labels)) / COUNT
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.generator, duel.plain_generator)
