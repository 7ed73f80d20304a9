"""Steps on a device that is not there: torch keeps shapes, types and devices of tensors, and computes no number.

So a processor shows what a GPU would stumble over: operations that mix tensors of the host with the device's; what
reads a number of the device's, which a GPU is waited for with and a CUDA graph cannot be captured around; and graphs of
autograd that are kept from update to update.

To be run as a program, as torch has but one device of this kind, for the whole process: ``python -m
tests.distgan.training.elsewhere RECIPE …`` says what is wrong with each recipe's steps, line by line. ``RECIPE:HARM``
does harm to it first: see :data:`HARMS`; torch may crash in what comes after an error.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.moving import Numbers
from distgan.networks import convolutions
from distgan.objectives import Batch, Side
from distgan.spec import GuardSpec
from distgan.training import graphs
from distgan.training.figures import figures_of_step
from distgan.training.guard import Guard
from distgan.training.learner import Learner
from distgan.training.precision import Precision
from tests.distgan.training.recorded import tensors_of
from tests.distgan.training.test_graphs import learner, small

NAME = "elsewhere"
STEPS = 3
"""One that is done as it is written, one that is captured, one that is replayed: nothing comes of that here."""


KEPT: list[object] = []
"""What has been made: torch crashes where such parameters go."""


class Apart(TorchDispatchMode):
    """Refuses operations that have to do with two devices, copies too."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        devices = {tensor.device.type for tensor in tensors_of((args, kwargs, found))}
        if len(devices) > 1:
            raise RuntimeError(f"{function} of {' and '.join(sorted(devices))}")
        return found


class Pretended:
    """A backend of :mod:`distgan.training.graphs` whose captures take what CUDA graphs would."""

    def __init__(self, device: torch.device) -> None:
        pass

    def beside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        with Apart():
            return work(), lambda: None


class Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def place(precision: Precision, network: nn.Module) -> nn.Module:
    """As ``Precision.place``: torch's own way exchanges parameters, which those without numbers do not suffer."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            there = parameter.detach().to(precision.device, precision.dtype)
            if there.dim() == 4:
                there = there.contiguous(memory_format=torch.channels_last)
            setattr(module, name, nn.Parameter(there))
        for name, buffer in module.named_buffers(recurse=False):
            dtype = precision.dtype if buffer.is_floating_point() else buffer.dtype
            setattr(module, name, torch.zeros(buffer.shape, dtype=dtype, device=precision.device))
    return network


def mark_nodes(trainee: Learner) -> None:
    """Have the nodes that add to gradients be known again after the update that they are of.

    Each remembers the stream that it began on: one that outlives its update, as does all that is kept of a graph, has a
    CUDA graph that is captured later wait for that stream, which breaks it.
    """
    inner = trainee._add_gradients

    def marking(*arguments: Any) -> Any:
        nodes = [_node(parameter) for parameter in _trained(trainee)]
        for node in nodes:
            node.metadata["marked"] = True
        return inner(*arguments)

    trainee._add_gradients = marking  # type: ignore[assignment, method-assign]


def check_nodes(trainee: Learner) -> None:
    """See that no node has outlived its update."""
    if any("marked" in _node(parameter).metadata for parameter in _trained(trainee)):
        raise RuntimeError("a graph of autograd's is kept")


def _node(parameter: nn.Parameter) -> Any:
    """What adds to its gradient: made anew where there is none."""
    function = parameter.view_as(parameter).grad_fn
    assert function is not None
    return function.next_functions[0][0]


def _trained(trainee: Learner) -> list[nn.Parameter]:
    networks = trainee.generator, trainee.critic
    return [each for network in networks for each in network.parameters() if each.requires_grad]


def problem(name: str, harm: Callable[[Learner], None]) -> str:
    """What is wrong with a recipe's steps, in all that they are made of, in a line; nothing where that is nothing."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            trainee, guard = learner(small(name), torch.device(NAME, 0)), Guard(GuardSpec())
            KEPT.extend((mode, trainee))
            mark_nodes(trainee)
            for stage in trainee.spec.timetable.stages:
                for first in dict.fromkeys((stage.first_step, stage.faded_in)):
                    trainee.step = first
                    harm(trainee)
                    for _ in range(STEPS):
                        _take_step(trainee, guard)
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _take_step(trainee: Learner, guard: Guard) -> None:
    stage = trainee.stage
    shape = trainee.slots, 3, stage.size, stage.size
    images = torch.rand(shape, device=NAME).contiguous(memory_format=torch.channels_last)
    real = Batch(images, images.new_zeros(len(images), 0))
    for repeat in range(stage.n_critic):
        critic = trainee.update_critic(real, repeat)
        check_nodes(trainee)
    generator = trainee.update_generator(real)
    check_nodes(trainee)
    guard.observe(figures_of_step(trainee.spec, critic, generator, trainee.gradient_norms()))


def _leave_slots_behind(trainee: Learner) -> None:
    """Something that each update wants from the host."""
    trainee._slots = torch.arange(trainee.slots)


def _copy_slots(trainee: Learner) -> None:
    """Likewise; it does come to the device."""
    inner, slots = trainee._add_gradients, torch.arange(trainee.slots)

    def copying(*arguments: Any) -> Any:
        trainee._slots = slots.to(NAME)
        return inner(*arguments)

    trainee._add_gradients = copying  # type: ignore[assignment, method-assign]


def _read_losses(trainee: Learner) -> None:
    """A wait in each update."""
    inner = trainee._add_gradients

    def reading(*arguments: Any) -> Any:
        loss = inner(*arguments)
        float(loss.value)
        return loss

    trainee._add_gradients = reading  # type: ignore[assignment, method-assign]


def _convolve_as_on_a_cpu(trainee: Learner) -> None:
    """No harm: there is nothing of a CPU in it."""
    convolutions.DEVICES.add(NAME)


def _keep_losses(trainee: Learner) -> None:
    """With all that they have come of."""
    inner = trainee._forwards

    def keeping(side: Side) -> Callable[..., Any]:
        def forward(*arguments: Any) -> Any:
            loss = side(*arguments)
            KEPT.append(loss)
            return loss

        return forward

    trainee._forwards = {side: keeping(side) for side in inner}  # type: ignore[misc]


HARMS: dict[str, Callable[[Learner], None]] = {
    "": lambda trainee: None,
    "convolutions as on a CPU": _convolve_as_on_a_cpu,
    "left behind": _leave_slots_behind,
    "copied": _copy_slots,
    "read": _read_losses,
    "kept": _keep_losses,
}


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    graphs.BACKENDS[NAME], graphs.WARM_UP = Pretended, 1
    Numbers.write = lambda numbers: None  # type: ignore[assignment, method-assign]
    Precision.place = place  # type: ignore[assignment, method-assign]
    for name in names:
        recipe, _, harm = name.partition(":")
        sys.stdout.write(f"{name}: {problem(recipe, HARMS[harm]) or 'nothing'}\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
