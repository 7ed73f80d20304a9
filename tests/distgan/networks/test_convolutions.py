"""Against torch's own convolutions: values, gradients, gradients of gradients, and how exact they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from distgan.networks import convolutions
from distgan.networks.convolutions import (
    Conv2d,
    ConvTranspose2d,
    Geometry,
    Quick,
    conv2d,
    conv_transpose2d,
    penalised,
    take_torchs_own,
)
from tests.distgan.networks.conftest import noise

LAYOUTS = [torch.contiguous_format, torch.channels_last]
WAYS = ("_by_phases", "_by_windows")

# Channels in and out, kernel, stride, padding, height, width of a convolution.
GEOMETRIES = [
    (3, 5, 4, 2, 1, 8, 6),  # DCGAN's
    (3, 4, 4, 2, 1, 7, 9),
    (2, 4, 5, 2, 0, 9, 11),  # with "same" padding, after it
    (3, 2, 3, 1, 1, 5, 4),
    (1, 3, 5, 3, 2, 11, 7),
    (2, 3, 2, 3, 0, 8, 7),  # a kernel smaller than the stride
    (4, 6, 4, 1, 0, 4, 4),  # a critic's head
    (6, 3, 3, 2, 0, 5, 7),
    (2, 3, 4, 2, 0, 7, 5),  # which does not reach the last row
]


@pytest.fixture
def taken(monkeypatch) -> list[str]:
    """The names of the ways that are taken."""
    names: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        way = getattr(convolutions, name)

        def noting(*arguments: Any) -> Any:
            names.append(name)
            return way(*arguments)

        return noting

    for name in (*WAYS, "_convolution", "_transposed", "_product"):
        monkeypatch.setattr(convolutions, name, noted(name))
    return names


@pytest.fixture(params=["as it is", "always"])
def ways(request, monkeypatch) -> None:
    """The ways that small maps and weights take, and those of large ones."""
    if request.param == "always":
        monkeypatch.setattr(convolutions, "_to_an_image", lambda *_: True)
        monkeypatch.setattr(convolutions, "_much_weight", lambda *_: True)


def tensors(*shapes: tuple[int, ...], layout: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
    """float64 tensors whose gradients are wanted."""
    drawn = [noise(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    return [
        (each.contiguous(memory_format=layout) if each.ndim == 4 else each).detach().requires_grad_() for each in drawn
    ]


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_convolution_is_torch_s(geometry, count, layout):
    before, after, kernel, stride, padding, *size = geometry
    x, weight, bias = tensors((count, before, *size), (after, before, kernel, kernel), (after,), layout=layout)
    theirs = F.conv2d(x, weight, bias, stride, padding)
    ours = conv2d(x, weight, bias, (stride, stride), (padding, padding))
    compare(ours, theirs, (x, weight, bias))


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_transposed_convolution_is_torch_s(geometry, beyond, count, layout):
    after, before, kernel, stride, padding, *size = geometry
    if beyond >= stride:
        return
    x, weight, bias = tensors((count, before, *size), (before, after, kernel, kernel), (after,), layout=layout)
    theirs = F.conv_transpose2d(x, weight, bias, stride, padding, beyond)
    ours = conv_transpose2d(x, weight, bias, (stride, stride), (padding, padding), (beyond, beyond))
    compare(ours, theirs, (x, weight, bias))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", [(4, 4), (3, 5)])
def test_a_projection_is_torch_s(kernel, bias):
    x, weight, shift = tensors((3, 5, 1, 1), (5, 6, *kernel), (6,))
    ours, theirs = (
        convolve(x, weight, shift if bias else None, (1, 1), (0, 0))
        for convolve in (conv_transpose2d, F.conv_transpose2d)
    )
    compare(ours, theirs, (x, weight, *([shift] if bias else [])))


def compare(ours: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Values, first derivatives, and second ones of a curved function of both, in float64."""
    assert ours.shape == theirs.shape

    def close(a: Any, b: Any) -> None:
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)

    close(ours, theirs)
    first, second = [], []
    for result in (ours, theirs):
        slopes = torch.autograd.grad(result.sin().sum(), inputs, create_graph=True)
        first.append(slopes)
        second.append(torch.autograd.grad(torch.stack([slope.square().sum() for slope in slopes]).sum(), inputs))
    close(*first)
    close(*second)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("geometry", [(2, 3, 4, 2, 1, 4, 5), (2, 1, 3, 1, 1, 2, 3)])
