from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan.networks.normalisation import (
    BatchNorm2d,
    MinibatchStddev,
    OfBatch,
    PixelNorm,
    SyncBatchNorm,
    in_parts,
    normalisation_layer,
    sum_over_processes,
    synchronise,
)
from tests.distgan.networks.conftest import enlarged, noise


@pytest.mark.parametrize(("name", "axes"), [("layer", (0, 1, 2)), ("instance", (1, 2))])
def test_single_images_are_normalised(name, axes):
    (layer,) = normalisation_layer(name, 3, eps=0.01)
    enlarged(layer)
    x = noise(4, 3, 2, 5) * 2 + 1
    scale, shift = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    for image, actual in zip(x.numpy(), layer(x).detach().numpy(), strict=True):
        mean, variance = image.mean(axes, keepdims=True), image.var(axes, keepdims=True)
        normalised = (image - mean) / np.sqrt(variance + 0.01)
        np.testing.assert_allclose(actual, normalised * scale[:, None, None] + shift[:, None, None], rtol=1e-12)


@pytest.mark.parametrize("name", ["layer", "instance"])
def test_an_image_does_not_depend_on_its_batch(name):
    (layer,) = normalisation_layer(name, 3)
    x = noise(4, 3, 2, 5)
    torch.testing.assert_close(layer.double()(x)[1:2], layer(x[1:2]), rtol=1e-12, atol=1e-12)


def test_batch_is_torch_s_and_none_is_none():
    (layer,) = normalisation_layer("batch", 3, eps=0.25, momentum=0.125)
    assert isinstance(layer, nn.BatchNorm2d)
    assert (layer.num_features, layer.eps, layer.momentum) == (3, 0.25, 0.125)
    assert normalisation_layer("none", 3) == []


counts = st.integers(1, 4)


@given(counts, counts, st.lists(counts, max_size=2), st.floats(1e-6, 1e3))
def test_pixel_norm_is_its_formula(count, channels, places, size):
    x = noise(count, channels, *places) * size
    normalised = PixelNorm()(x).numpy()
    for image, actual in zip(x.numpy(), normalised, strict=True):
        for place in np.ndindex(*places):
            vector = np.array([image[(channel, *place)] for channel in range(channels)])
            expected = vector / np.sqrt(sum(number * number for number in vector) / channels + 1e-8)
            np.testing.assert_allclose([actual[(channel, *place)] for channel in range(channels)], expected, rtol=1e-12)


def plain_deviation(x: np.ndarray) -> float:
    """Image by image, channel by channel and place by place."""
    count, channels, height, width = x.shape
    deviations = []
    for channel, row, column in np.ndindex(channels, height, width):
        values = [x[i, channel, row, column] for i in range(count)]
        mean = sum(values) / count
        deviations.append((sum((value - mean) ** 2 for value in values) / count + 1e-8) ** 0.5)
    return sum(deviations) / len(deviations)


@given(counts, counts, counts, counts, st.floats(-100, 100))
def test_the_minibatch_s_deviation_is_one_more_channel(count, channels, height, width, mean):
    x = noise(count, channels, height, width) + mean
    found = MinibatchStddev()(x)
    assert torch.equal(found[:, :channels], x)
    assert found.shape == (count, channels + 1, height, width)
    np.testing.assert_allclose(found[:, channels], plain_deviation(x.numpy()), rtol=1e-10)


