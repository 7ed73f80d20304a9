from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from distgan.networks import Encoder, ImageShape, build_networks
from distgan.objectives import build_game
from distgan.spec import ModelSpec, ObjectiveSpec
from shards.errors import InputError
from tests.distgan.objectives.conftest import (
    COUNT,
    LATENT,
    assert_same_gradients,
    batch,
    draw,
    gradient,
    small_autoencoder,
)


def registered():
    """The dcgan decoder and encoder, BatchNorm in both, in float64."""
    condition = {"classes": True}
    critic = {"name": "dcgan_encoder", "width": 2}
    tree = {"generator": {"width": 2}, "critic": critic, "latent_dim": LATENT, "condition": condition}
    networks = build_networks(ModelSpec.model_validate(tree), ImageShape(3, 16), seed=0, labels=2)
    return tuple(network.double() for network in networks)


def side(networks, beta=1.0):
    game = build_game(ObjectiveSpec.model_validate({"kind": "elbo", "beta": beta}), *networks, LATENT)
    assert game.generator is None
    return game.critic


@pytest.mark.parametrize("beta", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("networks", [small_autoencoder, registered])
def test_the_loss_and_its_gradient_are_the_paper_s(networks, beta):
    """−log p(x | z) without its constant, and the divergence from the prior, image by image."""
    decoder, encoder = networks()
    plain_decoder, plain_encoder = copy.deepcopy((decoder, encoder))
    real = batch(size=8 if networks is small_autoencoder else 16)
    loss = side((decoder, encoder), beta)(real, draw())
    loss.value.backward()

    mean, log_variance = plain_encoder(real.images, real.labels)
    deviation = torch.sqrt(torch.exp(log_variance))
    images = plain_decoder(mean + deviation * draw().normal("latent", (LATENT,)), real.labels)
    reconstruction, kl = 0.0, 0.0
    for i in range(COUNT):
        likelihood = Normal(images[i], 1.0).log_prob(real.images[i]).sum()
        reconstruction = (
            reconstruction - likelihood / COUNT - real.images[i].numel() * math.log(2 * math.pi) / 2 / COUNT
        )
        kl = kl + kl_divergence(Normal(mean[i], deviation[i]), Normal(0.0, 1.0)).sum() / COUNT
    expected = reconstruction + beta * kl
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-10, atol=0)
    assert loss.figures["elbo/reconstruction"].item() == pytest.approx(reconstruction.item(), rel=1e-10)
    assert loss.figures["elbo/kl"].item() == pytest.approx(kl.item(), rel=1e-10)
    torch.testing.assert_close(loss.fake, images.detach())
    assert_same_gradients(encoder, plain_encoder)
    assert_same_gradients(decoder, plain_decoder)


