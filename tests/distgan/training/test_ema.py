from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan.networks import ImageShape, build_networks
from distgan.sampling.averaging import TRACES
from distgan.spec import Cosine, ModelSpec
from distgan.training.ema import EMA, Traces

MODEL = ModelSpec.model_validate({"generator": {"width": 3}, "critic": {"width": 1}, "latent_dim": 5})


def generator() -> nn.Module:
    return build_networks(MODEL, ImageShape(1, 16), 0)[0].double()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.integers(1, 1000), st.integers(1, 1000))
def test_it_is_the_exponential_average(values, half_life, batch):
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, 7.0)
    ema, expected = EMA(network, half_life, ramp_up=0.0), 7.0
    for step, value in enumerate(values, start=1):
        nn.init.constant_(network.weight, value)
        ema.update(step * batch, batch)
        keep = 0.5 ** (batch / half_life)
        expected = keep * expected + (1 - keep) * value
    torch.testing.assert_close(ema.network.weight.item(), expected, rtol=1e-9, atol=1e-9)


def test_after_a_half_life_half_is_left():
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, 1.0)
    ema = EMA(network, 1000, ramp_up=0.0)
    nn.init.constant_(network.weight, 0.0)
    for step in range(1, 11):
        ema.update(step * 100, 100)
    torch.testing.assert_close(ema.network.weight.item(), 0.5)


def test_the_ramp_forgets_the_beginning():
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, 1.0)
    ramped, plain = EMA(network, 10_000, ramp_up=0.05), EMA(network, 10_000, ramp_up=0.0)
    nn.init.constant_(network.weight, 0.0)
    for ema in (ramped, plain):
        for step in range(1, 21):
            ema.update(step * 50, 50)
    assert ramped.network.weight.item() < 0.01
    assert plain.network.weight.item() > 0.9


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.integers(0, 100), st.integers(0, 100))
def test_its_half_life_may_move(values, base, final):
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, 7.0)
    ema, expected = EMA(network, Cosine[int](base=base, final=final, images=100), ramp_up=0.0), 7.0
    for step, value in enumerate(values, start=1):
        nn.init.constant_(network.weight, value)
        ema.update(step * 8, 8)
        half_life = base + (final - base) * (1 - math.cos(math.pi * min(step * 8 / 100, 1))) / 2
        keep = 0.5 ** (8 / half_life) if half_life else 0.0
        expected = keep * expected + (1 - keep) * value
    torch.testing.assert_close(ema.network.weight.item(), expected, rtol=1e-9, atol=1e-9)


@given(st.floats(-10, 10), st.sampled_from([0.0, 0.05]), st.sampled_from([0, Cosine[int](base=0, final=0, images=9)]))
def test_without_a_half_life_the_average_is_the_weights(value, ramp_up, half_life):
    network = generator()
    ema = EMA(network, half_life, ramp_up)
    for step in range(1, 3):
        for weight in network.parameters():
            nn.init.constant_(weight, value * step + 0.1)
        ema.update(8 * step, 8)
        for average, weight in zip(ema.network.parameters(), network.parameters(), strict=True):
            assert torch.equal(average, weight)


def weights(*values: float) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values])


def averages(ema: EMA) -> list[float]:
    return [average.item() for average in ema.network.parameters()]


def test_the_ramp_of_what_comes_in_later_begins_then():
    """Its average is what it would be had the run begun then; that of the others goes on."""
    network, early, late = weights(1.0, 1.0), weights(1.0), weights(1.0)
    both = EMA(network, 400, 0.05, {network[1]: 1000})
    of_early, of_late = EMA(early, 400, 0.05), EMA(late, 400, 0.05)
    for images in range(50, 3050, 50):
        for weight in (network[0], early[0]):
            nn.init.constant_(weight, images)
        of_early.update(images, 50)
        if images > 1000:
            for weight in (network[1], late[0]):
                nn.init.constant_(weight, images)
            of_late.update(images - 1000, 50)
        both.update(images, 50)
        assert averages(both) == averages(of_early) + averages(of_late)


def test_the_average_does_not_learn():
    ema = EMA(generator(), 1000, ramp_up=0.05)
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_traces_weigh_steps_by_a_power_of_their_number(values):
    """Against the weights written out: up to step k they add up to (k / t)^(γ + 1)."""
    network = nn.Linear(1, 1, bias=False).double()
    traces = Traces(network)
    for step, value in enumerate(values, start=1):
        nn.init.constant_(network.weight, value)
        traces.update(step)
    for trace, exponent in TRACES.items():
        sums = (np.arange(len(values) + 1) / len(values)) ** (exponent + 1)
        expected = float(np.diff(sums) @ np.array(values))
        torch.testing.assert_close(traces.tensors()[trace]["weight"].item(), expected, rtol=1e-9, atol=1e-9)
