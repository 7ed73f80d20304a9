"""What ``distgan bench gpu`` measures: sections of measurements, and the process that makes those of one section.

``python -m distgan.bench.measurements SECTION FOLDER OUT`` writes what it finds into ``FOLDER/SECTION.jsonl``, line by
line as it finds it, so that nothing is lost when it ends with a crash. Called again, it goes on after the measurement
that it ended in.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist

import distgan
from distgan.bench.speed import ROUNDS, bench_step, peak_memory
from distgan.bench.textbook import BATCH, DCGANTutorial
from distgan.checkpoint import Checkpoint, checkpoints
from distgan.devices import local_device
from distgan.evaluation import pictures
from distgan.launch.torchrun import GROUP
from distgan.networks import ImageShape, build_networks, convolutions
from distgan.networks.normalisation import SyncBatchNorm, synchronise
from distgan.objectives import Batch
from distgan.products import has_tf32
from distgan.sampling import save_grid
from distgan.spec import RunSpec, Switch, load_spec
from distgan.tracking import read_metrics
from distgan.tracking.commit import commit_of_distgan
from distgan.training.graphs import WARM_UP
from distgan.training.learner import Learner
from distgan.training.workers import Workers
from jobs import recipes
from shards.images import Transform
from shards.sources import open_source
from shards.synth import synthesize
from shards.writer import pack

CHECKOUT = Path(distgan.__file__).parents[1]
TESTS = CHECKOUT / "tests"
GOOD = "as it should be"
"""The column of a row that says whether what was found is right; rows that only say what there is have none."""
DEVICE_ERROR = 3
"""The exit status of a process whose device can compute no more, as after an error in a kernel."""
FACES = 2048
"""Invented, to train on."""
CUT_AT = 300
"""Letters of a message that a row shows; the log has all of it."""

Row = dict[str, Any]
Measurement = Callable[[], Iterator[Row]]


class Place(NamedTuple):
    """Where measurements leave things.

    Attributes:
        folder: What is thrown away in the end; measurements of one section find there what those before them left.
        out: What is kept.
        small: Whether to do little, to see on a CPU that all of this works.
    """

    folder: Path
    out: Path
    small: bool


class Section(NamedTuple):
    """Measurements of one kind.

    Attributes:
        title: For people.
        seconds: It is ended after so many.
        each: A single measurement is ended after so many.
        measurements: Them, by name, in the order in which they are made.
    """

    title: str
    seconds: float
    each: float
    measurements: Callable[[Place], dict[str, Measurement]]


# The machine


def _facts(place: Place) -> dict[str, Measurement]:
    def software() -> Iterator[Row]:
        on_gpu = local_device().type == "cuda"
        found = {
            "Python": platform.python_version(),
            "system": platform.platform(),
            "distgan's commit": commit_of_distgan() or "not known",
            "torch": torch.__version__,
            "CUDA": torch.version.cuda or "none",
            "cuDNN": torch.backends.cudnn.version() if on_gpu else "none",  # type: ignore[no-untyped-call]
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else "none",  # type: ignore[no-untyped-call]
            "TF32 in convolutions of float32": torch.backends.cudnn.allow_tf32,
            "TF32 in matrix products of float32": torch.backends.cuda.matmul.allow_tf32,
            "cores": os.cpu_count(),
            "cores that this may use": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else "not known",
            "threads of torch": torch.get_num_threads(),
        }
        yield from ({"what": name, "found": value} for name, value in found.items())

    def gpus() -> Iterator[Row]:
        yield {"what": "GPUs", "found": torch.cuda.device_count()}
        for number in range(torch.cuda.device_count()):
            of = torch.cuda.get_device_properties(number)
            text = f"{of.name}, {of.total_memory / 2**30:.1f} GiB, capability {of.major}.{of.minor}"
            yield {"what": f"GPU {number}", "found": f"{text}, {of.multi_processor_count} multiprocessors"}

    def driver() -> Iterator[Row]:
        asked = "driver_version,power.limit,clocks.max.sm,memory.used"
        done = subprocess.run(  # noqa: S603
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv"],  # noqa: S607
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        names, *lines = (line.split(", ") for line in done.stdout.splitlines())
        for values in lines:
            yield from ({"what": name, "found": value} for name, value in zip(names, values, strict=True))

    on_gpu = local_device().type == "cuda"
    return {"software": software, "GPUs": gpus, **({"driver": driver} if on_gpu else {})}


# The tests for GPUs


def _tests(place: Place) -> dict[str, Measurement]:
    def run(path: Path) -> Iterator[Row]:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider", "-vv"]
        own = {"COLUMNS": "1000", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # no line broken, nothing of others
        with _output_of([*command, "-rs", "--tb=short", str(path)], cwd=CHECKOUT, more=own) as lines:
            count = 0
            for line in lines:
                if found := re.match(r"(\S+\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED)", line):
                    may_skip = "needs two GPUs" in line or local_device().type == "cpu"
                    good = found[2] == "PASSED" or (found[2] == "SKIPPED" and may_skip)
                    yield {"test": found[1].removeprefix("tests/"), "result": found[2].lower(), GOOD: good}
                    count += 1
        if not count:
            raise RuntimeError("pytest has run none: the log says why")

    files = [path for path in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text("utf-8")]
    return {path.relative_to(TESTS).as_posix(): functools.partial(run, path) for path in files}


# Training speed


def _recipe(place: Place, name: str, kind: str, batch: int | None = None) -> Iterator[Row]:
    """A recipe's steps, with its own batch or another."""
    changes = [*_little(place), f"training.precision={kind}"]
    if batch:
        changes.append(f"training.batch_size={batch}")
    _begin_anew()
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


