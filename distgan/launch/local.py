"""The local mode: one process, no cluster software."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from distgan.launch.signals import stopping
from distgan.spec import RunSpec
from distgan.training.loop import Outcome, train
from distgan.training.workers import Workers


def train_locally(spec: RunSpec, run: Path, *, resume: bool = False, console: bool = True) -> Outcome:
    """Train in this process, on the first GPU if there is one.

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint; a second one ends it at once. Arguments
    and errors are those of :func:`distgan.training.loop.train`.
    """
    stop = threading.Event()
    with stopping(stop):
        return train(spec, run, Workers.alone(local_device()), resume=resume, stop=stop, console=console)


def local_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
