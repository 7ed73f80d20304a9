from __future__ import annotations

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan.networks import ImageShape, build_networks
from distgan.spec import ModelSpec
from distgan.training.ema import EMA

NO_LABELS = torch.empty(256, 0, dtype=torch.float64)
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


def test_calibrated_statistics_are_those_of_the_averaged_weights():
    """In evaluation mode the averaged network then does to the calibration batch what training mode does."""
    network = generator()
    ema = EMA(network, 1000, ramp_up=0.05)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.01)
    ema.update(1000, 1000)
    batch = torch.randn(256, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    average = ema.calibrated(lambda number: (batch, NO_LABELS), batches=1)
    evaluated = average(batch)
    trained = copy.deepcopy(average).train()(batch)
    # The running variance is the unbiased one, which over 256·16 values and more is 1.0001 of the batch's own.
    torch.testing.assert_close(evaluated, trained, rtol=1e-3, atol=1e-3)
    stale = copy.deepcopy(average)
    stale.load_state_dict({**average.state_dict(), **dict(network.named_buffers())})
    assert (stale(batch) - trained).abs().max() > 0.01  # the training network's own statistics would not do


def test_calibration_averages_over_all_batches_and_repeats():
    ema = EMA(generator(), 1000, ramp_up=0.05)
    draws = [torch.randn(64, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    first = copy.deepcopy(ema.calibrated(lambda i: (draws[i], NO_LABELS[:64]), batches=3).state_dict())
    again = ema.calibrated(lambda i: (draws[i], NO_LABELS[:64]), batches=3)
    assert not again.training
    for name, value in again.state_dict().items():
        assert torch.equal(value, first[name])
    norm = next(m for m in ema.network.modules() if isinstance(m, nn.BatchNorm2d))
    projection = next(m for m in ema.network.modules() if isinstance(m, nn.ConvTranspose2d))
    means = [projection(draw[:, :, None, None]).mean((0, 2, 3)) for draw in draws]
    torch.testing.assert_close(norm.running_mean, sum(means) / 3)


def test_the_average_does_not_learn():
    ema = EMA(generator(), 1000, ramp_up=0.05)
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
