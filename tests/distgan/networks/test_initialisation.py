from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from distgan.networks.initialisation import initialise_glorot, initialise_normal
from distgan.networks.same import SameConv2d, SameConvTranspose2d
from tests.distgan.networks.conftest import enlarged


def layers() -> nn.Sequential:
    """One of each, in which nothing is as it should be at the start."""
    return enlarged(
        nn.Sequential(
            nn.Linear(50, 80),
            nn.Conv2d(8, 24, 4, bias=False),
            SameConv2d(12, 6, 5),
            nn.ConvTranspose2d(24, 8, 4),
            SameConvTranspose2d(10, 30, 3),
        )
    )


FANS = [(50, 80), (8 * 16, 24 * 16), (12 * 25, 6 * 25), (24 * 16, 8 * 16), (10 * 9, 30 * 9)]
"""What Keras calls fan in and fan out: the kernel's places times the channels that come in, and that go out."""


def test_glorot_is_keras_s_uniform():
    network = layers()
    initialise_glorot(network, torch.Generator().manual_seed(0))
    for layer, (fan_in, fan_out) in zip(network, FANS, strict=True):
        limit = (6 / (fan_in + fan_out)) ** 0.5
        weights = layer.weight.detach().flatten().sort().values / limit
        assert weights.abs().max() <= 1
        evenly = torch.linspace(-1, 1, len(weights), dtype=torch.float64)
        assert (weights - evenly).abs().max() < 4 / len(weights) ** 0.5  # Kolmogorov and Smirnov's distance, times two


def test_normal_is_the_paper_s():
    network = layers()
    initialise_normal(network, torch.Generator().manual_seed(0))
    for layer in network:
        weights = layer.weight.detach().flatten() / 0.02
        assert abs(weights.mean()) < 5 / len(weights) ** 0.5
        assert abs(weights.std() - 1) < 5 / (2 * len(weights)) ** 0.5
        assert abs((weights**4).mean() - 3) < 5 * (96 / len(weights)) ** 0.5


@pytest.mark.parametrize("initialise", [initialise_glorot, initialise_normal])
def test_biases_are_zero_and_weights_come_from_the_generator_alone(initialise):
    networks = [layers() for _ in range(3)]
    for network, seed in zip(networks, [7, 7, 8], strict=True):
        torch.manual_seed(id(network))
        initialise(network, torch.Generator().manual_seed(seed))
        assert all(layer.bias is None or not layer.bias.any() for layer in network)
    for layer, same, other in zip(*networks, strict=True):
        assert torch.equal(layer.weight, same.weight)
        assert not torch.equal(layer.weight, other.weight)
    for layer, following in pairwise(networks[0]):
        assert not torch.equal(layer.weight.flatten()[:9], following.weight.flatten()[:9])


def test_normalisation_of_batches_and_of_images():
    network = enlarged(nn.Sequential(nn.BatchNorm2d(4096), nn.GroupNorm(1, 4)))
    before = network[1].weight.clone()
    initialise_normal(network, torch.Generator().manual_seed(0))
    assert abs(network[0].weight.mean() - 1) < 5 * 0.02 / 64
    assert abs(network[0].weight.std() / 0.02 - 1) < 5 / (2 * 4096) ** 0.5
    assert not network[0].bias.any()
    assert torch.equal(network[1].weight, before)
