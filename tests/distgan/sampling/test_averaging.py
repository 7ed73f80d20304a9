from __future__ import annotations

import json
import math
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgan.checkpoint import Checkpoint, find_checkpoint, traces
from distgan.cli import app
from distgan.launch.local import train_locally
from distgan.sampling.averaging import MISFIT, TRACES, average, mix, reach
from distgan.sampling.scored import SCORES
from distgan.training.learner import Learner
from shards.errors import InputError

WHOLE = {"training__keep_traces_every_images": 8, "training__images": 8 * 60, "guard__collapse": "warn"}


def kept_at(*steps: int) -> list[tuple[int, float]]:
    return [(step, exponent) for step in steps for exponent in TRACES.values()]


@given(st.integers(2, 300), st.floats(0.02, 1.0))
def test_a_mixture_is_the_average_of_what_was_kept(end, share):
    """Values over time, averaged the slow way: what the mixture makes of kept averages is what it says of itself."""
    random = np.random.default_rng(end)
    values, half_life = random.normal(size=end), max(1.0, share * end)
    kept = kept_at(*range(max(1, end // 10), end, max(1, end // 10)), end)
    mixture = mix(kept, end, half_life)
    assert mixture.shares.sum() == pytest.approx(1.0, abs=1e-9)
    averages = []
    for step, exponent in kept:
        value = 0.0
        for each in range(1, step + 1):
            keep = (1 - 1 / each) ** (exponent + 1)
            value = keep * value + (1 - keep) * values[each - 1]
        averages.append(value)
    weights = 2.0 ** ((np.arange(1, end + 1) - end) / half_life)
    weights /= weights.sum()
    # By Cauchy and Schwarz the misfit bounds the error, for any values.
    bound = mixture.misfit * np.linalg.norm(weights) * np.linalg.norm(values)
    assert abs(mixture.shares @ averages - weights @ values) <= bound * (1 + 1e-6) + 1e-6


def test_a_half_life_in_images_is_one_whatever_the_batches():
    """Sixty steps of 4 images and sixty of 12: an average that is kept image by image, the slow way."""
    batches = [4] * 60 + [12] * 60
    shown = np.concatenate([[0], np.cumsum(batches)])
    values, half_life = np.arange(120.0), 200.0
    kept = kept_at(*range(5, 121, 5))
    mixture = mix(kept, 120, half_life, lambda steps: np.interp(steps, np.arange(121), shown))
    assert mixture.misfit < MISFIT
    averages = []
    for step, exponent in kept:
        value = 0.0
        for each in range(1, step + 1):
            value += (1 - (1 - 1 / each) ** (exponent + 1)) * (values[each - 1] - value)
        averages.append(value)
    weights = 2.0 ** ((shown[1:] - shown[-1]) / half_life) * -np.expm1(-np.log(2) * np.array(batches) / half_life)
    weights /= weights.sum()
    bound = mixture.misfit * np.linalg.norm(weights) * np.linalg.norm(values)
    assert abs(mixture.shares @ averages - weights @ values) <= bound * (1 + 1e-6)
    in_steps = mix(kept, 120, half_life / 8)
    assert abs(in_steps.shares @ averages - weights @ values) > 2 * bound


@pytest.mark.slow
def test_averages_of_a_run_that_grows_are_in_images(tiny, tmp_path):
    stages = [{"size": 8, "images": 120, "batch_size": 4}, {"size": 16, "fade_images": 60}]
    train_locally(tiny(**{**WHOLE, "training__images": 360}, training__stages=stages), tmp_path, console=False)
    made = average(find_checkpoint(tmp_path), 60)
    assert made.state.step == 60
    assert made.state.images == 360
    shutil.rmtree(tmp_path / "traces")
    with pytest.raises(InputError, match="half-life of 1 images cannot be had"):
        average(find_checkpoint(tmp_path), 1)


def test_lengths_between_the_kept_ones_are_met():
    kept = kept_at(*range(500, 10_001, 500))
    shortest, longest = reach(kept, 10_000)
    assert shortest < 300
    assert longest > 2_000
    for half_life in np.geomspace(shortest, longest, 20):
        assert mix(kept, 10_000, half_life).misfit <= MISFIT * 1.05


def test_one_moment_alone_reaches_little():
    assert reach(kept_at(10_000), 10_000) is None or reach(kept_at(10_000), 10_000)[0] > 200


@pytest.fixture(scope="module")
def traced(tiny, tmp_path_factory):
    """A run that has kept traces at every step, and its EMA's weights from there, computed as they come."""
    folder = tmp_path_factory.mktemp("traced")
    weights = []
    update = Learner.update_generator

    def noted(self, real):
        loss = update(self, real)
        weights.append({name: weight.detach().double().clone() for name, weight in self.generator.named_parameters()})
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "update_generator", noted)
        train_locally(tiny(**WHOLE), folder / "run", console=False)
    return folder / "run", weights


@pytest.mark.slow
def test_an_average_is_that_of_the_weights(traced):
    run, weights = traced
    made = average(find_checkpoint(run), 40)
    assert made.path == run / "averages" / "step-00000060-half-life-40"
    assert made.state.spec.training.ema_half_life_images == 40
    counts = 2.0 ** (-np.arange(60)[::-1] / 5)  # 40 images are 5 steps
    counts /= counts.sum()
    ours = made.tensors("generator_ema")
    own = find_checkpoint(run).tensors("generator_ema")
    for name in weights[0]:
        wanted = sum(share * each[name] for share, each in zip(counts, weights, strict=True))
        spread = (weights[-1][name] - weights[0][name]).norm() + 1e-12
        assert (ours[name] - wanted).norm() < 0.05 * spread
        assert (own[name] - wanted).norm() > (ours[name] - wanted).norm()


def test_it_draws_and_is_its_own_statistics(traced, tmp_path):
    from distgan.sampling import sample

    run, _ = traced
    made = average(find_checkpoint(run), 60)
    sample(made, tmp_path / "grid.png", count=4)
    assert (tmp_path / "grid.png").exists()
    statistics = [name for name in made.tensors("generator_ema") if "running_mean" in name]
    own = find_checkpoint(run).tensors("generator_ema")
    assert statistics
    assert any(not torch.equal(made.tensors("generator_ema")[name], own[name]) for name in statistics)
    again = average(find_checkpoint(run), 60)
    assert again.state.sha256 == made.state.sha256


def test_a_length_out_of_reach_says_which_are_not(traced, tmp_path):
    run, _ = traced
    few = tmp_path / "few"
    shutil.copytree(run, few, ignore=shutil.ignore_patterns("averages", "traces"))
    with pytest.raises(InputError, match=r"half-life of 1 images cannot be had .* (they reach from|there are too few)"):
        average(find_checkpoint(few), 1)
    with pytest.raises(InputError, match="cannot be had"):
        average(find_checkpoint(few), 10**9)
    assert not (few / "averages").exists()


def test_a_run_without_traces_says_what_they_need(tiny, tmp_path):
    train_locally(tiny(), tmp_path / "run", console=False)
    with pytest.raises(InputError, match=r"holds no traces.*training\.keep_traces_every_images"):
        average(find_checkpoint(tmp_path / "run"), 50)
    later = tiny(training__images=120, training__keep_traces_every_images=8)
    before = (tmp_path / "run" / "spec.yaml").read_bytes()
    with pytest.raises(InputError, match="from the beginning of a run or not at all"):
        train_locally(later, tmp_path / "run", resume=True, console=False)
    assert (tmp_path / "run" / "spec.yaml").read_bytes() == before


def test_traces_of_steps_that_are_done_again_are_the_same(tiny, tmp_path):
    spec = tiny(training__keep_traces_every_images=16)
    train_locally(spec, tmp_path / "whole", console=False)
    stop = threading.Event()
    save = Learner.save_traces

    def stopping(self, *rest):
        stop.set()
        return save(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "save_traces", stopping)
        train_locally(spec, tmp_path / "parts", console=False, stop=stop)
    assert find_checkpoint(tmp_path / "parts").state.step < 12
    train_locally(spec, tmp_path / "parts", resume=True, console=False)
    digests = [
        [(path.name, Checkpoint(path).state.sha256) for path in traces(tmp_path / name)] for name in ("whole", "parts")
    ]
    assert [name for name, _ in digests[0]] == [f"step-{step:08d}" for step in (2, 4, 6, 8, 10, 12)]
    for (_, ours), (_, theirs) in zip(*digests, strict=True):
        assert all(ours[f"{trace}.safetensors"] == theirs[f"{trace}.safetensors"] for trace in TRACES)
    ends = [find_checkpoint(tmp_path / name).tensors("trace_wide") for name in ("whole", "parts")]
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


@pytest.mark.slow
def test_the_command_writes_scores_beside(traced, tmp_path, capsys):
    run, _ = traced
    command = ["average", str(run), "--half-life", "40", "--half-life", "80", "--count", "20"]
    command += ["--metrics", "wasserstein", "--features", "none"]
    with pytest.raises(SystemExit) as ended:
        app([*command, "--json"])
    assert not ended.value.code
    rows = json.loads(capsys.readouterr().out)
    assert [row["half_life"] for row in rows] == [40, 80]
    for row in rows:
        written = json.loads((run / "averages" / row["path"].rpartition("/")[2] / SCORES).read_text())
        assert written["scores"] == row["scores"]
        assert math.isfinite(written["scores"]["wasserstein"])
        assert written["facts"]["count"] == 20


def test_it_is_made_of_a_run_s_own_checkpoint_wherever_one_stands(traced, tmp_path, monkeypatch):
    run, _ = traced
    newest = find_checkpoint(run).path
    monkeypatch.chdir(newest.parent)
    assert average(find_checkpoint(Path(newest.name)), 50).path.parent == run / "averages"
    (tmp_path / "link").symlink_to(newest)
    assert average(find_checkpoint(tmp_path / "link"), 50).path.parent == run / "averages"
    shutil.copytree(newest, tmp_path / "some" / "copy")
    with pytest.raises(InputError, match="does not lie in a run's checkpoints/"):
        average(find_checkpoint(tmp_path / "some" / "copy"), 50)
    with pytest.raises(InputError, match="does not lie in a run's checkpoints/"):
        average(average(find_checkpoint(run), 50), 60)


@pytest.mark.parametrize("length", [0, 10**15 + 1, 10**400])
def test_a_length_that_is_none(traced, length):
    with pytest.raises(InputError, match="a half-life is 1 to"):
        average(find_checkpoint(traced[0]), length)


def test_one_that_is_damaged_is_made_again(traced):
    run, _ = traced
    made = average(find_checkpoint(run), 45)
    (made.path / "generator_ema.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match=r"damaged.*Make it again with distgan average"):
        made.tensors("generator_ema")
    assert average(find_checkpoint(run), 45).tensors("generator_ema")


@pytest.mark.slow
def test_traces_of_another_run_are_refused(traced, tiny, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(traced[0], mixed)
    train_locally(tiny(seed=4, **WHOLE), tmp_path / "other", console=False)
    first = traces(mixed)[0]
    shutil.rmtree(first)
    shutil.copytree(traces(tmp_path / "other")[0], first)
    with pytest.raises(InputError, match="is of another run than"):
        average(find_checkpoint(mixed), 40)


def test_what_is_wrong_with_scores_is_said_before_anything_is_made(traced, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(traced[0], run, ignore=shutil.ignore_patterns("averages"))
    with pytest.raises(InputError, match="there is no 'bogus'"):
        app(["average", str(run), "--half-life", "40", "--metrics", "bogus"], standalone_mode=False)
    assert not (run / "averages").exists()
