"""What lies in memory from step to step: the model states (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan.spec import RunSpec, SideOptimizerSpec
from distgan.training.optimizers import build_optimizer


class ModelStates(NamedTuple):
    """Bytes of both networks, and of what training keeps for their weights."""

    weights: int
    """BatchNorm's statistics included."""
    gradients: int
    optimizer_state: int
    ema: int
    """Averages of the generator: the EMA and, where they are kept, two traces."""


def model_states(spec: RunSpec, generator: nn.Module, critic: nn.Module) -> ModelStates:
    """Those of a run, in the networks' floating point types."""
    sides = ((generator, spec.optimizer.generator), (critic, spec.optimizer.critic))
    return ModelStates(
        weights=sum(_bytes(network) for network, _ in sides),
        gradients=sum(parameter.nbytes for network, _ in sides for parameter in network.parameters()),
        optimizer_state=sum(_optimizer_bytes(optimizer, network) for network, optimizer in sides),
        ema=_bytes(generator) * (3 if spec.training.keep_traces_every_images else 1),
    )


def _bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def _optimizer_bytes(spec: SideOptimizerSpec, network: nn.Module) -> int:
    """What an optimizer remembers, found out with a weight of two elements: some of it is as large as the weight."""
    probe = nn.Parameter(torch.zeros(2))
    probe.grad = torch.zeros(2)
    optimizer = build_optimizer(spec, [probe])
    optimizer.step()
    state = [tensor for tensor in optimizer.state[probe].values() if isinstance(tensor, Tensor)]
    copies = sum(tensor.shape == probe.shape for tensor in state)
    beside = sum(tensor.nbytes for tensor in state if tensor.shape != probe.shape)
    return sum(copies * parameter.nbytes + beside for parameter in network.parameters())
