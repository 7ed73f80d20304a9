"""What a run keeps of itself: checkpoints, the best of them, and the generators that sinks may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from distgan.checkpoint import Best, Checkpoint, Snapshot, best_of, mark_best, prune
from distgan.export import export_safetensors
from distgan.spec import RunSpec
from distgan.tracking import Tracker
from distgan.tracking.tracker import Which
from distgan.training.evaluation import improves
from distgan.training.learner import Learner
from distgan.training.writer import Writer
from shards.errors import InputError


def begin_checkpoint(
    writer: Writer, snapshot: Snapshot, run: Path, best: Best | None, suspects: set[int], tracker: Tracker
) -> None:
    """Have a checkpoint written; it is then the best one if its score is, and others may go."""
    training = snapshot.state.spec.training

    def write() -> Checkpoint:
        saved = snapshot.write(run)
        if best:
            mark_best(run, best._replace(path=saved.path))
        prune(run, training.keep_last, _spans(snapshot.state.spec), suspects)
        return saved

    def then(saved: Checkpoint) -> None:
        if best:
            offer("best", saved, {best.metric: best.value}, tracker)

    writer.begin(write, then)


def new_best(learner: Learner, run: Path, values: dict[str, float], of: str, writer: Writer) -> Best | None:
    """The best score of the run, where the one just made is it; its checkpoint is still to be written.

    The best score so far, and the images that it is of, are added to the values. One that was computed from something
    else, as ``of`` says, is none.
    """
    metric = learner.spec.training.keep_best
    if metric is None or not math.isfinite(values.get(f"score/{metric}", math.nan)):
        return None
    writer.wait()  # it may be of the best one so far
    value, before = values[f"score/{metric}"], best_of(run)
    if before and (before.metric, before.of) == (metric, of) and not improves(metric, value, before.value):
        values |= {f"best/{metric}": before.value, "best/images": learner.spec.timetable.images(before.step)}
        return None
    values |= {f"best/{metric}": value, "best/images": learner.images}
    return Best(run, metric, value, of)


def offer(which: Which, checkpoint: Checkpoint, scores: dict[str, float], tracker: Tracker) -> None:
    """Let sinks have the generator of a checkpoint."""
    state = checkpoint.state
    facts = {"step": state.step, "images": state.images, "fingerprint": state.fingerprint, **scores}

    def export(out: Path) -> None:
        if not checkpoint.path.exists():
            raise InputError("its checkpoint is gone: there is a better one, or a roll-back has removed it")
        export_safetensors(checkpoint, out)

    tracker.generator(which, state.step, facts, export)


def _spans(spec: RunSpec) -> Callable[[int], int] | None:
    """From a step to the span of ``training.keep_every_images`` that it lies in."""
    images, timetable = spec.training.keep_every_images, spec.timetable
    return None if images is None else lambda step: timetable.images(step) // images