def _untried(place: Place) -> dict[str, Measurement]:
    """What training would be if cuDNN were taken at its word as to which algorithm is fastest: to try all takes time.

    And if convolutions went the ways that they go on a CPU, besides. In a process of its own: cuDNN stays with the
    algorithm that a shape has had first.
    """
    untried = "distgan.training.precision.convolutions_of_fixed_shapes"

    def measure(name: str, devices: set[str]) -> Iterator[Row]:
        with mock.patch(untried, contextlib.nullcontext), mock.patch.object(convolutions, "DEVICES", devices):
            for row in _recipe(place, name, "auto"):
                yield {"what": row.pop("what"), "a CPU's ways": local_device().type in devices, **row}

    ways = {"": convolutions.DEVICES, ", convolutions as on a CPU": {"cpu", "cuda"}}
    return {
        f"{name}{way}": functools.partial(measure, name, devices)
        for way, devices in ways.items()
        for name in ("dcgan64", "wgan_gp64")
    }


def _speed(place: Place) -> dict[str, Measurement]:
    seconds = _round_seconds(place)

    def textbook(batch: int) -> Iterator[Row]:
        device = local_device()
        _begin_anew()
        spec = load_spec("dcgan64", _little(place))
        image = ImageShape.of(spec, 3)
        loop = DCGANTutorial(spec, image, device)
        real = torch.rand(batch, 3, image.size, image.size, device=device) * 2 - 1
        once = _seconds(lambda: loop.step(real), 1, rounds=2)  # warm from here on
        repeats = max(1, round(seconds / once))
        found = batch / _seconds(lambda: loop.step(real), repeats, 1 if place.small else ROUNDS)
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


# What switches change


def _switches(place: Place) -> dict[str, Measurement]:
    """The same steps as their operations are written, with CUDA graphs, with torch.compile and with both."""
    here, count = local_device(), 2 * WARM_UP  # the last of so many steps are replayed

    @functools.cache
    def ready(name: str, changes: tuple[str, ...]) -> tuple[Learner, Batch, list[float], float]:
        """A learner that has taken some steps; the critic's losses in them, and seconds."""
        began = time.perf_counter()
        spec = load_spec(name, [*_little(place), *changes])
        learner = Learner(spec, ImageShape.of(spec, 3), Workers.alone(here))
        real = _batch(learner, torch.Generator().manual_seed(0))
        losses = [_step(learner, real).item() for _ in range(count)]
        return learner, real, losses, time.perf_counter() - began

    def measured(name: str, changes: tuple[str, ...], graphs: Switch, compiled: Switch) -> Iterator[Row]:
        _begin_anew()
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
            "ms a step": 1e3 * _seconds(lambda: _step(learner, real), repeats, rounds),
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


