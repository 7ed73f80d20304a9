from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan.networks import Critic, ImageShape
from distgan.networks.gan_rmsprop import CriticOptions, rmsprop_critic
from distgan.objectives import build_game
from distgan.spec import ObjectiveSpec
from shards.errors import InputError
from tests.distgan.objectives.conftest import (
    COUNT,
    LATENT,
    Duel,
    assert_same_gradients,
    batch,
    dcgan_networks,
    draw,
    gradient,
    small_networks,
)

NETWORKS = {
    "smooth": (small_networks, 8),
    "smooth, no condition": (lambda: small_networks(labels=0), 8),
    "layer": (lambda: dcgan_networks("layer"), 16),
    "instance": (lambda: dcgan_networks("instance"), 16),
    "none": (lambda: dcgan_networks("none"), 16),
}

outputs = st.lists(st.floats(-100, 100), min_size=1, max_size=5)


def between(duel, real):
    """x̂ of the paper's algorithm, image by image: line 4 draws ε, line 6 mixes."""
    epsilons = draw(range(len(real.images))).uniform("epsilon", ()).tolist()
    fakes = duel.fakes(real.labels).detach()
    mixed = [e * x + (1 - e) * fake for e, x, fake in zip(epsilons, real.images, fakes, strict=True)]
    return torch.stack(mixed), epsilons


def reference_penalty(duel, real):
    """mean (‖∇D(x̂)‖ − 1)², image by image."""
    mixed, _ = between(duel, real)
    total = 0.0
    for slope in duel.slopes(mixed, real.labels):
        norm = torch.sqrt(sum(element**2 for element in slope.flatten()) + 1e-12)
        total = total + (norm - 1) ** 2
    return total / len(real.images)


def reference_loss(duel, real, weight, drift):
    fakes = duel.fakes(real.labels).detach()
    judged = zip(duel.judged(fakes, real.labels), duel.judged(real.images, real.labels), strict=True)
    value = sum(fake - true + drift * true**2 for fake, true in judged) / len(real.images)
    return value + weight * reference_penalty(duel, real) if weight else value


@given(outputs, outputs)
def test_the_losses_are_the_paper_s(real, fake):
    for kind in ("wasserstein_clip", "wasserstein_gp"):
        game = Duel({"kind": kind}).game
        value = game.critic.loss(*(torch.tensor(each, dtype=torch.float64) for each in (real, fake)), draw())
        assert value.item() == pytest.approx(sum(fake) / len(fake) - sum(real) / len(real), rel=1e-12, abs=1e-12)
        value = game.generator.loss(torch.tensor(fake, dtype=torch.float64))
        assert value.item() == pytest.approx(-sum(fake) / len(fake), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize(("weight", "drift"), [(10.0, 0.0), (1.0, 0.3), (0.0, 0.0), (0.0, 0.01)])
def test_the_penalised_critic_s_loss_and_gradient_are_the_paper_s(networks, weight, drift):
    build, size = NETWORKS[networks]
    duel = Duel({"kind": "wasserstein_gp", "penalty": weight, "drift": drift}, build())
    real = batch(size=size, labels=0 if "no condition" in networks else 2)
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    expected = reference_loss(duel, real, weight, drift)
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.critic, duel.plain_critic)
    if weight:
        penalty = reference_penalty(duel, real).item()
        assert loss.figures["critic/penalty"].item() == pytest.approx(penalty, rel=1e-10)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("kind", ["wasserstein_clip", "wasserstein_gp"])
def test_the_generator_s_loss_and_gradient_are_the_paper_s(kind, networks):
    build, size = NETWORKS[networks]
    duel = Duel({"kind": kind}, build())
    real = batch(size=size, labels=0 if "no condition" in networks else 2)
    labels = real.labels
    loss = duel.game.generator(real, draw())
    loss.value.backward()
    expected = -sum(duel.judged(duel.fakes(labels), labels)) / COUNT
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.generator, duel.plain_generator)


