"""What each of Ray's workers does."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayError

from distgan.checkpoint import checkpoints
from distgan.launch.packed_login import use_packed_login
from distgan.launch.ray_callbacks import ANSWER_WITHIN_S, LOOK_EVERY_S, SAVE_WITHIN_S, leaving
from distgan.launch.ray_private import preempted_ranks
from distgan.spec import RunSpec
from distgan.training.loop import train
from distgan.training.workers import ERRORS, Workers


def work(config: dict[str, Any]) -> tuple[Any, ...] | None:
    """One worker's training."""
    context, channel = ray.train.get_context(), config["channel"]
    workers = Workers(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    spec, run = RunSpec.model_validate(config["spec"]), Path(config["run"])
    try:
        found = checkpoints(run)
        newest = int(found[-1].name.removeprefix("step-")) if found else 0
        channel.arrive.remote(workers.rank, socket.gethostname())
        before = workers.from_first(lambda: int(ray.get(channel.begin.remote(newest))))
        if ray.get(channel.failed.remote()):
            return None
        os.environ.update(config["wandb"])  # first: a packed key stays away from the server of another
        use_packed_login()
        stop, save = threading.Event(), threading.Event()
        with ExitStack() as stack:
            if workers.first:
                stack.enter_context(redirect_stderr(stack.enter_context(_Voice(channel))))
            stack.enter_context(_listening(channel, workers, stop, save))
            outcome = train(spec, run, workers, resume=config["resume"] or bool(before), stop=stop, save=save)
        over = workers.from_first(lambda: bool(ray.get(channel.left.remote())))
        if outcome.ended == "interrupted" and not over:
            raise RuntimeError("asked to leave")  # Ray starts as many as there shall be, where there is room
        return tuple(outcome)
    except Exception as error:
        kind = next((each.__name__ for each in ERRORS if isinstance(error, each)), None)
        if kind is None and (isinstance(error, (RuntimeError, RayError)) or not workers.connected):
            raise  # most likely another worker is gone, or the network: Ray starts all again
        ray.get(channel.fail.remote(*((kind, str(error)) if kind else ("", traceback.format_exc()))))
        if workers.failed_together or workers.world_size == 1:
            return None
        raise  # the others wait for this worker: Ray ends them


@contextmanager
def _listening(channel: Any, workers: Workers, stop: threading.Event, save: threading.Event) -> Iterator[None]:
    """Pass on to the loop what is asked for from outside: by the driver, by a signal, by Ray that takes a machine."""
    over = threading.Event()

    def listen() -> None:
        while not over.wait(LOOK_EVERY_S):
            with suppress(RayError):  # the driver cannot be reached for a while
                if workers.first and ray.get(channel.leaving.remote(), timeout=ANSWER_WITHIN_S):
                    stop.set()
            taken = preempted_ranks()
            if taken and not stop.is_set():
                channel.take.remote(taken)
                stop.set()
            if leaving.is_set():
                save.set()
                deadline = time.monotonic() + SAVE_WITHIN_S
                while save.is_set() and time.monotonic() < deadline and not over.wait(LOOK_EVERY_S):
                    continue
                os._exit(128 + signal.SIGTERM)

    thread = threading.Thread(target=listen, name="listen", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Voice(io.TextIOBase):
    """A file whose lines reach the person at the driver."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._begun = ""

    def write(self, text: str) -> int:
        """Send the lines that are whole."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._channel.say.remote(line)
        return len(text)

    def close(self) -> None:
        """Wait until all has been heard."""
        if not self.closed:
            last = self._channel.say.remote(self._begun) if self._begun else self._channel.failed.remote()
            with suppress(RayError):
                ray.get(last)
        super().close()
