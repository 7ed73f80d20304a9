"""What holds of every network in the registry."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from distgan.networks import CRITICS, ENCODERS, GENERATORS, ImageShape, build_networks
from distgan.networks.base import GeneratorInput
from distgan.networks.layers import ConditionalBatchNorm2d
from distgan.spec import ModelSpec
from shards.errors import InputError
from tests.distgan.networks.conftest import enlarged, make_critic, make_generator, noise

LEAST_CRITIC = {"dcgan": 16, "dcgan_keras": 32, "gan_rmsprop": 64, "pggan": 16, "resnet": 16}
"""The smallest image of each critic."""
ALONE: dict[str, dict[str, Any]] = {"gan_rmsprop": {"dropout": 0.0}, "pggan": {"minibatch_stddev": False}}
"""With these options a critic's output depends on its image and the weights alone."""
BY_BATCHNORM = {"dcgan": {}, "dcgan_keras": {}, "resnet": {"normalisation": "batch"}}
"""Generators that have BatchNorm, and with which options."""


def spec(
    generator: str = "dcgan", critic: str = "dcgan", latent_dim: int = 4, options: Any = None, **model: object
) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "generator": {"name": generator, "width": 2, **(options or {})},
            "critic": {"name": critic, "width": 2},
            "latent_dim": latent_dim,
            **model,
        }
    )


def condition(how: str) -> dict[str, object]:
    return {"condition": {"classes": True, "generator": how}}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_generator_draws_images_of_any_size(name, size, channels):
    generator = make_generator(name, ImageShape(channels, size), GeneratorInput(5), width=2)
    images = generator(torch.randn(2, 5), torch.empty(2, 0))
    assert images.shape == (2, channels, size, size)
    assert images.dtype == torch.float32
    assert name == "pggan" or images.abs().max() <= 1  # whose images are what a linear layer says
    assert images.std() > 0


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in CRITICS for size in (32, 64, 128, 256) if size >= LEAST_CRITIC[name]]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [0, 3])
def test_a_critic_judges_images_of_any_size(name, size, channels, labels):
    critic = make_critic(name, ImageShape(channels, size), labels, width=2, **ALONE.get(name, {})).eval()
    images = (torch.rand(2, channels, size, size) * 2 - 1).requires_grad_()
    scores = critic(images, torch.randn(2, labels))
    assert scores.shape == (2,)
    (slope,) = torch.autograd.grad(scores[0], images)
    assert slope[0].abs().max() > 0
    assert slope[1].abs().max() == 0


@pytest.mark.parametrize("name", GENERATORS)
@settings(max_examples=20)
@given(size=st.integers(1, 1023).filter(lambda size: size & (size - 1)))
def test_sizes_between_are_refused_with_the_reason(name, size):
    for make in (make_generator, make_critic):
        given = (GeneratorInput(4),) if make is make_generator else (0,)
        with pytest.raises(InputError, match=rf"data\.image_size is {size}: the {name} .* use one of \d+, .* 1024"):
            make(name, ImageShape(3, size), *given, width=2)