def _is_small(spec: RunSpec) -> bool:
    """Whether a run's own batch is too small to keep a large GPU busy."""
    return not spec.training.stages and spec.data.image_size <= 64 and spec.training.batch_size <= 128


# The same numbers everywhere


class _How(NamedTuple):
    """How steps are computed."""

    device: str
    precision: str
    deterministic: bool = False
    take: int = 0  # so that the same is computed again
    graphs: Switch = "auto"
    compile: Switch = "off"


def _equality(place: Place) -> dict[str, Measurement]:
    here = local_device().type
    steps, batch = (3, 4) if place.small else (20, 16)

    @functools.cache
    def losses(name: str, how: _How) -> torch.Tensor:
        """Losses of the critic's last update and of the generator, float64 (steps, 2)."""
        changes = [*_little(place), f"training.precision={how.precision}", f"training.batch_size={batch}"]
        changes += [f"training.graphs={how.graphs}", f"training.compile={how.compile}"]
        spec, device = load_spec(name, changes), torch.device(how.device)
        before = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = how.deterministic
        try:
            learner, found = Learner(spec, ImageShape.of(spec, 3), Workers.alone(device)), []
            random = torch.Generator().manual_seed(0)
            for _ in range(steps):
                for repeat in range(spec.objective.n_critic):
                    real = _batch(learner, random)
                    critic = learner.update_critic(real, repeat).value
                generator = learner.update_generator(real)
                assert generator is not None
                found.append(torch.stack([critic, generator.value]).detach().double())
            return torch.stack(found).cpu()
        finally:
            torch.backends.cudnn.deterministic = before

    def compare(
        name: str, what: str, one: _How, other: _How, first_within: float | None, all_within: float | None
    ) -> Iterator[Row]:
        """How far losses are apart, as a share of 1 + their size."""
        ours, theirs = losses(name, one), losses(name, other)
        apart = (ours - theirs).abs() / (1 + theirs.abs())
        differing = (ours != theirs).any(1).nonzero().flatten().tolist()
        # Five updates of wgan_gp64's critic come before its generator's first loss.
        first_within, all_within = (
            limit and limit * (5 if name == "wgan_gp64" else 1) for limit in (first_within, all_within)
        )
        first, most = apart[0].max().item(), apart.max().item()
        wanted = [(first, first_within), (most, all_within)]
        yield {
            "recipe": name,
            "what": what,
            "steps": steps,
            "bit for bit": "yes" if not differing else f"until step {differing[0]}",
            "apart at the first step": first,
            "may be": first_within,
            "apart at most": most,
            "may be at most": all_within,
            "last losses": ", ".join(f"{value:.4g}" for value in ours[-1].tolist()),
            **({} if first_within is None else {GOOD: all(a <= limit for a, limit in wanted if limit is not None)}),
        }

    # Rounding grows: in ten steps of dcgan64 a CPU's losses in float32 leave those in float64 by 1e-6, then 1e-3, then
    # 1e-2. So in float32 the first step alone can be wrong, and the CPU's own distance says what is usual later.
    coarse = "tfloat32" if has_tf32(local_device()) else "float32"
    found: dict[str, Measurement] = {}
    for name in ("dcgan64", "wgan_gp64"):
        for what, *arguments in (
            ("float64, GPU and CPU", _How(here, "float64"), _How("cpu", "float64", take=1), 1e-9, 1e-5),
            ("float32 and float64, CPU", _How("cpu", "float32", take=1), _How("cpu", "float64", take=1), 1e-3, None),
            ("float32, GPU and CPU", _How(here, "float32"), _How("cpu", "float32", take=1), 1e-3, None),
            (
                f"{coarse} on GPU, float32 on CPU",
                _How(here, coarse),
                _How("cpu", "float32", take=1),
                1e-2,
                None,
            ),
            ("float32, GPU twice", _How(here, "float32"), _How(here, "float32", take=2), None, None),
            (
                "float32, GPU twice, deterministic cuDNN",
                _How(here, "float32", deterministic=True),
                _How(here, "float32", deterministic=True, take=2),
                None,
                None,
            ),
            ("bfloat16 and float32, GPU", _How(here, "bfloat16"), _How(here, "float32"), 1e-1, None),
            (
                "float32, with CUDA graphs and without, deterministic cuDNN",
                _How(here, "float32", deterministic=True),
                _How(here, "float32", deterministic=True, graphs="off"),
                0.0,
                0.0,
            ),
        ):
            found[f"{name}, {what}"] = functools.partial(compare, name, what, *arguments)
    return found


