from __future__ import annotations

import pytest
import torch
from torch import nn

from distgan.objectives import build_game, draw_latents
from distgan.objectives.side import Loss, Side, frozen
from distgan.spec import ObjectiveSpec, Options
from shards.errors import InputError
from tests.distgan.objectives.conftest import LATENT, batch, draw, small_autoencoder, small_networks


def side(dropout: float = 0.5) -> tuple[Side, nn.Module]:
    generator, critic = small_networks(dropout=dropout)
    return Side(Options(), critic, generator, LATENT), critic


def test_the_opponent_is_no_part_of_a_side():
    one, critic = side()
    assert list(one.parameters()) == list(critic.parameters())
    assert isinstance(one.opponent, nn.Module)
    assert one.opponent not in set(one.modules())


def test_dropout_is_keyed_by_the_slot_and_by_what_the_images_are():
    one, critic = side()
    images, labels = batch()

    def judged(slots: list[int], *parts: str) -> torch.Tensor:
        repeated = torch.cat([images[slots]] * len(parts)), torch.cat([labels[slots]] * len(parts))
        return one.judge(critic, *repeated, draw(slots), *parts)

    whole = judged([0, 1, 2, 3], "real")
    torch.testing.assert_close(judged([3, 1], "real"), whole[[3, 1]])
    assert (judged([0, 1, 2, 3], "fake") - whole).abs().min() > 1e-6
    together = judged([0, 1, 2, 3], "real", "fake")
    torch.testing.assert_close(together, torch.cat([whole, judged([0, 1, 2, 3], "fake")]))


def test_outputs_come_in_the_weights_type_whatever_autocast_does():
    generator, critic = (network.float() for network in small_networks())
    one = Side(Options(), critic, generator, LATENT)
    images, labels = batch(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(images, labels).dtype == torch.bfloat16
        assert one.judge(critic, images, labels, draw(), "real").dtype == torch.float32


def test_a_frozen_network_passes_gradients_on_and_keeps_none():
    _, critic = side(0.0)
    weights = list(critic.parameters())
    weights[0].requires_grad_(False)  # and stays so
    images, labels = batch()
    images.requires_grad_(True)
    with frozen(critic):
        critic(images, labels).sum().backward()
    assert images.grad.abs().max() > 0
    assert all(weight.grad is None for weight in weights)
    assert [weight.requires_grad for weight in weights] == [False] + [True] * (len(weights) - 1)


def test_a_network_thaws_after_an_error():
    _, critic = side()
    with pytest.raises(ZeroDivisionError), frozen(critic):
        raise ZeroDivisionError
    assert all(weight.requires_grad for weight in critic.parameters())


def test_latents_are_normal_or_uniform_between_minus_one_and_one():
    numbers = {latent: draw_latents(draw(range(20_000)), 3, latent) for latent in ("normal", "uniform")}
    assert {latents.shape for latents in numbers.values()} == {(20_000, 3)}
    assert numbers["normal"].std().item() == pytest.approx(1, abs=0.02)
    assert numbers["normal"].abs().max() > 3
    uniform = numbers["uniform"]
    assert (uniform.min().item(), uniform.max().item()) == pytest.approx((-1, 1), abs=1e-3)
    assert uniform.mean().item() == pytest.approx(0, abs=0.02)
    assert uniform.std().item() == pytest.approx(3**-0.5, abs=0.01)


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_both_sides_draw_the_latents_that_are_asked_for(latent):
    networks = small_networks()
    game = build_game(ObjectiveSpec(kind="bce"), *networks, LATENT, latent)
    for side in game:
        assert torch.equal(side.latents(draw()), draw_latents(draw(), LATENT, latent))


def test_an_autoencoder_s_latents_are_normal():
    with pytest.raises(InputError, match=r"model\.latent is uniform, but elbo .* set it to normal"):
        build_game(ObjectiveSpec(kind="elbo"), *small_autoencoder(), LATENT, "uniform")


def test_the_loss_of_parts_is_that_of_all_their_images():
    values, fakes = torch.rand(8, dtype=torch.float64, requires_grad=True), torch.rand(8, 3, 2, 2)

    def loss(part: slice) -> Loss:
        return Loss(values[part].mean(), {"square": values[part].square().mean()}, fakes[part])

    whole = loss(slice(8))
    parts = Loss.of_parts([loss(slice(3)), loss(slice(3, 4)), loss(slice(4, 8))], [3, 1, 4])
    torch.testing.assert_close(parts.value, whole.value.detach())
    torch.testing.assert_close(parts.figures["square"], whole.figures["square"].detach())
    assert torch.equal(parts.fake, fakes)
    assert not parts.value.requires_grad
    assert Loss.of_parts([whole], [8]) is whole
