"""What this machine reads and trains in a second; what it packs is in shards.bench. Medians, as machines are noisy."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from distgan.bench.ceiling import heaviest_convolutions, matrix_product
from distgan.bench.parts import clock_of, shares_of_parts
from distgan.bench.textbook import TEXTBOOKS, why_no_textbook
from distgan.data.conditions import LabelDistribution, label_vectors
from distgan.data.order import Order
from distgan.data.prefetch import Batches
from distgan.data.selection import select_samples
from distgan.describe import flops_of_step
from distgan.devices import local_device
from distgan.networks import ImageShape
from distgan.objectives import Batch
from distgan.spec import DataSpec, RunSpec
from distgan.stages import Stage
from distgan.training.learner import Learner
from distgan.training.precision import Precision
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

        figures = _rates(device, {"reader images/s": Work(read, rounds * batch_size)})
        vectors = label_vectors(spec.model.condition, index, kept)
        with Batches(reader, kept, vectors, spec, 0, 0, 1, device) as batches:

            def load() -> None:
                for _ in range(rounds):
                    next(batches)

            figures |= _rates(device, {"batches images/s": Work(load, rounds * batch_size)})
    return {
        "machine": machine_of(device),
        "images": f"{index.transform.size} px, {index.transform.channels} channels, {index.encoding}",
        "batch size": batch_size,
        **figures,
    }


def bench_step(
    spec: RunSpec | None,
    channels: int = 3,
    round_seconds: float = 1.5,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    alone: bool = False,
) -> Figures:
    """Training speed on random images, without a data set; of a run that grows, at the final size and at each other.

    Beside it, in the same rounds: the step of a textbook (:mod:`distgan.bench.textbook`) with the same networks and
    batch, where there is one; and what the machine can do in the same floating point type, with a product of matrices
    and with the fastest of the networks' heaviest convolutions. FLOPs are counted as ``distgan describe`` does. The
    memory is the most that the process has held by the end of its first step (on a GPU, that tensors have taken),
    before there is a textbook.

    Args:
        spec: The run to measure; None is the DCGAN of the paper, which is what a specification begins with.
        channels: Colour channels of the images.
        round_seconds: About how long a round takes, unless a single step takes longer.
        progress: Told how many rounds of how many are done.
        alone: Leave out what it is compared with, its FLOPs and its parts: all that takes long beside a short round.

    Raises:
        InputError: What training would say of the specification.
    """
    spec = spec or RunSpec(name="bench", data=DataSpec(shards=""))
    device, labels = local_device(), random_labels(spec)
    learner = Learner(spec, ImageShape.of(spec, channels), Workers.alone(device), labels)
    *smaller, last = spec.timetable.stages
    total = ROUNDS * (len(smaller) + 2)
    rounds = iter(range(1, total + 1))

    def tell() -> None:
        progress(next(rounds), total)

    figures: Figures = {
        "machine": machine_of(device),
        "precision": learner.precision.name,
        "batch size": last.batch_size,
    }
    for stage in smaller:
        training = Training(learner, stage)
        figures |= _rates(device, {f"images/s, {stage.size} px": training.as_work(round_seconds)}, tell)
    training = Training(learner, last)
    works = {"images/s": training.as_work(round_seconds)}
    training.steps()
    _synchronise(device)
    peak = peak_memory(device)
    if alone:
        sides = training.sides(round_seconds / 2)
        return {
            **figures,
            **_rates(device, works, tell),
            **_rates(device, sides, tell),
            "peak memory, GiB": peak / 2**30,
        }

    why_none = why_no_textbook(spec)
    if why_none is None:
        kind, full = TEXTBOOKS[spec.objective.kind], spec.full_size()
        textbook = kind(full, ImageShape.of(full, channels), device)
        batches = [training.real.images.float().contiguous()] * last.n_critic
        works["textbook images/s"] = Work(lambda: textbook.step(*batches), last.images_per_step, round_seconds)
    dtype = torch.bfloat16 if learner.precision.name == "bfloat16" else learner.precision.dtype
    product, layers = matrix_product(device, dtype), heaviest_convolutions(training.forward, device, dtype)
    for ceiling in (product, *layers):
        works[ceiling.name] = Work(
            partial(_within, learner.precision, ceiling.run), ceiling.flops / 1e9, round_seconds / 10
        )
    rates = _rates(device, works, tell)
    steps_a_second = rates["images/s"] / last.images_per_step
    figures["images/s"] = rates["images/s"]
    figures |= _rates(device, training.sides(round_seconds / 2), tell)
    figures["textbook"] = why_none or kind.title
    if why_none is None:
        figures["textbook images/s"] = rates["textbook images/s"]
        figures["times the textbook"] = rates["images/s"] / rates["textbook images/s"]
    figures["GFLOP/s"] = reached = flops_of_step(spec, channels, labels.width) / 1e9 * steps_a_second
    figures["matrix product GFLOP/s"] = rates[product.name]
    if layers:
        fastest = max(layers, key=lambda layer: rates[layer.name])
        figures["convolution GFLOP/s"] = rates[fastest.name]
        figures["convolution"] = fastest.name
        figures["share of the convolution's"] = reached / rates[fastest.name]
    figures["peak memory, GiB"] = peak / 2**30
    times = max(2, round(round_seconds * steps_a_second))
    learner.spell_out()
    shares = shares_of_parts(training.steps, times, clock_of(device))
    return {**figures, **{f"share of {part}": share for part, share in shares.items()}}


def _within(precision: Precision, work: Callable[[], object]) -> None:
    with precision.products():  # float32 is not what a GPU does with TF32
        work()


def training_speed(spec: RunSpec, channels: int = 3) -> float:
    """Images/s through a run's training step at its final size, on random images and this machine, in some seconds.

    Args:
        spec: The run.
        channels: Colour channels of the images.
    """
    spec = spec.full_size()
    device = local_device()
    learner = Learner(spec, ImageShape.of(spec, channels), Workers.alone(device), random_labels(spec))
    return _rates(device, {"ours": Training(learner, learner.stage).as_work(SUGGEST_ROUND_S)})["ours"]


class Training:
    """Training in a stage, on one random batch, when what is new in the stage has faded in."""

    def __init__(self, learner: Learner, stage: Stage) -> None:
        self._learner, self._stage = learner, stage
        self._every: int = learner.spec.objective.rest.get("penalty_every", 1)
        learner.step = stage.faded_in
        self.real = random_batch(learner)

    def steps(self) -> None:
        """A step, or as many as there are from one penalty to the next: a median would not see a rare one."""
        for _ in range(self._every):
            self._update_critic(self._stage.n_critic)
            self._update_generator()

    def as_work(self, seconds: float) -> Work:
        """Whole steps, in images, for so many seconds."""
        return Work(self.steps, self._every * self._stage.images_per_step, seconds)

    def sides(self, seconds: float) -> dict[str, Work]:
        """The two sides, each alone where it can be, in updates."""
        works = {"critic updates/s": Work(lambda: self._update_critic(self._every), self._every, seconds)}
        if not self._learner.spec.objective.rest.get("share_fakes"):  # which it cannot do alone
            works["generator updates/s"] = Work(self._update_generator, 1, seconds)
        return works

    def forward(self) -> None:
        """Each network once, for as many images as a critic's batch has."""
        generator, critic = self._learner.generator.eval(), self._learner.critic.eval()  # dropout has nothing to draw
        latents = self.real.images.new_zeros(len(self.real.images), self._learner.spec.model.latent_dim)
        critic(generator(latents, self.real.labels), self.real.labels)
        generator.train()
        critic.train()

    def _update_critic(self, times: int) -> None:
        for repeat in range(times):
            self._learner.update_critic(self.real, repeat)

    def _update_generator(self) -> None:
        self._learner.update_generator(self.real)
        if self._learner.stage != self._stage:  # however short it is
            self._learner.step = self._stage.faded_in


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


