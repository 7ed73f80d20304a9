from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan.networks import ImageShape, build_networks
from distgan.networks.dcgan import CriticOptions, DCGANCritic, DCGANGenerator, GeneratorOptions
from distgan.spec import ModelSpec
from shards.errors import InputError


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_shapes_and_ranges(size, channels, activation):
    image = ImageShape(channels, size)
    generator = DCGANGenerator(GeneratorOptions(width=4, activation=activation), image, 10)
    images = generator(torch.randn(3, 10))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    assert DCGANCritic(CriticOptions(width=4), image)(images).shape == (3,)


def test_the_paper_s_networks_have_the_published_parameters():
    """3,576,704 and 2,765,568: what PyTorch's DCGAN tutorial counts for the same layers."""
    image = ImageShape(3, 64)
    assert parameters(DCGANGenerator(GeneratorOptions(), image, 100)) == 3_576_704
    assert parameters(DCGANCritic(CriticOptions(), image)) == 2_765_568


def test_the_maps_are_the_paper_s():
    """Figure 1 of the paper: 4×4, 8×8, 16×16, 32×32, 64×64, and 1024 → 512 → 256 → 128 → 3 at width 128."""
    generator = DCGANGenerator(GeneratorOptions(width=128), ImageShape(3, 64), 100)
    x, shapes = torch.randn(2, 100)[:, :, None, None], []
    for layer in generator.layers:
        x = layer(x)
        if isinstance(layer, nn.ConvTranspose2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]


def test_where_normalisation_and_activations_are():
    generator = DCGANGenerator(GeneratorOptions(width=2), ImageShape(3, 32), 4)
    critic = DCGANCritic(CriticOptions(width=2), ImageShape(3, 32))
    block = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    assert [type(layer).__name__ for layer in generator.layers] == [*block, *block, *block, "ConvTranspose2d", "Tanh"]
    block = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert [type(layer).__name__ for layer in critic.layers] == ["Conv2d", "LeakyReLU", *block, *block, "Conv2d"]
    assert all(layer.negative_slope == 0.2 for layer in critic.layers if isinstance(layer, nn.LeakyReLU))


@given(st.integers(-1, 1000).filter(lambda size: size not in (16, 32, 64, 128, 256, 512)))
def test_other_sizes_are_refused_with_the_reason(size):
    with pytest.raises(InputError, match="image_size"):
        DCGANCritic(CriticOptions(width=1), ImageShape(3, size))


def test_weights_depend_on_the_seed_alone():
    spec, image = ModelSpec(), ImageShape(3, 16)
    torch.manual_seed(1)
    one = build_networks(spec, image, seed=5)
    torch.manual_seed(2)
    other = build_networks(spec, image, seed=5)
    different = build_networks(spec, image, seed=6)
    for a, b, c in zip(one, other, different, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name])
        assert not torch.equal(next(a.parameters()), next(c.parameters()))


def test_weights_are_initialised_as_in_the_paper():
    for network in build_networks(ModelSpec(), ImageShape(3, 64), seed=0):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                n = module.weight.numel()
                assert abs(module.weight.mean()) < 5 * 0.02 / n**0.5
                assert abs(module.weight.std() / 0.02 - 1) < 5 / (2 * n) ** 0.5
            if isinstance(module, nn.BatchNorm2d):
                assert abs(module.weight.mean() - 1) < 5 * 0.02 / module.num_features**0.5
                assert module.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"generator": {"name": "dcgam"}}, ["model.generator.name", "did you mean 'dcgan'"]),
        ({"critic": {"name": "dcgan", "widht": 3}}, ["model.critic", "widht", "did you mean 'width'"]),
        ({"generator": {"width": 0}}, ["model.generator", "width"]),
        ({"generator": {"activation": "gelu"}}, ["model.generator", "activation", "leaky_relu"]),
    ],
)
def test_wrong_options_are_named(tree, words):
    with pytest.raises(InputError) as caught:
        build_networks(ModelSpec.model_validate(tree), ImageShape(3, 32), 0)
    for word in words:
        assert word in str(caught.value)
