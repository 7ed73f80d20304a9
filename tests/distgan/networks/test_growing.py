from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distgan.networks import ImageShape
from distgan.networks.base import Critic, Encoder, Generator, GeneratorInput
from distgan.networks.dcgan import CriticOptions, DCGANGenerator, GeneratorOptions, dcgan_critic, dcgan_encoder
from distgan.networks.growing import enlarge, grow, images_before, shrink, train_what_is_in_use
from distgan.stages import Stage, Timetable
from shards.errors import InputError
from tests.distgan.networks.conftest import enlarged, make_critic, make_generator, noise

SIZES = (8, 16, 32)
TIMETABLE = Timetable([Stage(8, 1, 1, 1), Stage(16, 1, 1, 4, 4), Stage(32, 1, 1, None, 4)])
"""A step of 8 pixels; then of each larger size the fades 1/4, 1/2, 3/4 and 1."""
FADES = {0.25: 0, 0.5: 1, 0.75: 2, 1.0: 3}


def step(size: int, fade: float = 1.0) -> int:
    return TIMETABLE.stages[SIZES.index(size)].first_step + (FADES[fade] if size > 8 else 0)


def generator(labels: int = 0, **options) -> DCGANGenerator:
    given_ = GeneratorInput(5, labels, bool(labels))
    return enlarged(DCGANGenerator(GeneratorOptions(width=2, **options), ImageShape(3, 32, SIZES[:-1]), given_))


def critic(labels: int = 0, **options) -> Critic:
    return enlarged(dcgan_critic(CriticOptions(width=2, **options), ImageShape(3, 32, SIZES[:-1]), labels))


FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("pggan", {}),
    ("resnet", {"normalisation": "none"}),
    *(
        ("resnet", {"block": block, "image_stride": stride, "blocks": blocks})
        for block in ("plain", "bottleneck")
        for stride in (1, 2)
        for blocks in (1, 2)
    ),
]


def other_generator(name: str, **options) -> Generator:
    options = {"normalisation": "batch", **options} if name == "resnet" else options
    given_ = GeneratorInput(5, 2, options.get("normalisation") == "batch")
    return enlarged(make_generator(name, ImageShape(3, 32, SIZES[:-1]), given_, width=2, **options))


def other_critic(name: str, **options) -> Critic:
    return enlarged(make_critic(name, ImageShape(3, 32, SIZES[:-1]), 2, width=2, minibatch_stddev=True, **options))


def encoder() -> Encoder:
    return enlarged(dcgan_encoder(CriticOptions(width=2), ImageShape(3, 32, SIZES[:-1]), 0, 5))


def drawn(network: Generator, size: int, fade: float = 1.0) -> torch.Tensor:
    """Images as in training, of the running statistics, which no call changes."""
    network = copy.deepcopy(network).eval()
    network.layers.training = True
    grow(network, TIMETABLE, step(size, fade))
    labels = noise(3, network.given.labels, seed=1)
    return network(noise(3, 5), labels)


def judged(network: Critic, images: torch.Tensor, size: int, fade: float = 1.0) -> torch.Tensor:
    network = copy.deepcopy(network).eval()
    grow(network, TIMETABLE, step(size, fade))
    return network(images, noise(len(images), 2, seed=2) if network.projection is not None else None)


@pytest.mark.parametrize(
    "options", [{}, {"labels": 2}, {"activation": "leaky_relu", "input_batchnorm": False}], ids=str
)
def test_a_fade_leads_from_the_size_before_to_the_new_one(options):
    network = generator(**options)
    for before, size in ((8, 16), (16, 32)):
        small, large = drawn(network, before), drawn(network, size)
        assert (small.shape, large.shape) == ((3, 3, before, before), (3, 3, size, size))
        doubled = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
        for fade in (0.25, 0.5, 0.75):
            torch.testing.assert_close(drawn(network, size, fade), (1 - fade) * doubled + fade * large)


@pytest.mark.parametrize("normalisation", ["batch", "layer", "none", "spectral"])
def test_a_critic_fades_maps(normalisation):
    """One whose layers after those maps are linear: its score then fades, too."""
    network = critic(labels=2, normalisation=normalisation)
    for module in network.modules():
        if isinstance(module, torch.nn.LeakyReLU):
            module.negative_slope = 1.0
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = torch.nn.Identity().forward
    for before, size in ((8, 16), (16, 32)):
        images = noise(4, 3, size, size)
        halved = images.reshape(4, 3, before, 2, before, 2).mean((3, 5))
        small, large = judged(network, halved, before), judged(network, images, size)
        assert small.shape == (4,)
        for fade in (0.25, 0.5, 0.75):
            torch.testing.assert_close(judged(network, images, size, fade), (1 - fade) * small + fade * large)