class Work(NamedTuple):
    """What is to be measured.

    Attributes:
        run: Do it once.
        items: How many of what is counted that is.
        seconds: About how long to do it in a round.
    """

    run: Callable[[], object]
    items: float
    seconds: float = 0.0


def _rates(
    device: torch.device, works: Mapping[str, Work], tell: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Items a second of works that take turns: medians of rounds."""
    rounds = rates_of_rounds(device, works, tell)
    return {name: median(rates[name] for rates in rounds) for name in works}


def rates_of_rounds(
    device: torch.device, works: Mapping[str, Work], tell: Callable[[], None] = lambda: None
) -> list[dict[str, float]]:
    """Items a second of works that take turns, so that what else the machine does meets all alike: in each round.

    The device is waited for before and after each turn, not within it.
    """

    def seconds_of(work: Work, times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            work.run()
        _synchronise(device)
        return time.perf_counter() - began

    times = {}
    for name, work in works.items():
        seconds_of(work, 1)  # warm up: kernels are chosen, memory is taken, files are cached
        times[name] = max(1, round(work.seconds / seconds_of(work, 1)))
    rounds = []
    for _ in range(ROUNDS):
        rounds.append({name: work.items * times[name] / seconds_of(work, times[name]) for name, work in works.items()})
        tell()
    return rounds


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine_of(device: torch.device) -> str:
    """What a device is called in tables."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def peak_memory(device: torch.device) -> int:
    """The most bytes that tensors have taken on a GPU; on a CPU, that the process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # POSIX says nothing of its unit
