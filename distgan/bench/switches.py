"""What each switch of training is worth: how fast a step is with it and without, and what becomes of the losses.

To add a switch: a line in :data:`SWITCHES`.

The two sides of a switch take turns on random images, in one process; its gain is that of their rounds, in each of
which one is compared with the other. Then both train on images, from some seeds, and their losses are compared: a
switch that moves them no further than another seed does has changed nothing that anybody could see.
"""

from __future__ import annotations

import gc
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distgan.bench.speed import ROUNDS, Training, machine_of, random_labels, rates_of_rounds
from distgan.bench.tables import json_document, markdown_table
from distgan.data.conditions import LabelDistribution, label_names, label_vectors
from distgan.data.prefetch import Batches
from distgan.data.selection import select_samples
from distgan.describe import describe
from distgan.devices import lacks_memory, local_device
from distgan.networks import ImageShape
from distgan.products import has_tf32
from distgan.spec import ClusterSpec, DataSpec, RunSpec, make_spec
from distgan.training.complete import complete
from distgan.training.graphs import BACKENDS
from distgan.training.learner import Learner
from distgan.training.micro_batches import micro_batch_note
from distgan.training.precision import Precision, computes_in_bfloat16
from distgan.training.workers import Workers
from shards.errors import InputError
from shards.images import Transform
from shards.index import INDEX_JSON
from shards.names import near
from shards.progress import Bars, Progress
from shards.reader import Reader
from shards.sources import open_source
from shards.synth import synthesize
from shards.writer import pack

WORTH = 0.02
"""The gain from which on a switch is worth having."""
FACES = 1024
"""Invented, where a run has no shards yet."""


def _no_bar(_: str) -> AbstractContextManager[Progress]:
    return nullcontext(lambda done, total: None)


class Switch(NamedTuple):
    """A field of the specification that makes training faster, or is there for something else and costs time.

    Attributes:
        field: Its path: a section and a name.
        off: What it is without the switch, as ``--set`` has it.
        on: What it is with it. Of a number the run's own, where that is more than ``off``.
        refused: Why a device cannot use it, in words; None where it can. What is wrong with a run, training says.
        note: What should be known of its line.
        saves_memory: Whether memory is what it is for.
    """

    field: str
    off: str
    on: str
    refused: Callable[[torch.device], str | None] = lambda device: None
    note: str = ""
    saves_memory: bool = False

    def on_of(self, spec: RunSpec) -> str:
        """What it is with the switch in a run with every option written out."""
        own = _value(spec, self.field)
        return str(own) if type(own) is int and own > int(self.off) else self.on


def _no_bfloat16(device: torch.device) -> str | None:
    return None if computes_in_bfloat16(device) else "this machine does not compute in bfloat16, and is slower with it"


def _no_tf32(device: torch.device) -> str | None:
    return None if has_tf32(device) else "TF32 is of NVIDIA's GPUs, from Ampere on"


def _no_graphs(device: torch.device) -> str | None:
    return None if device.type in BACKENDS else f"there is nothing to gain on a {device.type.upper()}, which has none"


SWITCHES: dict[str, Switch] = {
    "bfloat16": Switch("training.precision", "float32", "bfloat16", _no_bfloat16),
    "tfloat32": Switch("training.precision", "float32", "tfloat32", _no_tf32),
    "share_fakes": Switch(
        "objective.share_fakes",
        "false",
        "true",
        note="with it the generator's loss is of images that the critic has just learnt from, without it of fresh ones",
    ),
    "penalty_every": Switch("objective.penalty_every", "1", "4"),
    "graphs": Switch("training.graphs", "off", "on", _no_graphs),
    "compile": Switch("training.compile", "off", "on"),
    "accumulate": Switch("training.accumulate", "1", "2", saves_memory=True),
}
"""By name."""


@dataclass(frozen=True)
class Speed:
    """Images a second through a step, medians of rounds."""

    off: float
    on: float
    gain: float
    """The median of the rounds' gains: 0.1 is a tenth more images."""
    gain_from: float
    """The second lowest of the rounds' gains."""
    gain_to: float
    """The second highest."""

    @classmethod
    def of(cls, rounds: Sequence[dict[str, float]]) -> Speed:
        """Of rounds that have images/s by side, "off" and "on"."""
        gains = sorted(each["on"] / each["off"] - 1 for each in rounds)
        inner = gains[1:-1] or gains  # what else the machine did in a single round is no part of it
        off, on = (median(each[side] for each in rounds) for side in ("off", "on"))
        return cls(off, on, median(gains), inner[0], inner[-1])

    @property
    def worth_it(self) -> str:
        """Whether it gains enough: "yes" or "no"; "not clear" where some rounds say this and some that."""
        if self.gain_from >= WORTH:
            return "yes"
        return "no" if self.gain_to < WORTH else "not clear"


