from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch

from distgan.bench import ceiling, speed
from distgan.bench.parts import PARTS
from distgan.bench.textbook import Textbook
from distgan.describe import describe
from distgan.networks import ImageShape
from distgan.spec import dump_spec
from distgan.training.learner import Learner
from distgan.training.workers import Workers

GP = {"objective__kind": "wasserstein_gp", "model__critic": {"width": 2, "normalisation": "layer"}}


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(speed, "ROUNDS", 1)
    monkeypatch.setitem(ceiling.SIDES, "cpu", 64)


def test_the_loader_is_measured_on_invented_images_and_on_a_set(tiny):
    invented = speed.bench_loader(None, count=300, size=16)
    packed = speed.bench_loader(tiny())
    for figures in (invented, packed):
        assert figures["reader images/s"] > 0
        assert figures["batches images/s"] > 0
    assert invented["images"] == packed["images"] == "16 px, 3 channels, raw"


def test_a_run_that_grows_is_measured_at_each_size(tiny):
    stages = [{"size": 8, "images": 9, "batch_size": 4}, {"size": 16, "fade_images": 20}]
    figures = speed.bench_step(tiny(training__stages=stages), round_seconds=0.05)
    assert figures["batch size"] == 8
    for name in ("images/s, 8 px", "images/s", "textbook images/s", "critic updates/s"):
        assert figures[name] > 0


def test_the_step_is_measured(tiny):
    figures = speed.bench_step(tiny(objective__n_critic=2, training__precision="bfloat16"), round_seconds=0.05)
    assert figures["precision"] == "bfloat16"
    for name in ("images/s", "critic updates/s", "generator updates/s"):
        assert figures[name] > 0


def test_a_generator_that_is_judged_by_the_critic_s_fakes_is_not_measured_alone(tiny):
    figures = speed.bench_step(tiny(objective__share_fakes=True), round_seconds=0.05)
    assert figures["images/s"] > 0
    assert figures["critic updates/s"] > 0
    assert "generator updates/s" not in figures


@pytest.mark.parametrize("changes", [{}, {**GP, "objective__n_critic": 2}])
def test_the_figures_belong_together(tiny, changes):
    spec = tiny(**changes)
    figures = speed.bench_step(spec, round_seconds=0.01)
    assert figures["times the textbook"] == pytest.approx(figures["images/s"] / figures["textbook images/s"])
    per_image = describe(spec).step.flops_per_image
    assert figures["GFLOP/s"] == pytest.approx(per_image * figures["images/s"] / 1e9)
    assert figures["share of the convolution's"] == pytest.approx(figures["GFLOP/s"] / figures["convolution GFLOP/s"])
    assert figures["matrix product GFLOP/s"] > 0
    assert figures["peak memory, GiB"] > 0.1  # of a process with torch in it
    shares = {part: figures[f"share of {part}"] for part in PARTS}
    assert math.fsum(shares.values()) == pytest.approx(1)
    assert (shares["penalty"] > 0) == (spec.objective.kind == "wasserstein_gp")


def test_in_each_round_all_take_turns_on_as_much_work(tiny, monkeypatch):
    """The textbook has a batch for each critic update, of as many images, in float32 and contiguous, as ours has."""
    seen, took = [], []
    for kind in Textbook.__subclasses__():
        step = kind.step
        monkeypatch.setattr(kind, "step", lambda self, *real, step=step: (seen.append(real), step(self, *real))[1])
    ours = speed.Training.steps
    monkeypatch.setattr(speed.Training, "steps", lambda self: (took.append(len(seen)), ours(self))[1])
    monkeypatch.setattr(speed, "ROUNDS", 3)
    speed.bench_step(tiny(**GP, objective__n_critic=2, training__precision="bfloat16"), round_seconds=0)
    assert {len(real) for real in seen} == {2}
    assert all(batch.shape == (8, 3, 16, 16) and batch.is_contiguous() for real in seen for batch in real)
    assert len(seen) == 5  # to warm up, to see how long it takes, and in three rounds
    assert took[-5:] == [2, 3, 4, 5, 5]  # ours in three rounds, and by parts


def test_a_penalty_that_is_not_of_every_update_counts_by_its_share(tiny):
    changes = {"model__critic": GP["model__critic"], "objective__r1": 1.0, "objective__penalty_every": 4}
    learner = Learner(tiny(**changes), ImageShape(3, 16), Workers.alone(torch.device("cpu")))
    training, penalties = speed.Training(learner, learner.stage), []
    update = learner.update_critic
    learner.update_critic = lambda *given: penalties.append("critic/penalty" in update(*given).figures)
    for work in (training.as_work(0), *training.sides(0).values()):
        for _ in range(3):
            work.run()
    assert penalties == [True, False, False, False] * 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective__kind": "hinge"}, "none for objective.kind hinge"),
        ({"objective__r1": 0.1, "model__critic": {"width": 2, "normalisation": "layer"}}, "none with objective.r1"),
        ({"objective__kind": "elbo", "model__critic": {"name": "dcgan_encoder", "width": 2}}, "objective.kind elbo"),
    ],
)
def test_without_a_textbook_ours_is_measured_alone(tiny, changes, said):
    figures = speed.bench_step(tiny(**changes), round_seconds=0.01)
    assert said in figures["textbook"]
    assert "textbook images/s" not in figures
    assert "times the textbook" not in figures
    assert figures["GFLOP/s"] > 0


def test_it_can_be_measured_without_what_it_is_compared_with(tiny):
    figures = speed.bench_step(tiny(), round_seconds=0.01, alone=True)
    assert set(figures) == {
        *("machine", "precision", "batch size", "images/s", "critic updates/s", "generator updates/s"),
        "peak memory, GiB",
    }


def test_the_command_prints_the_same_facts_twice(distgan, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "bench_step", partial(speed.bench_step, round_seconds=0.01))
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny()))
    status, text = distgan("bench", "step", tmp_path / "spec.yaml")
    assert status == 0
    status, as_json = distgan("bench", "step", tmp_path / "spec.yaml", "--json")
    assert status == 0
    names = list(json.loads(as_json))
    assert [line[: len(name)] for line, name in zip(text.splitlines(), names, strict=True)] == names
    assert names[:6] == ["machine", "precision", "batch size", "images/s", "critic updates/s", "generator updates/s"]
