"""What a specification asks for, before anything is trained: layers, parameters, FLOPs, memory, steps.

Nothing is computed and hardly any memory taken, whatever the size: see :mod:`distgan.costs`, which says what FLOPs and
memory are of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest

import torch

from distgan.costs import fake_tensors
from distgan.costs.states import ModelStates, model_states
from distgan.costs.updates import Cost, Updates
from distgan.data.conditions import label_names
from distgan.data.selection import select_samples, split_note
from distgan.describe.description import Description, Growth, Memory, Run, Step
from distgan.describe.networks import describe_network
from distgan.networks import ImageShape, build_networks
from distgan.networks.convolutions import take_torchs_own
from distgan.networks.growing import grow, train_what_is_in_use
from distgan.objectives import build_game
from distgan.spec import PrecisionName, RunSpec
from distgan.stages import Stage
from distgan.training.complete import complete
from distgan.training.micro_batches import check_micro_batches, micro_batch_note
from distgan.training.precision import Precision
from shards.errors import InputError
from shards.index import Index

CPU = torch.device("cpu")
PROCESS = 584 * 2**20
"""Bytes that a process on a CPU takes beside its tensors: the most that training a network of next to nothing took,
with torch 2.15 for CUDA, which is 33 MiB more than before its first step."""


@dataclass(frozen=True)
class _Data:
    """What is known of a data set, or assumed."""

    channels: int
    labels: int
    """Length of the label vector."""
    samples: int | None
    notes: list[str]
    """What had to be assumed."""


def describe(spec: RunSpec) -> Description:
    """Describe a run without its data and without computing anything.

    Args:
        spec: The run. Its shards may be missing: then 3 channels are assumed.

    Raises:
        InputError: What training would say of the specification.
    """
    spec = complete(spec)
    return _describe(spec, _data(spec), spec.cluster.most_workers)


def flops_of_step(spec: RunSpec, channels: int, labels: int) -> int:
    """FLOPs of a step of one process; of a run that grows, at the final size.

    Args:
        spec: The run.
        channels: Colour channels of the images.
        labels: Length of the label vector.

    Raises:
        InputError: What training would say of the specification.
    """
    return _describe(complete(spec), _Data(channels, labels, None, []), workers=1).step.flops


def _describe(spec: RunSpec, data: _Data, workers: int) -> Description:
    """Describe a complete run on so many workers."""
    micro_batches = spec.training.accumulate
    image = ImageShape.of(spec, data.channels)
    notes = list(data.notes)
    # `auto` depends on the device, and a description should not depend on where it is made.
    named: PrecisionName = "float32" if spec.training.precision == "auto" else spec.training.precision
    precision = Precision("float32" if named == "tfloat32" else named, CPU)  # tensors lie in memory alike
    if spec.training.precision == "auto":
        notes.append("training.precision is auto: float32 is assumed; try --set training.precision=bfloat16")
    with fake_tensors(precision.dtype):
        networks = build_networks(spec.model, image, spec.seed, data.labels)
        for network in networks:  # FLOPs and memory as on any device
            take_torchs_own(network)
        game = build_game(spec.objective, *networks, spec.model.latent_dim, spec.model.latent, spec.augmentation)
        check_micro_batches(spec, *networks)
        notes.extend([note] if (note := micro_batch_note(spec, *networks)) else [])
        timetable = spec.timetable

        latents, labels = torch.empty(1, spec.model.latent_dim), torch.empty(1, data.labels)
        generator = describe_network(spec.model.generator.name, networks[0], timetable, lambda size: (latents, labels))
        critic = describe_network(
            spec.model.critic.name,
            networks[1],
            timetable,
            lambda size: (torch.empty(1, image.channels, size, size), labels),
        )
        states = model_states(spec, *networks)
        steps, memory = [], []
        for stage in timetable.stages:
            for network in networks:
                grow(network, timetable, stage.faded_in)
                train_what_is_in_use(network)
            images, at_once = (-(-stage.batch_size // parts) for parts in (workers, workers * micro_batches))
            shapes = ((images, image.channels, stage.size, stage.size), (images, data.labels))
            cost = Updates(spec, game, networks, shapes, at_once, precision, states.ema).cost()
            steps.append(_step(stage, workers, micro_batches, cost))
            memory.append(_memory(spec, named, shapes, at_once, states, cost))
    known = spec.in_images(data.samples) if data.samples else spec
    run, stages = _run(known, steps, data.samples)
    notes.extend([known.cut_short] if known.cut_short else [])
    return Description(
        spec.name,
        {"channels": image.channels, "size": image.size},
        data.labels,
        generator,
        critic,
        steps[-1],
        stages if image.smaller else [],
        max(memory, key=lambda each: each.total),
        run,
        notes,
    )


def _step(stage: Stage, workers: int, micro_batches: int, cost: Cost) -> Step:
    """A step of a stage, of what updates cost each worker."""
    parts = workers * micro_batches
    of_critic, of_generator = parts * cost.critic_flops, parts * (cost.generator_flops or 0)
    flops = stage.n_critic * of_critic + of_generator
    return Step(
        critic_updates=stage.n_critic,
        generator_updates=int(cost.generator_flops is not None),
        micro_batches=micro_batches,
        images=stage.images_per_step,
        critic_update_flops=of_critic,
        generator_update_flops=of_generator,
        flops=flops,
        flops_per_image=flops / stage.images_per_step,
    )


def _memory(
    spec: RunSpec,
    precision: PrecisionName,
    shapes: tuple[tuple[int, ...], ...],
    at_once: int,
    states: ModelStates,
    cost: Cost,
) -> Memory:
    """A worker's memory in a stage; its images and their labels have these shapes, a micro-batch so many of them."""
    batch = sum(torch.empty(shape).nbytes for shape in shapes)
    total = sum(states) + batch + max(cost.activations.values())
    # Bytes of pixels and labels; one more than wait is in the thread's hands.
    prefetched = (spec.data.prefetch_batches + 1) * sum(map(math.prod, shapes))
    return Memory(
        precision=precision,
        images=shapes[0][0],
        images_at_once=at_once,
        **states._asdict(),
        batch=batch,
        activations=cost.activations,
        total=total,
        unused=cost.unused,
        prefetched=prefetched,
        process=PROCESS,
        on_cpu=total + cost.unused + prefetched + PROCESS,
        checkpoint=states.weights + states.optimizer_state + states.ema,
    )