def test_the_divergence_is_what_sampling_says():
    """KL = E[log q(z) − log p(z)]: no closed form."""
    decoder, encoder = small_autoencoder(labels=0)
    nn.init.constant_(encoder.head[-1].bias, -0.7)
    real = batch(labels=0)
    kl = side((decoder, encoder))(real, draw()).figures["elbo/kl"].item()
    mean, log_variance = (each.detach() for each in encoder(real.images, real.labels))
    posterior = Normal(mean, (log_variance / 2).exp())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        z = posterior.sample((20_000,))
    sampled = (posterior.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean()
    assert kl == pytest.approx(sampled.item(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_posterior_that_is_the_prior_costs_nothing(dtype):
    decoder, encoder = (network.to(dtype) for network in small_autoencoder(labels=0))
    nn.init.zeros_(encoder.head[-1].weight)
    for bias, expected in ((0.0, 0.0), (1e-4, LATENT * (1e-8 + (math.expm1(1e-4) - 1e-4)) / 2)):
        nn.init.constant_(encoder.head[-1].bias, bias)
        loss = side((decoder, encoder))(batch(labels=0, dtype=dtype), draw(dtype=dtype))
        assert loss.figures["elbo/kl"].item() == pytest.approx(expected, rel=1e-3)


def test_it_trains_both_networks():
    decoder, encoder = small_autoencoder()
    one = side((decoder, encoder))
    assert one.trains == ("critic", "generator")
    assert set(one.parameters()) == {*encoder.parameters(), *decoder.parameters()}
    assert len(list(one.parameters())) == len(list(encoder.parameters())) + len(list(decoder.parameters()))
    assert not one.penalised
    one(batch(), draw()).value.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in one.parameters())


def test_what_it_hands_out_carries_no_gradient():
    loss = side(small_autoencoder())(batch(), draw())
    assert loss.fake.shape == batch().images.shape
    assert not loss.fake.requires_grad
    assert all(figure.shape == () and not figure.requires_grad for figure in loss.figures.values())


@pytest.mark.parametrize("split", [[[0, 2, 4], [1, 3, 5]], [[0], [1], [2], [3], [4], [5]]], ids=["two", "six"])
def test_ranks_average_to_the_whole_batch(split):
    one = side(small_autoencoder())

    def turn(slots):
        one.zero_grad(set_to_none=True)
        loss = one(batch(slots), draw(slots))
        loss.value.backward()
        return loss.value.detach(), gradient(one), loss.figures

    value, whole, figures = turn(range(COUNT))
    ranks = [turn(slots) for slots in split]
    torch.testing.assert_close(torch.stack([rank[0] for rank in ranks]).mean(), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([rank[1] for rank in ranks]).mean(0), whole, rtol=1e-9, atol=1e-13)
    for name, figure in figures.items():
        torch.testing.assert_close(torch.stack([rank[2][name] for rank in ranks]).mean(), figure)


@pytest.mark.parametrize("deaf", ["encoder", "decoder"])
def test_labels_reach_both_networks(deaf):
    decoder, encoder = small_autoencoder()
    if deaf == "encoder":
        nn.init.zeros_(encoder.projection.weight)
    else:
        decoder.layers[0].weight.data[:, LATENT:] = 0
    one, real = side((decoder, encoder)), batch()
    images = [one(each, draw()).fake for each in (real, real._replace(labels=-real.labels))]
    assert (images[0] - images[1]).abs().max() > 1e-4


def test_under_autocast_sums_are_float32():
    """A sum of 192 squares in bfloat16 would be wrong in its third digit."""
    networks = tuple(network.float() for network in small_autoencoder())
    one, real = side(networks), batch(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = one(real, draw(dtype=torch.float32))
    assert {loss.value.dtype, *(figure.dtype for figure in loss.figures.values())} == {torch.float32}
    squares = (loss.fake.double() - real.images.double()).square().sum((1, 2, 3)).mean() / 2
    assert loss.figures["elbo/reconstruction"].item() == pytest.approx(squares.item(), rel=1e-6)
    exact = side(small_autoencoder())(batch(), draw())
    assert loss.value.item() == pytest.approx(exact.value.item(), rel=0.02)
    loss.value.backward()
    assert torch.isfinite(gradient(one)).all()


@pytest.mark.parametrize("log_variance", [-1e4, -80.0, 80.0])
def test_an_extreme_posterior_stays_finite(log_variance):
    decoder, encoder = (network.float() for network in small_autoencoder(labels=0))
    assert isinstance(encoder, Encoder)
    nn.init.constant_(encoder.head[-1].bias, log_variance)
    one = side((decoder, encoder))
    loss = one(batch(labels=0, dtype=torch.float32), draw(dtype=torch.float32))
    assert torch.isfinite(loss.value)
    loss.value.backward()
    assert torch.isfinite(gradient(one)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": -1.0}, ["beta", "greater than or equal to 0"]),
        ({"betta": 1.0}, ["betta", "did you mean 'beta'"]),
        ({"r1": 1.0}, ["unknown field 'r1'"]),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(InputError) as caught:
        build_game(ObjectiveSpec.model_validate({"kind": "elbo", **options}), *small_autoencoder(), LATENT)
    for word in ("objective", *words):
        assert word in str(caught.value)
