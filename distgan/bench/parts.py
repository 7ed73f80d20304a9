"""Where the time of a training step goes, by part, without a word about it in the training loop.

Parts are told apart where torch and distgan call what they are made of: torch's hooks around modules and optimizers,
``Tensor.backward``, and the methods that draw numbers, average weights and take slopes. The device is not waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from distgan.data.noise import Noise
from distgan.objectives import Side
from distgan.objectives.adversarial import CriticSide
from distgan.training.ema import EMA, Traces

FORWARD, BACKWARD, PENALTY = "forward", "backward", "penalty"
OPTIMIZER, AVERAGES, NOISE, BOOKKEEPING = "optimizer", "EMA", "noise", "bookkeeping"
PARTS = (FORWARD, BACKWARD, PENALTY, OPTIMIZER, AVERAGES, NOISE, BOOKKEEPING)


def shares_of_parts(step: Callable[[], object], times: int, clock: Callable[[], Any]) -> dict[str, float]:
    """What share of a training step each part takes.

    - forward: the networks and the loss, without what follows;
    - backward: gradients for the weights, without the penalty's;
    - penalty: slopes of the critic, and their way back to its weights;
    - optimizer: its steps;
    - EMA: averages of the weights, and traces;
    - noise: latents and whatever else is drawn;
    - bookkeeping: all else, such as norms of gradients, learning rates, and setting gradients to None.

    The way back of a penalty is told apart by the order in which autograd works: the last computed first. Penalties are
    computed after the outputs that the loss is of, so that they come before these on the way back.

    Args:
        step: Takes a step, or some, of a :class:`~distgan.training.learner.Learner`.
        times: How often.
        clock: Of :func:`clock_of`.

    Returns:
        Every part of PARTS, in this order; together 1.
    """
    watch = _Watch(clock)
    with _watched(watch):
        for _ in range(times):
            step()
    seconds = watch.seconds()
    total = sum(seconds.values())
    return {part: seconds[part] / total for part in PARTS}


def clock_of(device: torch.device) -> Callable[[], Any]:
    """What says how late it is where a device's work is done: the difference of two such times is in seconds."""
    return (lambda: _Event(device)) if device.type == "cuda" else time.perf_counter


class _Event:
    """A time on a GPU's stream, which is read at the end: asking for it does not wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(device))

    def __sub__(self, before: _Event) -> float:
        torch.cuda.synchronize(self._device)
        return float(before._event.elapsed_time(self._event)) / 1000


class _Watch:
    """Which part is going on since when: the innermost one."""

    def __init__(self, clock: Callable[[], Any]) -> None:
        self._clock = clock
        self._within = [BOOKKEEPING]
        self._marks = [(clock(), BOOKKEEPING)]

    @property
    def part(self) -> str:
        """What is going on."""
        return self._within[-1]

    def enter(self, part: str) -> None:
        """A part begins within another."""
        self._within.append(part)
        self._marks.append((self._clock(), part))

    def leave(self) -> None:
        """The innermost part ends."""
        self._within.pop()
        self._marks.append((self._clock(), self.part))

    def become(self, part: str) -> None:
        """The innermost part goes over into another."""
        self.leave()
        self.enter(part)

    def seconds(self) -> dict[str, float]:
        """Of each part, until now."""
        found = dict.fromkeys(PARTS, 0.0)
        ends = [*(mark for mark, _ in self._marks[1:]), self._clock()]
        for (began, part), ended in zip(self._marks, ends, strict=True):
            found[part] += ended - began
        return found


@contextmanager
def _watched(watch: _Watch) -> Iterator[None]:
    """Have the parts of training steps enter and leave within the block."""

    def entering(part: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def around(method: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(method)
            def timed(*arguments: Any, **options: Any) -> Any:
                watch.enter(part)
                try:
                    return method(*arguments, **options)
                finally:
                    watch.leave()

            return timed

        return around

    def at_the_gradient(part: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
        """Around what computes a tensor: when its gradient comes, the backward pass goes over into a part."""

        def around(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
            @wraps(method)
            def marked(*arguments: Any, **options: Any) -> Tensor:
                found = method(*arguments, **options)
                if watch.part == FORWARD and found.requires_grad:  # not within a penalty
                    found.register_hook(lambda gradient: watch.become(part))  # type: ignore[no-untyped-call]
                return found

            return marked

        return around

    def side_begins(module: nn.Module, arguments: Any) -> None:
        if isinstance(module, Side):
            watch.enter(FORWARD)

    def side_ends(module: nn.Module, arguments: Any, outputs: Any) -> None:
        if isinstance(module, Side):
            watch.leave()

    with ExitStack() as stack:
        for handle in (
            register_module_forward_pre_hook(side_begins),
            register_module_forward_hook(side_ends),
            register_optimizer_step_pre_hook(lambda *_: watch.enter(OPTIMIZER)),
            register_optimizer_step_post_hook(lambda *_: watch.leave()),
        ):
            stack.callback(handle.remove)
        for owner, name, change in (
            (Noise, "normal", entering(NOISE)),
            (Noise, "uniform", entering(NOISE)),
            (EMA, "update", entering(AVERAGES)),
            (Traces, "update", entering(AVERAGES)),
            (Tensor, "backward", entering(BACKWARD)),
            (Side, "judge", at_the_gradient(BACKWARD)),
            (CriticSide, "squared_slopes", entering(PENALTY)),
            (CriticSide, "squared_slopes", at_the_gradient(PENALTY)),
        ):
            method = getattr(owner, name)
            stack.callback(setattr, owner, name, method)
            setattr(owner, name, change(method))
        yield
