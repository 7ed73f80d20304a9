from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distgan.networks import CRITICS, ENCODERS, GENERATORS, ImageShape
from distgan.networks.base import GeneratorInput
from distgan.networks.dcgan import CriticOptions, DCGANGenerator, GeneratorOptions, dcgan_critic, dcgan_encoder
from distgan.spec import validate
from shards.errors import InputError
from tests.distgan.networks.conftest import keras_counts, outputs


def test_the_paper_s_networks_have_the_published_parameters():
    """3,576,704 and 2,765,568: what PyTorch's DCGAN tutorial counts for the same layers."""
    image = ImageShape(3, 64)
    with torch.device("meta"):
        assert keras_counts(DCGANGenerator(GeneratorOptions(), image, GeneratorInput(100)))[1] == 3_576_704
        assert keras_counts(dcgan_critic(CriticOptions(), image, 0))[1] == 2_765_568


def test_at_32_pixels_they_have_what_their_layers_say():
    """No biases; scale, shift, mean and variance for each normalised channel."""
    image = ImageShape(3, 32)
    generator = 100 * 256 * 16 + 256 * 128 * 16 + 128 * 64 * 16 + 64 * 3 * 16
    critic = 3 * 64 * 16 + 64 * 128 * 16 + 128 * 256 * 16 + 256 * 16
    with torch.device("meta"):
        counts = keras_counts(DCGANGenerator(GeneratorOptions(), image, GeneratorInput(100)))
        assert counts == (generator + 4 * (256 + 128 + 64), generator + 2 * (256 + 128 + 64))
        counts = keras_counts(dcgan_critic(CriticOptions(), image, 0))
        assert counts == (critic + 4 * (128 + 256), critic + 2 * (128 + 256))


def test_the_maps_are_the_paper_s():
    """Figure 1 of the paper: 4×4, 8×8, 16×16, 32×32, 64×64, and 1024 → 512 → 256 → 128 → 3 at width 128."""
    with torch.device("meta"):
        generator = DCGANGenerator(GeneratorOptions(width=128), ImageShape(3, 64), GeneratorInput(100))
        shapes = [shape for name, shape in outputs(generator, torch.randn(2, 100)) if name == "ConvTranspose2d"]
    assert shapes == [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]


def test_layers_at_32_pixels_are_the_report_s():
    """4×4, 8×8, 16×16, 32×32 by four transposed convolutions, all but the last normalised; three strided ones and one
    fully connected layer, the second and third normalised."""
    with torch.device("meta"):
        generator = DCGANGenerator(GeneratorOptions(), ImageShape(3, 32), GeneratorInput(100))
        critic = dcgan_critic(CriticOptions(), ImageShape(3, 32), 0)
        drawn, judged = outputs(generator, torch.randn(2, 100)), outputs(critic, torch.randn(2, 3, 32, 32))
    expected: list[tuple[str, tuple[int, ...]]] = [("Unflatten", (100, 1, 1))]
    for shape in ((256, 4, 4), (128, 8, 8), (64, 16, 16)):
        expected += [("ConvTranspose2d", shape), ("BatchNorm2d", shape), ("ReLU", shape)]
    assert drawn == [*expected, ("ConvTranspose2d", (3, 32, 32)), ("Tanh", (3, 32, 32))]
    expected = [("Conv2d", (64, 16, 16)), ("LeakyReLU", (64, 16, 16))]
    for shape in ((128, 8, 8), (256, 4, 4)):
        expected += [("Conv2d", shape), ("BatchNorm2d", shape), ("LeakyReLU", shape)]
    assert judged == [*expected, ("Conv2d", (1, 1, 1))]


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU)])
def test_activations(activation, kind):
    generator = DCGANGenerator(GeneratorOptions(width=2, activation=activation), ImageShape(3, 32), GeneratorInput(4))
    critic = dcgan_critic(CriticOptions(width=2), ImageShape(3, 32), 0)
    assert sum(type(layer) is kind for layer in generator.modules()) == 3
    slopes = [m.negative_slope for net in (generator, critic) for m in net.modules() if isinstance(m, nn.LeakyReLU)]
    assert set(slopes) == {0.2}


