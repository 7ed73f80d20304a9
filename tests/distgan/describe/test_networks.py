from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgan.describe import describe
from distgan.spec import RunSpec, load_spec
from tests.small import conv, growing, small


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.sampled_from([16, 32, 64]))
def test_flops_of_an_image_are_those_of_the_formula(generator_width, critic_width, latent_dim, size):
    spec = RunSpec.model_validate(
        {
            "name": "x",
            "data": {"shards": "nowhere", "image_size": size},
            "model": {
                "generator": {"width": generator_width},
                "critic": {"width": critic_width},
                "latent_dim": latent_dim,
            },
            "training": {"batch_size": 2},
        }
    )
    description = describe(spec)
    widths = [2**power for power in range((size // 4).bit_length() - 1)]
    generator, side, channels = conv(latent_dim, generator_width * widths[-1], 4, 1), 4, generator_width * widths[-1]
    for each in [*(generator_width * width for width in widths[-2::-1]), 3]:
        generator, side, channels = generator + conv(channels, each, 4, side**2), side * 2, each
    critic, side, channels = 0, size, 3
    for each in (critic_width * width for width in widths):
        side //= 2
        critic, channels = critic + conv(channels, each, 4, side**2), each
    assert description.generator.flops_per_image == generator
    assert description.critic.flops_per_image == critic + conv(channels, 1, 4, 1)


def test_layers_are_the_papers():
    """Figure 1 of the DCGAN paper, with the width of its authors' code."""
    generator = describe(load_spec("dcgan64", ["data.shards=nowhere"])).generator
    convolutions = [layer.output_shape for layer in generator.layers if layer.type == "ConvTranspose2d"]
    assert convolutions == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]


def test_layers_of_residual_blocks_are_listed():
    found = describe(small(model={"critic": {"name": "resnet", "width": 4}}))
    names = [layer.name for layer in found.critic.layers]
    assert "features.8.0.residual.1" in names
    assert "features.8.0.shortcut.1" in names
    assert sum(layer.parameters for layer in found.critic.layers) == found.critic.parameters.total


def test_layers_of_all_sizes_are_listed_and_counted():
    description = describe(growing())
    for network in (description.generator, description.critic):
        assert sum(layer.parameters for layer in network.layers) == network.parameters.total
    shapes = {layer.name: layer.output_shape for layer in description.generator.layers}
    assert shapes["layers.to_image.8.0"] == (3, 8, 8)
    assert shapes["layers.to_image.16.0"] == (3, 16, 16)
    shapes = {layer.name: layer.output_shape for layer in description.critic.layers}
    assert shapes["features.from_image.8.0"] == (20, 4, 4)
    assert shapes["features.from_image.16.0"] == (10, 8, 8)
