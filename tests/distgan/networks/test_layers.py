from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distgan.data.noise import Noise
from distgan.networks.layers import (
    ConditionalBatchNorm2d,
    Dropout,
    Layers,
    LeakyReLU,
    ReLU,
    Residual,
    SumPooling,
    dropout_from,
)
from tests.distgan.networks.conftest import enlarged, noise


@pytest.mark.parametrize("training", [True, False])
def test_conditional_batch_norm_is_the_plain_formula(training):
    """γ(y) · (x − mean) / √(variance + ε) + β(y), with γ and β affine in the labels."""
    layer = enlarged(ConditionalBatchNorm2d(3, 2, eps=0.01, momentum=0.25)).train(training)
    x, labels = noise(5, 3, 2, 4) * 2 + 1, noise(5, 2, seed=1)
    gamma, beta, w, v = (
        each.detach().numpy() for each in (layer.norm.weight, layer.norm.bias, layer.scale.weight, layer.shift.weight)
    )
    before = layer.norm.running_mean.clone(), layer.norm.running_var.clone()
    actual = layer(x, labels).detach().numpy()
    maps, y = x.numpy(), labels.numpy()
    for c in range(3):
        mean, variance = maps[:, c].mean(), maps[:, c].var()
        if training:
            count = maps[:, c].size
            np.testing.assert_allclose(layer.norm.running_mean[c], 0.75 * before[0][c] + 0.25 * mean)
            unbiased = variance * count / (count - 1)
            np.testing.assert_allclose(layer.norm.running_var[c], 0.75 * before[1][c] + 0.25 * unbiased)
        else:
            mean, variance = before[0][c].item(), before[1][c].item()
        for i in range(5):
            gamma_y = gamma[c] + gamma[c] * sum(w[c, k] * y[i, k] for k in range(2))
            beta_y = beta[c] + sum((beta[c] * w[c, k] + v[c, k]) * y[i, k] for k in range(2))
            expected = gamma_y * (maps[i, c] - mean) / np.sqrt(variance + 0.01) + beta_y
            np.testing.assert_allclose(actual[i, c], expected, rtol=1e-10)


def test_labels_of_zero_leave_batch_norm():
    layer, plain = enlarged(ConditionalBatchNorm2d(3, 2)), nn.BatchNorm2d(3).double()
    plain.load_state_dict(layer.norm.state_dict())
    x = noise(5, 3, 2, 4)
    torch.testing.assert_close(layer(x, torch.zeros(5, 2).double()), plain(x), rtol=1e-12, atol=1e-12)


def test_labels_are_given_to_the_layers_that_take_them():
    layers = enlarged(Layers(nn.Conv2d(3, 2, 1), ConditionalBatchNorm2d(2, 1), nn.Tanh())).eval()
    x, labels = noise(2, 3, 2, 2), noise(2, 1)
    torch.testing.assert_close(layers(x, labels), torch.tanh(layers[1](layers[0](x), labels)))


@pytest.mark.parametrize("labels", [None, noise(2, 1)])
def test_a_residual_block_is_a_sum_and_gives_labels_to_what_takes_them(labels):
    norm = [] if labels is None else [ConditionalBatchNorm2d(2, 1)]
    residual, shortcut = Layers(nn.Conv2d(3, 2, 1), *norm), Layers(nn.Conv2d(3, 2, 1))
    block = enlarged(Layers(Residual(residual, shortcut))).eval()
    x = noise(2, 3, 2, 2)
    torch.testing.assert_close(block(x, labels), residual(x, labels) + shortcut(x))
    identity = Residual(residual, Layers())
    with pytest.raises(RuntimeError, match="size"):
        identity(x, labels)


def test_sum_pooling_sums_places():
    x = noise(2, 3, 4, 5)
    torch.testing.assert_close(SumPooling()(x), torch.einsum("nchw->nc", x))


ACTIVATIONS = [(LeakyReLU, nn.LeakyReLU, (0.2,)), (LeakyReLU, nn.LeakyReLU, (0.01,)), (ReLU, nn.ReLU, ())]


