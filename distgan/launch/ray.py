"""Training on Ray: Ray Train starts the workers, and starts them again when some have died.

Ray's part is to find machines, to start processes, to connect them and to notice when they die. The training loop is
the local mode's; it writes its own checkpoints into the run's folder, and a group of workers that takes the place of
another goes on from the newest of them.
"""

from __future__ import annotations

import io
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distgan.checkpoint import checkpoints
from distgan.data.selection import select_samples
from distgan.errors import RunError
from distgan.launch.channel import Channel, News
from distgan.launch.packed_login import use_packed_login
from distgan.launch.signals import stopping
from distgan.launch.torchrun import GROUP
from distgan.spec import RunSpec
from distgan.tracking.weights_and_biases import elsewhere
from distgan.training.complete import complete
from distgan.training.loop import Outcome, train
from distgan.training.workers import ERRORS, Workers
from shards.errors import InputError

try:
    import ray
    import ray.train
    import ray.train.torch
    from ray.exceptions import RayActorError, RayError
    from ray.train import UserCallback
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from distgan.launch.ray_private import (
        ControllerCallback,
        WorkerCallback,
        cluster_of_this_machine,
        preempted_ranks,
        quieten_worker_deaths,
    )
except ImportError:
    raise InputError("several workers need Ray: pip install 'distgan[ray]', or set cluster.workers=1") from None

LOOK_EVERY_S = 0.5
"""Between looks at what workers have been asked for from outside."""
ANSWER_WITHIN_S = 5.0
"""A worker waits so long to hear from the driver's machine before it looks at the rest, and a driver for a cluster."""
SAVE_WITHIN_S = 60.0
"""A worker that is told to go waits so long for the checkpoint."""

# Ray reads these where the run is started and hands them to its own processes. Its defaults, 2 s and 10 min, are for
# trainers that report to it; distgan's do not, so that looking often costs nothing.
_SETTINGS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60"}


def train_on_ray(
    spec: RunSpec,
    run: Path,
    *,
    resume: bool = False,
    address: str | None = None,
    stop: threading.Event | None = None,
    console: bool = True,
) -> Outcome:
    """Train on a Ray cluster, and go on when workers die.

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint; a second one ends it at once.

    Args:
        spec: The run.
        run: Its folder, which every machine sees.
        resume: Go on from the run's newest checkpoint; begin where there is none yet.
        address: Of the cluster; None starts one on this machine for as long as the run takes.
        stop: When set, the run ends after the current step, with a checkpoint.
        console: Show progress on the terminal.

    Raises:
        InputError: What the user got wrong, on whatever machine.
        RunError: Training went wrong, or was given up after failures.
        DamageError: A sample is not what was packed.
        OSError: The run's folder could not be written.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(spec.cluster.start_timeout_s))
    spec = complete(_everywhere(spec))
    if address is None:
        select_samples(spec)  # what is wrong on this machine is said before Ray takes its time
    with _connected(spec, address):
        channel: Any = _on_this_machine(Channel).remote(spec.cluster.max_failures)
        trainer = _trainer(spec, run.absolute(), resume, channel)
        ended = _Ended()
        fitting = threading.Thread(target=ended.of, args=(trainer,), name="ray-train", daemon=True)
        stop = stop or threading.Event()
        with stopping(stop):
            fitting.start()  # not in the main thread, where Ray would take Ctrl-C as the wish to lose everything
            running = True
            while running:
                fitting.join(LOOK_EVERY_S)
                running = fitting.is_alive()
                news: News = ray.get(channel.news.remote(stop.is_set()))
                for line in news.lines if console else ():
                    sys.stderr.write(f"{line}\n")
                running = running and not news.given_up
        if news.failure:
            kind, text = news.failure
            raise next((error for error in ERRORS if error.__name__ == kind), RuntimeError)(text)
        if ended.error:
            raise RunError(f"Ray has given up: {_last_line(ended.error)}") from None
        return Outcome(*ended.value)


@dataclass
class _Ended:
    """How Ray's part of a run ended."""

    value: tuple[Any, ...] = ()
    error: Exception | None = None

    def of(self, trainer: Any) -> None:
        try:
            self.value = trainer.fit().return_value
        except Exception as error:  # whatever Ray raises; what workers raised has come through the channel
            self.error = error


class _Losses(UserCallback):  # type: ignore[misc]
    """Tells the driver, from the process of Ray Train's controller, which workers have failed."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called when workers have died or have raised something."""
        dead = [rank for rank, failure in worker_exceptions.items() if _is_death(failure)]
        broken = {rank: _first_sentence(failure) for rank, failure in worker_exceptions.items()}
        self._channel.lose.remote(dead, broken)


