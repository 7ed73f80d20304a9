"""What Ray Train's controller calls, in a process of its own, about the workers.

That process has to import this before workers can be started: so nothing is imported here that it could do without,
least of all torch.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import ray
import ray.train
import ray.util
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.train import UserCallback
from ray.train.backend import Backend, BackendConfig

from distgan.launch.ray_private import ControllerCallback, WorkerCallback

LOOK_EVERY_S = 0.5
"""Between looks at what workers have been asked for from outside."""
ANSWER_WITHIN_S = 5.0
"""A worker waits so long to hear from the driver's machine before it looks at the rest, and a driver for a cluster."""
SAVE_WITHIN_S = 60.0
"""A worker that is told to go waits so long for the checkpoint."""
PART_WITHIN_S = 30.0
"""The controller waits so long for workers to leave their process group, which those that hear nothing cannot."""


class Losses(UserCallback):  # type: ignore[misc]
    """Tells the driver, from the process of Ray Train's controller, which workers have failed."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called when workers have died or have raised something."""
        dead = [rank for rank, failure in worker_exceptions.items() if _is_death(failure)]
        broken = {rank: _first_sentence(failure) for rank, failure in worker_exceptions.items()}
        self._channel.lose.remote(dead, broken)


class Reporter(ControllerCallback):  # type: ignore[misc]
    """Tells the driver, from the same process, what the controller does with the workers."""

    def __init__(self, channel: Any, each: Mapping[str, float]) -> None:
        self._channel = channel
        self._each = ", ".join(f"{amount:g} {name}" for name, amount in each.items())
        self._waiting = False

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called whenever workers are to be started, to be stopped or have failed."""
        state = type(current_state).__name__
        if state == "ResizingState":
            self._have_them_save()
            decision = getattr(current_state, "scaling_decision", None)
            count = getattr(decision, "num_workers", "another number of")
            self._channel.say.remote(f"going on with {count} workers, from the newest checkpoint")
        if state not in ("RestartingState", "ReschedulingState"):
            return
        error = getattr(current_state, "training_failed_error", None)
        cause = getattr(error, "controller_failure", error)
        waiting = type(cause).__name__ == "WorkerGroupStartupTimeoutError"
        if waiting and not self._waiting:
            self._channel.say.remote(
                f"waiting until the cluster has room for {getattr(cause, 'num_workers', 'all')} workers with "
                f"{self._each} each; ray status shows what it has"
            )
        if not waiting and not hasattr(error, "worker_failures"):  # else Losses tells of it
            self._channel.lose.remote([], {-1: _first_sentence(cause)} if cause else {})
        self._waiting = waiting

    def _have_them_save(self) -> None:
        """Let workers that Ray is about to end save and leave by themselves, so that nothing is trained twice."""
        deadline = time.monotonic() + SAVE_WITHIN_S
        with suppress(RayError):  # the driver is gone, and with it the run
            ray.get(self._channel.resize.remote())
            while ray.get(self._channel.resizing.remote()) and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY_S)


class OnSIGTERM(WorkerCallback):  # type: ignore[misc]
    """Has a worker that is told to go (its machine is going away) save before it does."""

    def after_init_train_context(self) -> None:
        """Runs in the worker's main thread, which alone may handle signals; training runs in another."""
        signal.signal(signal.SIGTERM, lambda number, frame: leaving.set())


leaving = threading.Event()
"""Set in a worker that has been told to go."""


class Group(BackendConfig):  # type: ignore[misc]
    """Makes the workers torch's default process group, as ``ray.train.torch.TorchConfig`` would.

    That one has the controller's process import torch, for which everybody would wait.

    Args:
        backend: Of ``torch.distributed``.
        timeout_s: Seconds after which a worker that hears nothing gives up.
    """

    def __init__(self, backend: str, timeout_s: float) -> None:
        self.backend = backend
        self.timeout_s = timeout_s

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls."""
        return _Group


class _Group(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True  # NCCL's processes of one machine are to see each other's GPUs

    def on_start(self, worker_group: Any, backend_config: Group) -> None:
        meeting = worker_group.execute_single(0, _open_store, backend_config.timeout_s)
        worker_group.execute(_join, *meeting, backend_config.backend, backend_config.timeout_s)

    def on_shutdown(self, worker_group: Any, backend_config: Group) -> None:
        with suppress(GetTimeoutError):  # their processes end next
            ray.get(worker_group.execute_async(_part), timeout=PART_WITHIN_S)


_stores: list[Any] = []
"""How this worker finds the others; the first one keeps it open for them."""


def _open_store(timeout_s: float) -> tuple[str, int]:
    """In the first worker: where the others find it."""
    import torch.distributed as dist

    host, within = ray.util.get_node_ip_address(), timedelta(seconds=timeout_s)
    _stores[:] = [dist.TCPStore(host, 0, is_master=True, timeout=within, wait_for_workers=False)]  # type: ignore[attr-defined]
    return host, _stores[0].port


def _join(host: str, port: int, backend: str, timeout_s: float) -> None:
    """In each worker: become part of the group."""
    import torch.distributed as dist

    context, within = ray.train.get_context(), timedelta(seconds=timeout_s)
    if not _stores:
        _stores[:] = [dist.TCPStore(host, port, is_master=False, timeout=within)]  # type: ignore[attr-defined]
    dist.init_process_group(
        backend, store=_stores[0], rank=context.get_world_rank(), world_size=context.get_world_size(), timeout=within
    )


def _part() -> None:
    """In each worker: leave it."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _is_death(failure: Exception) -> bool:
    """Whether a worker's process is gone, rather than that its training has raised something."""
    return isinstance(failure, RayActorError) or type(failure).__name__ == "WorkerHealthCheckFailedError"


def _first_sentence(error: Exception) -> str:
    """What a worker's training raised, which is in Ray's error, without the place in gloo's code before it."""
    return re.sub(r"^\[\S+\] ", "", lines(getattr(error, "_base_exc", error))[0]).split(". ")[0]


def lines(error: Exception) -> list[str]:
    """What an error says, line by line; its type's name where it says nothing."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
