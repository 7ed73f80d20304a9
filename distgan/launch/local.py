"""The local mode: one process, no cluster software."""

from __future__ import annotations

import threading
from pathlib import Path

from distgan.devices import local_device
from distgan.launch.signals import stopping
from distgan.spec import RunSpec
from distgan.tracking import Sink
from distgan.training.loop import Outcome, train
from distgan.training.workers import Workers


def train_locally(
    spec: RunSpec,
    run: Path,
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    console: bool = True,
    listener: Sink | None = None,
) -> Outcome:
    """Train in this process, on the first GPU if there is one.

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint; a second one ends it at once. Arguments
    and errors are those of :func:`distgan.training.loop.train`.
    """
    stop, here = stop or threading.Event(), Workers.alone(local_device())
    with stopping(stop):
        return train(spec, run, here, resume=resume, stop=stop, console=console, listener=listener)