@pytest.mark.parametrize(("name", "options"), FAMILIES, ids=str)
def test_other_generators_fade_likewise(name, options):
    network = other_generator(name, **options)
    for before, size in ((8, 16), (16, 32)):
        small, large = drawn(network, before), drawn(network, size)
        assert (small.shape, large.shape) == ((3, 3, before, before), (3, 3, size, size))
        assert (small - large[:, :, ::2, ::2]).abs().max() > 1e-3
        doubled = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(drawn(network, size, 0.25), 0.75 * doubled + 0.25 * large)


@pytest.mark.parametrize(("name", "options"), FAMILIES, ids=str)
def test_other_critics_fade_likewise(name, options):
    """From the score of the halved image to the image's own; between them, maps are mixed and not scores."""
    network = other_critic(name, **options)
    timetable = Timetable([Stage(8, 1, 1, 1), Stage(16, 1, 1, 10**9, 10**9), Stage(32, 1, 1, None, 10**9)])
    for before, size, first in ((8, 16, 1), (16, 32, 1 + 10**9)):
        images = noise(4, 3, size, size)
        halved = images.reshape(4, 3, before, 2, before, 2).mean((3, 5))
        grow(network, timetable, first)  # a fade of one billionth
        begun = network(images, noise(4, 2, seed=2))
        torch.testing.assert_close(begun, judged(network, halved, before), rtol=1e-6, atol=1e-6)
        assert (judged(network, images, size) - begun).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "options"), FAMILIES, ids=str)
def test_the_largest_size_of_others_is_that_of_networks_that_do_not_grow(name, options):
    for make, given_, shape in ((make_generator, GeneratorInput(5), (4, 5)), (make_critic, 0, (4, 3, 32, 32))):
        plain, growing = (make(name, ImageShape(3, 32, sizes), given_, width=2, **options) for sizes in ((), (8, 16)))
        missing, more = growing.load_state_dict(plain.state_dict(), strict=False)
        assert not more
        assert missing
        assert all("_image." in key for key in missing)
        x = torch.randn(shape)
        torch.testing.assert_close(plain(x), growing(x), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "options"), FAMILIES, ids=str)
@pytest.mark.parametrize(("size", "fade"), [(8, 1.0), (16, 0.5), (32, 0.75), (32, 1.0)])
def test_others_ask_for_gradients_where_they_come(name, options, size, fade):
    for network, x in ((other_generator(name, **options), noise(4, 5)), (other_critic(name, **options), None)):
        grow(network, TIMETABLE, step(size, fade))
        train_what_is_in_use(network)
        network(noise(4, 3, size, size) if x is None else x, noise(4, 2, seed=1)).square().sum().backward()
        asking = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
        assert asking == {key for key, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("name", "least"), [("pggan", 4), ("resnet", 8)])
def test_others_begin_with_images_as_small_as_their_smallest_maps(name, least):
    make_generator(
        name, ImageShape(3, 32, tuple(2**k for k in range(least.bit_length() - 1, 5))), GeneratorInput(5), width=2
    )
    words = rf"training\.stages\.0\.size is {least // 2}: the {name} .* use one of {least}, "
    for make, given_ in ((make_generator, GeneratorInput(5)), (make_critic, 0)):
        with pytest.raises(InputError, match=words):
            make(name, ImageShape(3, 32, tuple(2**k for k in range(least.bit_length() - 2, 5))), given_, width=2)


def test_in_evaluation_all_sizes_are_shown_at_the_largest():
    network = generator()
    for size, fade in ((8, 1.0), (16, 0.5), (16, 1.0), (32, 0.25), (32, 1.0)):
        images = drawn(network, size, fade)
        grow(network.eval(), TIMETABLE, step(size, fade))
        shown = network(noise(3, 5))
        assert torch.equal(shown, F.interpolate(images, 32, mode="nearest"))