@pytest.mark.parametrize(
    ("normalisation", "layers"), [("batch", nn.BatchNorm2d), ("layer", nn.GroupNorm), ("instance", nn.GroupNorm)]
)
def test_normalisation_is_on_all_but_the_first_and_the_last_convolution(normalisation, layers):
    critic = dcgan_critic(CriticOptions(width=2, normalisation=normalisation), ImageShape(3, 64), 0)
    found = [layer for layer in critic.modules() if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)]
    assert [type(layer) for layer in found] == [layers] * 3
    assert [layer.weight.numel() for layer in found] == [4, 8, 16]
    assert all(layer.bias is None for layer in critic.modules() if isinstance(layer, nn.Conv2d))


def test_without_normalisation_the_hidden_convolutions_have_biases():
    critic = dcgan_critic(CriticOptions(width=2, normalisation="none"), ImageShape(3, 64), 0)
    convolutions = [layer for layer in critic.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.bias is not None for layer in convolutions] == [False, True, True, True, False]


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("labels", [0, 3])
def test_an_encoder_is_the_critic_up_to_4_by_4(size, labels):
    image = ImageShape(1, size)
    encoder = dcgan_encoder(CriticOptions(width=2), image, labels, 7)
    critic = dcgan_critic(CriticOptions(width=2), image, labels)
    assert str(encoder.features) == str(critic.features)
    mean, log_variance = encoder(torch.randn(5, 1, size, size), torch.randn(5, labels))
    assert mean.shape == log_variance.shape == (5, 7)
    assert encoder.features(torch.randn(5, 1, size, size)).shape == (5, size // 4, 4, 4)


def widths(size: int, **options: Any) -> tuple[list[int], list[int]]:
    """Channels of the generator's and of the critic's strided layers, from the image to 4×4."""
    image = ImageShape(3, size)
    with torch.device("meta"):
        generator = DCGANGenerator(GeneratorOptions(**options), image, GeneratorInput(100))
        critic = dcgan_critic(CriticOptions(**options), image, 0)
    drawn = [layer.in_channels for layer in generator.modules() if isinstance(layer, nn.ConvTranspose2d)]
    judged = [layer.out_channels for layer in critic.features.modules() if isinstance(layer, nn.Conv2d)]
    return drawn[:0:-1], judged


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize(("options", "most"), [({}, 512), ({"width": 8}, 512), ({"width": 1024}, 1024)], ids=str)
def test_beyond_64_pixels_layers_end_at_512_channels_unless_that_is_less_than_the_narrowest(size, options, most):
    doubled = [options.get("width", 64) * 2**power for power in range((size // 4).bit_length() - 1)]
    expected = doubled if size <= 64 else [min(width, most) for width in doubled]
    assert widths(size, **options) == (expected, expected)


@pytest.mark.parametrize("size", [32, 64, 128, 1024])
@pytest.mark.parametrize("max_width", [64, 100, 65_536])
def test_a_greatest_width_that_is_asked_for_holds_at_any_size(size, max_width):
    expected = [min(64 * 2**power, max_width) for power in range((size // 4).bit_length() - 1)]
    assert widths(size, max_width=max_width) == (expected, expected)


@pytest.mark.parametrize(
    "entry",
    [GENERATORS["dcgan"], CRITICS["dcgan"], ENCODERS["dcgan_encoder"]],
    ids=["generator", "critic", "encoder"],
)
def test_a_greatest_width_below_the_least_is_refused(entry):
    with pytest.raises(InputError, match=r"model: max_width is 32, less than width = 64"):
        validate(entry.options, {"max_width": 32}, "model")


@pytest.mark.parametrize("normalisation", [["batch", "spectral"], "batch, spectral", "spectrl"], ids=str)
def test_a_critic_has_one_normalisation(normalisation):
    words = r"model\.critic: 'normalisation' should be 'batch', 'layer', 'instance', 'none' or 'spectral', not"
    with pytest.raises(InputError, match=words):
        validate(CriticOptions, {"normalisation": normalisation}, "model.critic")


def test_without_batch_norm_on_its_input_layer_that_has_a_bias():
    with torch.device("meta"):
        generator = DCGANGenerator(GeneratorOptions(input_batchnorm=False), ImageShape(3, 64), GeneratorInput(100))
    assert keras_counts(generator) == (3_576_704 + 2 * (960 - 512) - 512, 3_576_704 - 512)
    kinds = [type(layer) for layer in generator.layers]
    assert kinds[:4] == [nn.Unflatten, nn.ConvTranspose2d, nn.ReLU, nn.ConvTranspose2d]