@pytest.mark.parametrize("name", CRITICS)
def test_images_too_small_are_refused_with_the_reason(name):
    least = LEAST_CRITIC[name]
    with pytest.raises(InputError, match=rf"is {least // 2}: .* {least} pixels: use one of {least}, {2 * least}, "):
        make_critic(name, ImageShape(3, least // 2), width=1)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("critic", [*CRITICS, *ENCODERS])
def test_weights_depend_on_the_seed_alone(generator, critic):
    image = ImageShape(3, 64)
    model = spec(generator, critic)
    torch.manual_seed(1)
    one = build_networks(model, image, seed=5, labels=2)
    torch.manual_seed(2)
    other = build_networks(model, image, seed=5, labels=2)
    different = build_networks(model, image, seed=6, labels=2)
    for a, b, c in zip(one, other, different, strict=True):
        assert a.training
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name
        for (name, value), unlike in zip(a.named_parameters(), c.parameters(), strict=True):
            assert value.dtype == torch.float32
            assert value.ndim == 1 or not value.any() or not torch.equal(value, unlike), name


def test_the_two_networks_do_not_share_their_weights():
    generator, critic = build_networks(spec(latent_dim=1), ImageShape(3, 16), seed=0)
    first, other = (next(network.parameters()).flatten()[:16] for network in (generator, critic))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["dcgan", "dcgan_keras", "gan_rmsprop"])
def test_each_family_begins_as_its_source_does(name):
    """DCGAN N(0, 0.02) and scales N(1, 0.02); Keras Glorot's uniform and scales 1. All biases are 0."""
    for network in build_networks(spec(name, name, latent_dim=20), ImageShape(3, 64), seed=0):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                places, count = layer.weight[0, 0].numel(), layer.weight.numel()
                fans = places * (layer.weight.shape[0] + layer.weight.shape[1])  # in and out
                expected = 0.02 if name == "dcgan" else (2 / fans) ** 0.5
                assert abs(layer.weight.mean()) < 5 * expected / count**0.5
                # That a sample's deviation is this far off is as unlikely for both: the normal's is the wider one.
                assert abs(layer.weight.std() / expected - 1) < 5 / (2 * count) ** 0.5
                assert name == "dcgan" or layer.weight.abs().max() <= expected * 3**0.5
                assert layer.bias is None or not layer.bias.any()
            if isinstance(layer, nn.BatchNorm2d):
                assert (layer.weight.std() > 0) == (name == "dcgan")
                assert (layer.weight - 1).abs().max() < 0.1
                assert not layer.bias.any()


@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, "concatenation") for name in GENERATORS), *((name, "batchnorm") for name in BY_BATCHNORM)],
)
def test_another_label_is_another_image(name, how):
    options = BY_BATCHNORM[name] if how == "batchnorm" else {}
    generator, _ = build_networks(spec(name, options=options, **condition(how)), ImageShape(3, 32), seed=0, labels=3)
    enlarged(generator).eval()
    latents, labels = noise(4, 4), noise(4, 3, seed=1)
    images = generator(latents, labels)
    changed = labels.clone()
    changed[2] += 1
    distance = (generator(latents, changed) - images).abs().amax((1, 2, 3))
    assert distance[2] > 1e-3
    assert distance[[0, 1, 3]].max() < 1e-12
    by_batchnorm = any(isinstance(layer, ConditionalBatchNorm2d) for layer in generator.modules())
    assert by_batchnorm == (how == "batchnorm")


@pytest.mark.parametrize("name", CRITICS)
def test_another_label_is_another_score(name):
    size = LEAST_CRITIC[name]
    critic = enlarged(make_critic(name, ImageShape(3, size), 3, width=2, **ALONE.get(name, {}))).eval()
    images, labels = noise(4, 3, size, size), noise(4, 3, seed=1)
    changed = labels.clone()
    changed[2] += 1
    distance = (critic(images, changed) - critic(images, labels)).abs()
    assert distance[2] > 1e-3
    assert distance[[0, 1, 3]].max() < 1e-12


@pytest.mark.parametrize("name", GENERATORS)
def test_without_a_condition_there_is_nothing_for_labels(name):
    image = ImageShape(3, 64)
    for network in build_networks(spec(name, name), image, seed=0):
        assert not any(word in key for key in network.state_dict() for word in ("scale", "shift", "projection"))
    plain = make_generator(name, image, GeneratorInput(4), width=2)
    unused = make_generator(name, image, GeneratorInput(4, 0, by_batchnorm=True), width=2)
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in unused.state_dict().items()
    }


@pytest.mark.parametrize("name", ["gan_rmsprop", "pggan", "resnet"])
def test_a_condition_by_batch_norm_needs_batch_norm(name):
    with pytest.raises(InputError, match=rf"model\.condition\.generator is batchnorm, .* {name} .* concatenation"):
        build_networks(spec(name, **condition("batchnorm")), ImageShape(3, 64), seed=0, labels=2)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("training", [True, False])