def test_the_clipped_critic_s_loss_and_gradient_are_the_paper_s():
    duel = Duel({"kind": "wasserstein_clip"})
    loss = duel.game.critic(batch(), draw())
    loss.value.backward()
    expected = reference_loss(duel, batch(), 0.0, 0.0)
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.critic, duel.plain_critic)


def test_the_second_derivative_agrees_with_finite_differences():
    duel = Duel({"kind": "wasserstein_gp"})
    real = batch([0, 1, 2])
    duel.game.critic(real, draw([0, 1, 2])).value.backward()
    h = 1e-5
    for ours, weight in zip(duel.critic.parameters(), duel.plain_critic.parameters(), strict=True):
        flat = weight.data.view(-1)
        for place in {0, weight.numel() // 2, weight.numel() - 1}:
            before = flat[place].item()
            flat[place] = before + h
            above = reference_loss(duel, real, 10.0, 0.0).item()
            flat[place] = before - h
            below = reference_loss(duel, real, 10.0, 0.0).item()
            flat[place] = before
            actual = 0.0 if ours.grad is None else ours.grad.flatten()[place].item()
            assert actual == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-7)


class Linear(nn.Module):
    """D(x) = w·x: the same slope everywhere."""

    def __init__(self, slope: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(slope)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.weight).sum((1, 2, 3), keepdim=True)


