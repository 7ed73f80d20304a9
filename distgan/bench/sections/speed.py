"""Training speed of the recipes, and of PyTorch's tutorial."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from unittest import mock

import torch

from distgan.bench.sections.base import Measurement, Place, Row, begin_anew, little, seconds_of
from distgan.bench.speed import ROUNDS, bench_step, peak_memory
from distgan.bench.textbook import BATCH, DCGANTutorial
from distgan.devices import local_device
from distgan.networks import ImageShape, convolutions
from distgan.spec import RunSpec, load_spec
from jobs import recipes


def _recipe(place: Place, name: str, kind: str, batch: int | None = None) -> Iterator[Row]:
    """A recipe's steps, with its own batch or another."""
    changes = [*little(place), f"training.precision={kind}"]
    if batch:
        changes.append(f"training.batch_size={batch}")
    begin_anew()
    began = time.perf_counter()
    figures = bench_step(load_spec(name, changes), round_seconds=_round_seconds(place), alone=True)
    yield {
        "what": name,
        "precision": figures["precision"],
        "batch": figures["batch size"],
        **{key: value for key, value in figures.items() if key.startswith("images/s")},
        "peak GiB": figures.get("peak memory, GiB"),
        "seconds to measure": time.perf_counter() - began,
    }


def _round_seconds(place: Place) -> float:
    return 0.01 if place.small else 0.05


def untried(place: Place) -> dict[str, Measurement]:
    """What training would be if cuDNN were taken at its word as to which algorithm is fastest: to try all takes time.

    And if convolutions went the ways that they go on a CPU, besides. In a process of its own: cuDNN stays with the
    algorithm that a shape has had first.
    """
    tried = "distgan.training.precision.convolutions_of_fixed_shapes"

    def measure(name: str, devices: set[str]) -> Iterator[Row]:
        with mock.patch(tried, contextlib.nullcontext), mock.patch.object(convolutions, "DEVICES", devices):
            for row in _recipe(place, name, "auto"):
                yield {"what": row.pop("what"), "a CPU's ways": local_device().type in devices, **row}

    ways = {"": convolutions.DEVICES, ", convolutions as on a CPU": {"cpu", "cuda"}}
    return {
        f"{name}{way}": functools.partial(measure, name, devices)
        for way, devices in ways.items()
        for name in ("dcgan64", "wgan_gp64")
    }


def measurements(place: Place) -> dict[str, Measurement]:
    """PyTorch's tutorial and all recipes, with their own batches and larger ones."""
    seconds = _round_seconds(place)

    def textbook(batch: int) -> Iterator[Row]:
        device = local_device()
        begin_anew()
        spec = load_spec("dcgan64", little(place))
        image = ImageShape.of(spec, 3)
        loop = DCGANTutorial(spec, image, device)
        real = torch.rand(batch, 3, image.size, image.size, device=device) * 2 - 1
        once = seconds_of(lambda: loop.step(real), 1, rounds=2)  # warm from here on
        repeats = max(1, round(seconds / once))
        found = batch / seconds_of(lambda: loop.step(real), repeats, 1 if place.small else ROUNDS)
        peak = peak_memory(device) / 2**30
        yield {
            "what": "PyTorch's tutorial",
            "precision": "float32",
            "batch": batch,
            "images/s": found,
            "peak GiB": peak,
        }

    chosen: list[tuple[str, str, int | None]] = []
    first = [("dcgan64", None), ("dcgan64", None if place.small else 1024), ("wgan_gp64", None)]
    chosen += [(name, kind, batch) for name, batch in first for kind in ("auto", "float32")]
    rest = [] if place.small else [name for name in recipes() if name not in ("dcgan64", "wgan_gp64")]
    chosen += [(name, kind, None) for kind in ("auto", "float32") for name in rest]
    chosen += [(name, "auto", 1024) for name in ["wgan_gp64", *rest] if not place.small and _is_small(load_spec(name))]
    ours = {
        f"{name}, {kind}, {f'batch {batch}' if batch else 'its batch'}": functools.partial(
            _recipe, place, name, kind, batch
        )
        for name, kind, batch in chosen
    }
    batch = 4 if place.small else BATCH
    return {f"PyTorch's tutorial, batch {batch}": functools.partial(textbook, batch), **ours}


def _is_small(spec: RunSpec) -> bool:
    """Whether a run's own batch is too small to keep a large GPU busy."""
    return not spec.training.stages and spec.data.image_size <= 64 and spec.training.batch_size <= 128
