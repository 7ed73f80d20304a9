from __future__ import annotations

import gc
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor

from distgan.checkpoint import checkpoints
from distgan.moving import Numbers, moving
from distgan.networks import ImageShape
from distgan.objectives import Batch, adversarial
from distgan.spec import RunSpec, dump_spec, load_spec
from distgan.tracking import read_metrics
from distgan.training import graphs, precision
from distgan.training.learner import Learner
from distgan.training.loop import train
from distgan.training.workers import Workers
from jobs import recipes
from shards.errors import InputError
from tests.distgan.training.recorded import Recorded

CPU = torch.device("cpu")
STEPS = 8
"""One that is done as it is written, one that is captured, and six replays."""


@pytest.fixture
def recorded(monkeypatch) -> list[Recorded]:
    """Graphs on the processor; the backends of the learners that are made."""
    made: list[Recorded] = []

    def backend(device: torch.device) -> Recorded:
        made.append(Recorded(device))
        return made[-1]

    monkeypatch.setitem(graphs.BACKENDS, "cpu", backend)
    monkeypatch.setattr(graphs, "WARM_UP", 1)
    return made


def hurried(tree: Any, batch: int) -> Any:
    """A specification in which all that moves does so within a few steps, and whose stages last some each."""
    if isinstance(tree, dict):
        if {"base", "final", "images"} == set(tree):
            return {**tree, "images": 12 * batch}
        return {key: hurried(value, batch) for key, value in tree.items()}
    return [hurried(each, batch) for each in tree] if isinstance(tree, list) else tree


def small(name: str, **training: Any) -> RunSpec:
    """A recipe with narrow networks, small batches and, where its networks allow, small images."""
    spec = load_spec(name)
    tree: dict[str, Any] = hurried(spec.model_dump(mode="json"), 4 * spec.objective.n_critic)
    size = min(spec.data.image_size, 64 if "rmsprop" in name else 32)
    if tree["training"]["stages"]:
        size = 16
        stages = [stage for stage in tree["training"]["stages"] if stage["size"] <= size]
        for stage in stages:
            fade = 20 if stage["fade_images"] else 0
            stage.update(batch_size=4, fade_images=fade, images=None if stage is stages[-1] else 40)
        tree["training"]["stages"] = stages
    tree["data"]["image_size"] = size
    for side in ("generator", "critic"):
        options = tree["model"][side]
        options.update(width=4, **{name: 4 for name in ("max_width", "group_width") if name in options})
    tree["training"].update(images=10_000, epochs=None, batch_size=4, graphs="on", **training)
    return RunSpec.model_validate(tree)


def learner(spec: RunSpec, device: torch.device = CPU, **training: Any) -> Learner:
    return Learner(spec.with_training(**training), ImageShape.of(spec, 3), Workers.alone(device))


def take_step(trainee: Learner, number: int) -> list[Tensor]:
    """All that a step leaves."""
    stage, dtype, random = trainee.stage, trainee.precision.dtype, torch.Generator().manual_seed(number)
    left: list[Tensor] = []
    for repeat in range(stage.n_critic):
        images = torch.rand(trainee.slots, 3, stage.size, stage.size, generator=random).to(dtype) * 2 - 1
        images = images.to(trainee.precision.device).contiguous(memory_format=torch.channels_last)
        real = Batch(images, images.new_zeros(len(images), 0))
        loss = trainee.update_critic(real, repeat)
        left += [loss.value, *loss.figures.values(), loss.fake.clone()]
    generator = trainee.update_generator(real)
    left += [generator.value, generator.fake.clone()] if generator else []
    left += trainee.gradient_norms().values()
    return left


def state(trainee: Learner) -> list[Tensor]:
    networks = trainee.generator, trainee.critic, trainee.averaged_generator()
    return [tensor for network in networks for tensor in network.state_dict().values()]


def compare(spec: RunSpec, made: list[Recorded], steps: int = STEPS) -> None:
    """Bit for bit what is computed with graphs and without, in each step."""
    ours, plain = learner(spec), learner(spec, graphs="off")
    for number in range(steps):
        for one, other in zip(take_step(ours, number), take_step(plain, number), strict=True):
            assert torch.equal(one, other.to(one.dtype)), f"step {number}"
    assert ours.news() == []
    assert made[0].replays >= steps - 2
    for one, other in zip(state(ours), state(plain), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes())
def test_a_recipe_s_steps_are_those_without_graphs_bit_for_bit(recorded, name):
    spec = small(name)
    stages = len(spec.timetable.stages)
    compare(spec, recorded, STEPS * stages)