def _batch(learner: Learner, random: torch.Generator) -> Batch:
    """A batch of random images that is the same on any device."""
    shape = (learner.slots, learner.image.channels, learner.stage.size, learner.stage.size)
    images = torch.rand(shape, generator=random, dtype=torch.float64) * 2 - 1
    there = images.to(learner.precision.device, learner.precision.dtype).to(memory_format=torch.channels_last)
    return Batch(there, there.new_zeros(len(there), 0))


# A whole run


def _run(place: Place) -> dict[str, Measurement]:
    small, log_every, steps, at = place.small, *((1, 6, 3) if place.small else (50, 600, 300))
    batch = 8 if small else 128
    if small:
        pictures.PATCHES = 512  # which scores take most of their time for

    def spec() -> RunSpec:
        return load_spec(
            "dcgan64",
            [
                *_shards(place),
                *_little(place),
                f"training.batch_size={batch}",
                f"training.images={steps * batch}",
                f"training.checkpoint_every_images={steps * batch // 3}",
                f"evaluation.every_images={steps * batch // 2}",
                f"evaluation.count={16 if small else 256}",
                "evaluation.metrics=[wasserstein]",
                "evaluation.features=none",
                f"tracking.log_every={log_every}",
                f"tracking.sample_every_images={steps * batch}",
                "tracking.sample_count=16",
                "tracking.wandb.mode=disabled",
            ],
        )

    def whole(name: str) -> Iterator[Row]:
        began = time.perf_counter()
        trained = distgan.train(spec(), out=place.folder / name, console=False)
        yield {"what": "seconds from begin to end", "found": time.perf_counter() - began}
        yield {"what": "ended", "found": trained.ended, GOOD: trained.ended == "finished" and trained.step == steps}
        lines = list(read_metrics(trained.run))
        for key in ("time/images_per_second", "time/data_wait"):
            yield {"what": f"{key}, median of {len(lines)} lines", "found": median(line[key] for line in lines)}
        last = lines[-1]
        shown = ("loss/", "score/", "gpu/", "diversity", "grad_norm/")
        yield from ({"what": key, "found": value} for key, value in last.items() if key.startswith(shown))
        scored = sum(any(key.startswith("score/") for key in line) for line in lines)
        yield {"what": "evaluations", "found": scored, GOOD: scored == 2}

    def resumed() -> Iterator[Row]:
        run = place.folder / "resumed"
        first = distgan.train(spec(), out=run, console=False, on_log=lambda step, figures: step < at)
        yield {"what": "stopped at step", "found": first.step, GOOD: at <= first.step < steps}
        last = distgan.train(spec(), out=run, resume=True, console=False)
        yield {"what": "resumed, ended at step", "found": last.step, GOOD: last.step == steps}
        yield from apart(run, "uninterrupted and resumed", must=local_device().type == "cpu")

    def again() -> Iterator[Row]:
        distgan.train(spec(), out=place.folder / "again", console=False)
        yield from apart(place.folder / "again", "uninterrupted, twice", must=local_device().type == "cpu")

    def apart(run: Path, what: str, *, must: bool) -> Iterator[Row]:
        """How far a run's end is from the uninterrupted one's; whether on this device it must be the same."""
        ours, theirs = (_figures(each) for each in (place.folder / "whole", run))
        differing = [line["step"] for line, other in zip(ours, theirs, strict=True) if line != other]
        ends = [Checkpoint(checkpoints(each)[-1]).tensors("generator") for each in (place.folder / "whole", run)]
        most = max((ends[0][name].double() - ends[1][name].double()).abs().max().item() for name in ends[0])
        size = max(tensor.double().abs().max().item() for tensor in ends[0].values())
        same = most == 0 and not differing
        yield {"what": f"{what}: bit for bit", "found": same, **({GOOD: same} if must else {})}
        yield {"what": f"{what}: first line that differs, step", "found": differing[0] if differing else "none"}
        yield {"what": f"{what}: weights apart at most (of {size:.3g})", "found": most}

    def picture() -> Iterator[Row]:
        generator = distgan.load(place.folder / "whole")
        images, again = (generator.sample(64, seed=7) for _ in range(2))
        save_grid(list(images), place.out / "sample.png")
        yield {"what": "the same seed, the same 64 images", "found": bool((images == again).all())}

    return {
        "shards": functools.partial(_draw, place),
        "whole run": functools.partial(whole, "whole"),
        "stop and resume": resumed,
        "the same run again": again,
        "picture": picture,
    }


