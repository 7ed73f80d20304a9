"""One Tracker; behind it ``metrics.jsonl``, Weights & Biases and the progress bar. And the report of what they wrote.

The report has a module of its own, :mod:`distgan.tracking.report`, for which a run that begins need not wait.

A run's folder then holds ``metrics.jsonl`` (a line per log step), ``log.txt`` (messages with their time), ``samples/``
(grids, named by the images seen; and ``real.png``, what the run trains on), ``wandb/`` and ``report.html``.
"""

from __future__ import annotations

from pathlib import Path

from distgan.spec import RunSpec
from distgan.tracking import weights_and_biases
from distgan.tracking.console import Console
from distgan.tracking.records import REAL, Records, read_metrics
from distgan.tracking.tracker import Sink, Tracker

__all__ = ["REAL", "Sink", "Tracker", "open_tracker", "read_metrics"]


def open_tracker(
    spec: RunSpec,
    run: Path,
    *,
    resume_step: int | None,
    wandb_run_id: str | None,
    total_steps: int,
    console: bool,
    fingerprint: str | None = None,
    steps_undone: int = 0,
) -> Tracker:
    """Open everything a run is written down in. For rank 0; other ranks use ``Tracker()``.

    Args:
        spec: The run.
        run: Its folder, which exists.
        resume_step: The step that training goes on from; figures and grids of later steps are dropped, so that no
            curve goes over the same steps twice. 0 where training begins again, None for a new run.
        wandb_run_id: The Weights & Biases run to go on with.
        total_steps: Generator steps in the whole run.
        console: Show progress on the terminal.
        fingerprint: Of the shards that it learns from.
        steps_undone: Steps that roll-backs have undone so far, all together.

    Raises:
        InputError: ``metrics.jsonl`` is damaged, or holds figures although the run is new; or wandb cannot read its
            settings.
        OSError: The folder cannot be written.
    """
    tracker = Tracker([Records(run, resume_step=resume_step, images_at=spec.timetable.images)])
    if console:
        tracker.sinks.append(Console(resume_step or 0, total_steps))
    sink, tracker.wandb_run_id = weights_and_biases.start(
        spec, run, wandb_run_id, tracker.message, fingerprint=fingerprint, steps_undone=steps_undone
    )
    if sink:
        tracker.sinks.append(sink)
    return tracker
