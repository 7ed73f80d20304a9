from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from distgan.data.noise import Noise
from distgan.describe import describe
from distgan.networks import CRITICS, GENERATORS, ImageShape, build_networks
from distgan.networks.base import GeneratorInput
from distgan.networks.layers import Residual
from distgan.networks.normalisation import MinibatchStddev
from distgan.networks.spectral import Spectral
from distgan.objectives import Batch, build_game
from distgan.spec import ModelSpec, ObjectiveSpec, RunSpec, validate
from shards.errors import InputError
from tests.distgan.networks.conftest import enlarged, make_critic, make_generator, noise, outputs
from tests.tables import r3gan_critic, r3gan_generator, sngan_critic, sngan_generator

SNGAN = {"max_width": 1024, "activation": "relu", "image_stride": 1}
SNGAN_GENERATOR = {**SNGAN, "normalisation": "batch"}
SNGAN_CRITIC = {**SNGAN, "normalisation": "spectral"}
R3GAN = {"block": "bottleneck", "blocks": 2, "resampling": "bilinear", "image_stride": 1}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# SNGAN


def convolution(before: int, after: int, kernel: int) -> int:
    """Its parameters."""
    return before * after * kernel**2 + after


@pytest.mark.parametrize(("size", "final_size"), [(64, 2), (128, 4)])
def test_sngan_s_layers_are_the_published_ones(size, final_size):
    """At 128 pixels the paper's table, at 64 the authors' code: 1024 channels at 4×4, 64 at the image; the critic's
    blocks end with 64, 128, 256, 512, 1024 channels, and at 128 pixels with 1024 once more."""
    critic_options = {**SNGAN_CRITIC, "width": 64, "final_size": final_size}
    shapes: list[tuple[int, ...]] = []
    with FakeTensorMode():
        given_ = GeneratorInput(128)
        generator = make_generator("resnet", ImageShape(3, size), given_, **{**SNGAN_GENERATOR, "width": 64})
        critic = make_critic("resnet", ImageShape(3, size), **critic_options)
        for network, inputs in ((generator, torch.empty(2, 128)), (critic, torch.empty(2, 3, size, size))):
            for block in (module for module in network.modules() if isinstance(module, Residual)):
                block.register_forward_hook(lambda _, __, maps: shapes.append(tuple(maps.shape[1:])))
            network(inputs)
    widths = [1024, 512, 256, 128, 64] if size == 64 else [1024, 1024, 512, 256, 128, 64]
    count = 128 * 1024 * 16 + 1024 * 16
    for before, after in pairwise(widths):
        norms = 2 * before + 2 * after
        count += norms + convolution(before, after, 3) + convolution(after, after, 3) + convolution(before, after, 1)
    assert parameters(generator) == count + 2 * 64 + convolution(64, 3, 3)
    widths = [64, 128, 256, 512, 1024] if size == 64 else [64, 128, 256, 512, 1024, 1024]
    count = convolution(3, 64, 3) + convolution(64, 64, 3) + convolution(3, 64, 1)
    for before, after in pairwise(widths):
        shortcut = 0 if before == after else convolution(before, after, 1)
        count += convolution(before, before, 3) + convolution(before, after, 3) + shortcut
    assert parameters(critic) == count + 1024 + 1
    assert all(isinstance(layer, Spectral) for layer in critic.modules() if isinstance(layer, nn.Conv2d | nn.Linear))

    drawn = [(min(64 * size // side, 1024), side, side) for side in (8, 16, 32, 64, 128) if side <= size]
    sides = [size // 2, size // 4, size // 8, size // 16, size // 32, *([4] if size == 128 else [])]
    assert shapes == [*drawn, *((width, side, side) for width, side in zip(widths, sides, strict=True))]


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_sngan_s_networks_compute_the_table(training):
    """At 64 pixels with an eighth of the channels, and at 128 with a sixteenth."""
    z = noise(3, 12)
    options = {**SNGAN_GENERATOR, "width": 8}
    generator = enlarged(make_generator("resnet", ImageShape(3, 64), GeneratorInput(12), **options)).train(training)
    expected = sngan_generator(generator, z, (128, 64, 32, 16, 8))
    torch.testing.assert_close(generator(z), expected, rtol=1e-9, atol=1e-10)
    for size, width, final_size, widths in (
        (64, 8, 2, (8, 16, 32, 64, 128)),
        (128, 4, 4, (4, 8, 16, 32, 64, 64)),
    ):
        images = noise(2, 3, size, size, seed=1)
        options = {**SNGAN_CRITIC, "width": width, "final_size": final_size}
        critic = enlarged(make_critic("resnet", ImageShape(3, size), **options)).train(training)
        expected = sngan_critic(critic, images, widths, final_size)
        torch.testing.assert_close(critic(images), expected, rtol=1e-9, atol=1e-10)


# R3GAN


@torch.no_grad()
def test_r3gan_s_networks_compute_the_published_layers():
    """At 64 pixels: channels 768 four times and 384, here a thirty-second of that."""
    options = {**R3GAN, "width": 12, "max_width": 24, "group_width": 4}
    generator = make_generator("resnet", ImageShape(3, 64), GeneratorInput(7), **options, output="linear")
    z, images = noise(3, 7), noise(3, 3, 64, 64, seed=1)
    expected = r3gan_generator(enlarged(generator), z, (24, 24, 24, 24, 12), 4)
    torch.testing.assert_close(generator(z), expected, rtol=1e-10, atol=1e-11)
    critic = enlarged(make_critic("resnet", ImageShape(3, 64), **options))
    expected = r3gan_critic(critic, images, (12, 24, 24, 24, 24), 4)
    torch.testing.assert_close(critic(images), expected, rtol=1e-10, atol=1e-11)


def test_r3gan_s_parameters():
    """Of the published configuration for 64 pixels: 96 groups of 16 channels at 768, 48 at 384."""
    options = {**R3GAN, "width": 384, "max_width": 768, "group_width": 16}
    with torch.device("meta"):
        generator = make_generator("resnet", ImageShape(3, 64), GeneratorInput(64), **options, output="linear")
        critic = make_critic("resnet", ImageShape(3, 64), **options)
    groups = [layer.groups for layer in generator.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert groups == [96] * 8 + [48] * 2

    def block(width: int) -> int:
        hidden = 2 * width
        return 2 * width * hidden + hidden * 16 * 9 + 2 * hidden

    stages = 2 * (4 * block(768) + block(384)) + 768 * 384
    assert parameters(generator) == stages + 64 * 768 + 768 * 16 + 384 * 3
    assert parameters(critic) == stages + 3 * 384 + 768 * 16 + 768


# All of them

SIZES = [16, 32]
shared = {
    "width": st.sampled_from([2, 4]),
    "max_width": st.sampled_from([4, 8, 512]),
    "blocks": st.integers(1, 2),
    "activation": st.sampled_from(["relu", "leaky_relu"]),
    "resampling": st.sampled_from(["box", "bilinear"]),
    "image_stride": st.sampled_from([1, 2]),
    "layer_gain": st.sampled_from(["plain", "equalised"]),
}
kinds = st.sampled_from(
    [{"block": "plain"}, {"block": "bottleneck"}, {"block": "bottleneck", "expansion": 1, "group_width": 2}]
)


@st.composite
def models(draw: Any) -> dict[str, Any]:
    """Any options of both networks that go together."""
    generator = {**draw(st.fixed_dictionaries(shared)), **draw(kinds)}
    generator["normalisation"] = draw(st.sampled_from(["none", "batch", "pixel"]))
    generator["output"] = draw(st.sampled_from(["tanh", "linear"]))
    critic = {**draw(st.fixed_dictionaries(shared)), **draw(kinds)}
    critic["normalisation"] = draw(st.sampled_from(["none", "batch", "layer", "instance", "spectral"]))
    critic["minibatch_stddev"] = draw(st.booleans())
    if critic["block"] == "plain":
        critic["final_size"] = draw(st.sampled_from([2, 4]))
    assume(critic["normalisation"] != "spectral" or critic["layer_gain"] == "plain")
    how = "batchnorm" if generator["normalisation"] == "batch" and draw(st.booleans()) else "concatenation"
    return {
        "generator": {"name": "resnet", **generator},
        "critic": {"name": "resnet", **critic},
        "latent_dim": 5,
        "condition": draw(st.sampled_from([None, {"classes": True, "generator": how}])),
    }


@settings(max_examples=25)
@given(models(), st.sampled_from(SIZES), st.sampled_from([1, 3]), st.sampled_from([torch.float32, torch.float64]))
def test_any_options_make_networks_that_play(model, size, channels, dtype):
    """Every parameter gets a gradient; those of layers under a last convolution that begins at 0 get that later."""
    labels = 2 if model["condition"] else 0
    spec, image = ModelSpec.model_validate(model), ImageShape(channels, size)
    networks = tuple(
        network.to(dtype).to(memory_format=torch.channels_last) for network in build_networks(spec, image, 0, labels)
    )
    norms = any(isinstance(module, _BatchNorm) for module in networks[1].modules())
    objective = {"kind": "relativistic", "r1": 0.0 if norms else 1.0}
    game = build_game(ObjectiveSpec.model_validate(objective), *networks, 5)
    images = torch.rand(4, channels, size, size, dtype=dtype) * 2 - 1
    real = Batch(images.to(memory_format=torch.channels_last), torch.randn(4, labels, dtype=dtype))
    for side in (game.critic, game.generator):
        loss = side(real, Noise(0, torch.arange(4), "update", dtype))
        assert loss.fake.shape == real.images.shape
        assert loss.fake.dtype == loss.value.dtype == dtype
        loss.value.backward()
        for name, parameter in side.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32), torch.no_grad():
        scores = networks[1](real.images, real.labels)
    assert scores.shape == (4,)
    assert scores.isfinite().all()


@settings(max_examples=10)
@given(models(), st.sampled_from(SIZES))
def test_maps_lie_with_their_channels_last(model, size):
    networks = build_networks(ModelSpec.model_validate({**model, "condition": None}), ImageShape(3, size), 0)
    last, strays = torch.channels_last, []

    def check(name: str) -> Any:
        def hook(_: nn.Module, __: Any, maps: torch.Tensor) -> None:
            if maps.ndim == 4 and not maps.is_contiguous(memory_format=last):
                strays.append(name)

        return hook

    for network, inputs in zip(networks, (torch.randn(2, 5), torch.rand(2, 3, size, size)), strict=True):
        network.to(memory_format=last)
        for name, layer in network.named_modules():
            if not list(layer.children()):
                layer.register_forward_hook(check(name))
        network(inputs if inputs.ndim == 2 else inputs.to(memory_format=last))
    assert strays == []


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("final_size", [2, 4])
def test_a_critic_may_be_told_the_deviation_once_at_4_by_4(block, final_size):
    options = {"block": block, **({"final_size": final_size} if block == "plain" else {})}
    critic = enlarged(make_critic("resnet", ImageShape(3, 32), width=4, minibatch_stddev=True, **options))
    image, others = noise(1, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    seen = outputs(critic, torch.cat([image, others]))
    assert [shape[1:] for kind, shape in seen if kind == "MinibatchStddev"] == [(4, 4)]
    one, other = (critic(torch.cat([image, each]))[0] for each in (others, 2 * others))
    assert abs(one - other) > 1e-3


def test_by_default_no_image_is_mixed_with_others():
    critic = make_critic("resnet", ImageShape(3, 32), width=4)
    assert not any(isinstance(layer, MinibatchStddev | _BatchNorm) for layer in critic.modules())


def test_by_default_they_cost_what_r2_s_networks_do():
    """FLOPs of an image, forward in both networks, and of a step: within a twentieth."""
    figures = []
    for name in ("dcgan", "resnet"):
        model = {"generator": {"name": name}, "critic": {"name": name}}
        tree = {"name": "x", "data": {"shards": "nowhere", "image_size": 64}, "model": model}
        found = describe(RunSpec.model_validate(tree))
        figures.append([found.generator.flops_per_image + found.critic.flops_per_image, found.step.flops_per_image])
    assert figures[1] == pytest.approx(figures[0], rel=0.05)


@pytest.mark.parametrize(
    ("role", "options", "words"),
    [
        ("generator", {"width": 600}, ["max_width is 512, less than width = 600"]),
        ("generator", {"group_width": 16}, ["group_width", "block: bottleneck"]),
        ("critic", {"expansion": 2}, ["expansion", "block: bottleneck"]),
        ("critic", {"normalisation": "spectral", "layer_gain": "equalised"}, ["spectral", "equalised", "leave out"]),
        ("critic", {"block": "bottleneck", "final_size": 2}, ["final_size: 2", "block: plain"]),
        ("critic", {"normalisation": "pixel"}, ["normalisation", "spectral"]),
        ("generator", {"normalisation": "spectral"}, ["normalisation", "pixel"]),
        ("generator", {"blocks": 0}, ["blocks", "greater than or equal to 1"]),
        (
            "generator",
            {"block": "bottleneck", "group_width": 24},
            ["generator.group_width is 24", "does not divide 640"],
        ),
        ("critic", {"block": "bottleneck", "group_width": 24}, ["critic.group_width is 24", "does not divide 80"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_named_with_the_remedy(role, options, words):
    tree = {role: {"name": "resnet", **options}}
    with pytest.raises(InputError) as caught:
        build_networks(ModelSpec.model_validate(tree), ImageShape(3, 64), 0)
    for word in [f"model.{role}", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("registry", [GENERATORS, CRITICS], ids=["generator", "critic"])
def test_every_option_is_described(registry):
    options = registry["resnet"].options
    assert all(field.description for field in options.model_fields.values())
    assert validate(options, {}, "model").model_dump() == options().model_dump()


def test_a_linear_output_may_leave_the_range_and_pictures_are_cut(monkeypatch):
    generator = make_generator("resnet", ImageShape(3, 16), GeneratorInput(4), width=4, output="linear")
    enlarged(generator).float().eval()
    images = generator(10 * noise(8, 4).float())
    assert images.abs().max() > 1
    from distgan.sampling import as_uint8

    pictures = as_uint8(images)
    assert torch.equal(pictures[images > 1].unique(), torch.tensor([255], dtype=torch.uint8))
    assert torch.equal(pictures[images < -1].unique(), torch.tensor([0], dtype=torch.uint8))