def _figures(run: Path) -> list[dict[str, float]]:
    """A run's figures, but for those of the clock and of memory."""
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "gpu/"))} for line in read_metrics(run)]


# Too little memory


def _memory(place: Place) -> dict[str, Measurement]:
    def too_large(what: str, before: str, *changes: str) -> Iterator[Row]:
        arguments = [
            "train", "dcgan64", "--out", str(place.folder / what.replace(" ", "-")), *_shards(place), *changes,
            "data.where={split: all}", "training.images=100_000", "tracking.wandb.mode=disabled",
        ]  # fmt: skip
        program = f"import sys; {before}; from distgan.cli import main; sys.argv[1:] = {arguments!r}; main()"
        with _output_of([sys.executable, "-c", program], needed=None) as lines:
            output = [line for line in lines if line.strip()]
        text = "\n".join(output)
        first = next((number for number, line in enumerate(output) if line.startswith("error:")), len(output) - 1)
        yield {
            "what": what,
            "exit status": lines.status,
            "said": " ".join(output[first:])[:CUT_AT] if output else "nothing",
            "traceback": "yes" if "Traceback" in text else "no",
            GOOD: lines.status == 1 and "Traceback" not in text and "memory" in text,
        }

    if local_device().type == "cuda":
        ways = [
            ("torch may have 1 GiB", f"torch.cuda.set_per_process_memory_fraction({_share_of_a_gib()})"),
            (
                "1 GiB is free",
                "filler = torch.empty(torch.cuda.mem_get_info()[0] - 2**30, dtype=torch.uint8, device=0)",
            ),
        ]
        batch = f"training.batch_size={FACES}"
        return {what: functools.partial(too_large, what, f"import torch; {how}", batch) for what, how in ways}
    what = "20 GiB of addresses"
    before = "import resource; resource.setrlimit(resource.RLIMIT_AS, (20 << 30, 20 << 30))"
    wide = ("data.image_size=32", "model.generator.width=8192", "training.batch_size=4")  # a layer of 32 GiB
    return {what: functools.partial(too_large, what, before, *wide)}


def _share_of_a_gib() -> float:
    return min(1.0, float(2**30 / torch.cuda.get_device_properties(0).total_memory))


# Several processes