class _Reporter(ControllerCallback):  # type: ignore[misc]
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
        if not waiting and not hasattr(error, "worker_failures"):  # else _Losses tells of it
            self._channel.lose.remote([], {-1: _first_sentence(cause)} if cause else {})
        self._waiting = waiting

    def _have_them_save(self) -> None:
        """Let workers that Ray is about to end save and leave by themselves, so that nothing is trained twice."""
        deadline = time.monotonic() + SAVE_WITHIN_S
        with suppress(RayError):  # the driver is gone, and with it the run
            ray.get(self._channel.resize.remote())
            while ray.get(self._channel.resizing.remote()) and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY_S)


def _is_death(failure: Exception) -> bool:
    """Whether a worker's process is gone, rather than that its training has raised something."""
    return isinstance(failure, RayActorError) or type(failure).__name__ == "WorkerHealthCheckFailedError"


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


class _OnSIGTERM(WorkerCallback):  # type: ignore[misc]
    """Has a worker that is told to go (its machine is going away) save before it does."""

    def after_init_train_context(self) -> None:
        """Runs in the worker's main thread, which alone may handle signals; training runs in another."""
        signal.signal(signal.SIGTERM, lambda number, frame: _leaving.set())


_leaving = threading.Event()
"""Set in a worker that has been told to go."""


def _work(config: dict[str, Any]) -> tuple[Any, ...] | None:
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
            if _leaving.is_set():
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


def _trainer(spec: RunSpec, run: Path, resume: bool, channel: Any) -> Any:
    cluster = spec.cluster
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    resources = {"CPU": cluster.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
    return ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={
            "spec": spec.model_dump(mode="json"),
            "run": str(run),
            "resume": resume,
            "channel": channel,
            "wandb": elsewhere(spec),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=bool(gpus),
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=cluster.resize_every_s,
        ),
        torch_config=ray.train.torch.TorchConfig(
            backend=GROUP if gpus else "gloo", timeout_s=int(cluster.collective_timeout_s)
        ),
        run_config=ray.train.RunConfig(
            name=f"{spec.name}-{secrets.token_hex(4)}",
            # Ray keeps nothing there: distgan does. Each user of a machine has a folder of their own.
            storage_path=str(Path(tempfile.gettempdir()) / f"distgan-ray-{os.getuid()}"),
            failure_config=ray.train.FailureConfig(max_failures=-1),  # Channel counts, and knows of progress
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # the rest is in Ray's files
            callbacks=[_OnSIGTERM(), _Losses(channel), _Reporter(channel, resources)],
        ),
    )


def _everywhere(spec: RunSpec) -> RunSpec:
    """The specification as workers in other working directories understand it."""
    shards = spec.data.shards
    if "://" not in shards:
        shards = str(Path(shards).absolute())
    return spec.model_copy(update={"data": spec.data.model_copy(update={"shards": shards})})


@contextmanager
def _connected(spec: RunSpec, address: str | None) -> Iterator[None]:
    """In a block, be part of a cluster.

    Raises:
        InputError: It is not there, or lets nobody in without its token.
    """
    options: dict[str, Any] = {}
    if address is None:
        cpus = max(os.cpu_count() or 1, round(spec.cluster.most_workers * spec.cluster.cpus_per_worker + 0.5))
        # Ray Train asks the dashboard about its own actors, and complains every second where there is none.
        options = {"num_cpus": cpus, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    try:
        if address is not None:
            _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"cannot reach the Ray cluster at {address}: {_last_line(error)}. Is it running (ray status), and are "
            "RAY_AUTH_MODE and the token the cluster's own?"
        ) from None
    quieten_worker_deaths()  # _Losses tells of them in a sentence
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See that somebody listens at a cluster's address: where nobody does, Ray would go on trying for minutes.

    Raises:
        OSError: Nobody does.
        ValueError: It is no address.
    """
    if address == "auto":
        address = cluster_of_this_machine() or ""
    if address and not address.startswith("ray://"):
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_WITHIN_S).close()


def _on_this_machine(actor: type) -> Any:
    """An actor class whose instance lives where this process does."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(actor)


def _last_line(error: Exception) -> str:
    return _lines(error)[-1]


def _first_sentence(error: Exception) -> str:
    """What a worker's training raised, which is in Ray's error, without the place in gloo's code before it."""
    return re.sub(r"^\[\S+\] ", "", _lines(getattr(error, "_base_exc", error))[0]).split(". ")[0]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
