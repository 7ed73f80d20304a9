"""How networks are looked at: what they hold, what their layers make, their images one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distgan.networks import CRITICS, GENERATORS, Critic, Generator, ImageShape
from distgan.networks.base import GeneratorInput
from distgan.networks.gain import Equalised


def make_generator(name: str, image: ImageShape, given: GeneratorInput, **options: Any) -> Generator:
    """A registered generator with torch's own initial weights."""
    entry = GENERATORS[name]
    return entry.build(entry.options(**options), image, given)


def make_critic(name: str, image: ImageShape, labels: int = 0, **options: Any) -> Critic:
    """A registered critic with torch's own initial weights."""
    entry = CRITICS[name]
    return entry.build(entry.options(**options), image, labels)


def keras_counts(network: nn.Module) -> tuple[int, int]:
    """All numbers that a saved network has but torch's counter of batches, and those that are learnt."""
    total = sum(value.numel() for name, value in network.state_dict().items() if "num_batches" not in name)
    return total, sum(parameter.numel() for parameter in network.parameters())


def outputs(network: nn.Module, *inputs: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """The layers in the order in which they run: class, and shape of the output of one image."""
    seen: list[tuple[str, tuple[int, ...]]] = []
    for layer in network.modules():
        if not list(layer.children()):
            layer.register_forward_hook(
                lambda layer, _, output: seen.append((type(layer).__name__, tuple(output.shape[1:])))
            )
    network.eval()(*inputs)
    return seen


def enlarged(network: nn.Module) -> Any:
    """The network in float64; weights, biases and statistics are all different, and none is too small to matter."""
    random = torch.Generator().manual_seed(0)
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=random) / fan**0.5)
            if parameter.ndim == 1:
                parameter.add_(1.0)
        for module in network.modules():
            if isinstance(module, Equalised):  # which makes its weights smaller itself
                module.weight.mul_(module.fan_in**0.5)
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand(buffer.shape, generator=random) + 0.5)
    return network


def noise(*shape: int, seed: int = 0) -> Tensor:
    """N(0, 1) in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
