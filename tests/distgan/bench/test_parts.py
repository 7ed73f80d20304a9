"""Parts of a step, by a clock that counts FLOPs instead of seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distgan.bench.parts import PARTS, clock_of, shares_of_parts
from distgan.bench.speed import random_batch
from distgan.costs.flops import FLOPs
from distgan.data.noise import Noise
from distgan.describe import describe
from distgan.networks import ImageShape
from distgan.networks.convolutions import take_torchs_own
from distgan.objectives import Side
from distgan.objectives.adversarial import CriticSide
from distgan.training.ema import EMA
from distgan.training.learner import Learner
from distgan.training.workers import Workers

CPU = torch.device("cpu")
LAYER = {"width": 2, "normalisation": "layer"}


class Training:
    def __init__(self, spec: Any) -> None:
        self.learner = Learner(spec, ImageShape(3, 16), Workers.alone(CPU))
        for network in (self.learner.generator, self.learner.critic):
            take_torchs_own(network)  # whose FLOPs are told
        self.real = random_batch(self.learner)

    def step(self) -> None:
        self.learner.update_critic(self.real, 0)
        self.learner.update_generator(self.real)


def flops_of_parts(spec: Any) -> dict[str, float]:
    """FLOPs of a step by part."""
    training = Training(spec)
    with FLOPs() as counted:
        shares = shares_of_parts(training.step, 1, lambda: counted.total)
    assert list(shares) == list(PARTS)
    return {part: share * counted.total for part, share in shares.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "penalty", [{"kind": "wasserstein_gp"}, {"kind": "bce", "r1": 1.0}, {"kind": "bce", "r2": 1.0}]
)
def test_a_penalty_s_flops_are_those_that_a_step_has_more_than_one_without(tiny, penalty):
    kind, options = penalty["kind"], {name: value for name, value in penalty.items() if name != "kind"}
    of_spec = tiny(model__critic=LAYER, objective={"kind": kind, **options})
    without = tiny(model__critic=LAYER, objective={"kind": kind, "penalty": 0.0} if "gp" in kind else {"kind": kind})
    found, plain = flops_of_parts(of_spec), flops_of_parts(without)
    assert found["penalty"] == pytest.approx(describe(of_spec).step.flops - describe(without).step.flops)
    assert plain["penalty"] == 0
    for part in ("forward", "backward"):
        assert found[part] == pytest.approx(plain[part])
        assert found[part] > 0
    assert sum(found.values()) == pytest.approx(describe(of_spec).step.flops)
    assert not any(found[part] for part in ("optimizer", "EMA", "noise", "bookkeeping"))


def test_each_part_is_seen(tiny):
    training = Training(tiny(model__critic=LAYER, objective__kind="wasserstein_gp"))
    ticks = iter(range(10**6))
    shares = shares_of_parts(training.step, 2, lambda: next(ticks))
    assert all(shares[part] > 0 for part in PARTS)
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(shares_of_parts(training.step, 1, clock_of(CPU)).values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "changes", [{"objective__share_fakes": True}, {"objective": {"kind": "relativistic", "r1": 0.1}}]
)
def test_being_watched_changes_nothing(tiny, changes):
    methods = [
        (Noise, "normal"),
        (EMA, "update"),
        (Tensor, "backward"),
        (Side, "judge"),
        (CriticSide, "squared_slopes"),
    ]
    before = [getattr(*method) for method in methods]
    alone, watched = (Training(tiny(model__critic=LAYER, **changes)) for _ in range(2))
    watched.real = alone.real
    for _ in range(2):
        alone.step()
    shares_of_parts(watched.step, 2, clock_of(CPU))
    for one, other in zip(alone.learner.generator.parameters(), watched.learner.generator.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [getattr(*method) for method in methods] == before
    assert not torch.nn.modules.module._global_forward_hooks
