from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from distgan.data.noise import Noise
from distgan.networks import ImageShape, build_networks
from distgan.objectives import build_game
from distgan.spec import ModelSpec, ObjectiveSpec
from shards.errors import InputError

IMAGE = ImageShape(3, 16)
LATENT = 6
MODEL = ModelSpec.model_validate({"generator": {"width": 3}, "critic": {"width": 3}, "latent_dim": LATENT})


def networks() -> tuple[nn.Module, nn.Module]:
    generator, critic = build_networks(MODEL, IMAGE, seed=0)
    return generator.double(), critic.double()


def draw(update: str = "x") -> Noise:
    return Noise(0, torch.arange(5), update, torch.float64)


def real() -> torch.Tensor:
    return torch.rand(5, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def reference_critic(generator: nn.Module, critic: nn.Module, scale: float) -> torch.Tensor:
    """The loss as the paper writes it, sample by sample, in float64."""
    fake = generator(draw().normal("latent", (LATENT,))).detach()
    total = torch.zeros((), dtype=torch.float64)
    for logit in critic(real()):
        total = total - torch.log(1 / (1 + torch.exp(-logit))) / 5
    for logit in critic(fake):
        total = total - torch.log(1 - 1 / (1 + torch.exp(-logit))) / 5
    return total * scale


@pytest.mark.parametrize(("terms", "scale"), [("sum", 1.0), ("mean", 0.5)])
def test_the_critic_s_loss_and_gradient_are_the_paper_s(terms, scale):
    generator, critic = networks()
    other_generator, other_critic = copy.deepcopy((generator, critic))
    game = build_game(ObjectiveSpec.model_validate({"kind": "bce", "terms": terms}), generator, critic, LATENT)
    loss = game.critic(real(), draw())
    loss.value.backward()
    expected = reference_critic(other_generator, other_critic, scale)
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(critic.parameters(), other_critic.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-15)
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_the_generator_s_loss_and_gradient_are_the_paper_s():
    generator, critic = networks()
    other_generator, other_critic = copy.deepcopy((generator, critic))
    loss = build_game(ObjectiveSpec(), generator, critic, LATENT).generator(draw())
    loss.value.backward()
    logits = other_critic(other_generator(draw().normal("latent", (LATENT,))))
    expected = -sum(torch.log(1 / (1 + torch.exp(-logit))) for logit in logits) / 5
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(generator.parameters(), other_generator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-15)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in critic.parameters())


def test_the_figures_are_the_mean_logits_and_carry_no_gradient():
    generator, critic = networks()
    game = build_game(ObjectiveSpec(), generator, critic, LATENT)
    figures = game.critic(real(), draw()).figures
    torch.testing.assert_close(figures["critic/real"], critic(real()).mean().detach())
    assert not any(figure.requires_grad for figure in figures.values())


def test_an_undecided_critic_costs_what_theory_says():
    generator, critic = networks()
    nn.init.zeros_(list(critic.parameters())[-1])
    for terms, expected in (("sum", 2 * math.log(2)), ("mean", math.log(2))):
        game = build_game(ObjectiveSpec.model_validate({"kind": "bce", "terms": terms}), generator, critic, LATENT)
        assert game.critic(real(), draw()).value.item() == pytest.approx(expected)
        assert game.generator(draw()).value.item() == pytest.approx(math.log(2))


def test_extreme_logits_stay_finite():
    generator, critic = networks()
    with torch.no_grad():
        list(critic.parameters())[-1].mul_(1e6)
    game = build_game(ObjectiveSpec(), generator, critic, LATENT)
    for loss in (game.critic(real(), draw()), game.generator(draw())):
        assert torch.isfinite(loss.value)


def test_a_side_trains_its_own_network_alone():
    generator, critic = networks()
    game = build_game(ObjectiveSpec(), generator, critic, LATENT)
    assert set(game.critic.parameters()) == set(critic.parameters())
    assert set(game.generator.parameters()) == set(generator.parameters())


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"kind": "bse"}, ["objective.kind", "did you mean 'bce'"]),
        ({"kind": "bce", "term": "sum"}, ["objective", "term", "did you mean 'terms'"]),
    ],
)
def test_wrong_options_are_named(tree, words):
    with pytest.raises(InputError) as caught:
        build_game(ObjectiveSpec.model_validate(tree), *networks(), LATENT)
    for word in words:
        assert word in str(caught.value)
