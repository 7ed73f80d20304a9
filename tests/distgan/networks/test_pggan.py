from __future__ import annotations

import pytest
import torch
from torch import nn

from distgan.networks import CRITICS, GENERATORS, ImageShape, build_networks
from distgan.networks.base import GeneratorInput
from distgan.networks.gain import EqualisedConv2d, EqualisedLinear
from distgan.networks.normalisation import MinibatchStddev, PixelNorm
from distgan.spec import ModelSpec, validate
from shards.errors import InputError
from tests.distgan.networks.conftest import enlarged, make_critic, make_generator, noise, outputs
from tests.tables import pggan_critic, pggan_generator

PGGAN = {"generator": {"name": "pggan"}, "critic": {"name": "pggan"}, "latent_dim": 512}


def test_at_1024_pixels_they_have_the_published_parameters():
    """Table 2: 23.1 million each."""
    with torch.device("meta"):
        generator = make_generator("pggan", ImageShape(3, 1024), GeneratorInput(512), width=16)
        critic = make_critic("pggan", ImageShape(3, 1024), width=16)
    for network in (generator, critic):
        assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == 23.1


def test_at_128_pixels_the_maps_are_the_table_s():
    with torch.device("meta"):
        generator = make_generator("pggan", ImageShape(3, 128), GeneratorInput(512))
        critic = make_critic("pggan", ImageShape(3, 128))
        drawn = [shape for name, shape in outputs(generator, torch.randn(2, 512)) if name == "EqualisedConv2d"]
        judged = outputs(critic, torch.randn(2, 3, 128, 128))
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128}
    up = [(widths[size], size, size) for size in widths]
    assert drawn == [up[0], *(shape for shape in up[1:] for _ in range(2)), (3, 128, 128)]
    expected: list[tuple[int, ...]] = [(128, 128, 128)]
    for size, after in ((128, 256), (64, 512), (32, 512), (16, 512), (8, 512)):
        expected += [(widths[size], size, size), (after, size, size)]
    assert [shape for name, shape in judged if name == "EqualisedConv2d"] == [*expected, (512, 4, 4), (512, 1, 1)]
    assert [shape for name, shape in judged if name == "MinibatchStddev"] == [(513, 4, 4)]
    assert judged[-1] == ("EqualisedLinear", (1,))


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_they_compute_the_table(training):
    """At 64 pixels and an eighth of the channels."""
    widths = (64, 64, 64, 32, 16)
    options = {"width": 16, "max_width": 64}
    generator = enlarged(make_generator("pggan", ImageShape(3, 64), GeneratorInput(24), **options)).train(training)
    z, images = noise(3, 24), noise(3, 3, 64, 64, seed=1)
    torch.testing.assert_close(generator(z), pggan_generator(generator, z, widths), rtol=1e-10, atol=1e-11)
    critic = enlarged(make_critic("pggan", ImageShape(3, 64), **options)).train(training)
    torch.testing.assert_close(critic(images), pggan_critic(critic, images, widths[::-1]), rtol=1e-10, atol=1e-11)


def test_weights_begin_as_n_0_1_and_are_used_smaller():
    networks = build_networks(ModelSpec.model_validate(PGGAN), ImageShape(3, 32), seed=0)
    for network in networks:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        assert all(isinstance(layer, EqualisedConv2d | EqualisedLinear) for layer in layers)
        for layer in layers:
            assert abs(layer.weight.std() - 1) < 5 / (2 * layer.weight.numel()) ** 0.5
            assert layer.bias is None or not layer.bias.any()


def test_activations_keep_their_size_through_the_generator():
    """Pixel norm: every pixel's vector has mean square 1, whatever the latents' size."""
    generator = build_networks(ModelSpec.model_validate(PGGAN), ImageShape(3, 32), seed=0)[0].double()
    norms = [layer for layer in generator.modules() if isinstance(layer, PixelNorm)]
    seen = []
    for layer in norms:
        layer.register_forward_hook(lambda _, __, maps: seen.append(maps.square().mean(1)))
    with torch.no_grad():
        images = [generator(size * noise(2, 512)) for size in (1, 100)]
    torch.testing.assert_close(*images, rtol=1e-6, atol=1e-6)
    assert len(seen) == 2 * len(norms) == 2 * (1 + 2 * 4)
    for squares in seen:
        torch.testing.assert_close(squares, torch.ones_like(squares), rtol=1e-6, atol=0)


def test_the_deviation_can_be_left_out():
    critic = make_critic("pggan", ImageShape(3, 16), width=4, minibatch_stddev=False)
    assert not any(isinstance(layer, MinibatchStddev) for layer in critic.modules())
    told = make_critic("pggan", ImageShape(3, 16), width=4)
    more = sum(parameter.numel() for parameter in told.parameters()) - sum(p.numel() for p in critic.parameters())
    assert more == 16 * 9  # one more channel of a 3×3 convolution


@pytest.mark.parametrize("entry", [GENERATORS["pggan"], CRITICS["pggan"]], ids=["generator", "critic"])
def test_a_greatest_width_below_the_least_is_refused(entry):
    with pytest.raises(InputError, match=r"model: max_width is 64, less than width = 128"):
        validate(entry.options, {"max_width": 64}, "model")
