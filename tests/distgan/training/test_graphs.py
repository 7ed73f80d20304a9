from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distgan.networks import ImageShape
from distgan.objectives import Batch
from distgan.spec import RunSpec, load_spec
from distgan.training import graphs
from distgan.training.learner import Learner
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
            return {**tree, "images": 5 * batch}
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


def learner(spec: RunSpec, **training: Any) -> Learner:
    return Learner(spec.with_training(**training), ImageShape.of(spec, 3), Workers.alone(CPU))


def take_step(trainee: Learner, number: int) -> list[Tensor]:
    """All that a step leaves."""
    stage, dtype, random = trainee.stage, trainee.precision.dtype, torch.Generator().manual_seed(number)
    left: list[Tensor] = []
    for repeat in range(stage.n_critic):
        images = torch.rand(trainee.slots, 3, stage.size, stage.size, generator=random).to(dtype) * 2 - 1
        real = Batch(images.contiguous(memory_format=torch.channels_last), images.new_zeros(len(images), 0))
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


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_s_steps_are_those_without_graphs_bit_for_bit(recorded, name):
    spec = small(name)
    stages = len(spec.timetable.stages)
    compare(spec, recorded, STEPS * stages)
