"""Training on Ray: Ray Train starts the workers, and starts them again when some have died.

Ray's part is to find machines, to start processes, to connect them and to notice when they die. The training loop is
the local mode's; it writes its own checkpoints into the run's folder, and a group of workers that takes the place of
another goes on from the newest of them.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distgan.checkpoint import checkpoints
from distgan.data.selection import select_samples
from distgan.errors import RunError
from distgan.launch.packed_key import use_packed_wandb_key
from distgan.launch.signals import stopping
from distgan.launch.torchrun import GROUP
from distgan.spec import RunSpec
from distgan.training.complete import complete
from distgan.training.loop import Outcome, train
from distgan.training.workers import ERRORS, Workers
from shards.errors import InputError

try:
    import ray
    import ray.train
    import ray.train.torch
    from ray.train.v2._internal.execution.callback import WorkerCallback
    from ray.train.v2._internal.execution.context import get_train_context
except ImportError:
    raise InputError("several workers need Ray: pip install 'distgan[ray]', or set cluster.workers=1") from None

LOOK_EVERY_S = 0.5
"""Between looks at what workers have been asked for from outside."""
SAVE_WITHIN_S = 60.0
"""A worker that is told to go waits so long for the checkpoint."""

# Ray reads these where the run is started and hands them to its own processes. Its defaults, 2 s and 10 min, are for
# trainers that report to it; distgan's do not, so that looking often costs nothing.
_SETTINGS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60"}


def train_on_ray(spec: RunSpec, run: Path, *, resume: bool = False, address: str | None = None) -> Outcome:
    """Train on a Ray cluster, and go on when workers die.

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint; a second one ends it at once.

    Args:
        spec: The run.
        run: Its folder, which every machine sees.
        resume: Go on from the run's newest checkpoint; begin where there is none yet.
        address: Of the cluster; None starts one on this machine for as long as the run takes.

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
        channel: Any = _on_this_machine(_Channel).remote(spec.cluster.max_failures)
        trainer = _trainer(spec, run.absolute(), resume, channel)
        ended = _Ended()
        fitting = threading.Thread(target=ended.of, args=(trainer,), name="ray-train", daemon=True)
        stop = threading.Event()
        with stopping(stop):
            fitting.start()  # not in the main thread, where Ray would take Ctrl-C as the wish to lose everything
            asked = False
            while fitting.is_alive():
                fitting.join(LOOK_EVERY_S)
                if stop.is_set() and not asked:
                    asked = True
                    ray.get(channel.ask_to_stop.remote())
        failure = ray.get(channel.failure.remote())
        if failure:
            kind, text = failure
            raise next(error for error in ERRORS if error.__name__ == kind)(text)
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


@dataclass
class _Channel:
    """What driver and workers say to each other: an actor, beside the driver."""

    max_failures: int
    """Starts in a row from the same checkpoint that are allowed beside the first."""
    stop: bool = False
    _failure: tuple[str, str] | None = None
    _starts: int = 0
    _from: list[int] = field(default_factory=list)

    def begin(self, step: int) -> int:
        """Note that a group of workers begins from a step, and return how many have begun before it."""
        self._from = [*self._from, step] if self._from[-1:] == [step] else [step]
        failures = len(self._from) - 1
        if 0 <= self.max_failures < failures:
            self.fail(
                "RunError",
                f"workers have died {failures} times in a row without a new checkpoint after step {step}; "
                f"cluster.max_failures is {self.max_failures}. Their logs say why; --resume goes on.",
            )
        self._starts += 1
        return self._starts - 1

    def ask_to_stop(self) -> None:
        """Have the workers save and leave."""
        self.stop = True

    def stopping(self) -> bool:
        """Whether they are to."""
        return self.stop

    def fail(self, kind: str, text: str) -> None:
        """Note an error that no new start would mend; the first one counts."""
        self._failure = self._failure or (kind, text)

    def failure(self) -> tuple[str, str] | None:
        """That error: the name of its type, and its text."""
        return self._failure


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
        before = workers.from_first(lambda: int(ray.get(channel.begin.remote(newest))))
        if ray.get(channel.failure.remote()):
            return None
        use_packed_wandb_key()
        stop, save = threading.Event(), threading.Event()
        with _listening(channel, workers, stop, save):
            return tuple(train(spec, run, workers, resume=config["resume"] or bool(before), stop=stop, save=save))
    except ERRORS as error:
        kind = next(each for each in ERRORS if isinstance(error, each))
        ray.get(channel.fail.remote(kind.__name__, str(error)))
        if workers.failed_together or workers.world_size == 1:
            return None
        raise  # the others wait for this worker: Ray ends them


@contextmanager
def _listening(channel: Any, workers: Workers, stop: threading.Event, save: threading.Event) -> Iterator[None]:
    """Pass on to the loop what is asked for from outside: by the driver, by a signal, by Ray that takes a machine."""
    over = threading.Event()

    def listen() -> None:
        warned = None
        while not over.wait(LOOK_EVERY_S):
            if workers.first and ray.get(channel.stopping.remote()):
                stop.set()
            taken = get_train_context().preemption_context.preemption_info
            if taken != warned:
                warned = taken
                save.set()
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
    return ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={
            "spec": spec.model_dump(mode="json"),
            "run": str(run),
            "resume": resume,
            "channel": channel,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
            elastic_resize_monitor_interval_s=cluster.resize_every_s,
        ),
        torch_config=ray.train.torch.TorchConfig(
            backend=GROUP if gpus else "gloo", timeout_s=int(cluster.collective_timeout_s)
        ),
        run_config=ray.train.RunConfig(
            name=f"{spec.name}-{secrets.token_hex(4)}",
            storage_path=str(Path(tempfile.gettempdir()) / "distgan-ray"),  # Ray keeps nothing: distgan does
            failure_config=ray.train.FailureConfig(max_failures=-1),  # _Channel counts, and knows of progress
            callbacks=[_OnSIGTERM()],
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
        ray.init(address=address or "local", log_to_driver=True, logging_level=logging.WARNING, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"cannot reach the Ray cluster at {address}: {_last_line(error)}. Is it running (ray status), and are "
            "RAY_AUTH_MODE and the token the cluster's own?"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _on_this_machine(actor: type) -> Any:
    """An actor class whose instance lives where this process does."""
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0, label_selector=here)(actor)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
