from __future__ import annotations

import pytest
import torch
from torch import nn

from distgan.networks import ImageShape
from distgan.networks.base import GeneratorInput
from distgan.networks.dcgan_keras import CriticOptions, GeneratorOptions, KerasGenerator, keras_critic
from distgan.networks.layers import ConditionalBatchNorm2d
from tests.distgan.networks.conftest import keras_counts, outputs

IMAGE = ImageShape(3, 128)


def networks() -> tuple[nn.Module, nn.Module]:
    """The report's, without memory."""
    with torch.device("meta"):
        return KerasGenerator(GeneratorOptions(), IMAGE, GeneratorInput(100)), keras_critic(CriticOptions(), IMAGE, 0)


def test_parameters_are_the_report_s():
    generator, critic = networks()
    assert keras_counts(generator) == (4_743_555, 4_740_611)
    assert keras_counts(critic) == (4_340_865, 4_340_097)


def test_the_generator_s_layers_are_the_report_s():
    """BatchNorm and LeakyReLU change places half-way. What the layers compute: tests/jobs/test_networks.py."""
    expected: list[tuple[str, tuple[int, ...]]] = [
        *[("Linear", (8192,)), ("Unflatten", (512, 4, 4)), ("BatchNorm2d", (512, 4, 4))],
        *[("SameConvTranspose2d", (512, 8, 8)), ("LeakyReLU", (512, 8, 8)), ("BatchNorm2d", (512, 8, 8))],
        *[("SameConvTranspose2d", (256, 16, 16)), ("LeakyReLU", (256, 16, 16))],
        *[("BatchNorm2d", (256, 16, 16)), ("LeakyReLU", (256, 16, 16))],
        *[("SameConvTranspose2d", (128, 32, 32)), ("BatchNorm2d", (128, 32, 32)), ("LeakyReLU", (128, 32, 32))],
        *[("SameConvTranspose2d", (64, 64, 64)), ("BatchNorm2d", (64, 64, 64)), ("LeakyReLU", (64, 64, 64))],
        *[("SameConvTranspose2d", (3, 128, 128)), ("Tanh", (3, 128, 128))],
    ]
    assert outputs(networks()[0], torch.randn(2, 100, device="meta")) == expected


def test_the_critic_s_layers_are_the_report_s():
    expected = [
        ("SameConv2d", (64, 64, 64)),
        ("LeakyReLU", (64, 64, 64)),
        ("SameConv2d", (128, 32, 32)),
        ("BatchNorm2d", (128, 32, 32)),
        ("LeakyReLU", (128, 32, 32)),
        ("SameConv2d", (256, 16, 16)),
        ("BatchNorm2d", (256, 16, 16)),
        ("LeakyReLU", (256, 16, 16)),
        ("SameConv2d", (512, 8, 8)),
        ("Flatten", (32768,)),
        ("Linear", (1,)),
    ]
    assert outputs(networks()[1], torch.randn(2, 3, 128, 128, device="meta")) == expected


def test_kernels_biases_and_keras_s_defaults():
    for network, kernel in zip(networks(), (3, 5), strict=True):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.kernel_size == (kernel, kernel)
                assert layer.stride == (2, 2)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert layer.bias is not None
            if isinstance(layer, nn.BatchNorm2d):
                assert (layer.eps, layer.momentum) == (1e-3, 0.01)
            if isinstance(layer, nn.LeakyReLU):
                assert layer.negative_slope == 0.3


@pytest.mark.parametrize(
    ("size", "generator", "critic"),
    [
        (32, [(16, 4), (8, 8), (4, 16), (3, 32)], [(4, 16), (8, 8)]),
        (64, [(32, 4), (16, 8), (8, 16), (4, 32), (3, 64)], [(4, 32), (8, 16), (16, 8)]),
        (
            256,
            [(32, 4), (32, 8), (32, 16), (16, 32), (8, 64), (4, 128), (3, 256)],
            [(4, 128), (8, 64), (16, 32), (32, 16), (32, 8)],
        ),
    ],
)
def test_at_other_sizes_channels_double_from_the_image_on_up_to_eight_times(size, generator, critic):
    """(Channels, size) of the first map and behind each convolution, at width 4."""
    image = ImageShape(3, size)
    with torch.device("meta"):
        drawing = KerasGenerator(GeneratorOptions(width=4), image, GeneratorInput(10))
        judging = keras_critic(CriticOptions(width=4), image, 0)
        drawn, judged = outputs(drawing, torch.randn(2, 10)), outputs(judging, torch.randn(2, 3, size, size))
    names = ("Unflatten", "SameConvTranspose2d", "SameConv2d")
    assert [shape[:2] for name, shape in drawn if name in names] == generator
    assert [shape[:2] for name, shape in judged if name in names] == critic
    assert sum(name == "BatchNorm2d" for name, _ in judged) == len(critic) - 2


def test_a_condition_by_batch_norm_takes_every_batch_norm_and_keeps_keras_s_defaults():
    generator = KerasGenerator(GeneratorOptions(width=1), ImageShape(3, 32), GeneratorInput(4, 2, by_batchnorm=True))
    conditional = [layer for layer in generator.modules() if isinstance(layer, ConditionalBatchNorm2d)]
    assert len(conditional) == sum(isinstance(layer, nn.BatchNorm2d) for layer in generator.modules()) == 3
    assert all((layer.norm.eps, layer.norm.momentum) == (1e-3, 0.01) for layer in conditional)


@pytest.mark.parametrize(("normalisation", "groups"), [("layer", [1, 1]), ("instance", [8, 16])])
def test_single_images_are_normalised_where_asked_for(normalisation, groups):
    critic = keras_critic(CriticOptions(width=4, normalisation=normalisation), IMAGE, 0)
    found = [layer for layer in critic.modules() if isinstance(layer, nn.GroupNorm)]
    assert [layer.num_groups for layer in found] == groups
    assert [layer.num_channels for layer in found] == [8, 16]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in critic.modules())