def test_memory_format_changes_no_number(name, training):
    """The loop lays networks and images out with their channels last."""
    size = LEAST_CRITIC[name]
    given, options = GeneratorInput(4, 2, name in BY_BATCHNORM), BY_BATCHNORM.get(name, {})
    generator = enlarged(make_generator(name, ImageShape(3, size), given, width=2, **options))
    critic = enlarged(make_critic(name, ImageShape(3, size), 2, width=2, **ALONE.get(name, {})))
    latents, labels = noise(3, 4), noise(3, 2, seed=1)
    results: list[list[Tensor]] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        networks = copy.deepcopy((generator, critic))
        for network in networks:
            network.train(training).to(memory_format=layout)
        real = noise(3, 3, size, size, seed=2).to(memory_format=layout)
        images = networks[0](latents, labels)
        scores = networks[1](torch.cat([images, real]), torch.cat([labels, labels]))
        (scores**2).sum().backward()
        gradients = [parameter.grad for network in networks for parameter in network.parameters()]
        results.append([images, scores, *(each for each in gradients if each is not None)])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


JUDGES = [
    *(
        (name, {"normalisation": normalisation})
        for name in ("dcgan", "dcgan_keras")
        for normalisation in ("layer", "instance", "none")
    ),
    ("gan_rmsprop", {"dropout": 0.0}),
    ("pggan", {}),
    *(("resnet", {"normalisation": normalisation}) for normalisation in ("layer", "instance", "none")),
    ("resnet", {"block": "bottleneck", "group_width": 2, "resampling": "bilinear", "minibatch_stddev": True}),
]


@pytest.mark.parametrize(("name", "options"), JUDGES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_critics_that_judge_single_images_can_be_differentiated_twice(name, options, layout):
    """The derivative of a gradient penalty along a direction of the weights is its difference quotient."""
    size = max(LEAST_CRITIC[name], 64 if name == "dcgan_keras" else 0)  # where dcgan_keras normalises something
    critic = enlarged(make_critic(name, ImageShape(1, size), 2, width=2, **options)).to(memory_format=layout)
    images = noise(2, 1, size, size).to(memory_format=layout).requires_grad_()
    labels = noise(2, 2, seed=1)
    weights = dict(critic.named_parameters())
    direction = {key: noise(*value.shape, seed=i) for i, (key, value) in enumerate(weights.items())}

    def penalty(step: float) -> Tensor:
        moved = {key: value + step * direction[key] for key, value in weights.items()}
        scores = functional_call(critic, moved, (images, labels))
        (slopes,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
        return ((slopes.flatten(1).norm(dim=1) - 1) ** 2).sum()

    gradients = torch.autograd.grad(penalty(0.0), list(weights.values()), allow_unused=True)
    slope = sum((each * direction[key]).sum() for key, each in zip(weights, gradients, strict=True) if each is not None)
    step = 1e-7
    quotient = (penalty(step) - penalty(-step)).detach() / (2 * step)
    assert abs(quotient) > 1e-2
    torch.testing.assert_close(slope, quotient, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"generator": {"name": "dcgam"}}, ["model.generator.name", "did you mean 'dcgan'"]),
        ({"critic": {"name": "dcgan", "widht": 3}}, ["model.critic", "widht", "did you mean 'width'"]),
        ({"generator": {"width": 0}}, ["model.generator", "width"]),
        ({"generator": {"activation": "gelu"}}, ["model.generator", "activation", "leaky_relu"]),
        ({"critic": {"normalisation": "group"}}, ["model.critic", "normalisation", "instance"]),
        ({"critic": {"name": "dcgan_encoder", "dropout": 0.1}}, ["model.critic", "dropout"]),
        ({"generator": {"name": "dcgan_keras", "leak": 1.0}}, ["model.generator", "leak", "1.0"]),
        ({"generator": {"name": "gan_rmsprop", "width": 3}}, ["model.generator", "width", "multiple of 2"]),
        ({"critic": {"name": "gan_rmsprop", "dropout": 1.0}}, ["model.critic", "dropout", "1.0"]),
    ],
)
def test_wrong_options_are_named(tree, words):
    with pytest.raises(InputError) as caught:
        build_networks(ModelSpec.model_validate(tree), ImageShape(3, 64), 0)
    for word in words:
        assert word in str(caught.value)