class HalfSquare(nn.Module):
    """D(x) = s·½‖x‖²: the slope s·x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.square().sum((1, 2, 3), keepdim=True) / 2


def known(features: nn.Module) -> Duel:
    return Duel({"kind": "wasserstein_gp"}, (small_networks(labels=0)[0], Critic(features, nn.Identity(), 1, 0)))


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_each_image_has_a_norm_of_its_own(norm):
    """A linear critic of slope n is penalised (n − 1)². One norm over the batch of N images would be n/√N or n·√N."""
    slope = torch.linspace(-1, 1, 192, dtype=torch.float64).view(3, 8, 8)
    duel = known(Linear(norm * slope / slope.norm()))
    figure = duel.game.critic(batch(labels=0), draw()).figures["critic/penalty"]
    assert figure.item() == pytest.approx((norm - 1) ** 2, abs=1e-10)


def test_each_image_has_an_epsilon_of_its_own():
    """For D(x) = ½‖x‖² the slope is x̂ itself: one ε for all, or real and generated the other way round, would show."""
    duel = known(HalfSquare())
    real = batch(labels=0)
    loss = duel.game.critic(real, draw())
    mixed, epsilons = between(duel, real)
    assert len(set(epsilons)) == COUNT
    assert all(0 <= epsilon < 1 for epsilon in epsilons)
    norms = [sum(pixel**2 for pixel in image.flatten().tolist()) ** 0.5 for image in mixed]
    penalty = sum((norm - 1) ** 2 for norm in norms) / COUNT
    assert loss.figures["critic/penalty"].item() == pytest.approx(penalty, rel=1e-10)
    loss.value.backward()
    fakes = duel.fakes(real.labels)
    slope = (fakes.square().sum() - real.images.square().sum()).item() / 2 / COUNT
    slope += 10 * sum(2 * (norm - 1) * norm for norm in norms) / COUNT
    assert duel.critic.features.scale.grad.item() == pytest.approx(slope, rel=1e-10)


def test_in_float32_too_a_slope_of_zero_has_a_derivative():
    duel = known(Linear(torch.zeros(3, 8, 8)))
    duel.generator.float()
    loss = duel.game.critic(batch(labels=0, dtype=torch.float32), draw(dtype=torch.float32))
    loss.value.backward()
    assert loss.figures["critic/penalty"].item() == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(gradient(duel.critic)).all()


def test_interpolated_images_are_judged_with_the_batch_s_labels():
    duel = Duel({"kind": "wasserstein_gp"})
    seen = []
    duel.critic.register_forward_hook(lambda _, given, __: seen.append(given))
    real = batch()
    duel.game.critic(real, draw())
    assert len(seen) == 2
    assert torch.equal(seen[0][1], torch.cat([real.labels, real.labels]))
    assert torch.equal(seen[1][1], real.labels)
    torch.testing.assert_close(seen[-1][0].detach(), between(duel, real)[0])


def test_without_weight_there_is_no_penalty_to_pay_for():
    duel = Duel({"kind": "wasserstein_gp", "penalty": 0.0}, dcgan_networks("batch"))  # nor need to do without BatchNorm
    calls = []
    duel.critic.register_forward_hook(lambda *_: calls.append(1))
    assert "critic/penalty" not in duel.game.critic(batch(size=16), draw()).figures
    assert len(calls) == 1


def test_r1_comes_on_top():
    duel, alone = Duel({"kind": "wasserstein_gp", "r1": 4.0}), Duel({"kind": "wasserstein_gp"})
    losses = [each.game.critic(batch(), draw()) for each in (duel, alone)]
    squares = sum((slope**2).sum() for slope in duel.slopes(*batch())) / COUNT
    assert losses[0].value.item() == pytest.approx((losses[1].value + 4.0 / 2 * squares).item(), rel=1e-10)
    assert losses[0].figures["critic/penalty"] == losses[1].figures["critic/penalty"]


def test_dropout_draws_for_interpolated_images_too():
    generator, _ = small_networks(labels=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = rmsprop_critic(CriticOptions(width=2, dropout=0.5), ImageShape(3, 64), 0).double()
    game = build_game(ObjectiveSpec(kind="wasserstein_gp"), generator, critic, LATENT)
    image = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    rows = torch.cat([image, image])
    outputs = [
        game.critic.judge(critic, rows, rows.new_empty(2, 0), draw([0, 1]), part)
        for part in ("real", "fake", "between")
    ]
    assert len({*torch.cat(outputs).tolist()}) == 6  # another mask for every image and every part


@pytest.mark.parametrize("clip", [0.01, 0.3])
@pytest.mark.parametrize("networks", [small_networks, dcgan_networks], ids=["smooth", "BatchNorm"])
def test_constrain_brings_every_weight_within_the_clip(clip, networks):
    duel = Duel({"kind": "wasserstein_clip", "clip": clip}, networks())
    generator = copy.deepcopy(duel.generator.state_dict())
    statistics = copy.deepcopy(dict(duel.critic.named_buffers()))
    before = [parameter.detach().clone() for parameter in duel.critic.parameters()]
    duel.game.critic.constrain()
    for parameter, old in zip(duel.critic.parameters(), before, strict=True):
        assert torch.equal(parameter, old.clamp(-clip, clip))
        assert parameter.requires_grad
    assert any((old.abs() > clip).any() for old in before)
    assert all(torch.equal(duel.generator.state_dict()[name], value) for name, value in generator.items())
    assert all(torch.equal(duel.critic.get_buffer(name), value) for name, value in statistics.items())


@pytest.mark.parametrize("kind", ["wasserstein_gp", "bce"])
def test_no_other_objective_touches_weights(kind):
    duel = Duel({"kind": kind})
    for side in duel.game:
        side.constrain()
    for ours, before in zip(duel.critic.parameters(), duel.plain_critic.parameters(), strict=True):
        assert torch.equal(ours, before)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"kind": "wasserstein_clip", "clip": 0.0}, ["clip", "greater than 0"]),
        ({"kind": "wasserstein_clip", "penalty": 10.0}, ["unknown field 'penalty'"]),
        ({"kind": "wasserstein_gp", "penality": 1.0}, ["penality", "did you mean 'penalty'"]),
        ({"kind": "wasserstein_gp", "penalty": -1.0}, ["penalty", "greater than or equal to 0"]),
        ({"kind": "wasserstein_gp", "r1": float("nan")}, ["r1", "finite"]),
    ],
)
def test_wrong_options_are_named(tree, words):
    with pytest.raises(InputError) as caught:
        Duel(tree)
    for word in ("objective", *words):
        assert word in str(caught.value)