def _processes(place: Place) -> dict[str, Measurement]:
    on_gpu, steps = local_device().type == "cuda", 3 if place.small else 60

    def train(processes: int) -> Iterator[Row]:
        run, batch = place.folder / f"torchrun-{processes}", 8 if place.small else 128
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
            "-m", "distgan", "train", "dcgan64", "--out", str(run),
            *_shards(place), *_little(place), f"training.batch_size={batch}",
            f"training.images={steps * batch}", "tracking.log_every=1", "tracking.wandb.mode=disabled",
            "training.precision=float32",
        ]  # fmt: skip
        with _output_of(command) as lines:
            list(lines)
        found = list(read_metrics(run))
        yield {
            "what": f"{processes} processes of torchrun",
            "found": f"step {found[-1]['step']}, loss/critic {found[-1]['loss/critic']:.6g}",
            GOOD: found[-1]["step"] == steps,
        }

    def sync_batch_norm() -> Iterator[Row]:
        device = local_device()
        address = f"file://{place.folder / 'group'}"
        dist.init_process_group(GROUP if on_gpu else "gloo", init_method=address, rank=0, world_size=1)
        try:
            whole = torch.full((4,), 3.0, device=device)
            dist.all_reduce(whole)
            yield {"what": "all-reduce among one", "found": whole[0].item(), GOOD: whole.tolist() == [3.0] * 4}
            maps, found = torch.randn(16, 8, 4, 4, dtype=torch.float64, device=device), []
            for kind in (torch.nn.BatchNorm2d, SyncBatchNorm):  # torch's own asks nobody where there is one process
                layer = kind(8).to(device, torch.float64)
                given = maps.clone().requires_grad_()
                layer(given).pow(3).sum().backward()
                assert given.grad is not None
                found.append(given.grad)
            apart = ((found[0] - found[1]).abs().max() / found[0].abs().max()).item()
            yield {"what": "distgan's SyncBatchNorm among one: gradients apart", "found": apart, GOOD: apart < 1e-9}
            spec, drawn = load_spec("dcgan64", _little(place)), []
            latents = torch.randn(16, spec.model.latent_dim, generator=torch.Generator().manual_seed(0))
            for synchronised in (False, True):
                generator, _ = build_networks(spec.model, ImageShape.of(spec, 3), 0)
                network: torch.nn.Module = generator.to(device, torch.float64)
                if synchronised:
                    network = torch.nn.parallel.DistributedDataParallel(synchronise(network))
                images = network(latents.to(device, torch.float64))
                images.square().mean().backward()
                gradient = next(network.parameters()).grad
                assert gradient is not None
                drawn.append((images.detach().cpu(), gradient.cpu()))
            for what, one, other in zip(("images", "gradients"), *drawn, strict=True):
                apart = ((one - other).abs().max() / one.abs().max()).item()
                yield {
                    "what": f"a generator synchronised, under DDP, among one: {what} apart",
                    "found": apart,
                    GOOD: apart < 1e-9,
                }
        finally:
            dist.destroy_process_group()

    several = [2] if not on_gpu or torch.cuda.device_count() > 1 else []
    return {
        "SyncBatchNorm": sync_batch_norm,
        **{f"torchrun, {processes}": functools.partial(train, processes) for processes in (1, *several)},
    }


# Where the time goes


def _profile(place: Place) -> dict[str, Measurement]:
    device, steps = local_device(), 2 if place.small else 20
    on_gpu = device.type == "cuda"

    def ready(name: str, batch: int) -> tuple[Callable[[int], None], Learner]:
        _begin_anew()
        changes = [*_little(place), f"training.batch_size={batch}"]
        spec = load_spec(name, changes)
        learner = Learner(spec, ImageShape.of(spec, 3), Workers.alone(device))
        real = _batch(learner, torch.Generator().manual_seed(0))

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
        alone = _seconds(lambda: take(steps), 1, rounds=3) / steps
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
            *_shards(place), *_little(place), f"training.batch_size={batch}",
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


# What several need


def _little(place: Place) -> list[str]:
    """Changes that make a run of R2 or R5 small enough to try all this on a CPU."""
    small = ["data.image_size=32", "model.generator.width=4", "model.critic.width=4", "training.batch_size=4"]
    return [*small, "training.precision=float32"] if place.small else []


def _shards(place: Place) -> list[str]:
    """A change that names shards of invented faces, which are made where there are none yet."""
    packed = place.folder / "shards"
    if not (packed / "index.json").exists():
        for _ in _draw(place):
            pass
    return [f"data.shards={json.dumps(str(packed))}"]


