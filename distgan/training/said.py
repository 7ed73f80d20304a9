"""What a run says, to people, of how it trains."""

from __future__ import annotations

import torch
from torch import nn

from distgan.data.selection import split_note
from distgan.spec import PrecisionName, RunSpec
from distgan.stages import Stage
from distgan.training.micro_batches import micro_batch_note
from distgan.training.workers import Workers
from shards.index import Index


def of_choices(spec: RunSpec, index: Index, *networks: nn.Module) -> list[str]:
    """What should be known of the run and may not have been meant."""
    notes = split_note(index, spec), spec.cut_short, micro_batch_note(spec, *networks)
    return [note for note in notes if note]


def of_training(spec: RunSpec, samples: int, workers: Workers) -> str:
    """How much is trained, on what. To be called by all workers."""
    return (
        f"training on {_where(workers)} in {spec.training.precision}{_threads(workers)}: {samples:,} samples, "
        f"{spec.steps:,} steps of {_of_images(spec)}"
    )


def of_precision(spec: RunSpec, own: PrecisionName | None, before: PrecisionName | None) -> list[str]:
    """What a run goes on in that its checkpoint or this device would not have had.

    Args:
        spec: The run, whose precision is settled.
        own: What this device would have taken by itself; None where the specification has asked for one.
        before: What the checkpoint's specification says; None for a run that begins.
    """
    precision, notes = spec.training.precision, []
    if before == "auto":
        notes.append(
            "the checkpoint, of an earlier version, does not say in which precision it was computed; going on in "
            f"{precision}"
        )
    if own not in (None, precision):
        notes.append(f"going on in {precision}, as the run began; of itself this device would compute in {own}")
    return notes


def of_stage(stage: Stage) -> str:
    """What is trained from here on, as a run grows."""
    said = f"step {stage.first_step:,}: images of {stage.size} pixels, in batches of {stage.batch_size}"
    return f"{said}; new layers fade in over {stage.fade_images:,} images" if stage.fade_images else said


def _where(workers: Workers) -> str:
    return str(workers.device) if workers.world_size == 1 else f"{workers.world_size} × {workers.device.type}"


def _threads(workers: Workers) -> str:
    """With how many threads processors compute, for people. To be called by all workers, which may differ."""
    if workers.device.type != "cpu":
        return ""
    threads = torch.get_num_threads()
    most, least = (abs(round(count)) for count in workers.most([threads, -threads]))
    count = f"{most} thread{'s' if most > 1 else ''}" if most == least else f"{least} to {most} threads"
    return f", {count}{' each' if workers.world_size > 1 else ''}"


def _of_images(spec: RunSpec) -> str:
    """What a step's images are, for people."""
    stages = spec.timetable.stages
    images = f"{' then '.join(dict.fromkeys(f'{stage.images_per_step:,}' for stage in stages))} images"
    if spec.training.accumulate > 1:
        images += f", each batch in {spec.training.accumulate} micro-batches"
    return f"{images}, growing from {stages[0].size} to {stages[-1].size} pixels" if len(stages) > 1 else images