def test_derivatives_of_all_orders(geometry):
    before, after, kernel, stride, padding, *size = geometry
    shape = Geometry((stride, stride), (padding, padding), (kernel, kernel), (size[0], size[1]))
    x, weight, bias = tensors((1, before, *size), (after, before, kernel, kernel), (after,))
    (small,) = tensors(tuple(F.conv2d(x, weight, None, stride, padding).shape))
    functions: list[tuple[Any, tuple[Tensor, ...]]] = [
        (lambda *of: convolutions._Convolution.apply(*of, shape), (x, weight, bias)),
        (lambda *of: convolutions._Transposed.apply(*of, None, shape), (small, weight)),
        (lambda *of: convolutions._Product.apply(*of, weight.detach(), shape), (x, small)),
    ]
    for function, inputs in functions:
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_which_way_is_taken(taken):
    """An image's by phases; much weight for few pixels by windows; else torch's own."""
    image, maps = torch.zeros(2, 3, 16, 16), torch.zeros(2, 64, 8, 8)
    for x, channels, expected in [
        (image, 64, []),
        (image.clone().requires_grad_(), 64, ["_convolution", "_by_phases", "_product"]),
        (maps.clone().requires_grad_(), 64, []),
        (maps.clone().requires_grad_(), 1024, ["_convolution", "_transposed", "_by_windows"]),
    ]:
        taken.clear()
        Conv2d(x.shape[1], channels, 4, 2, 1)(x).sum().backward()
        assert taken == expected
    for channels, expected in [(3, ["_by_phases", "_convolution", "_product"]), (64, [])]:
        taken.clear()
        ConvTranspose2d(64, channels, 4, 2, 1)(maps.clone().requires_grad_()).sum().backward()
        assert taken == expected
    taken.clear()
    Conv2d(64, 1024, 4, 2, 1).requires_grad_(False)(maps.clone().requires_grad_()).sum().backward()
    assert taken == []


def test_other_devices_and_layers_that_are_told_take_torch_s_own(taken):
    with torch.device("meta"):
        assert ConvTranspose2d(8, 3, 4, 2, 1)(torch.empty(2, 8, 5, 5)).shape == (2, 3, 10, 10)
        assert Conv2d(8, 3, 5)(torch.empty(2, 8, 5, 5)).shape == (2, 3, 1, 1)
    layers: list[Quick] = [ConvTranspose2d(8, 3, 4, 2, 1), Conv2d(8, 1, 4)]
    for layer in layers:
        take_torchs_own(layer)
        (node, _), *_ = layer(torch.zeros(2, 8, 4, 4, requires_grad=True)).sum().grad_fn.next_functions
        assert node.name() == "ConvolutionBackward0"
    assert taken == []


