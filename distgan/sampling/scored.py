"""A trained generator's scores: what it draws, beside real images that it has not learnt from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distgan.checkpoint import Checkpoint
from distgan.data.conditions import LabelDistribution
from distgan.devices import device_for
from distgan.evaluation import Alone, Comparison, Evaluated
from distgan.evaluation.detector import C2ST, check_count, write
from distgan.evaluation.metrics import METRICS
from distgan.evaluation.scoring import Adder, Images, Progress, add_up, scores
from distgan.sampling import as_uint8, load_generator, load_labels, sample_labels, sample_latents
from distgan.spec import ModelSpec
from shards.errors import InputError
from shards.files import write_or_say
from shards.index import Index

SCORES = "scores.json"
"""In a checkpoint's folder: what ``distgan average`` has scored it with."""


def evaluate(
    checkpoint: Checkpoint,
    shards: str | None = None,
    *,
    count: int = 10_000,
    seed: int = 0,
    metrics: Sequence[str] = tuple(METRICS),
    features: str | None = None,
    where: Mapping[str, object] | None = None,
    ema: bool = True,
    device: str | torch.device | None = None,
    cache: Path | None = None,
    detector: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluated:
    """Score a checkpoint against real images.

    Args:
        checkpoint: The trained state.
        shards: The packed set to compare with; None for the run's own.
        count: Images to draw.
        seed: Of the latents.
        metrics: Names in METRICS, and "c2st".
        features: As :func:`distgan.evaluation.features.load_features` takes it.
        where: The real images to compare with, as :meth:`shards.index.Index.select` takes it; None for those that the
            run was trained on, of another split. What the run is conditioned on of it is asked of the generator, too.
        ema: The averaged weights, else those that training goes on with.
        device: By name; None for a GPU where there is one. Another device rounds differently.
        cache: Where features of real images are kept; None for the user's cache folder.
        detector: Where what "c2st" has learnt is written; None for nowhere.
        progress: Told how far it is.

    Raises:
        InputError: The set, the checkpoint, the features and what is asked do not fit each other.
        DamageError: A real image is not what was packed.
    """
    if seed < 0:
        raise InputError("--seed is at least 0")
    state = checkpoint.state
    workers = Alone(device_for(device))
    comparison = compare(
        checkpoint, shards, count=count, metrics=metrics, features=features, where=where, workers=workers, cache=cache
    )
    labels = load_labels(checkpoint)
    generator = load_generator(checkpoint, ema=ema).to(workers.device)
    drawn = drawn_images(generator, labels, comparison.where, state.spec.model, seed, workers.device)
    of_the_run: dict[str, Any] = {
        "ema": ema,
        "seed": seed,
        "step": state.step,
        "images": state.images,
        "trained_on": state.fingerprint,
    }
    made = comparison.gather(drawn, progress)
    add_up(made, workers)
    found = scores(made)
    notes = list(comparison.notes)
    if C2ST in metrics:
        tested, learnt = comparison.test(drawn, of_the_run, progress=progress)
        found |= tested
        of_the_run[f"{C2ST}_of"] = comparison.tested
        notes.append(f"{C2ST} is of {comparison.tested:,} images of either side")
        try:
            if detector:
                write(learnt, detector)
        except InputError as error:  # the scores are there all the same
            notes.append(f"nothing is left for distgan detect: {error}")
    return Evaluated(found, {**comparison.facts, **of_the_run}, tuple(notes))


def compare(
    checkpoint: Checkpoint,
    shards: str | None = None,
    *,
    count: int,
    metrics: Sequence[str],
    features: str | None,
    where: Mapping[str, object] | None,
    workers: Adder,
    cache: Path | None = None,
) -> Comparison:
    """What a checkpoint is to be compared with: all that can be wrong with what is asked is said here.

    Arguments and errors are those of :func:`evaluate`.
    """
    if count < 2:
        raise InputError("--count is at least 2")
    state = checkpoint.state
    comparison = Comparison.of_run(
        state.spec,
        state.channels,
        index_of(shards, state.spec.data.shards),
        where,
        whose=str(checkpoint.path),
        count=count,
        metrics=[name for name in metrics if name != C2ST],
        features="none" if set(metrics) == {C2ST} and features is None else features,
        workers=workers,
        cache=cache,
    )
    if C2ST in metrics:
        check_count(comparison.tested)
    return comparison


def index_of(asked: str | None, trained_on: str) -> Index:
    """The set that somebody asks for, or the run's own.

    Raises:
        InputError: It cannot be read.
    """
    if asked:
        return Index.load(asked)
    try:
        return Index.load(trained_on)
    except InputError as error:
        raise InputError(f"{error} (the run's data.shards; --shards says where its set lies now)") from None


def write_scores(path: Path, found: Evaluated) -> None:
    """Write scores beside the checkpoint that they are of.

    Raises:
        InputError: They cannot be written.
    """
    write_or_say(path / SCORES, json.dumps(found.to_json(), indent=1).encode() + b"\n")


def drawn_images(
    generator: nn.Module,
    labels: LabelDistribution,
    where: Mapping[str, object],
    model: ModelSpec,
    seed: int,
    device: torch.device,
) -> Images:
    """What a generator in evaluation mode draws, by position.

    Args:
        generator: On the device.
        labels: How often each label vector occurs in its data.
        where: What real images match; of that, what the generator is conditioned on is asked of it, too.
        model: Its run's.
        seed: Of the latents.
        device: Where it computes.
    """
    dtype = next(generator.parameters()).dtype
    known = {
        name: value for name, value in where.items() if name in labels.names or (name == "class" and labels.has_classes)
    }
    asked = labels.given(known)

    @torch.inference_mode()
    def images(first: int, count: int) -> Tensor:
        latents = sample_latents(seed, first, count, model, device).to(dtype)
        return as_uint8(generator(latents, sample_labels(asked, seed, first, count, device).to(dtype)))

    return images
