"""Where a step's time goes."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

import distgan
from distgan.bench.sections.base import (
    CHECKOUT,
    GOOD,
    Measurement,
    Place,
    Row,
    begin_anew,
    little,
    seconds_of,
    seeded_batch,
    shards_of,
)
from distgan.devices import local_device
from distgan.networks import ImageShape
from distgan.spec import load_spec
from distgan.training.graphs import WARM_UP
from distgan.training.learner import Learner
from distgan.training.workers import Workers


def measurements(place: Place) -> dict[str, Measurement]:
    """A step under torch's profiler, and what waits for the device."""
    device, steps = local_device(), 2 if place.small else 20
    on_gpu = device.type == "cuda"

    def ready(name: str, batch: int) -> tuple[Callable[[int], None], Learner]:
        begin_anew()
        changes = [*little(place), f"training.batch_size={batch}"]
        spec = load_spec(name, changes)
        learner = Learner(spec, ImageShape.of(spec, 3), Workers.alone(device))
        real = seeded_batch(learner, torch.Generator().manual_seed(0))

        def take(count: int) -> None:
            for _ in range(count):
                for repeat in range(spec.objective.n_critic):
                    learner.update_critic(real, repeat)
                learner.update_generator(real)
            if on_gpu:
                torch.cuda.synchronize()

        take(WARM_UP + 2)  # a graph is captured by then
        return take, learner

    def step(name: str, batch: int) -> Iterator[Row]:
        from torch.autograd.profiler_util import DeviceType  # type: ignore[attr-defined]
        from torch.profiler import ProfilerActivity, profile

        take, learner = ready(name, batch)
        alone = seconds_of(lambda: take(steps), 1, rounds=3) / steps
        where = {"recipe": name, "batch": batch, "precision": learner.precision.name}
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=activities) as profiled:
            take(steps)
        events = profiled.events() or []
        kernels = [
            each
            for each in events
            if each.device_type == DeviceType.CUDA and not getattr(each, "is_user_annotation", False)
        ]
        yield {**where, "what": "milliseconds a step, without the profiler", "found": 1e3 * alone}
        if on_gpu:
            busy = _covered([(each.time_range.start, each.time_range.end) for each in kernels]) / 1e6
            span = max(each.time_range.end for each in kernels) - min(each.time_range.start for each in kernels)
            yield {**where, "what": "milliseconds a step that the GPU is busy", "found": 1e3 * busy / steps}
            yield {**where, "what": "share of the time, without the profiler", "found": busy / steps / alone}
            yield {**where, "what": "share of the time, under the profiler", "found": 1e6 * busy / span}
        calls = Counter(each.name for each in events if each.device_type == DeviceType.CPU)
        launches = sum(count for name, count in calls.items() if re.match("cu(da)?LaunchKernel", name))
        yield {**where, "what": "kernel launches a step", "found": launches / steps}
        for call in ("cudaStreamSynchronize", "cudaEventSynchronize"):
            yield {**where, "what": f"{call}, in {steps} steps", "found": calls[call], GOOD: calls[call] == 0}
        for call in ("aten::item", "aten::_local_scalar_dense"):  # of Adam's counters, too, which lie on the CPU
            yield {**where, "what": f"{call}, in {steps} steps", "found": calls[call]}
        spent: Counter[str] = Counter()
        for each in kernels or [each for each in events if each.self_cpu_time_total]:
            spent[each.name] += each.time_range.elapsed_us() if on_gpu else each.self_cpu_time_total
        times = Counter(each.name for each in (kernels if on_gpu else events))
        for place_of, (kernel, microseconds) in enumerate(spent.most_common(10), 1):
            found = f"{microseconds / 1e3 / steps:.3f} ms a step, {microseconds / spent.total():.1%}, "
            yield {**where, "what": f"{place_of}. {kernel[:120]}", "found": f"{found}{times[kernel] / steps:g} times"}

    def waits(name: str, batch: int) -> Iterator[Row]:
        """Torch's own word on what waits for the device in a step."""
        take, _ = ready(name, batch)
        with _noted_waits() as noted:
            take(5)
        yield from (
            {"recipe": name, "batch": batch, "what": f"waits at {at}", "found": n, GOOD: False} for at, n in noted()
        )
        if not noted():
            yield {"recipe": name, "batch": batch, "what": "waits for the device in 5 steps", "found": 0, GOOD: True}

    def loop() -> Iterator[Row]:
        """The same of the whole loop, with all that it does once in a while."""
        count, batch = (4, 8) if place.small else (100, 128)
        changes = [
            *shards_of(place), *little(place), f"training.batch_size={batch}",
            f"training.images={count * batch}", f"tracking.log_every={count // 2}", "tracking.wandb.mode=disabled",
        ]  # fmt: skip
        with _noted_waits() as noted:
            distgan.train(load_spec("dcgan64", changes), out=place.folder / "watched", console=False)
        where = {"recipe": "dcgan64", "batch": batch}
        found = noted()
        yield {**where, "what": f"the loop, {count} steps: waits for the device", "found": sum(n for _, n in found)}
        yield from ({**where, "what": f"… at {at}", "found": times} for at, times in found)

    large, own = (8, 4) if place.small else (1024, 128)
    return {
        f"dcgan64, batch {large}": functools.partial(step, "dcgan64", large),
        f"dcgan64, batch {own}": functools.partial(step, "dcgan64", own),
        "wgan_gp64": functools.partial(step, "wgan_gp64", 4 if place.small else 64),
        "dcgan64, waits": functools.partial(waits, "dcgan64", own),
        "wgan_gp64, waits": functools.partial(waits, "wgan_gp64", 4 if place.small else 64),
        "the loop, waits": loop,
    }


@contextlib.contextmanager
def _noted_waits() -> Iterator[Callable[[], list[tuple[str, int]]]]:
    """Note where the block waits for a GPU, but for torch.cuda.synchronize: [(file:line, how often)]."""
    on_gpu = local_device().type == "cuda"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: Counter(
                f"{Path(each.filename).as_posix().removeprefix(f'{CHECKOUT.as_posix()}/')}:{each.lineno}"
                for each in caught
                if "synchroniz" in str(each.message)
            ).most_common(15)
        finally:
            if on_gpu:
                torch.cuda.set_sync_debug_mode("default")


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """How much of a line spans cover that may overlap."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
