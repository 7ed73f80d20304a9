"""How much faster more workers are: measured on this machine, or predicted for a cluster from what one worker does.

A step takes compute + waiting + communication. Measured:

- compute: the mean over workers of a step on a worker's share of the batch while all of them work, without a word
  between them;
- waiting: the slowest worker's such step less that mean, since each step lasts as long as the slowest worker's;
- communication: what a step with gradients and BatchNorm's sums exchanged takes beside these two.

Predicted, for W workers: compute is the worker's share of the images divided by the images/s of one worker.
Communication is a ring all-reduce of the gradients, 2 (W − 1)/W · bytes / bandwidth (Patarasuk and Yuan 2009,
https://doi.org/10.1016/j.jpdc.2008.09.002), plus log₂ W times the latency for each of the exchanges in a step: one for
each update's gradients, one for each forward and each backward pass of each BatchNorm layer, in each micro-batch.
Nothing is taken to overlap and nobody waits: real clusters overlap gradients with the backward pass, and have slow
workers.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from statistics import mean, median
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist

from distgan.bench.speed import ROUNDS, random_batch, random_labels
from distgan.data.order import rank_slots
from distgan.describe.description import Description
from distgan.launch.torchrun import GROUP
from distgan.networks import ImageShape
from distgan.spec import DataSpec, RunSpec
from distgan.training.learner import Learner
from distgan.training.workers import Workers
from shards.errors import InputError
from shards.processes import usable_cpus

Fixed = Literal["global batch", "batch per worker"]
FIXED: tuple[Fixed, ...] = ("global batch", "batch per worker")


class Prediction(NamedTuple):
    """A step of a cluster that is not at hand; seconds and bytes."""

    fixed: Fixed
    workers: int
    images_per_step: int
    compute: float
    communication: float
    step: float
    images_per_second: float
    efficiency: float
    """Images/s as a share of what so many workers would do that need not talk."""
    gradient_bytes: int
    exchanges: int


def predict(
    description: Description, batch_size: int, most: int, speed: float, bandwidth: float, latency: float
) -> list[Prediction]:
    """What a step would take on a cluster of 1, 2, 4, … workers, by the model at the head of this module.

    Args:
        description: Of the run.
        batch_size: Its global batch. More workers than it, or a micro-batch of it, has images cannot share it: for
            them only the fixed batch per worker is predicted.
        most: The most workers.
        speed: Images/s of one worker, as ``distgan bench step`` says.
        bandwidth: Of the network between workers, in bytes a second, each way.
        latency: Seconds for a word from one worker to another.
    """
    step = description.step
    critic, generator = description.critic.parameters.trainable, description.generator.parameters.trainable
    gradient_bytes = 4 * (step.critic_updates * critic + max(step.generator_updates, 1) * generator)
    norms_critic, norms_generator = (_norms(network.layers) for network in (description.critic, description.generator))
    of_critic_update = norms_generator + 2 * 2 * norms_critic  # real and fake, forward and backward
    of_generator_update = 2 * (norms_generator + norms_critic)
    exchanges = step.critic_updates * (1 + step.micro_batches * of_critic_update)
    exchanges += step.generator_updates * (1 + step.micro_batches * of_generator_update)
    found = []
    for fixed in FIXED:
        for workers in _doublings(most if fixed == "batch per worker" else min(most, batch_size // step.micro_batches)):
            share, images = batch_size, step.critic_updates * batch_size * workers
            if fixed == "global batch":
                share, images = -(-batch_size // workers), step.critic_updates * batch_size
            compute = share * step.critic_updates / speed
            hops = math.log2(workers)
            communication = 2 * (workers - 1) / workers * gradient_bytes / bandwidth + exchanges * hops * latency
            total = compute + communication
            found.append(
                Prediction(
                    fixed,
                    workers,
                    images,
                    compute,
                    communication,
                    total,
                    images / total,
                    images / total / (workers * speed),
                    gradient_bytes,
                    exchanges,
                )
            )
    return found


def _doublings(most: int) -> list[int]:
    """1, 2, 4, … and the most."""
    return [*(2**i for i in range((most - 1).bit_length())), most]


def _norms(layers: object) -> int:
    assert isinstance(layers, list)
    return sum("BatchNorm" in layer.type or layer.type == "MinibatchStddev" for layer in layers)


@dataclass(frozen=True)
class Measurement:
    """A step of so many workers on this machine; seconds, medians of several rounds."""

    fixed: Fixed
    workers: int
    images_per_step: int
    step: float
    compute: float
    waiting: float
    communication: float
    images_per_second: float
    efficiency: float
    """Images/s as a share of so many times the images/s of one worker."""


def bench_scaling(spec: RunSpec | None, most: int | None = None, channels: int = 3) -> list[Measurement]:
    """Measure 1, 2, 4, … workers on this machine, on random images.

    Args:
        spec: The run; None is the DCGAN of the paper. Of one that grows, the last stage is measured.
        most: The most workers; as many as there are GPUs, or cores, when not given.
        channels: Colour channels of the images.

    Raises:
        InputError: There are not so many GPUs, or the batch is too small for so many workers.
    """
    spec = (spec or RunSpec(name="bench", data=DataSpec(shards=""))).full_size()
    gpus = torch.cuda.device_count()
    places = gpus or usable_cpus()
    most = most or min(places, spec.training.batch_size // spec.training.accumulate)
    if gpus and most > gpus:
        raise InputError(f"there are {gpus} GPUs here: --workers is at most {gpus}")
    if reason := spec.cannot_share(most):
        raise InputError(reason)
    threads = max(1, usable_cpus() // most)  # the same for any number of workers
    found: list[Measurement] = []
    for fixed in FIXED:
        alone = 0.0
        for workers in _doublings(most):
            batch_size = spec.training.batch_size * (workers if fixed == "batch per worker" else 1)
            ranks = _side_by_side(spec.with_training(batch_size=batch_size), workers, channels, threads)
            step = median(mean(rank.together[i] for rank in ranks) for i in range(ROUNDS))
            own = [median(rank.apart) for rank in ranks]
            images = batch_size * spec.objective.n_critic
            alone = alone or images / step
            compute, waiting = mean(own), max(own) - mean(own)
            found.append(
                Measurement(
                    fixed,
                    workers,
                    images,
                    step,
                    compute,
                    waiting,
                    max(0.0, step - compute - waiting) if workers > 1 else 0.0,
                    images / step,
                    images / step / (workers * alone),
                )
            )
    return found


class _Seconds(NamedTuple):
    """A rank's seconds a step, a number a round."""

    apart: list[float]
    together: list[float]


