from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distgan.networks.gain import KINDS, Conv2d, Equalised, EqualisedConv2d, EqualisedLinear, Kind
from distgan.networks.initialisation import initialise_by_gain
from tests.distgan.networks.conftest import enlarged, noise

channels = st.integers(1, 5)
sides = st.integers(1, 6)


def in_two_steps(change: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3×3 convolution after each pixel has become four, or before four become their mean."""
    if change == "double":
        return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


@given(st.sampled_from(["double", "halve"]), channels, channels, sides, sides, st.booleans())
def test_a_change_of_size_is_that_in_two_steps(change, before, after, height, width, bias):
    layer = enlarged(Conv2d(before, after, 3, change=change, bias=bias))
    x = noise(2, before, 2 * height, 2 * width)
    torch.testing.assert_close(layer(x), in_two_steps(change, x, layer.weight, layer.bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("change", ["double", "halve"])
def test_so_are_its_derivatives_of_both_orders(change):
    layer, x = enlarged(Conv2d(3, 2, 3, change=change)), noise(2, 3, 4, 4).requires_grad_()
    found: list[list[Tensor]] = []
    for maps in (layer(x), in_two_steps(change, x, layer.weight, layer.bias)):
        (slopes,) = torch.autograd.grad(maps.pow(3).sum(), x, create_graph=True)
        found.append([slopes, *torch.autograd.grad(slopes.square().sum(), [*layer.parameters(), x])])
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def test_kernels_of_4_by_4_that_change_the_size_are_taken_as_they_are():
    up, down = (enlarged(Conv2d(3, 2, 4, change=change)) for change in ("double", "halve"))
    x = noise(2, 3, 6, 4)
    theirs = F.conv_transpose2d(x, up.weight.transpose(0, 1), up.bias, stride=2, padding=1)
    torch.testing.assert_close(up(x), theirs)
    assert up(x).shape == (2, 2, 12, 8)
    torch.testing.assert_close(down(x), F.conv2d(x, down.weight, down.bias, stride=2, padding=1))


@pytest.mark.parametrize(("kernel", "padding", "groups"), [(1, 0, 1), (3, 1, 1), (3, 1, 3), (4, 0, 1), (4, 0, 6)])
def test_without_a_change_it_is_torch_s_convolution(kernel, padding, groups):
    layer = enlarged(Conv2d(6, 6, kernel, groups=groups))
    x = noise(2, 6, 5, 5)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=padding, groups=groups))


CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 3, "groups": 2},
    {"kernel_size": 4},
    *({"kernel_size": kernel, "change": change} for kernel in (3, 4) for change in ("double", "halve")),
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("gain", [sqrt(2), 0.5, 0.0])
def test_an_equalised_layer_is_a_plain_one_with_smaller_weights(options, gain):
    """Of gain / √fan_in times the size, where fan_in is what an output is made of; the gradient is smaller likewise."""
    equalised, plain = (
        enlarged(kind.conv(4, 6, **options, gain=gain)) for kind in (KINDS["equalised"], KINDS["plain"])
    )
    fan_in = 4 // options.get("groups", 1) * options["kernel_size"] ** 2
    if options.get("change") == "double" and options["kernel_size"] == 4:
        fan_in //= 4  # stride 2: a pixel is made of every other row and column of the kernel
    scale = (gain or 1.0) / sqrt(fan_in)
    with torch.no_grad():
        equalised.weight.copy_(noise(*plain.weight.shape))
        plain.weight.copy_(scale * equalised.weight)
    x = noise(2, 4, 6, 6)
    torch.testing.assert_close(equalised(x), plain(x), rtol=1e-12, atol=1e-12)
    for layer in (equalised, plain):
        layer(x).square().sum().backward()
    torch.testing.assert_close(equalised.weight.grad, scale * plain.weight.grad, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(equalised.bias.grad, plain.bias.grad)


def test_so_is_an_equalised_linear_layer():
    layer = EqualisedLinear(9, 5, gain=sqrt(2)).double()
    x = noise(3, 9)
    torch.testing.assert_close(layer(x), x @ layer.weight.T * sqrt(2) / 3 + layer.bias)


@pytest.mark.parametrize("kind", ["plain", "equalised"])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("gain", [sqrt(2), 0.5])
def test_the_gain_is_what_happens_to_the_size_of_independent_inputs(kind, options, gain):
    """Inside a map, where nothing is padded. The mean of four outputs is half as large: they are nearly independent."""
    layer = KINDS[kind].conv(64, 64, **options, gain=gain)
    initialise_by_gain(layer, torch.Generator().manual_seed(0))
    ratio = layer(noise(4, 64, 16, 16).float()).detach()[:, :, 2:-2, 2:-2].std() / gain
    halved = options.get("change") == "halve" and options["kernel_size"] == 3
    assert ratio == pytest.approx(0.5 if halved else 1, rel=0.1)


def distribution(layer: nn.Module) -> Tensor:
    """Its weights, sorted."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().flatten().sort().values


@pytest.mark.parametrize("kind", ["plain", "equalised"])
def test_where_weights_begin(kind):
    layers: Kind = KINDS[kind]
    network = nn.Sequential(
        layers.conv(16, 32, 3, gain=2.0, groups=2),
        layers.linear(50, 80, gain=0.5),
        layers.conv(16, 32, 3, gain=2.0, initial="glorot"),
        layers.conv(16, 32, 3, gain=0.0),
    )
    enlarged(network).float()
    initialise_by_gain(network, torch.Generator().manual_seed(0))
    assert not any(layer.bias.any() for layer in network)
    normal, linear, glorot, zero = network
    for layer, size in ((normal, 2 / sqrt(8 * 9)), (linear, 0.5 / sqrt(50))):
        weights = distribution(layer) / (1 if kind == "equalised" else size)
        count = len(weights)
        assert abs(weights.mean()) < 5 / sqrt(count)
        assert abs(weights.std() - 1) < 5 / sqrt(2 * count)
        assert abs((weights**4).mean() - 3) < 5 * sqrt(96 / count)
    assert not zero.weight.any()
    if kind == "plain":
        weights = distribution(glorot) / (2 * sqrt(6 / (48 * 9)))
        assert (weights - torch.linspace(-1, 1, len(weights))).abs().max() < 4 / sqrt(len(weights))
    else:
        assert abs(distribution(glorot).std() - 1) < 0.1


@torch.no_grad()
def used_weights(layers: nn.Sequential) -> list[Tensor]:
    """As they are multiplied with."""
    return [
        layer.used_weight() if isinstance(layer, Equalised) else next(layer.parameters()).clone() for layer in layers
    ]


def test_adam_moves_all_equalised_layers_equally_fast():
    """What they are for: of two layers whose weights should differ by 8 in size, one step is the same share of both."""
    shares: dict[str, list[float]] = {}
    for name in ("plain", "equalised"):
        layers = nn.Sequential(KINDS[name].linear(4, 256, gain=1.0), KINDS[name].linear(256, 256, gain=1.0))
        initialise_by_gain(layers, torch.Generator().manual_seed(0))
        used = used_weights(layers)
        optimizer = torch.optim.Adam(layers.parameters(), 1e-3)
        layers(torch.randn(16, 4)).square().sum().backward()
        optimizer.step()
        after = used_weights(layers)
        shares[name] = [float((b - a).norm() / a.norm()) for a, b in zip(used, after, strict=True)]
    assert shares["equalised"][0] == pytest.approx(shares["equalised"][1], rel=0.05)
    assert shares["plain"][1] > 5 * shares["plain"][0]


@pytest.mark.parametrize("change", [None, "double", "halve"])
def test_a_spectral_layer_is_normalised_before_its_kernel_becomes_larger(change):
    layer = KINDS["spectral"].conv(3, 5, 3, change=change).double()
    layer.begin(torch.Generator().manual_seed(0))
    layer.eval()
    plain = Conv2d(3, 5, 3, change=change).double()
    with torch.no_grad():
        plain.weight.copy_(layer.weight / layer.largest_singular_value())
        plain.bias.copy_(layer.bias)
    x = noise(2, 3, 4, 4)
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_layout_is_kept_and_autocast_computes_in_bfloat16(options):
    layer = EqualisedConv2d(4, 6, **options).to(memory_format=torch.channels_last)
    x = noise(2, 4, 6, 6).float().to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        maps = layer(x)
    assert maps.dtype == torch.bfloat16
    torch.testing.assert_close(maps.float(), layer(x), rtol=0.1, atol=0.1)
