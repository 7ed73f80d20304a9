"""The local mode: one process, no cluster software."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from distgan.spec import RunSpec
from distgan.training.loop import Outcome, Place, train
from shards.errors import InputError


def train_locally(spec: RunSpec, run: Path, *, resume: bool = False, console: bool = True) -> Outcome:
    """Train in this process, on the first GPU if there is one.

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint; a second one ends it at once. Arguments
    and errors are those of :func:`distgan.training.loop.train`.
    """
    if spec.cluster.workers > 1:
        raise InputError(
            f"cluster.workers is {spec.cluster.workers}: this version trains with 1 worker, on this machine"
        )
    stop = threading.Event()
    with _stopping(stop):
        return train(spec, run, Place(0, 1, local_device()), resume=resume, stop=stop, console=console)


def local_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT set an event instead of ending the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals: whoever trains in another one sets `stop` itself
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