def _run(spec: RunSpec, each: list[Step], samples: int | None) -> tuple[Run, list[Growth]]:
    """The whole run and its stages, of a step of each."""
    timetable, images = spec.timetable, spec.training.images
    ends = [stage.first_step for stage in timetable.stages[1:]]
    steps = spec.steps if images else None
    if steps is not None:
        ends = [min(end, steps) for end in (*ends, steps)]
    counts = [max(end - stage.first_step, 0) for stage, end in zip(timetable.stages, ends, strict=False)]
    flops = sum(count * step.flops for count, step in zip(counts, each, strict=True)) if images else None
    stages = [
        Growth(
            size=stage.size,
            batch_size=stage.batch_size,
            images=None if count is None else count * stage.images_per_step,
            fade_images=stage.fade_images,
            first_step=stage.first_step,
            steps=count,
            flops_per_image=step.flops_per_image,
            share=count * step.flops / flops if count is not None and flops else None,
        )
        for stage, step, count in zip_longest(timetable.stages, each, counts)
    ]
    per_step = timetable.stages[-1].images_per_step
    run = Run(
        images=images,
        images_per_step=per_step,
        steps=steps,
        flops=flops,
        samples=samples,
        steps_per_epoch=samples and samples / per_step,
        epochs=images / samples if images and samples else spec.training.epochs,
    )
    return run, stages


def _data(spec: RunSpec) -> _Data:
    """What the networks must know of the data set."""
    try:
        Index.load(spec.data.shards)
    except InputError as error:
        condition = spec.model.condition
        notes = [f"3 channels are assumed: {error}"]
        if condition and condition.classes:
            notes.append("model.condition.classes: how many there are is not known; they are left out")
        return _Data(3, len(condition.attributes) if condition else 0, None, notes)
    index, kept = select_samples(spec)
    note = split_note(index, spec)
    names = label_names(spec.model.condition, index)
    return _Data(index.transform.channels, len(names), len(kept), [note] if note else [])
