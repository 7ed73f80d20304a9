"""From an optimizer's specification to the optimizer, by name; its learning rate; and what is done to gradients first.

To add an optimizer: its options and one line in the registry below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from distgan.spec import (
    Cosine,
    Fraction,
    MovingFraction,
    OptimizerSpec,
    Options,
    Rate,
    ScheduleSpec,
    SideOptimizerSpec,
    fallen,
    selected_options,
    value_at,
)


class AdamOptions(Options):
    """Options of ``adam`` (Kingma and Ba 2015)."""

    betas: Annotated[tuple[MovingFraction, MovingFraction], Field(strict=False)] = (0.5, 0.999)
    """Decay rates of the first and the second moment. Each may move:
    ``[0.0, {base: 0.9, final: 0.99, images: 10_000_000}]``."""
    eps: Rate = 1e-8
    """Added to the root of the second moment."""


class RMSpropOptions(Options):
    """Options of ``rmsprop`` (Tieleman and Hinton 2012)."""

    alpha: Fraction = 0.99
    """Decay rate of the mean square; Keras's default is 0.9."""
    eps: Rate = 1e-8
    """Added to the root of the mean square; Keras's default is 1e-7."""
    momentum: Fraction = 0.0
    """Share of the last update that is kept."""


class Entry(NamedTuple):
    """An optimizer: its options, and what makes it of (parameters, lr=…, **options)."""

    options: type[Options]
    build: Callable[..., torch.optim.Optimizer]


Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

_FOR_COMPILER = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")


def _plain(optimizer: type[Kind]) -> type[Kind]:
    """An optimizer of torch's without what its methods are wrapped in for ``torch.compile``.

    The wrappers import the compiler, only to keep it out of them: 1.3 s of each start. Where a version of torch wraps
    less, less is taken off.
    """
    inner = {name: getattr(getattr(optimizer, name), "__wrapped__", None) for name in _FOR_COMPILER}
    plain = {name: method for name, method in inner.items() if method}
    if "step" in plain:
        plain["step"] = torch.no_grad()(plain["step"])
    return cast("type[Kind]", type(optimizer.__name__, (optimizer,), plain))


OPTIMIZERS: dict[str, Entry] = {
    "adam": Entry(AdamOptions, partial(_plain(torch.optim.Adam), fused=True)),  # one pass over all that a weight has
    "rmsprop": Entry(RMSpropOptions, _plain(torch.optim.RMSprop)),
}


def build_optimizer(spec: SideOptimizerSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of one side.

    Raises:
        InputError: An unknown optimizer or a wrong option.
    """
    options = {name: _at(value, 0) for name, value in selected_options(spec, OPTIMIZERS, "optimizer")}
    return OPTIMIZERS[spec.name].build(parameters, lr=spec.lr, **options)


def moving_options(spec: SideOptimizerSpec) -> dict[str, Any]:
    """The optimizer's own options by name, those that move. Found once: :func:`steer` is in the way of each update."""
    return {name: value for name, value in selected_options(spec, OPTIMIZERS, "optimizer") if _moves(value)}


def steer(
    optimizer: torch.optim.Optimizer,
    schedule: ScheduleSpec,
    moving: Mapping[str, Any],
    rate: float,
    images: int,
    updates: int,
) -> None:
    """Give an optimizer its learning rate, and what else moves, before an update.

    Args:
        optimizer: Of :func:`build_optimizer`.
        schedule: How its learning rate changes.
        moving: What :func:`moving_options` says of what it was built from.
        rate: The learning rate that the schedule changes.
        images: Real images that the run has shown before this update.
        updates: Updates that this optimizer has done before this one.
    """
    options = {name: _at(value, images) for name, value in moving.items()}
    options["lr"] = rate * rate_factor(schedule, images, updates)
    for group in optimizer.param_groups:
        group.update(options)


def complete_optimizer(spec: OptimizerSpec) -> OptimizerSpec:
    """The ``optimizer`` section with every option written out.

    Raises:
        InputError: An unknown optimizer or a wrong option.
    """

    def complete(side: str) -> SideOptimizerSpec:
        own: SideOptimizerSpec = getattr(spec, side)
        declared: dict[str, Any] = {name: getattr(own, name) for name in SideOptimizerSpec.model_fields}
        options = selected_options(own, OPTIMIZERS, f"optimizer.{side}")
        return SideOptimizerSpec(**declared, **options.model_dump(mode="json"))

    return OptimizerSpec(generator=complete("generator"), critic=complete("critic"))


def rate_factor(spec: ScheduleSpec, images: int, updates: int) -> float:
    """What a schedule multiplies the learning rate by, in [0, 1].

    The warm-up's factor, min(1, (images + 1) / (warm_up_images + 1)), so that no update is wasted on a rate of 0, times
    the kind's own:

    - ``constant``: 1;
    - ``linear``: (until_images − images) / (until_images − hold_images), kept in [0, 1];
    - ``cosine``: as :func:`~distgan.spec.value_at` has it, from 1 to ``final`` between the same two;
    - ``inverse_time``: 1 / (1 + decay · updates), as ``decay`` was in Keras's optimizers.

    A rate that falls until a run ends of which nobody has said the length, such as a benchmark's, does not fall.

    Args:
        spec: The schedule, of a run with its length :meth:`~distgan.spec.RunSpec.in_images`.
        images: Real images that the run has shown before this update.
        updates: Updates that this optimizer has done before this one.
    """
    warm = min(1.0, (images + 1) / (spec.warm_up_images + 1))
    if spec.kind == "linear" and spec.until_images is not None:
        left = (spec.until_images - images) / (spec.until_images - spec.hold_images)
        return warm * min(1.0, max(0.0, left))
    if spec.kind == "cosine" and spec.until_images is not None:
        share = fallen(images - spec.hold_images, spec.until_images - spec.hold_images)
        return warm * (spec.final + (1.0 - spec.final) * share)
    if spec.kind == "inverse_time":
        return warm / (1.0 + spec.decay * updates)
    return warm


@torch.no_grad()
def clip_gradients(spec: SideOptimizerSpec, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Cut a network's gradient as its specification asks, in place: each element first, then the whole.

    A gradient that is not finite is not made to look finite: it becomes NaN.

    Args:
        spec: The network's optimizer.
        parameters: The network's; those without a gradient are left out.

    Returns:
        The Euclidean norm that the whole gradient had before, a scalar on the device, which is not waited for.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not gradients or (spec.clip_value is None and spec.clip_norm is None):
        return norm
    if spec.clip_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, spec.clip_value)
    scale = 1 + 0 * norm  # NaN where the norm is infinite: the elements that made it so may have just been cut
    if spec.clip_norm is not None:
        scale = scale * (spec.clip_norm / torch.nn.utils.get_total_norm(gradients)).clamp(max=1)
    torch._foreach_mul_(gradients, scale)
    return norm


def _moves(value: Any) -> bool:
    return any(map(_moves, value)) if isinstance(value, tuple) else isinstance(value, Cosine)


def _at(value: Any, images: int) -> Any:
    """An option after so many images."""
    if isinstance(value, tuple):
        return tuple(_at(each, images) for each in value)
    return value_at(value, images) if isinstance(value, Cosine) else value