def test_the_largest_size_is_that_of_a_network_that_does_not_grow():
    """The same layers under the same names, begun alike: all that is beside them is of smaller sizes."""
    for build, beside in (
        (lambda image: DCGANGenerator(GeneratorOptions(width=2), image, GeneratorInput(5)), ".to_image."),
        (lambda image: dcgan_critic(CriticOptions(width=2), image, 0), ".from_image."),
    ):
        plain, growing = build(ImageShape(3, 32)), build(ImageShape(3, 32, (8, 16)))
        missing, more = growing.load_state_dict(plain.state_dict(), strict=False)
        assert not more
        assert missing
        assert all(beside in name for name in missing)
        shape = (5,) if isinstance(growing, DCGANGenerator) else (3, 32, 32)
        x = torch.randn(4, *shape)
        assert torch.equal(plain(x), growing(x))
        grow(growing, Timetable([Stage(32, 1, 1)]), 0)
        assert torch.equal(plain(x), growing(x))


@pytest.mark.parametrize("make", [generator, critic, encoder])
@pytest.mark.parametrize(("size", "fade"), [(8, 1.0), (16, 0.5), (16, 1.0), (32, 0.75), (32, 1.0)])
def test_gradients_are_asked_for_where_they_come(make, size, fade):
    """Each parameter that asks for one gets one, so that nobody waits for another's; and none that does not."""
    network = make()
    grow(network, TIMETABLE, step(size, fade))
    train_what_is_in_use(network)
    outputs = network(noise(4, 5) if make is generator else noise(4, 3, size, size))
    outputs = torch.cat(outputs) if isinstance(outputs, tuple) else outputs
    outputs.square().sum().backward()
    asking = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert asking == {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    own = {int(name.split(".")[2]) for name in asking if "_image." in name}
    assert own == ({size} if size < 32 else set()) | ({size // 2} if fade < 1 else set())


def test_only_statistics_of_layers_in_use_move():
    for network, shape in ((generator(), (5,)), (critic(), (3, 16, 16))):
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        grow(network, TIMETABLE, step(16, 0.5))
        network(noise(4, *shape))
        moved = {
            name.rsplit(".", 1)[0] for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])
        }
        train_what_is_in_use(network)
        norms = {
            name.rsplit(".", 1)[0]
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and f"{name.rsplit('.', 1)[0]}.running_mean" in before
        }
        assert moved == norms != set()
        assert len(moved) < sum("running_mean" in name for name in before)


def test_when_layers_come_in_use():
    network = generator()
    later = images_before(network, TIMETABLE)
    found = {name: later.get(parameter, 0) for name, parameter in network.named_parameters()}
    first_16, first_32 = (stage.first_image for stage in TIMETABLE.stages[1:])
    assert {name for name, images in found.items() if images == first_16} == {
        *("layers.4.weight", "layers.5.weight", "layers.5.bias"),
        "layers.to_image.16.0.weight",
    }
    assert {name for name, images in found.items() if images == first_32} == {
        *("layers.7.weight", "layers.8.weight", "layers.8.bias", "layers.10.weight"),
    }
    assert (
        images_before(DCGANGenerator(GeneratorOptions(width=2), ImageShape(3, 32), GeneratorInput(5)), TIMETABLE) == {}
    )


def test_a_network_that_does_not_grow_is_left_alone():
    network = DCGANGenerator(GeneratorOptions(width=2), ImageShape(3, 32), GeneratorInput(5))
    network.requires_grad_(False)
    grow(network, TIMETABLE, 0)
    train_what_is_in_use(network)
    assert network(torch.randn(4, 5)).shape == (4, 3, 32, 32)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@given(
    arrays.arrays("uint8", st.tuples(st.integers(1, 2), st.just(3), st.just(32), st.just(32))),
    st.sampled_from([1, 2, 4, 8, 16, 32]),
)
def test_small_images_are_exact_means_of_blocks(pixels, times):
    size = 32 // times
    means = pixels.reshape(len(pixels), 3, size, times, size, times).astype("float64").mean((3, 5))
    small = shrink(torch.from_numpy(pixels).float(), times)
    assert (small.double().numpy() == means).all()
    assert torch.equal(shrink(enlarge(small, 4), 4), small)


def test_means_of_whole_numbers_are_exact_at_the_largest_images_there_are():
    pixels = torch.randint(0, 256, (1, 1, 1024, 1024), generator=torch.Generator().manual_seed(0))
    pixels[..., :256, :256] = 255
    for times in (128, 256):
        assert torch.equal(shrink(pixels.float(), times).double(), shrink(pixels.double(), times))
