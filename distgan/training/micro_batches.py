"""Global batches that are dealt with in equal micro-batches (``training.accumulate``), and what is done with each.

A micro-batch is a stretch of slots of the global batch: slot s of B is in micro-batch ⌊s·N / B⌋ of N. Workers share
each as they share the global batch, so that any number of them makes the same micro-batches.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from distgan.data.order import Ids
from distgan.networks.normalisation import MinibatchStddev, has_batchnorm
from distgan.objectives import Batch, Draw, Loss
from distgan.spec import RunSpec
from distgan.training.precision import Precision
from shards.errors import InputError


def micro_batch_sizes(slots: Ids, batch_size: int, accumulate: int) -> list[int]:
    """How many of a process's slots, in ascending order, are in each micro-batch."""
    return [int(size) for size in np.bincount(slots * accumulate // batch_size, minlength=accumulate)]


def add_gradients(forward: nn.Module, batch: Batch, draw: Draw, precision: Precision, weight: float = 1.0) -> Loss:
    """Add the gradients of a side's loss on a micro-batch to those that are there.

    Training does it, and so does what counts its cost (:mod:`distgan.costs.updates`).

    Args:
        forward: The side, or DistributedDataParallel around it.
        batch: The micro-batch; all of the batch where there is one.
        draw: Random numbers of its slots.
        precision: Of the run.
        weight: What the loss is multiplied by.

    Returns:
        The loss itself, without the weight and without its graph.
    """
    with precision.autocast():
        loss: Loss = forward(batch, draw)
    weighted = loss.value if weight == 1 else loss.value * weight
    weighted.backward()  # type: ignore[no-untyped-call]
    return loss._replace(value=loss.value.detach())


def check_micro_batches(spec: RunSpec, *networks: nn.Module) -> None:
    """Find out whether a run's global batches, and micro-batches for them, are what its networks need.

    Raises:
        InputError: Something needs several images, or a whole batch.
    """
    accumulate = spec.training.accumulate
    compares = any(isinstance(module, MinibatchStddev) for network in networks for module in network.modules())
    single = next((name for name, batch_size in spec.batch_sizes.items() if batch_size == 1), None)
    if compares and single:
        raise InputError(
            f"{single} is 1, but model.critic.minibatch_stddev tells the critic how much the images of a batch differ: "
            f"set it to false, or {single} to 2 or more"
        )
    if accumulate == 1:
        return
    if compares:
        raise InputError(
            f"training.accumulate is {accumulate}, but model.critic.minibatch_stddev tells the critic how much the "
            "images of the whole batch differ: set it to false, or training.accumulate to 1"
        )
    if spec.objective.rest.get("share_fakes"):
        raise InputError(
            f"training.accumulate is {accumulate}, but objective.share_fakes keeps all that the generator has computed "
            "for the whole batch: set it to false, or training.accumulate to 1"
        )


def micro_batch_note(spec: RunSpec, *networks: nn.Module) -> str | None:
    """What should be known of a run with micro-batches, in a sentence; None where they change no number."""
    accumulate = spec.training.accumulate
    if accumulate == 1 or not any(map(has_batchnorm, networks)):
        return None
    sizes = " or ".join(f"{size // accumulate:,}" for size in dict.fromkeys(spec.batch_sizes.values()))
    return (
        f"training.accumulate is {accumulate}: BatchNorm's statistics are those of micro-batches of {sizes} images, "
        "over all workers, so that the numbers are not those of whole batches"
    )
