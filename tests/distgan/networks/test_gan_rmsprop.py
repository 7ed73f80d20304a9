from __future__ import annotations

import pytest
import torch
from torch import nn

from distgan.networks import ImageShape
from distgan.networks.base import GeneratorInput
from distgan.networks.gan_rmsprop import CriticOptions, GeneratorOptions, RMSpropGenerator, rmsprop_critic
from distgan.networks.layers import Dropout
from shards.errors import InputError
from tests.distgan.networks.conftest import keras_counts, outputs

IMAGE = ImageShape(3, 128)


def networks() -> tuple[nn.Module, nn.Module]:
    """The tutorial's, without memory."""
    with torch.device("meta"):
        return (
            RMSpropGenerator(GeneratorOptions(), IMAGE, GeneratorInput(32)),
            rmsprop_critic(CriticOptions(), IMAGE, 0),
        )


def test_parameters_are_those_of_the_tutorial_s_layers():
    generator, critic = networks()
    dense = 32 * 128 * 16 * 16 + 128 * 16 * 16
    kernels = [(128, 256, 5), (256, 256, 4), (256, 256, 4), (256, 256, 4), (256, 512, 5), (512, 512, 5), (512, 3, 7)]
    total = dense + sum(before * after * kernel**2 + after for before, after, kernel in kernels)
    assert keras_counts(generator) == (total, total) == (14_953_987, 14_953_987)
    kernels = [(3, 256, 3), *[(256, 256, 4)] * 4, (256 * 6 * 6, 1, 1)]
    total = sum(before * after * kernel**2 + after for before, after, kernel in kernels)
    assert keras_counts(critic) == (total, total) == (4_211_713, 4_211_713)


def test_the_generator_s_layers_are_the_tutorial_s():
    layers = [
        ("Linear", (128 * 16 * 16,)),
        ("LeakyReLU", (128 * 16 * 16,)),
        ("Unflatten", (128, 16, 16)),
    ]
    for name, shape in (
        ("SameConv2d", (256, 16, 16)),
        ("SameConvTranspose2d", (256, 32, 32)),
        ("SameConvTranspose2d", (256, 64, 64)),
        ("SameConvTranspose2d", (256, 128, 128)),
        ("SameConv2d", (512, 128, 128)),
        ("SameConv2d", (512, 128, 128)),
    ):
        layers += [(name, shape), ("LeakyReLU", shape)]
    layers += [("SameConv2d", (3, 128, 128)), ("Tanh", (3, 128, 128))]
    assert outputs(networks()[0], torch.randn(2, 32, device="meta")) == layers


def test_the_critic_s_layers_are_the_tutorial_s():
    layers: list[tuple[str, tuple[int, ...]]] = []
    for size in (126, 62, 30, 14, 6):
        layers += [("Conv2d", (256, size, size)), ("LeakyReLU", (256, size, size))]
    layers += [("Flatten", (9216,)), ("Dropout", (9216,)), ("Linear", (1,))]
    assert outputs(networks()[1], torch.randn(2, 3, 128, 128, device="meta")) == layers


def test_kernels_slopes_and_dropout():
    generator, critic = networks()
    kernels = [
        [(layer.kernel_size[0], layer.stride[0]) for layer in network.modules() if hasattr(layer, "kernel_size")]
        for network in (generator, critic)
    ]
    assert kernels[0] == [(5, 1), (4, 2), (4, 2), (4, 2), (5, 1), (5, 1), (7, 1)]
    assert kernels[1] == [(3, 1), (4, 2), (4, 2), (4, 2), (4, 2)]
    for network in (generator, critic):
        assert {layer.negative_slope for layer in network.modules() if isinstance(layer, nn.LeakyReLU)} == {0.3}
    assert [layer.probability for layer in critic.modules() if isinstance(layer, Dropout)] == [0.4]


def test_at_32_pixels_there_is_a_generator_but_no_critic():
    image = ImageShape(3, 32)
    generator = RMSpropGenerator(GeneratorOptions(width=2), image, GeneratorInput(4))
    assert generator(torch.randn(2, 4), torch.empty(2, 0)).shape == (2, 3, 32, 32)
    with pytest.raises(InputError, match=r"data\.image_size is 32: .* leave nothing .* use one of 64, 128, "):
        rmsprop_critic(CriticOptions(width=2), image, 0)