def _draw(place: Place) -> Iterator[Row]:
    """Invent faces and pack them; how fast."""
    drawn, count, size = place.folder / "faces", *((64, 32) if place.small else (FACES, 64))
    workers = 1 if place.small else None
    began = time.perf_counter()
    synthesize(drawn, count, 0, workers=workers)
    yield {"what": "faces drawn a second", "found": count / (time.perf_counter() - began)}
    began = time.perf_counter()
    transform = Transform(size=size, channels=3)
    pack(open_source(drawn, "celeba"), place.folder / "shards", transform, workers=workers)
    yield {"what": "faces packed a second", "found": count / (time.perf_counter() - began)}


def _begin_anew() -> None:
    """Give back what the last measurement has left on the GPU, and count its memory from zero."""
    gc.collect()
    if local_device().type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _seconds(work: Callable[[], object], repeats: int, rounds: int) -> float:
    """Seconds that some work takes: the median of several rounds of so many repeats."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        if local_device().type == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - began) / repeats)
    return median(found)


class _Lines:
    """The lines of a process, as they come; then its exit status."""

    status: int | None = None

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            sys.stdout.write(line)  # into the log
            self.last = line.strip() or self.last
            yield line.rstrip("\n")


@contextlib.contextmanager
def _output_of(
    command: Sequence[str], *, cwd: Path | None = None, needed: int | None = 0, more: Mapping[str, str] | None = None
) -> Iterator[_Lines]:
    """Run a command, with more variables around it; its output goes into the log too.

    Raises:
        RuntimeError: It ended with another status than is needed.
    """
    with subprocess.Popen(  # noqa: S603
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        env={**os.environ, **(more or {})},
    ) as process:
        lines = _Lines(process)
        try:
            yield lines
            lines.status = process.wait()
        finally:
            process.kill()
    if needed is not None and lines.status != needed:
        raise RuntimeError(f"exit status {lines.status}: {lines.last}")


SECTIONS: Mapping[str, Section] = {
    "facts": Section("The machine", 60, 30, _facts),
    "untried": Section("Training steps, images a second, with cuDNN's algorithms untried", 50, 20, _untried),
    "tests": Section("Tests for GPUs", 120, 90, _tests),
    "speed": Section("Training steps, images a second", 150, 60, _speed),
    "equality": Section("The same steps, computed elsewhere, again and in other precisions", 80, 60, _equality),
    "switches": Section("A step with CUDA graphs and torch.compile, and without", 100, 60, _switches),
    "run": Section("A whole run from shards", 100, 60, _run),
    "memory": Section("Too little memory", 60, 40, _memory),
    "processes": Section("Several processes", 70, 40, _processes),
    "profile": Section("Where a step's time goes", 80, 40, _profile),
}
"""The most valuable first: the last ones are lost when time runs out."""


def main(name: str, folder: str, out: str, *options: str) -> None:
    """Make the measurements of a section that have not been begun yet, and write down what they find."""
    place, section = Place(Path(folder), Path(out), "small" in options), SECTIONS[name]
    record = place.folder / f"{name}.jsonl"
    begun = {line["began"] for line in read_record(record) if "began" in line}
    torn = record.exists() and not record.read_bytes().endswith(b"\n")  # by the end of the last process
    with record.open("a", encoding="utf-8") as file:
        file.write("\n" * torn)

        def note(**line: Any) -> None:
            file.write(json.dumps(line, default=str) + "\n")
            file.flush()

        measurements = section.measurements(place)
        if not begun:
            note(planned=list(measurements))
        for what, measurement in measurements.items():
            if what in begun:
                continue
            sys.stdout.write(f"--- {name}: {what}\n")
            sys.stdout.flush()
            note(began=what)
            began = time.perf_counter()
            faulthandler.dump_traceback_later(section.each, exit=True)
            try:
                for row in measurement():
                    note(of=what, row=row)
            except Exception as error:
                traceback.print_exc()
                note(failed=what, error=f"{type(error).__name__}: {error}"[:CUT_AT])
                if "CUDA error" in str(error):  # every later call would fail as this one did
                    sys.exit(DEVICE_ERROR)
            else:
                note(ended=what, seconds=time.perf_counter() - began)
            finally:
                faulthandler.cancel_dump_traceback_later()


def read_record(path: Path) -> list[dict[str, Any]]:
    """The lines that a section's process has written; a last one that it could not end is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text("utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main(*sys.argv[1:])
