from __future__ import annotations

import pytest
import torch
from torch import nn

from distgan.networks.base import Critic, Encoder, Generator, GeneratorInput
from distgan.networks.layers import ConditionalBatchNorm2d, Layers
from distgan.networks.normalisation import BatchNorm2d
from tests.distgan.networks.conftest import enlarged, noise


class Plain(Generator):
    """Shows what its first layer is given."""

    def __init__(self, given: GeneratorInput) -> None:
        super().__init__(given)
        self.layers = Layers(nn.Identity())


@pytest.mark.parametrize(
    ("given", "width", "norm"),
    [
        (GeneratorInput(4), 4, BatchNorm2d),
        (GeneratorInput(4, 3), 7, BatchNorm2d),
        (GeneratorInput(4, 3, by_batchnorm=True), 4, ConditionalBatchNorm2d),
        (GeneratorInput(4, 0, by_batchnorm=True), 4, BatchNorm2d),
    ],
)
def test_what_a_generator_is_given(given, width, norm):
    latents, labels = noise(2, 4), noise(2, given.labels)
    expected = latents if given.by_batchnorm else torch.cat([latents, labels], dim=1)
    assert torch.equal(Plain(given)(latents, labels), expected)
    assert given.width == expected.shape[1] == width
    layer = given.batch_norm(5, eps=0.25)
    assert type(layer) is norm
    assert (layer if norm is BatchNorm2d else layer.norm).eps == 0.25


def test_without_a_condition_labels_may_be_left_out():
    latents = noise(2, 4)
    assert torch.equal(Plain(GeneratorInput(4))(latents), latents)


def test_the_projection_is_miyato_and_koyama_s():
    """Their equation 6: f(x, y) = yᵀ V φ(x) + ψ(φ(x)), φ summed over its places."""
    head = nn.Conv2d(5, 1, 4)
    critic = enlarged(Critic(nn.Conv2d(3, 5, 3), head, channels=5, labels=2))
    images, labels = noise(4, 3, 6, 6), noise(4, 2, seed=1)
    scores = critic(images, labels)
    assert scores.shape == (4,)
    maps, v = critic.features(images).detach(), critic.projection.weight.detach()
    for i in range(4):
        expected = critic.head(maps[i : i + 1]).item()
        for c in range(5):
            for k in range(2):
                expected += labels[i, k] * v[c, k] * sum(maps[i, c, p, q] for p in range(4) for q in range(4))
        torch.testing.assert_close(scores[i], expected, rtol=1e-10, atol=1e-10)


def test_without_labels_a_critic_has_no_projection():
    critic = enlarged(Critic(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 1, 4), channels=5, labels=0))
    images = noise(4, 3, 6, 6)
    assert not any("projection" in name for name in critic.state_dict())
    torch.testing.assert_close(critic(images), critic.head(critic.features(images))[:, 0, 0, 0])
    torch.testing.assert_close(critic(images, noise(4, 0)), critic(images))


@pytest.mark.parametrize("labels", [0, 2])
def test_an_encoder_s_two_halves(labels):
    encoder = enlarged(Encoder(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 14, 4), latent_dim=7, labels=labels))
    images, vectors = noise(4, 3, 6, 6), noise(4, labels, seed=1)
    mean, log_variance = encoder(images, vectors)
    assert mean.shape == log_variance.shape == (4, 7)
    for i in range(4):
        expected = encoder.head(encoder.features(images[i : i + 1])).flatten()
        for k in range(labels):
            expected = expected + vectors[i, k] * encoder.projection.weight[:, k]
        torch.testing.assert_close(mean[i], expected[:7])
        torch.testing.assert_close(log_variance[i], expected[7:])