def _side_by_side(spec: RunSpec, workers: int, channels: int, threads: int) -> list[_Seconds]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(workers, context) as pool:
        futures = [
            pool.submit(_measure, f"file://{folder}/group", spec, rank, workers, channels, threads)
            for rank in range(workers)
        ]
        return [future.result() for future in futures]


def _measure(meeting: str, spec: RunSpec, rank: int, world_size: int, channels: int, threads: int) -> _Seconds:
    """One rank's part."""
    torch.set_num_threads(threads)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    dist.init_process_group(
        GROUP if on_gpu else "gloo", meeting, timedelta(minutes=10), rank=rank, world_size=world_size
    )
    try:
        share = len(rank_slots(spec.training.batch_size, rank, world_size))
        image, labels = ImageShape(channels, spec.data.image_size), random_labels(spec)
        apart = Learner(spec.with_training(batch_size=share), image, Workers.alone(device), labels)
        seconds = _rounds(apart)
        together = Learner(spec, image, Workers(rank, world_size, device), labels)
        return _Seconds(seconds, seconds if world_size == 1 else _rounds(together))
    finally:
        dist.destroy_process_group()


def _rounds(learner: Learner) -> list[float]:
    """Seconds of a step, a number a round; all ranks begin each round together."""
    device, spec = learner.precision.device, learner.spec
    real = random_batch(learner)
    seconds = []
    for _ in range(1 + ROUNDS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        dist.barrier()
        began = time.perf_counter()
        for repeat in range(spec.objective.n_critic):
            learner.update_critic(real, repeat)
        learner.update_generator(real)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]  # the first one chooses kernels and takes memory


def as_rows(found: list[Measurement] | list[Prediction]) -> list[dict[str, object]]:
    """Measurements or predictions as JSON has them."""
    return [dict(each._asdict()) if isinstance(each, Prediction) else asdict(each) for each in found]