@pytest.mark.parametrize("layer", [PixelNorm(), MinibatchStddev()], ids=lambda layer: type(layer).__name__)
def test_sums_of_squares_are_not_in_bfloat16(layer):
    x = (noise(8, 16, 2, 2) + 3).to(torch.bfloat16).to(memory_format=torch.channels_last)
    found = layer(x)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, layer(x.double()).to(torch.bfloat16), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [lambda: BatchNorm2d(3), MinibatchStddev], ids=["batch", "deviation"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batches_one_behind_the_other_are_as_if_each_came_alone(kind, layout):
    """Maps, gradients and running statistics, whose order is that of the batches."""
    together, apart = (enlarged(nn.Sequential(kind())) for _ in range(2))
    batches = [(noise(4, 3, 2, 5, seed=seed) * (2 + seed) + seed).contiguous(memory_format=layout) for seed in range(3)]
    both = torch.cat(batches).requires_grad_(True)
    with in_parts(together, 3):
        found = together(both)
    assert found.is_contiguous(memory_format=layout)
    found.sin().sum().backward()
    for place, x in enumerate(batches):
        x.requires_grad_(True)
        expected = apart(x)
        expected.sin().sum().backward()
        assert torch.equal(found.chunk(3)[place], expected)
        assert torch.equal(both.grad.chunk(3)[place], x.grad)
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    assert all(map(torch.equal, together.buffers(), apart.buffers()))
    assert not torch.equal(together(both.detach()), found), "only within the block"
    assert not [layer.parts for layer in together.modules() if isinstance(layer, OfBatch) and layer.parts != 1]


def judge(rank, x, weights, shares, dtype):
    """What a rank sees of a critic that is told the deviation: outputs, slopes, and a penalty's second derivatives.

    As an objective takes them: the slope is that of the rank's own outputs, summed.
    """
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), MinibatchStddev(), nn.Conv2d(5, 2, 2), nn.SiLU())
    enlarged(critic).to(dtype)
    if shares is not None:
        synchronise(critic)
        x, weights = of_rank(rank, x, shares), of_rank(rank, weights, shares)
    x = x.detach().to(dtype, copy=True).requires_grad_(True)
    outputs = critic(x).sum((1, 2, 3))
    (slopes,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
    norms = slopes.square().sum((1, 2, 3)).sqrt()
    ((outputs.sin() + (norms - 1).square()) * weights.to(dtype)).sum().backward()
    own = [parameter.grad for parameter in critic.parameters()]
    if shares is not None:
        own = [sum_over_processes(gradient) for gradient in own]
    return [each.detach().double() for each in (outputs, slopes, x.grad, *own)]


@pytest.mark.parametrize("shares", [[4, 4], [5, 2, 1]])
def test_the_deviation_and_all_derivatives_are_those_of_one_big_batch(side_by_side, shares):
    x, weights = noise(8, 3, 4, 4) * 2 + 1, noise(8, seed=1)
    alone = judge(0, x, weights, None, torch.float64)
    ranks = side_by_side(judge, len(shares), x, weights, shares, torch.float64)
    for i, expected in enumerate(alone):
        parts = [rank[i] for rank in ranks]
        for actual in [torch.cat(parts)] if i < 3 else parts:
            torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def test_the_slope_is_that_of_the_sum_of_all_outputs():
    """Which others' outputs belong to: the slope of an image's own output is another."""
    critic, x = enlarged(nn.Sequential(MinibatchStddev(), nn.Conv2d(4, 1, 2), nn.SiLU())), noise(4, 3, 2, 2)
    points = x.clone().requires_grad_(True)
    (slopes,) = torch.autograd.grad(critic(points).sum(), points)
    step, index = 1e-6, (1, 2, 0, 1)
    moved = [x.clone() for _ in range(2)]
    for each, sign in zip(moved, (1, -1), strict=True):
        each[index] += sign * step
    quotients = (critic(moved[0]) - critic(moved[1])).flatten() / (2 * step)
    torch.testing.assert_close(quotients.sum(), slopes[index], rtol=1e-7, atol=0)
    assert quotients.abs().min() > 0.001
    assert abs(quotients[1] - slopes[index]) > 0.01


# Synchronized BatchNorm


def of_rank(rank: int, x: torch.Tensor, shares: list[int]) -> torch.Tensor:
    """A rank's images, of a batch that ranks hold so many images of each."""
    return x.split(shares)[rank]


def normalise(rank, x, weights, shares, dtype, momentum, parts=1):
    """What a rank sees: outputs, gradients, second derivatives and running statistics.

    Args:
        parts: How often its share comes, the second time less, as batches that are normalised apart.
    """
    norm = nn.Sequential(BatchNorm2d(x.shape[1], eps=1e-5, momentum=momentum))
    enlarged(norm).to(dtype)
    if shares is not None:
        synchronise(norm)
        assert isinstance(norm[0], SyncBatchNorm)
        x, weights = of_rank(rank, x, shares), of_rank(rank, weights, shares)
    x = torch.cat([x / (1 + part) for part in range(parts)]).to(dtype).requires_grad_(True)
    weights = torch.cat([weights] * parts)
    with in_parts(norm, parts):
        outputs = norm(x)
    # A loss with a gradient of a gradient in it, as a penalty has.
    (slopes,) = torch.autograd.grad((outputs * weights).sum() + outputs.pow(3).sum(), x, create_graph=True)
    loss = (outputs.sin() * weights).sum() + slopes.square().sum()
    loss.backward()
    own = [norm[0].weight.grad, norm[0].bias.grad]
    if shares is not None:
        own = [sum_over_processes(gradient) for gradient in own]
    norm.eval()
    found = [outputs, slopes, x.grad, *own, norm[0].running_mean, norm[0].running_var, norm(x.detach())]
    return [each.detach().double() for each in found], int(norm[0].num_batches_tracked)


@pytest.mark.parametrize("shares", [[4, 4], [5, 2, 1], [8]])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_are_those_of_one_big_batch(side_by_side, shares, momentum):
    x, weights = noise(8, 3, 2, 5) * 2 + 1, noise(8, 3, 2, 5, seed=1)
    (alone, steps) = normalise(0, x, weights, None, torch.float64, momentum)
    ranks = side_by_side(normalise, len(shares), x, weights, shares, torch.float64, momentum)
    for i, expected in enumerate(alone):
        per_image = len(expected) == 8
        parts = [rank[0][i] for rank in ranks]
        for actual in [torch.cat(parts)] if per_image else parts:
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert {rank[1] for rank in ranks} == {steps}


def test_batches_that_are_normalised_apart_are_so_over_all_processes(side_by_side):
    x, weights = noise(8, 3, 2, 5) * 2 + 1, noise(8, 3, 2, 5, seed=1)
    alone, steps = normalise(0, x, weights, None, torch.float64, 0.1, parts=2)
    ranks = side_by_side(normalise, 3, x, weights, [5, 2, 1], torch.float64, 0.1, 2)
    for i, expected in enumerate(alone):
        parts = [rank[0][i] for rank in ranks]
        if len(expected) == 16:  # the first batch's images of all ranks come before the second one's
            parts = [torch.cat([part.chunk(2)[place] for place in range(2) for part in parts])]
        for actual in parts:
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert {rank[1] for rank in ranks} == {steps} == {2}


def test_float32_is_enough_where_the_mean_is_large_and_the_deviation_small(side_by_side):
    x = (noise(16, 3, 4, 4) * 0.01 + 100).float()
    exact = nn.BatchNorm2d(3).double()
    enlarged(exact)
    expected = exact(x.double()).detach()
    actual = torch.cat([rank[0][0] for rank in side_by_side(normalise, 2, x, x * 0, [8, 8], torch.float32, 0.1)])
    assert (actual - expected).abs().max() < 1e-3 * expected.abs().max()
    torch.testing.assert_close(actual.var((0, 2, 3)), expected.var((0, 2, 3)), rtol=1e-4, atol=0)


def backward(rank, x, weights, shares):
    """The gradients that a rank's share of a batch has in float32, and its running statistics."""
    norm = nn.Sequential(nn.BatchNorm2d(x.shape[1]))
    enlarged(norm).float()
    synchronise(norm)
    x = of_rank(rank, x, shares).clone().requires_grad_(True)
    (norm(x).sin() * of_rank(rank, weights, shares)).sum().backward()
    own = [sum_over_processes(parameter.grad) for parameter in norm.parameters()]
    return [each.detach().double() for each in (x.grad, *own, norm[0].running_mean, norm[0].running_var)]


def test_float32_gradients_are_there_about_as_exact_as_batchnorm_s(side_by_side):
    x = (noise(16, 3, 4, 4) * 0.01 + 100).float()
    weights = noise(16, 3, 4, 4, seed=1).float()

    def alone(dtype):
        norm = nn.Sequential(nn.BatchNorm2d(3))
        enlarged(norm).to(dtype)
        inputs = x.to(dtype, copy=True).requires_grad_(True)
        (norm(inputs).sin() * weights).sum().backward()
        found = [inputs.grad, norm[0].weight.grad, norm[0].bias.grad, norm[0].running_mean, norm[0].running_var]
        return [each.double() for each in found]

    def worst(found, right):
        return float((found - right).abs().max() / right.abs().max())

    ranks = side_by_side(backward, 3, x, weights, [8, 5, 3])
    expected = alone(torch.float64)
    rounding = max(map(worst, alone(torch.float32), expected))
    for i, right in enumerate(expected):
        parts = [torch.cat([rank[i] for rank in ranks])] if i == 0 else [rank[i] for rank in ranks]
        assert max(worst(part, right) for part in parts) < 4 * rounding < 2e-3


def exchanges(rank, parts):
    """How many tensors a layer exchanges forward, and backward, for so many batches."""
    layer = synchronise(nn.Sequential(nn.BatchNorm2d(3).double()))
    x = noise(4, 3, 2, 2).requires_grad_(True)
    told, counts = dist.all_reduce, []

    def count(*arguments, **options):
        counts[-1] += 1
        return told(*arguments, **options)

    dist.all_reduce = count
    try:
        counts.append(0)
        with in_parts(layer, parts):
            outputs = layer(x)
        counts.append(0)
        outputs.sin().sum().backward()
    finally:
        dist.all_reduce = told
    return counts


@pytest.mark.parametrize("parts", [1, 2])
def test_one_exchange_forward_and_one_backward(side_by_side, parts):
    assert side_by_side(exchanges, 2, parts) == [[1, 1], [1, 1]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_keep_their_layout_and_type(side_by_side, layout):
    (found, *_) = side_by_side(laid_out, 2, layout)
    assert found == [True, torch.bfloat16, True, torch.bfloat16]


def laid_out(rank, layout):
    layer = synchronise(nn.Sequential(nn.BatchNorm2d(3)))
    x = noise(4, 3, 2, 5).to(torch.bfloat16).contiguous(memory_format=layout).requires_grad_(True)
    outputs = layer(x)
    outputs.float().sin().sum().backward()
    found = []
    for each in (outputs, x.grad):
        found += [each.is_contiguous(memory_format=layout), each.dtype]
    return found


def test_parameters_and_statistics_stay_the_same_tensors():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2, eps=0.5, momentum=0.25)))
    before = dict(network.state_dict(keep_vars=True))
    assert list(synchronise(network).state_dict()) == list(before)
    assert all(tensor is before[name] for name, tensor in network.state_dict(keep_vars=True).items())
    assert (network[1][0].eps, network[1][0].momentum) == (0.5, 0.25)
