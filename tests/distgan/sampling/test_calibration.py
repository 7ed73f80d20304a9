from __future__ import annotations

import copy

import torch
from torch import nn

from distgan.networks import ImageShape, build_networks
from distgan.sampling.calibration import calibrate
from distgan.spec import ModelSpec

NO_LABELS = torch.empty(256, 0, dtype=torch.float64)
MODEL = ModelSpec.model_validate({"generator": {"width": 3}, "critic": {"width": 1}, "latent_dim": 5})


def generator() -> nn.Module:
    return build_networks(MODEL, ImageShape(1, 16), 0)[0].double()


def test_statistics_are_those_of_the_weights():
    """In evaluation mode the network then does to the calibration batch what training mode does."""
    network = generator()
    average = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(1.5).add_(0.01)
    batch = torch.randn(256, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    calibrate(average, lambda number: (batch, NO_LABELS), batches=1)
    evaluated = average(batch)
    trained = copy.deepcopy(average).train()(batch)
    # The running variance is the unbiased one, which over 256·16 values and more is 1.0001 of the batch's own.
    torch.testing.assert_close(evaluated, trained, rtol=1e-3, atol=1e-3)
    stale = copy.deepcopy(average)
    stale.load_state_dict({**average.state_dict(), **dict(network.named_buffers())})
    assert (stale(batch) - trained).abs().max() > 0.01  # the training network's own statistics would not do


def test_it_averages_over_all_batches_and_repeats():
    network = generator()
    draws = [torch.randn(64, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    first = copy.deepcopy(calibrate(network, lambda i: (draws[i], NO_LABELS[:64]), batches=3).state_dict())
    again = calibrate(network, lambda i: (draws[i], NO_LABELS[:64]), batches=3)
    assert not again.training
    for name, value in again.state_dict().items():
        assert torch.equal(value, first[name])
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    projection = next(m for m in network.modules() if isinstance(m, nn.ConvTranspose2d))
    means = [projection(draw[:, :, None, None]).mean((0, 2, 3)) for draw in draws]
    torch.testing.assert_close(norm.running_mean, sum(means) / 3)
