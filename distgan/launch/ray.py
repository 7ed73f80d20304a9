"""Training on Ray: Ray Train starts the workers, and starts them again when some have died.

Ray's part is to find machines, to start processes, to connect them and to notice when they die. The training loop is
the local mode's; it writes its own checkpoints into the run's folder, and a group of workers that takes the place of
another goes on from the newest of them.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distgan.data.selection import select_samples
from distgan.errors import RunError
from distgan.launch.channel import Channel, News
from distgan.launch.signals import stopping
from distgan.spec import RunSpec
from distgan.tracking.weights_and_biases import elsewhere
from shards.errors import InputError
from shards.processes import usable_cpus

try:
    import ray
    import ray.train
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from distgan.launch.ray_callbacks import ANSWER_WITHIN_S, LOOK_EVERY_S, Group, Losses, OnSIGTERM, Reporter, lines
    from distgan.launch.ray_private import can_spare, cluster_of_this_machine, quieten_worker_deaths, spare
except ImportError:
    raise InputError("several workers need Ray: pip install 'distgan[ray]', or set cluster.workers=1") from None

if TYPE_CHECKING:
    from distgan.training.loop import Outcome
    from shards.index import Index

# Ray reads these where the run is started and hands them to its own processes. Its defaults, 2 s and 10 min, are for
# trainers that report to it; distgan's do not, so that looking often costs nothing.
_SETTINGS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60"}
# From a cluster of the run's own nobody takes machines. Ray would start a process for each core, of which the run could
# use one: those of Ray Train have an environment of their own. And its workers would stand behind all else that the
# machine does, with a niceness of 15, which one process that trains alone does not.
_OWN_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
}


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
    spec, alone, stop = _everywhere(spec), address is None, stop or threading.Event()
    index = select_samples(spec)[0] if alone else None  # what is wrong with it is said before Ray takes its time
    with _settings(spec, alone), ThreadPoolExecutor(1) as beside:
        # Both take seconds: to import torch, and to start Ray.
        prepared = beside.submit(_prepare, spec, run, resume, index)
        with _connected(spec, address):
            return _train(prepared.result(), run.absolute(), resume, alone, stop, console)


def _prepare(spec: RunSpec, run: Path, resume: bool, index: Index | None) -> RunSpec:
    """The specification with every option written out, for which torch is imported, and all else that training needs.

    Args:
        spec: The run.
        run: Its folder.
        resume: Whether it is to go on.
        index: Of its images, where all workers will be on this machine; then what they would refuse is said here, and
            nobody waits for them to start.

    Raises:
        InputError: An option is wrong, options do not fit each other, or the folder holds something else.
    """
    import torch

    from distgan.data.conditions import label_names
    from distgan.devices import local_device
    from distgan.training.check import check
    from distgan.training.complete import complete
    from distgan.training.folder import check_folder
    from distgan.training.workers import Workers

    import_module("distgan.launch.ray_worker")
    if index is None:
        return complete(spec)
    check_folder(run, resume=resume)
    device = "cpu" if spec.cluster.gpus_per_worker == 0 else local_device().type
    workers = Workers(0, spec.cluster.most_workers, torch.device(device))
    return check(spec, index.transform.channels, len(label_names(spec.model.condition, index)), workers)


def _train(spec: RunSpec, run: Path, resume: bool, alone: bool, stop: threading.Event, console: bool) -> Outcome:
    """Train on the cluster that this process is part of."""
    from distgan.training.loop import Outcome
    from distgan.training.workers import ERRORS

    channel: Any = _on_this_machine(Channel).remote(spec.cluster.max_failures)
    trainer = _trainer(spec, run, resume, channel, alone)
    ended = _Ended()
    fitting = threading.Thread(target=ended.of, args=(trainer,), name="ray-train", daemon=True)
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


def _trainer(spec: RunSpec, run: Path, resume: bool, channel: Any, alone: bool) -> Any:
    from ray.train.torch import TorchTrainer

    from distgan.launch.ray_worker import work
    from distgan.launch.torchrun import GROUP

    cluster = spec.cluster
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    resources = {"CPU": _cpus_per_worker(spec, alone), **({"GPU": gpus} if gpus else {})}
    trainer = TorchTrainer(
        work,
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
        torch_config=Group(GROUP if gpus else "gloo", cluster.collective_timeout_s),
        run_config=ray.train.RunConfig(
            name=f"{spec.name}-{secrets.token_hex(4)}",
            # Ray keeps nothing there: distgan does. Each user of a machine has a folder of their own.
            storage_path=str(Path(tempfile.gettempdir()) / f"distgan-ray-{os.getuid()}"),
            failure_config=ray.train.FailureConfig(max_failures=-1),  # Channel counts, and knows of progress
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # the rest is in Ray's files
            callbacks=[OnSIGTERM(), Losses(channel), Reporter(channel, resources)],
        ),
    )
    spare(trainer, alone)
    return trainer


def _everywhere(spec: RunSpec) -> RunSpec:
    """The specification as workers in other working directories understand it."""
    shards = spec.data.shards
    if "://" not in shards:
        shards = str(Path(shards).absolute())
    return spec.model_copy(update={"data": spec.data.model_copy(update={"shards": shards})})


def _cpus_per_worker(spec: RunSpec, alone: bool) -> float:
    """What Ray reserves for a worker, and how many threads it lets it compute with.

    Workers that have this machine to themselves share its cores. On a cluster nobody knows yet how many of them a
    machine will have.
    """
    if spec.cluster.cpus_per_worker is not None:
        return spec.cluster.cpus_per_worker
    return float(max(1, usable_cpus() // spec.cluster.most_workers)) if alone else 1.0


@contextmanager
def _settings(spec: RunSpec, alone: bool) -> Iterator[None]:
    """In a block, have Ray's settings in the environment, where the user has not set them."""
    ours = {**_SETTINGS, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(spec.cluster.start_timeout_s)}
    ours |= _OWN_SETTINGS if alone else {}
    ours = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def _connected(spec: RunSpec, address: str | None) -> Iterator[None]:
    """In a block, be part of a cluster.

    Raises:
        InputError: It is not there, or lets nobody in without its token.
    """
    options: dict[str, Any] = {}
    if address is None:
        cpus = max(usable_cpus(), math.ceil(spec.cluster.most_workers * _cpus_per_worker(spec, alone=True)))
        # Ray Train may ask the dashboard about its own actors, and complains every second where there is none.
        options = {"num_cpus": cpus, "include_dashboard": not can_spare(), "dashboard_host": "127.0.0.1"}
    try:
        if address is not None:
            _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"cannot reach the Ray cluster at {address}: {_last_line(error)}. Is it running (ray status), and are "
            "RAY_AUTH_MODE and the token the cluster's own?"
        ) from None
    quieten_worker_deaths()  # Losses tells of them in a sentence
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
    return lines(error)[-1]