@dataclass(frozen=True)
class Loss:
    """A side's loss in the last quarter of the steps, the mean of runs that differ in their seeds."""

    off: float
    on: float
    spread: float
    """Of the runs without the switch: the greatest less the least."""

    @classmethod
    def of(cls, off: Sequence[Tensor], on: Sequence[Tensor], window: int) -> Loss:
        """Of losses by step, (steps,) from each run, those of the last so many steps."""
        before, after = (torch.stack([run[-window:].double().mean() for run in runs]) for runs in (off, on))
        return cls(before.mean().item(), after.mean().item(), (before.max() - before.min()).item())

    @property
    def inside(self) -> bool:
        """Whether the switch moves it no further than another seed does; not where it is no number."""
        return abs(self.on - self.off) <= self.spread


@dataclass(frozen=True)
class Line:
    """What is known of a switch."""

    switch: str
    field: str
    off: str
    on: str
    why_not: str | None = None
    """Why it was not measured: it is not for this run or this machine."""
    speed: Speed | None = None
    losses: dict[str, Loss] | None = None
    """By side; of an autoencoder, which has one loss, "critic" alone."""
    notes: tuple[str, ...] = ()

    @property
    def inside(self) -> bool:
        """Whether both sides' losses are inside the spread."""
        return self.losses is not None and all(each.inside for each in self.losses.values())


@dataclass(frozen=True)
class Found:
    """The lines of all switches, and what they are of."""

    machine: str
    precision: str
    """Of the run, where that is not what is switched."""
    batch_size: int
    images: str
    """What was trained on."""
    steps: int
    seeds: int
    lines: list[Line]


def bench_switches(
    spec: RunSpec | None,
    only: Sequence[str] = (),
    steps: int = 200,
    seeds: int = 3,
    bars: Bars = _no_bar,
    round_seconds: float = 1.0,
) -> Found:
    """Measure what the switches of a run are worth on this machine.

    Losses are those of the run's first steps, on its shards where they are there, else on invented faces. Of a run that
    grows both speed and losses are those of its last stage, with all layers there from the beginning of what is
    measured.

    Args:
        spec: The run; None is the DCGAN of the paper.
        only: Names of switches; all where there is none.
        steps: How long each run trains for its losses.
        seeds: How many runs each side of a switch has; two or more, to be apart at all.
        bars: Makes progress bars.
        round_seconds: About how long each side's turn in a round of measuring the speed takes.

    Raises:
        InputError: A switch that does not exist, or what training would say of the specification.
    """
    for name in only:
        if name not in SWITCHES:
            raise InputError(f"there is no switch {name!r}; {near(name, SWITCHES)}")
    chosen = [name for name in SWITCHES if not only or name in only]
    spec = spec or RunSpec(name="bench", data=DataSpec(shards=""))
    # What is wrong with the run itself is said at once.
    Learner(spec, ImageShape.of(spec, 3), Workers.alone(local_device()), random_labels(spec))
    with _with_images(spec, bars) as (run, images):
        bench = _Bench(run, steps, seeds, bars, round_seconds)
        lines = [bench.line(name, f"{place}/{len(chosen)} {name}") for place, name in enumerate(chosen, 1)]
    base = bench.base
    batch_size = base.timetable.stages[-1].batch_size
    return Found(machine_of(bench.device), base.training.precision, batch_size, images, steps, seeds, lines)


