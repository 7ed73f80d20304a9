from __future__ import annotations

import pytest
import torch

from distgan.describe import describe
from distgan.networks import ImageShape, build_networks
from distgan.training.complete import complete
from distgan.training.optimizers import OPTIMIZERS, build_optimizer
from tests.small import small


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizers_state_is_what_it_is_after_a_step(name):
    section = {"name": name, **({"momentum": 0.5} if name == "rmsprop" else {})}
    spec = complete(small(optimizer={"generator": section, "critic": section}))
    expected = 0
    for network in build_networks(spec.model, ImageShape(3, 16), 0):
        optimizer = build_optimizer(spec.optimizer.critic, network.parameters())
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        expected += sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())
    assert describe(spec).memory.optimizer_state == expected