@pytest.mark.parametrize("layer", [Conv2d(3, 4, 3, groups=1, bias=False), Conv2d(4, 4, 3, groups=2)])
def test_slopes_of_a_penalty_are_torch_s_and_leave_weights_alone(layer, taken):
    """‖∂ Σ f(x)² / ∂x‖², whose gradient is torch's for torch's own; the slopes cost no gradient of the weights."""
    layer = copy.deepcopy(layer).double()
    x = noise(2, layer.in_channels, 5, 6).requires_grad_()
    with penalised():
        (slopes,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    if layer.groups == 1:
        assert taken == ["_convolution", "_transposed"]
    plain = nn.Conv2d(layer.in_channels, 4, 3, groups=layer.groups, bias=layer.bias is not None).double()
    plain.load_state_dict(layer.state_dict())
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(slopes, expected)
    slopes.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_as_exact_as_torch_s(dtype):
    """Root mean square error against float64."""
    large, small, weight = (
        noise(*shape, seed=seed).to(dtype).contiguous(memory_format=torch.channels_last)
        for seed, shape in enumerate([(8, 3, 32, 32), (8, 64, 16, 16), (64, 3, 4, 4)])
    )
    geometry = Geometry((2, 2), (1, 1), (4, 4), (32, 32))
    ways = [
        (convolutions._by_phases, convolutions._transposed, (small, weight, None, geometry)),
        (lambda x, y, _, g: convolutions._by_windows(x, y, g), convolutions._product, (large, small, weight, geometry)),
    ]
    for ours, theirs, arguments in ways:
        exact = theirs(*(each.double() if isinstance(each, Tensor) else each for each in arguments))
        errors = [(way(*arguments).double() - exact).square().mean().sqrt() for way in (ours, theirs)]
        assert 0 < errors[0] <= 1.2 * errors[1]


@pytest.mark.parametrize(
    "layer",
    [
        ConvTranspose2d(6, 3, 4, 2, 1),
        ConvTranspose2d(5, 6, 4),
        Conv2d(3, 6, 4, 2, 1),
        Conv2d(6, 1, 4),
        Conv2d(32, 2048, 4, 2, 1, bias=False),
    ],
)
def test_autocast_is_that_of_torch_s_own(layer):
    size = 1 if layer.in_channels == 5 else 4
    gradients: list[list[Tensor]] = []
    for quick in (True, False):
        layer.quick = quick
        x = noise(3, layer.in_channels, size, size).float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            maps = layer(x)
        assert maps.dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert torch.equal(layer(x), maps)
        found = torch.autograd.grad(maps.float().square().sum(), [x, *layer.parameters()])
        assert all(each.dtype == torch.float32 for each in found)
        gradients.append([maps.detach().float(), *found])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() <= 0.01 * theirs.norm()


def test_layers_keep_torch_s_names_and_may_be_copied():
    for ours, theirs in [
        (Conv2d(3, 4, 4, 2, 1), nn.Conv2d(3, 4, 4, 2, 1)),
        (ConvTranspose2d(4, 3, 4), nn.ConvTranspose2d(4, 3, 4)),
    ]:
        assert {name: each.shape for name, each in ours.state_dict().items()} == {
            name: each.shape for name, each in theirs.state_dict().items()
        }
        assert repr(ours) == repr(theirs)
        twin = copy.deepcopy(ours)
        x = noise(2, ours.in_channels, 4, 4).float()
        assert torch.equal(twin(x), ours(x))


@pytest.mark.parametrize("layer", [ConvTranspose2d(6, 3, 4, 2, 1, bias=False), Conv2d(3, 6, 4, 2, 1, bias=False)])
def test_layers_that_write_in_place_may_follow(layer):
    x = noise(2, layer.in_channels, 6, 6).float().requires_grad_()
    expected = F.leaky_relu(layer(x), 0.2)
    torch.testing.assert_close(nn.Sequential(layer, nn.LeakyReLU(0.2, inplace=True))(x), expected)


def test_slopes_cost_no_weights_gradient_in_whichever_thread_autograd_goes_back(monkeypatch):
    """On a GPU it has threads of its own."""

    def fail(*arguments: Any) -> Any:
        raise AssertionError

    x, weight = (torch.randn(shape, requires_grad=True) for shape in ((2, 3, 8, 8), (4, 3, 4, 4)))
    monkeypatch.setattr(convolutions._Product, "apply", fail)
    with penalised(), ThreadPoolExecutor(1) as pool:
        outputs = conv2d(x, weight, None, (2, 2), (1, 1)).square().sum()
        (slopes,) = pool.submit(torch.autograd.grad, outputs, x, create_graph=True).result()
    assert slopes.shape == x.shape