class _Bench:
    """A run, its images, and the losses that are known of it so far."""

    def __init__(self, spec: RunSpec, steps: int, seeds: int, bars: Bars, round_seconds: float) -> None:
        self.device = local_device()
        self._steps, self._seeds, self._bars, self._round_seconds = steps, seeds, bars, round_seconds
        self._index, self._kept = select_samples(spec)
        self._vectors = label_vectors(spec.model.condition, self._index, self._kept)
        self._labels = LabelDistribution.of(label_names(spec.model.condition, self._index), self._vectors)
        # What is left open is what it will be, so that equal runs are known to be.
        settled: dict[str, Any] = {"precision": Precision(spec.training.precision, self.device).name}
        if spec.training.compile == "auto":
            settled["compile"] = "off"
        self.base = complete(spec).in_images(len(self._kept)).with_training(**settled)
        self._losses: dict[str, dict[str, Tensor]] = {}

    def line(self, name: str, title: str) -> Line:
        """Measure a switch; its progress bars have the title."""
        switch = SWITCHES[name]
        on = switch.on_of(self.base)
        line = Line(name, switch.field, switch.off, on)
        try:
            if why_not := switch.refused(self.device):
                raise InputError(why_not)
            without, with_it = (self._with(switch.field, value) for value in (switch.off, on))
            with self._bars(f"{title}: speed, rounds") as told:
                speed, news = self._speed(without, with_it, told)
            with self._bars(f"{title}: losses, steps") as told:
                losses = self._compared(without, with_it, told)
        except InputError as error:
            return replace(line, why_not=" ".join(str(error).splitlines()))
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            return replace(line, why_not="out of memory: lower training.batch_size, to see it")
        notes = [*news, *([switch.note] if switch.note else [])]
        if switch.saves_memory:
            notes.append("it is there for memory: " + _memory(without, with_it))
        return replace(line, speed=speed, losses=losses, notes=tuple(notes))

    def _with(self, field: str, value: str) -> RunSpec:
        """The run with another value of a field.

        Raises:
            InputError: It cannot have that.
        """
        if _value(self.base, field) is None:
            raise InputError(f"objective.kind {self.base.objective.kind} has none")
        change = f"{field}={value}"
        return make_spec(self.base.model_dump(mode="json"), [change], change)

    def _learner(self, spec: RunSpec) -> Learner:
        """A run at its final size."""
        gc.collect()  # those before it hold memory of the device
        image = ImageShape.of(spec, self._index.transform.channels)
        learner = Learner(spec, image, Workers.alone(self.device), self._labels)
        learner.step = spec.timetable.stages[-1].faded_in
        return learner

    def _speed(self, off: RunSpec, on: RunSpec, told: Progress) -> tuple[Speed, list[str]]:
        """How fast both are, and what should be known of the one that is on, in sentences."""
        learners = {"off": self._learner(off), "on": self._learner(on)}
        works = {side: Training(each, each.stage).as_work(self._round_seconds) for side, each in learners.items()}
        done = iter(range(1, ROUNDS + 1))
        rounds = rates_of_rounds(self.device, works, lambda: told(next(done), ROUNDS))
        learner = learners["on"]
        told_of_parts = micro_batch_note(on, learner.generator, learner.critic)
        return Speed.of(rounds), [*learner.news(), *([told_of_parts] if told_of_parts else [])]

    def _compared(self, off: RunSpec, on: RunSpec, told: Progress) -> dict[str, Loss]:
        """Both sides' losses, over whole cycles from one penalty to the next, which is not of every update."""
        cycle = math.lcm(*(spec.objective.rest.get("penalty_every", 1) for spec in (off, on)))
        if cycle > self._steps:
            raise InputError(f"from one penalty to the next there are {cycle} steps, and --steps is {self._steps}")
        window = max(self._steps // 4 // cycle, 1) * cycle
        runs = [_with_seed(spec, spec.seed + i) for spec in (off, on) for i in range(self._seeds)]
        known = [self._train(run, place, len(runs), told) for place, run in enumerate(runs)]
        before, after = known[: self._seeds], known[self._seeds :]
        return {
            side: Loss.of([run[side] for run in before], [run[side] for run in after], window) for side in before[0]
        }

    def _train(self, spec: RunSpec, place: int, runs: int, told: Progress) -> dict[str, Tensor]:
        """Train a run, unless that has been done: its losses by side, (steps,), means over the updates of a step."""
        key = spec.model_dump_json()
        if key in self._losses:
            return self._losses[key]
        learner = self._learner(spec)
        critic, generator = [], []
        with (
            Reader(self._index, cache=spec.data.cache) as reader,
            Batches(
                reader, self._kept, self._vectors, spec, learner.step, 0, 1, self.device, learner.precision.dtype
            ) as batches,
        ):
            for step in range(self._steps):
                losses = []
                for repeat in range(spec.objective.n_critic):
                    real = next(batches)
                    losses.append(learner.update_critic(real, repeat).value)
                critic.append(torch.stack(losses).mean())
                if (loss := learner.update_generator(real)) is not None:
                    generator.append(loss.value)
                told(place * self._steps + step + 1, runs * self._steps)
        found = {"critic": critic, "generator": generator}
        self._losses[key] = {side: torch.stack(values).cpu() for side, values in found.items() if values}
        return self._losses[key]


def _value(spec: RunSpec, field: str) -> Any:
    """The value at a path; None where an objective has no such option."""
    section, name = field.split(".")
    return getattr(spec, section).model_dump().get(name)


def _with_seed(spec: RunSpec, seed: int) -> RunSpec:
    return spec.model_copy(update={"seed": seed % 2**63})


def _memory(off: RunSpec, on: RunSpec) -> str:
    """What tensors take at once, in words."""
    sizes = [describe(spec).memory.total / 2**20 for spec in (on, off)]
    return "a step's tensors take {:,.3g} MiB, and {:,.3g} MiB without".format(*sizes)


@contextmanager
def _with_images(spec: RunSpec, bars: Bars) -> Iterator[tuple[RunSpec, str]]:
    """The run with shards that are there, and what these are: its own, or invented faces, deleted in the end."""
    own = spec.data.shards
    spec = spec.model_copy(update={"cluster": ClusterSpec()})  # one process, whatever the run has
    if "://" in own or (own and (Path(own) / INDEX_JSON).exists()):
        yield spec, own
        return
    if spec.model.condition:
        raise InputError(f"there are no shards at {own}, and invented faces may lack what model.condition asks of them")
    count = max(FACES, *spec.batch_sizes.values())
    with tempfile.TemporaryDirectory() as folder:
        faces, shards = Path(folder) / "faces", Path(folder) / "shards"
        with bars("drawing faces") as told:
            synthesize(faces, count, 0, progress=told)
        with bars("packing them") as told:
            pack(open_source(faces, "celeba"), shards, Transform(size=spec.data.image_size, channels=3), progress=told)
        data = DataSpec(shards=str(shards), image_size=spec.data.image_size, flip=spec.data.flip)
        yield spec.model_copy(update={"data": data}), f"{count:,} invented faces"


def as_json(found: Found) -> dict[str, Any]:
    """All of it as JSON has it; null for a number that is none."""
    lines = []
    for line in found.lines:
        known = {"worth_it": line.speed.worth_it, "inside_the_spread": line.inside} if line.speed else {}
        lines.append(json_document({**asdict(line), **known}))
    return {**asdict(found), "lines": lines}


def as_table(found: Found) -> str:
    """A table, and in words what is in it and what is not."""
    head = ["switch", "instead of", "images/s", "gain", "worth it", "critic's loss", "generator's loss", "inside"]
    rows = [_row(line, line.speed, line.losses) for line in found.lines if line.speed and line.losses]
    said = [
        f"{found.machine}; batches of {found.batch_size}, in {found.precision} where that is not what is switched. "
        f"Without a switch → with it. Gain: the median of {ROUNDS} rounds, and all of them but the lowest and the "
        f"highest; worth it from {WORTH:.0%} on. Losses: in the last quarter of {found.steps} steps on {found.images}, "
        f"the mean of {found.seeds} seeds, and how far the seeds are apart without the switch; inside: whether the "
        "switch moves both no further than that."
    ]
    said += [f"{line.switch}: {note}." for line in found.lines for note in line.notes]
    said += [f"{line.switch} was not measured: {line.why_not}." for line in found.lines if line.why_not]
    return "\n".join([markdown_table(head, rows) if rows else "", *said]).lstrip("\n")


def _row(line: Line, speed: Speed, losses: dict[str, Loss]) -> list[str]:
    def cell(side: str) -> str:
        if side not in losses:
            return "–"
        loss = losses[side]
        return f"{loss.off:.4g} → {loss.on:.4g} ({loss.spread:.2g})"

    return [
        f"{line.field}={line.on}",
        line.off,
        f"{speed.off:,.4g} → {speed.on:,.4g}",
        f"{speed.gain:+.1%} ({speed.gain_from:+.1%} to {speed.gain_to:+.1%})",
        speed.worth_it,
        cell("critic"),
        cell("generator"),
        "yes" if line.inside else "no",
    ]
