from __future__ import annotations

import pytest

from distgan.bench import speed


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(speed, "ROUNDS", 1)


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
    for name in ("images/s, 8 px", "images/s", "critic updates/s"):
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
