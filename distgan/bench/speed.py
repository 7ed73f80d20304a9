"""What this machine reads and trains in a second; what it packs is in shards.bench. Medians, as machines are noisy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from distgan.data.conditions import LabelDistribution, label_vectors
from distgan.data.order import Order
from distgan.data.prefetch import Batches
from distgan.data.selection import select_samples
from distgan.launch.local import local_device
from distgan.networks import ImageShape
from distgan.objectives import Batch
from distgan.spec import DataSpec, RunSpec
from distgan.stages import Stage
from distgan.training.learner import Learner
from distgan.training.workers import Workers
from shards.images import Transform
from shards.reader import Reader
from shards.sources.base import Recognised, Sample
from shards.writer import pack

ROUNDS = 7
SUGGEST_ROUND_S = 0.7
"""About how long a round takes where somebody waits for more than a figure."""

Figures = dict[str, float | str]


@dataclass
class _RandomImages:
    """A source of uniformly random images, of which no byte compresses."""

    count: int
    size: int
    layout: str = "folder"
    attribute_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    split_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        return f"{i:08d}"

    def sample(self, i: int) -> Sample:
        image = np.random.Generator(np.random.Philox(key=i)).integers(0, 256, (self.size, self.size, 3), np.uint8)
        return Sample(self.name(i), image, -1, None)

    def channels(self) -> int:
        return 3

    def identity(self) -> str:
        return f"random-{self.count}-{self.size}"

    @property
    def recognised(self) -> Recognised:
        return Recognised("arrays", self.layout, samples=self.count)


def bench_loader(spec: RunSpec | None, count: int = 20_000, size: int = 64) -> Figures:
    """Reading speed, with the files in the page cache.

    Args:
        spec: Its shards, batch size and ``data`` section are used, the last stage's if it grows; None packs invented
            raw images for the purpose.
        count: How many to invent.
        size: Their height and width.

    Returns:
        ``reader images/s``: shards to uint8 batches, in the thread that calls; ``batches images/s``: the same through
        the prefetch thread to normalised batches on the device.
    """
    if spec is not None:
        return _bench_loader(spec.full_size())
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        pack(_RandomImages(count, size), shards, Transform(size=size, channels=3))
        return _bench_loader(RunSpec(name="bench", data=DataSpec(shards=str(shards), image_size=size)))


def _bench_loader(spec: RunSpec) -> Figures:
    device = local_device()
    index, kept = select_samples(spec)
    batch_size = spec.training.batch_size
    rounds = max(1, min(len(kept), 20_000) // batch_size)  # batches in a round
    order = Order(len(kept), spec.seed, block=spec.data.block_samples, lanes=spec.data.lanes)
    slots = np.arange(batch_size)
    with Reader(index, cache=spec.data.cache) as reader:

        def read() -> None:
            for batch in range(rounds):
                reader.read(kept[order(batch * batch_size + slots)])

        read()  # warm the page cache
        reading = _rate(read, rounds * batch_size)
        vectors = label_vectors(spec.model.condition, index, kept)
        with Batches(reader, kept, vectors, spec, 0, 0, 1, device) as batches:

            def load() -> None:
                for _ in range(rounds):
                    next(batches)
                _synchronise(device)

            loading = _rate(load, rounds * batch_size)
    return {
        "machine": _machine(device),
        "images": f"{index.transform.size} px, {index.transform.channels} channels, {index.encoding}",
        "batch size": batch_size,
        "reader images/s": reading,
        "batches images/s": loading,
    }


def bench_step(spec: RunSpec | None, channels: int = 3, round_seconds: float = 2.0) -> Figures:
    """Training speed on random images, without a data set; of a run that grows, at the final size and at each other.

    Args:
        spec: The run to measure; None is the DCGAN of the paper, which is what a specification begins with.
        channels: Colour channels of the images.
        round_seconds: About how long a round takes, unless a single step takes longer.
    """
    spec = spec or RunSpec(name="bench", data=DataSpec(shards=""))
    device = local_device()
    learner = Learner(spec, ImageShape.of(spec, channels), Workers.alone(device), random_labels(spec))
    *smaller, last = spec.timetable.stages
    figures: Figures = {
        "machine": _machine(device),
        "precision": learner.precision.name,
        "batch size": last.batch_size,
    }
    for stage in smaller:
        figures[f"images/s, {stage.size} px"] = _of_stage(learner, stage, round_seconds, sides=False)["images/s"]
    figures |= _of_stage(learner, last, round_seconds, sides=True)
    if device.type == "cuda":
        figures["peak memory, GiB"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures


def training_speed(spec: RunSpec, channels: int = 3) -> float:
    """Images/s through a run's training step at its final size, on random images and this machine, in some seconds.

    Args:
        spec: The run.
        channels: Colour channels of the images.
    """
    spec = spec.full_size()
    learner = Learner(spec, ImageShape.of(spec, channels), Workers.alone(local_device()), random_labels(spec))
    return _of_stage(learner, learner.stage, SUGGEST_ROUND_S, sides=False)["images/s"]


def _of_stage(learner: Learner, stage: Stage, round_seconds: float, *, sides: bool) -> dict[str, float]:
    """Training speed in a stage, when what is new in it has faded in; if asked for, of the two sides alone as well."""
    device, n_critic = learner.precision.device, stage.n_critic
    learner.step = stage.faded_in
    real = random_batch(learner)

    def run(critic: bool, generator: bool) -> None:
        for _ in range(steps):
            for repeat in range(n_critic if critic else 0):
                learner.update_critic(real, repeat)
            if generator:
                learner.update_generator(real)
                learner.step = stage.faded_in  # however long the stage is
        _synchronise(device)

    steps = 1
    run(True, True)  # warm up: kernels are chosen, memory is taken
    steps = max(1, round(round_seconds * _rate(lambda: run(True, True), 1, rounds=1)))
    figures = {"images/s": _rate(lambda: run(True, True), steps * stage.images_per_step)}
    if sides:
        figures["critic updates/s"] = _rate(lambda: run(True, False), steps * n_critic)
        if not learner.spec.objective.rest.get("share_fakes"):  # which it cannot do alone
            figures["generator updates/s"] = _rate(lambda: run(False, True), steps)
    return figures


def random_batch(learner: Learner) -> Batch:
    """Random images of the learner's stage, and labels as it has them, for the slots that it computes."""
    device, dtype, count = learner.precision.device, learner.precision.dtype, learner.slots
    shape = (count, learner.image.channels, learner.stage.size, learner.stage.size)
    images = torch.rand(shape, device=device, dtype=dtype).mul_(2).sub_(1)
    drawn = learner.labels.draw(torch.rand(count, device=device)).to(dtype)
    return Batch(images.to(memory_format=torch.channels_last), drawn)


def random_labels(spec: RunSpec) -> LabelDistribution:
    """Label vectors for a specification whose data set is not at hand: any attributes, and one of ten classes."""
    condition = spec.model.condition
    attributes = condition.attributes if condition else []
    classes = 10 if condition and condition.classes else 0
    signs = np.random.Generator(np.random.Philox(key=0)).choice(np.array([-1, 1], np.int8), (100, len(attributes)))
    one_hot = np.eye(classes, dtype=np.int8)[np.arange(100) % 10] if classes else np.zeros((100, 0), np.int8)
    return LabelDistribution.of((*attributes, *(f"class={i}" for i in range(classes))), np.hstack([signs, one_hot]))


def _rate(work: Callable[[], None], items: int, rounds: int = ROUNDS) -> float:
    """Items a second: the median of several rounds."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return items / median(seconds)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
