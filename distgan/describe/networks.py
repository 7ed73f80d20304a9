"""A network in words and figures: its layers, their outputs, its parameters, and FLOPs of one image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distgan.costs.flops import FLOPs
from distgan.describe.description import Layer, Network, Parameters
from distgan.networks.growing import grow
from distgan.networks.layers import Residual
from distgan.stages import Timetable


def describe_network(
    name: str, network: nn.Module, timetable: Timetable, inputs: Callable[[int], tuple[Tensor, Tensor]]
) -> Network:
    """Describe a network by what it does to one image (or latent) and its labels.

    Args:
        name: In its registry.
        network: Of fake tensors or real ones.
        timetable: Of the run: a network that grows is seen at each size.
        inputs: What it is given, for an image size: a batch of one, and its labels.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    layers = dict(_layers(network))

    def note_shape(layer: str) -> Any:
        return lambda module, arguments, output: shapes.update({layer: tuple(output.shape[1:])})

    hooks = [layer.register_forward_hook(note_shape(name)) for name, layer in layers.items()]
    network.eval()  # one image has no variance, and dropout nothing to draw from
    flops = 0
    for stage in timetable.stages:  # the final size comes last
        grow(network, timetable, stage.faded_in)
        with torch.no_grad(), FLOPs() as counted:  # type: ignore[no-untyped-call]
            network(*inputs(stage.size))
        flops = counted.total
    network.train()
    for hook in hooks:
        hook.remove()
    rows = [
        Layer(each, type(layer).__name__, shapes[each], _count(layer).total)
        for each, layer in layers.items()
        if each in shapes
    ]
    return Network(name, rows, _count(network), flops)


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers by name: what is in a sequence or a residual block, and what is of a class of its own."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleDict | Residual):
            yield from ((f"{name}.{inner}", layer) for inner, layer in _layers(child))
        else:
            yield name, child


def _count(module: nn.Module) -> Parameters:
    trainable = sum(parameter.numel() for parameter in module.parameters())
    # Keras has no counter of batches, torch's only statistic that is no floating point number.
    statistics = sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())
    return Parameters(trainable + statistics, trainable)
