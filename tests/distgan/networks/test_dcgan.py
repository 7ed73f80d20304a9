from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distgan.networks import CRITICS, ENCODERS, GENERATORS, ImageShape, build_networks
from distgan.networks.base import GeneratorInput
from distgan.networks.convolutions import Conv2d, ConvTranspose2d
from distgan.networks.dcgan import CriticOptions, DCGANGenerator, GeneratorOptions, dcgan_critic, dcgan_encoder
from distgan.networks.gain import Equalised
from distgan.networks.normalisation import BatchNorm2d, PixelNorm
from distgan.spec import ModelSpec, validate
from shards.errors import InputError
from tests.distgan.networks.conftest import enlarged, keras_counts, make_critic, make_generator, noise, outputs


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


@pytest.mark.parametrize("normalisation", ["batch", "layer", "instance", "none"])
@pytest.mark.parametrize("image_bias", [0.0, 0.1, 1.0])
def test_which_critics_see_how_strong_the_contrast_of_their_images_is(normalisation, image_bias):
    """A norm takes off whatever only scales what comes in; no gradient leads to another contrast then."""
    options = CriticOptions(width=8, normalisation=normalisation, image_bias=image_bias)
    assert options.blind_to_contrast == (image_bias == 0.0 and normalisation != "none")
    critic = enlarged(dcgan_critic(options, ImageShape(3, 16), 0))
    for layer in critic.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
            layer.eps = 1e-30
    images = noise(4, 3, 16, 16)
    points = images.clone().requires_grad_(True)
    outputs = critic(points)
    (slopes,) = torch.autograd.grad(outputs.square().sum(), points)
    along, size = float((slopes * images).sum()), float(slopes.norm() * images.norm())
    fainter = critic(images / 2)
    if not options.blind_to_contrast:
        assert abs(along) > 1e-5 * size
        assert (fainter - outputs).abs().max() > 1e-3
    else:
        assert abs(along) < 1e-10 * size
        torch.testing.assert_close(fainter, outputs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", [{}, {"layer_gain": "equalised"}, {"normalisation": "spectral"}], ids=str)
def test_the_bias_of_images_moves_at_the_rate_that_it_is_given(layers):
    """Adam's first step is as long as its learning rate, for each number: what is added moves by the share of that."""
    images, moved = noise(8, 3, 16, 16), {}
    for rate in (1.0, 0.1):
        critic = dcgan_critic(CriticOptions(width=8, image_bias=rate, **layers), ImageShape(3, 16), 0).double().eval()
        first = critic.features[0]
        assert isinstance(first, Conv2d)
        with torch.no_grad():
            first.bias.zero_()
            before = first(images)
        optimizer = torch.optim.Adam([first.bias], lr=1e-3, eps=1e-30)
        critic(images).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            moved[rate] = first(images) - before
    torch.testing.assert_close(moved[1.0].abs(), torch.full_like(moved[1.0], 1e-3), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(moved[0.1].abs(), torch.full_like(moved[0.1], 1e-4), rtol=1e-6, atol=0.0)


def test_a_bias_was_once_there_or_not():
    """Specifications and checkpoints of that time mean what they meant."""
    assert CriticOptions(image_bias=True) == CriticOptions(image_bias=1.0)
    assert CriticOptions(image_bias=False) == CriticOptions()


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
    ("normalisation", "layers"), [("batch", BatchNorm2d), ("layer", nn.GroupNorm), ("instance", nn.GroupNorm)]
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
    assert kinds[:4] == [nn.Unflatten, ConvTranspose2d, nn.ReLU, ConvTranspose2d]


@pytest.mark.parametrize(("normalisation", "kind"), [("batch", nn.BatchNorm2d), ("pixel", PixelNorm), ("none", None)])
def test_the_generator_s_normalisation(normalisation, kind):
    """BatchNorm before activations, pixel norm after them; without BatchNorm layers have a bias but for the last."""
    generator = make_generator("dcgan", ImageShape(3, 32), GeneratorInput(4), width=2, normalisation=normalisation)
    names = [name for name, _ in outputs(generator, torch.randn(2, 4))]
    hidden = {
        "batch": ["ConvTranspose2d", "BatchNorm2d", "ReLU"],
        "pixel": ["ConvTranspose2d", "ReLU", "PixelNorm"],
        "none": ["ConvTranspose2d", "ReLU"],
    }[normalisation]
    assert names == ["Unflatten", *3 * hidden, "ConvTranspose2d", "Tanh"]
    biases = [layer.bias is not None for layer in generator.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert biases == [normalisation != "batch"] * 3 + [False]
    norms = sum(isinstance(layer, nn.BatchNorm2d | PixelNorm) for layer in generator.modules())
    assert norms == (0 if kind is None else 3)


@torch.no_grad()
def test_equalised_layers_are_the_plain_ones_with_smaller_weights():
    """Generator and critic, with the weights of the equalised ones put into plain ones at the size they are used."""
    image, given_ = ImageShape(3, 32), GeneratorInput(4)
    for make, arguments, x in (
        (make_generator, (given_,), noise(3, 4)),
        (make_critic, (2,), noise(3, 3, 32, 32)),
    ):
        equalised, plain = (
            enlarged(make("dcgan", image, *arguments, width=2, layer_gain=gain)) for gain in ("equalised", "plain")
        )
        kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
        pairs = [[layer for layer in network.modules() if isinstance(layer, kinds)] for network in (equalised, plain)]
        for ours, theirs in zip(*pairs, strict=True):
            used = ours.used_weight()
            if isinstance(theirs, nn.ConvTranspose2d):
                linear = isinstance(ours, nn.Linear)
                used = used.T.reshape(theirs.weight.shape) if linear else used.transpose(0, 1)
            theirs.weight.copy_(used)
        norms = [
            [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
            for network in (equalised, plain)
        ]
        for ours, theirs in zip(*norms, strict=True):
            theirs.load_state_dict(ours.state_dict())
        labels = [noise(3, 2, seed=1)] if make is make_critic else []
        torch.testing.assert_close(equalised(x, *labels), plain(x, *labels), rtol=1e-10, atol=1e-11)


def test_equalised_layers_begin_with_weights_of_size_1():
    model = {"generator": {"layer_gain": "equalised"}, "critic": {"layer_gain": "equalised"}, "latent_dim": 100}
    for network in build_networks(ModelSpec.model_validate(model), ImageShape(3, 32), 0):
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
        assert layers
        for layer in layers:
            assert isinstance(layer, Equalised)
            assert abs(layer.weight.std() - 1) < 5 / (2 * layer.weight.numel()) ** 0.5


@pytest.mark.parametrize("size", [32, 64])
def test_the_critic_may_be_told_the_deviation_before_its_last_strided_layer(size):
    critic = make_critic("dcgan", ImageShape(3, size), width=2, minibatch_stddev=True, normalisation="none")
    seen = outputs(critic, torch.rand(2, 3, size, size))
    at = [name for name, _ in seen].index("MinibatchStddev")
    assert seen[at][1][1:] == (8, 8)
    assert [name for name, _ in seen[at + 1 :]] == ["Conv2d", "LeakyReLU", "Conv2d"]


def test_spectral_and_equalised_exclude_each_other():
    with pytest.raises(InputError, match=r"model: normalisation: spectral divides out .* leave out one"):
        validate(CRITICS["dcgan"].options, {"normalisation": "spectral", "layer_gain": "equalised"}, "model")