TINY: dict[str, dict[str, Any]] = {
    "noisy labels, micro-batches": {
        "objective": {"kind": "bce", "batches": "one", "label_noise": 0.2},
        "training__accumulate": 2,
    },
    "an augmentation that adapts": {
        "objective": {"kind": "hinge", "r1": 1.0, "n_critic": 2},
        "model__critic__normalisation": "spectral",
        "augmentation": {"colour": True, "translation": 0.125, "cutout": 0.5, "target": 0.1, "speed_images": 100},
    },
    "lazy penalties that come and go, bfloat16": {
        "objective": {
            **{"kind": "relativistic", "penalty_every": 2, "r1": {"base": 2.0, "final": 0.0, "images": 100}},
            "r2": {"base": 0.0, "final": 2.0, "images": 100},
        },
        "model__critic__normalisation": "none",
        "training__precision": "bfloat16",
    },
    "fades, bfloat16": {
        "objective": {"kind": "wasserstein_gp", "n_critic": 2},
        "model__critic__normalisation": "none",
        "training__stages": [{"size": 8, "images": 48}, {"size": 16, "fade_images": 96}],
        "training__precision": "bfloat16",
    },
    "dropout, float64": {
        "objective": {"kind": "least_squares"},
        "model__critic": {"name": "gan_rmsprop", "width": 2, "dropout": 0.4},
        "data__image_size": 64,
        "training__precision": "float64",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_what_no_recipe_has_is_the_same_too(tiny, recorded, name):
    compare(tiny(training__graphs="on", **TINY[name]), recorded, 14)


@pytest.mark.parametrize("name", ["wgan_gp64", "r3gan64", "grow64"])
def test_a_number_that_is_not_written_would_have_shown(recorded, monkeypatch, name):
    monkeypatch.setattr(Numbers, "write", lambda numbers: None)
    with pytest.raises(AssertionError, match="step"):
        compare(small(name), recorded, 3 * STEPS)


def test_each_number_that_moves_counts(tiny, recorded, monkeypatch):
    """Were it the host's in any one place, this would not be the same."""
    spec = tiny(training__graphs="on", **TINY["lazy penalties that come and go, bfloat16"])
    for place in range(2):
        monkeypatch.setattr(adversarial, "moving", _forgetful(place))
        with pytest.raises(AssertionError, match="step"):
            compare(spec, recorded, 14)


def _forgetful(place: int) -> Any:
    calls = itertools.count()

    def moving_but_one(compute: Any, *rest: Any) -> Any:
        return compute() if next(calls) % 2 == place else moving(compute, *rest)

    return moving_but_one


def test_a_run_goes_on_from_a_checkpoint_with_graphs_or_without(tiny, recorded, tmp_path):
    """And one that has been captured captures anew, as moments and seeds are others."""
    spec = tiny(training__graphs="on")
    ours, plain = learner(spec), learner(spec, graphs="off")
    for number in range(4):
        take_step(ours, number)
    checkpoint = ours.snapshot("f", None).write(tmp_path)
    for number in range(4, 8):
        take_step(ours, number)
    for each in (ours, plain):
        each.load(checkpoint)
        each.set_back(1, 4, 0.5)
    for number in range(4, 10):
        for one, other in zip(take_step(ours, number), take_step(plain, number), strict=True):
            assert torch.equal(one, other)
    assert recorded[0].replays == 2 * (2 + 4 + 4)


def test_scalars_are_the_caller_s_own(tiny, recorded):
    """The guard and the loop keep them until later updates are done."""
    trainee, kept = learner(tiny(training__graphs="on")), []
    for number in range(6):
        scalars = [each for each in take_step(trainee, number) if each.dim() == 0]
        kept.append((scalars, [each.item() for each in scalars]))
    for scalars, numbers in kept:
        assert [each.item() for each in scalars] == numbers
    assert len({tuple(numbers) for _, numbers in kept}) == 6


def test_a_whole_run_writes_the_same_down(tiny, recorded, tmp_path):
    """With what the guard, the log lines and the checkpoints make of it, and going on in the middle."""
    changes = {"objective": {"kind": "hinge", "r1": 1.0, "penalty_every": 3}, "model__critic__normalisation": "none"}
    for mode in ("on", "off"):
        spec = tiny(training__graphs=mode, tracking__log_every=3, **changes)
        train(spec, tmp_path / mode, Workers.alone(CPU), console=False)
    lines = [
        [{key: value for key, value in line.items() if not key.startswith("time/")} for line in read_metrics(folder)]
        for folder in (tmp_path / "on", tmp_path / "off")
    ]
    assert lines[0] == lines[1]
    assert recorded
    assert recorded[-1].replays
    ends = [checkpoints(tmp_path / mode)[-1] / "generator_ema.safetensors" for mode in ("on", "off")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


class Uncapturable(Recorded):
    def capture(self, work: Any) -> Any:
        def waiting() -> Any:
            done = work()
            done[1].tolist()
            torch.ones(()).item()
            return done

        return super().capture(waiting)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_what_cannot_be_captured_is_said_in_a_line(tiny, monkeypatch, mode):
    monkeypatch.setitem(graphs.BACKENDS, "cpu", Uncapturable)
    trainee = learner(tiny(training__graphs=mode))
    if mode == "on":
        for number in range(graphs.WARM_UP):
            take_step(trainee, number)
        with pytest.raises(InputError, match=r"^training\.graphs is on, but .*not permitted.*: set it to auto or off$"):
            take_step(trainee, graphs.WARM_UP)
        return
    told = [(take_step(trainee, number), trainee.news())[1] for number in range(graphs.WARM_UP + 2)]
    (line,) = told[graphs.WARM_UP]
    assert "not permitted" in line
    assert "\n" not in line
    assert "training.graphs=off" in line
    assert not any(news for number, news in enumerate(told) if number != graphs.WARM_UP)


def test_where_there_is_no_gpu_nothing_is_captured(tiny, distgan, discs, tmp_path):
    assert learner(tiny())._graphs._backend is None
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_spec(tiny()))
    status, said = distgan("train", path, "--out", tmp_path / "run", "--set", "training.graphs=on")
    assert status == 2
    assert "training.graphs is on, which needs a CUDA device" in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_shared_fakes_have_no_graphs(tiny, recorded):
    changes = {"objective": {"kind": "bce", "share_fakes": True}}
    with pytest.raises(InputError, match=r"objective\.share_fakes"):
        learner(tiny(training__graphs="on", **changes))
    trainee = learner(tiny(**changes))
    for number in range(4):
        take_step(trainee, number)
    assert not recorded


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_yaml_s_on_and_off_are_understood(tmp_path, written, meant):
    spec = load_spec("demo", [f"training.graphs={written}"])
    assert spec.training.graphs == meant
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_spec(spec))
    assert load_spec(path) == spec


class Graph:
    def replay(self) -> None:
        pass


class Driver:
    """What of CUDA graphs a backend meets, with no GPU: torch's rules for pools, and how a capture fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream = self.default = SimpleNamespace(device_index=3)
        self.pools: dict[int, WeakSet[Any]] = {}
        self.left: list[tuple[int, int]] = []
        handles = itertools.count()
        cuda = {
            "Stream": lambda device: SimpleNamespace(device_index=3),
            "current_stream": lambda device: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
            "graph_pool_handle": handles.__next__,
            "CUDAGraph": Graph,
            "graph": self.graph,
        }
        for name, stand_in in cuda.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end, raising=False)

    @contextmanager
    def graph(self, graph: Any, pool: int, stream: Any, capture_error_mode: str) -> Iterator[None]:
        graphs = self.pools.get(pool)
        if graphs is not None and not graphs:  # CUDACachingAllocator.cpp: create_or_incref_pool
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
        self.stream = stream
        try:
            yield
        except Exception:
            raise RuntimeError("operation failed due to a previous error during capture") from None
        self.pools.setdefault(pool, WeakSet()).add(graph)
        self.stream = self.default

    def end(self, device: int, pool: int) -> None:
        self.left.append((device, pool))
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")  # as where torch has done it


@pytest.mark.slow
def test_graphs_share_memory_and_those_after_them_find_some_too(monkeypatch):
    """torch takes no pool again whose graphs are all gone: a run that grows would go on without graphs."""
    driver = Driver(monkeypatch)
    backend = graphs.CUDAGraphs(torch.device("cuda"))
    for stage in range(1, 4):
        replays = [backend.capture(lambda: 1)[1] for _ in range(2)]
        assert len(driver.pools) == stage
        del replays
        gc.collect()


def test_a_failed_capture_says_why_and_leaves_nothing_behind(monkeypatch):
    driver = Driver(monkeypatch)
    backend = graphs.CUDAGraphs(torch.device("cuda"))

    def wait() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        backend.capture(wait)
    assert driver.stream is driver.default
    ((device, pool),) = driver.left
    assert device == 3
    assert backend.capture(lambda: 1)[0] == 1
    assert pool not in driver.pools


def elsewhere(*names: str) -> list[str]:
    """What is wrong with recipes' steps on a device."""
    command = [sys.executable, "-m", "tests.distgan.training.elsewhere", *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout, done.stderr
    return [line.partition(": ")[2] for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_no_recipe_s_step_waits_for_a_device_or_mixes_it_with_the_host():
    runs = [*recipes(), "wgan_gp64:convolutions as on a CPU"]
    assert elsewhere(*runs) == ["nothing"] * len(runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "word"),
    [
        ("left behind", "same device"),
        ("copied", "_to_copy.* of cpu and elsewhere"),
        ("read", "_local_scalar"),
        ("kept", "graph of autograd"),
    ],
)
def test_a_step_that_did_would_have_shown(harm, word):
    assert re.search(word, elsewhere(f"dcgan64:{harm}")[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dcgan64", "float32"),
        ("dcgan64", "bfloat16"),
        *((name, "float32") for name in ("wgan_gp64", "r3gan64", "sngan64", "grow64")),
    ],
)
def test_a_gpu_s_graphs_compute_what_its_kernels_do_one_by_one(monkeypatch, name, kind):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    if (name, kind) != ("dcgan64", "float32"):  # to try all algorithms takes longer than all the rest
        monkeypatch.setattr(precision, "convolutions_of_fixed_shapes", nullcontext)
    device, steps = torch.device("cuda"), graphs.WARM_UP + 6
    spec = small(name, precision=kind)
    ours, plain = learner(spec, device), learner(spec, device, graphs="off")
    for number in range(steps * len(spec.timetable.stages)):
        for one, other in zip(take_step(ours, number), take_step(plain, number), strict=True):
            torch.testing.assert_close(one, other.to(one.dtype), rtol=1e-3, atol=1e-4)
    assert ours._graphs._captured
