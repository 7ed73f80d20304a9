"""What CUDA graphs and torch.compile change."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import torch

from distgan.bench.sections.base import GOOD, Measurement, Place, Row, begin_anew, little, seconds_of, seeded_batch
from distgan.devices import local_device
from distgan.networks import ImageShape
from distgan.objectives import Batch
from distgan.spec import Switch, load_spec
from distgan.training.graphs import WARM_UP
from distgan.training.learner import Learner
from distgan.training.workers import Workers


def measurements(place: Place) -> dict[str, Measurement]:
    """The same steps as their operations are written, with CUDA graphs, with torch.compile and with both."""
    here, count = local_device(), 2 * WARM_UP  # the last of so many steps are replayed

    @functools.cache
    def ready(name: str, changes: tuple[str, ...]) -> tuple[Learner, Batch, list[float], float]:
        """A learner that has taken some steps; the critic's losses in them, and seconds."""
        began = time.perf_counter()
        spec = load_spec(name, [*little(place), *changes])
        learner = Learner(spec, ImageShape.of(spec, 3), Workers.alone(here))
        real = seeded_batch(learner, torch.Generator().manual_seed(0))
        losses = [_step(learner, real).item() for _ in range(count)]
        return learner, real, losses, time.perf_counter() - began

    def measured(name: str, changes: tuple[str, ...], graphs: Switch, compiled: Switch) -> Iterator[Row]:
        begin_anew()
        switched = (*changes, f"training.graphs={graphs}", f"training.compile={compiled}")
        *_, plain, _ = ready(name, (*changes, "training.graphs=off", "training.compile=off"))
        learner, real, losses, seconds = ready(name, switched)
        apart = [abs(one - other) / (1 + abs(other)) for one, other in zip(losses, plain, strict=True)]
        told = learner.news()
        repeats, rounds = (1, 2) if place.small else (10, 7)
        yield {
            "what": name,
            "changes": ", ".join(changes) or "none",
            "graphs": graphs,
            "compile": compiled,
            "seconds until ready": seconds,
            "said": " ".join(told) or "nothing",
            "losses apart at the first step": apart[0],
            f"after {count} steps": apart[-1],
            "ms a step": 1e3 * seconds_of(lambda: _step(learner, real), repeats, rounds),
            GOOD: apart[0] < 1e-2 and apart[-1] < 0.1 and not any("captured" in sentence for sentence in told),
        }

    on: Switch = "on" if here.type == "cuda" else "auto"
    ways: list[tuple[Switch, Switch]] = [("off", "off"), (on, "off")]
    chosen: list[tuple[str, tuple[str, ...], list[tuple[Switch, Switch]]]] = [("dcgan64", (), ways)]
    if not place.small:
        chosen += [("dcgan64", ("training.precision=float32",), ways)]
        chosen += [(name, (), ways) for name in ("demo", "wgan_gp64", "sngan64", "r3gan64")]
        chosen += [("dcgan64", (), [("off", "on"), (on, "on")])]  # which takes its time
    return {
        f"{', '.join((name, *changes))}, graphs {graphs}, compile {compiled}": functools.partial(
            measured, name, changes, graphs, compiled
        )
        for name, changes, all_ways in chosen
        for graphs, compiled in all_ways
    }


def _step(learner: Learner, real: Batch) -> torch.Tensor:
    """A step on one batch; the critic's last loss."""
    for repeat in range(learner.stage.n_critic):
        loss = learner.update_critic(real, repeat).value
    learner.update_generator(real)
    return loss