@pytest.mark.parametrize(("ours", "theirs", "options"), ACTIVATIONS, ids=str)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_activations_are_torch_s(ours, theirs, options, inplace, dtype):
    """Bit for bit, with both derivatives, also of 0."""
    found = []
    for layer in (ours(*options, inplace=inplace), theirs(*options, inplace=inplace)):
        assert isinstance(layer, theirs)
        x = noise(4, 3, 5).to(dtype)
        x[0] = 0
        x.requires_grad_()
        activated = layer(1 * x)
        (slopes,) = torch.autograd.grad(activated.pow(3).sum(), x, create_graph=True)
        found.append([activated, slopes, *torch.autograd.grad(slopes.square().sum(), x)])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_derivative_that_is_0_sends_nothing_back():
    """The slope of a network of linear pieces does not depend on where in a piece it is taken."""
    network = nn.Sequential(nn.Linear(3, 4), LeakyReLU(0.2, inplace=True), nn.Linear(4, 4), ReLU(), nn.Linear(4, 1))
    x = torch.randn(5, 3, requires_grad=True)
    (slopes,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    slopes.square().sum().backward()
    assert x.grad is None
    assert all(layer.bias.grad is None for layer in network if isinstance(layer, nn.Linear))
    assert all(layer.weight.grad is not None for layer in network if isinstance(layer, nn.Linear))


def slots(*numbers: int, dtype: torch.dtype = torch.float64) -> Noise:
    return Noise(0, torch.tensor(numbers), "critic/0", dtype)


probabilities = st.floats(0.01, 0.99)


@given(probabilities, st.integers(1, 4), st.integers(1, 20))
def test_what_is_dropped_is_what_the_numbers_say(probability, count, width):
    layer, x = Dropout(probability), noise(count, width)
    asked: list[tuple[str, tuple[int, ...]]] = []

    def uniform(purpose: str, shape: Sequence[int]) -> Tensor:
        asked.append((purpose, tuple(shape)))
        return numbers

    numbers = torch.rand(count, width, dtype=torch.float64)
    with dropout_from(nn.Sequential(layer), uniform):
        out = layer(x)
    assert asked == [("dropout/0", (width,))]
    for i, j in np.ndindex(count, width):
        expected = 0.0 if numbers[i, j] < probability else x[i, j] / (1 - probability)
        torch.testing.assert_close(out[i, j], torch.as_tensor(expected).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("probability", [0.1, 0.4, 0.9])
def test_as_much_is_dropped_as_said_and_the_mean_stays(probability):
    layer, count = Dropout(probability), 100_000
    with dropout_from(layer, slots(*range(100)).uniform):
        out = layer(torch.ones(100, 1000).double())
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert abs((out == 0).double().mean() - probability) < 5 * deviation
    assert abs(out.mean() - 1) < 5 * deviation / (1 - probability)


def test_a_mask_depends_on_its_slot_and_its_layer_alone():
    network = nn.Sequential(Dropout(0.5), nn.Flatten(), Dropout(0.5))

    def masks(*numbers: int) -> list[Tensor]:
        with dropout_from(network, slots(*numbers).uniform):
            return [network[i](torch.ones(len(numbers), 50).double()) for i in (0, 2)]

    first, second = masks(3, 4, 5, 6)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    for whole, part in zip((first, second), masks(5, 6), strict=True):
        assert torch.equal(whole[2:], part)


def test_evaluation_drops_nothing_and_asks_for_nothing():
    x = noise(3, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_training_needs_numbers():
    layer, x = Dropout(0.5), noise(3, 5)
    with pytest.raises(AssertionError, match="dropout_from"):
        layer(x)
    with dropout_from(layer, slots(0, 1, 2).uniform):
        layer(x)
    with pytest.raises(AssertionError, match="dropout_from"):
        layer(x)


def test_what_is_left_keeps_its_type():
    """Under autocast, features come in bfloat16."""
    layer = Dropout(0.5)
    with dropout_from(layer, slots(0, 1, dtype=torch.float32).uniform):
        assert layer(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
