from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distgan.checkpoint import Checkpoint, Snapshot, checkpoints, find_checkpoint, generators
from distgan.data.order import Order
from distgan.data.selection import select_samples
from distgan.errors import RunError
from distgan.networks import ImageShape
from distgan.objectives import Batch
from distgan.sampling import draw_images, load_generator, sample, sample_latents, save_grid
from distgan.sampling.averaging import average
from distgan.spec import RunSpec, load_spec
from distgan.tracking import Tracker, read_metrics
from distgan.training import clock, loop, pictures, precision
from distgan.training.complete import complete
from distgan.training.evaluation import Evaluation
from distgan.training.guard import Guard
from distgan.training.learner import Learner
from distgan.training.loop import train
from distgan.training.optimizers import OPTIMIZERS
from distgan.training.workers import Workers
from distgan.training.writer import Writer
from jobs import recipes
from shards.errors import DamageError, InputError
from shards.index import Index
from shards.reader import Reader
from tests.curves import curve
from tests.recipes import parameters

HERE = Workers.alone(torch.device("cpu"))


def run(spec, folder: Path, **options):
    return train(spec, folder, HERE, console=False, **options)


def weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of the newest checkpoint: equal where all tensors are equal to the bit."""
    checkpoint = find_checkpoint(folder)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.path.glob("*.safetensors")}


@pytest.fixture
def stop_after(monkeypatch):
    """Makes an event that is set while step ``n`` of a run is under way."""

    def make(n: int) -> threading.Event:
        event, steps = threading.Event(), 0
        update = Learner.update_generator

        def counted(self, real):
            nonlocal steps
            steps += 1
            if steps == n:
                event.set()
            return update(self, real)

        monkeypatch.setattr(Learner, "update_generator", counted)
        return event

    return make


def test_a_run_leaves_what_it_promises(tiny, tmp_path):
    spec = tiny()
    outcome = run(spec, tmp_path / "run")
    assert (outcome.ended, outcome.step, outcome.images) == ("finished", 12, 96)
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    for line in lines:
        assert line["images"] == 8 * line["step"]
        assert line["epoch"] == pytest.approx(line["images"] / 50)
        for name in ("loss/critic", "loss/generator", "critic/real", "critic/fake"):
            assert np.isfinite(line[name])
        assert line["grad_norm/critic"] > 0
        assert line["grad_norm/generator"] > 0
        assert line["time/images_per_second"] > 0
        assert 0 <= line["time/data_wait"] <= 1
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000008", "step-00000012"]
    samples = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert samples == ["0000000000.png", "0000000048.png", "0000000096.png", "real.png"]
    assert (tmp_path / "run" / "spec.yaml").exists()


def test_the_first_real_images_are_shown_and_stay(tiny, tmp_path, labelled):
    spec = tiny(training__images=16, data__where={"class": "dog"}, data__shards=str(labelled))
    run(spec, tmp_path)
    index, kept = select_samples(spec)
    with Reader(index) as reader:
        images = reader.read(kept[Order(len(kept), spec.seed)(np.arange(4))])
    path = tmp_path / "samples" / "real.png"
    grid = np.asarray(Image.open(path))
    assert grid.shape == np.asarray(Image.open(tmp_path / "samples" / "0000000016.png")).shape
    for i, image in enumerate(images):
        top, left = 2 + 18 * (i // 2), 2 + 18 * (i % 2)
        assert np.array_equal(grid[top : top + 16, left : left + 16], image)
    assert "Real images" in (tmp_path / "report.html").read_text()
    before = path.stat()
    run(spec, tmp_path, resume=True)
    assert path.stat() == before
    path.unlink()  # as a run of an earlier version has none
    run(tiny(training__images=32, data__where={"class": "dog"}, data__shards=str(labelled)), tmp_path, resume=True)
    assert np.array_equal(np.asarray(Image.open(path)), grid)


def test_fewer_samples_than_the_grid_has_places(tiny, tmp_path):
    run(tiny(training__images=8, data__limit=8, tracking__sample_count=25), tmp_path)
    assert Image.open(tmp_path / "samples" / "real.png").size == (5 * 18 + 2, 2 * 18 + 2)


def test_the_split_that_is_trained_on_is_said(tiny, tmp_path, pack_discs):
    shards = str(pack_discs(count=60, splits=("train", "val", "test")))
    run(tiny(data__shards=shards, training__images=8), tmp_path / "train")
    log = (tmp_path / "train" / "log.txt").read_text()
    assert "training on the split train: 20 of 60 samples; val 20 and test 20 are kept out" in log
    assert re.search("training on cpu in b?float[0-9]+, 1 thread: 20 samples", log)
    run(tiny(data__shards=shards, training__images=8, data__where={"split": "all"}), tmp_path / "all")
    log = (tmp_path / "all" / "log.txt").read_text()
    assert "split" not in log
    assert re.search("in b?float[0-9]+, 1 thread: 60 samples", log)


def test_the_same_run_twice_is_the_same_to_the_bit(tiny, tmp_path):
    for name in ("one", "other"):
        run(tiny(), tmp_path / name)
    assert weights(tmp_path / "one") == weights(tmp_path / "other")
    assert curve(tmp_path / "one") == curve(tmp_path / "other")


@pytest.mark.parametrize("n_critic", [1, 3])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_stopped_and_resumed_is_never_having_stopped(tiny, tmp_path, stop_after, n_critic, steps):
    spec = tiny(objective__n_critic=n_critic, training__images=96 * n_critic)
    run(spec, tmp_path / "whole")
    stopped = run(spec, tmp_path / "parts", stop=stop_after(steps))
    assert (stopped.ended, stopped.step) == ("interrupted", steps)
    assert find_checkpoint(tmp_path / "parts").state.step == steps
    assert run(spec, tmp_path / "parts", resume=True).ended == "finished"
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    for grid in (tmp_path / "whole" / "samples").iterdir():
        assert grid.read_bytes() == (tmp_path / "parts" / "samples" / grid.name).read_bytes()


PLAIN = {"model__generator__normalisation": "none", "model__critic__normalisation": "none"}


def test_micro_batches_are_said_and_gone_on_with_to_the_bit(tiny, tmp_path, stop_after):
    spec = tiny(training__accumulate=4)
    run(spec, tmp_path / "whole")
    log = (tmp_path / "whole" / "log.txt").read_text()
    assert "steps of 8 images, each batch in 4 micro-batches" in log
    assert "BatchNorm's statistics are those of micro-batches of 2 images" in log
    assert run(spec, tmp_path / "parts", stop=stop_after(5)).step == 5
    for number in (2, 1):
        with pytest.raises(InputError, match=f"training\\.accumulate: 4 -> {number}"):
            run(tiny(training__accumulate=number), tmp_path / "parts", resume=True)
    run(spec, tmp_path / "parts", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")


def test_without_batchnorm_a_run_goes_on_with_other_micro_batches(tiny, tmp_path, stop_after):
    options = {**PLAIN, "training__precision": "float64", "training__keep_traces_every_images": 16}
    run(tiny(**options), tmp_path / "whole")
    assert "micro-batches" not in (tmp_path / "whole" / "log.txt").read_text()
    assert run(tiny(**options, training__accumulate=4), tmp_path / "parts", stop=stop_after(5)).step == 5
    assert run(tiny(**options, training__accumulate=2), tmp_path / "parts", resume=True).ended == "finished"
    assert "BatchNorm" not in (tmp_path / "parts" / "log.txt").read_text()
    for ours, theirs in zip(curve(tmp_path / "parts"), curve(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-10)
    average(find_checkpoint(tmp_path / "parts"), 30)  # of traces from before and after


def test_a_checkpoint_knows_how_long_the_run_has_trained(tiny, tmp_path, monkeypatch, stop_after):
    now = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def taking(seconds, work):
        def slower(*arguments, **options):
            now[0] += seconds
            return work(*arguments, **options)

        return slower

    monkeypatch.setattr(Learner, "update_critic", taking(1.0, Learner.update_critic))
    monkeypatch.setattr(Learner, "update_generator", taking(2.0, Learner.update_generator))
    for slow in ("snapshot", "save_generator", "finite"):
        monkeypatch.setattr(Learner, slow, taking(100.0, getattr(Learner, slow)))
    monkeypatch.setattr(pictures, "save_grid", taking(100.0, pictures.save_grid))
    monkeypatch.setattr(Evaluation, "scores", taking(100.0, lambda self, learner: {}))
    spec = tiny(training__keep_generator_every_images=8, evaluation__every_images=32, evaluation__features="none")
    run(spec, tmp_path, stop=stop_after(5))
    assert find_checkpoint(tmp_path).state.training_seconds == 15
    run(spec, tmp_path, resume=True)
    assert find_checkpoint(tmp_path).state.training_seconds == 36
    assert [Checkpoint(path).state.training_seconds for path in generators(tmp_path)] == [3 * i for i in range(1, 13)]


def test_lazy_penalties_are_shown_where_there_are_any_and_what_moves_or_adapts_goes_on(tiny, tmp_path, stop_after):
    """Updates 0, 4, 8, …: two of three steps of three updates have one; the loop is stopped in between."""
    falling, rising = {"base": 0.9, "final": 0.1, "images": 200}, {"base": 0, "final": 99, "images": 200}
    lazy = {"kind": "hinge", "r1": falling, "r2": 1.0, "n_critic": 3, "penalty_every": 4}
    options = {"objective": lazy, "model__critic__normalisation": "none", "training__images": 96 * 3}
    options |= {"optimizer__critic": {"betas": [0.0, falling]}, "training__ema_half_life_images": rising}
    options["augmentation"] = {"colour": True, "translation": 0.125, "cutout": 0.5, "probability": falling}
    options["augmentation"] |= {"target": 0.1, "speed_images": 200}
    spec = tiny(**options, tracking__log_every=5)
    run(spec, tmp_path / "whole")
    stopped = run(spec, tmp_path / "parts", stop=stop_after(7))
    assert stopped.step == 7
    run(spec, tmp_path / "parts", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert "augmentation.safetensors" in weights(tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole")
    seldom = [line for line in curve(tmp_path / "parts") if line["step"] != 7]
    assert seldom == curve(tmp_path / "whole")
    run(tiny(**options), tmp_path / "often")
    every = read_metrics(tmp_path / "often")
    for name in ("critic/penalty", "critic/penalty_fake"):
        having = [line["step"] for line in every if name in line]
        assert having == [s for s in range(1, 13) if any(update % 4 == 0 for update in range(3 * s - 3, 3 * s))]
        assert len(having) == 9
        for line, interval in zip(lines, (every[:5], every[5:10], every[10:]), strict=True):
            shown = [each[name] for each in interval if name in each]
            assert line[f"mean/{name}"] == pytest.approx(np.mean(shown), rel=1e-12)
            assert (name in line) == (name in interval[-1])
        assert [line for line in lines if name not in line], "a line may be of a step without it"
    assert len({line["augmentation/probability"] for line in every}) > 3
    assert "Gradient penalties, means of the intervals" in (tmp_path / "whole" / "report.html").read_text()


def test_stopping_before_the_first_step_and_often(tiny, tmp_path, stop_after):
    run(tiny(), tmp_path / "whole")
    never = threading.Event()
    never.set()
    assert run(tiny(), tmp_path / "parts", stop=never).step == 0
    for _ in range(12):
        run(tiny(), tmp_path / "parts", stop=stop_after(1), resume=True)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_a_crash_between_checkpoints_repeats_what_was_lost_and_nothing_else(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "whole")
    update, calls = Learner.update_critic, 0

    def failing(self, real, repeat):
        nonlocal calls
        calls += 1
        if calls == 7:  # checkpoints are at steps 4 and 8
            raise OSError("the machine is gone")
        return update(self, real, repeat)

    monkeypatch.setattr(Learner, "update_critic", failing)
    with pytest.raises(OSError, match="gone"):
        run(tiny(), tmp_path / "parts")
    monkeypatch.undo()
    assert [line["step"] for line in read_metrics(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]
    run(tiny(), tmp_path / "parts", resume=True)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


@pytest.fixture
def late(monkeypatch):
    """Has checkpoints written late: when the run is two steps on, or waits. A list of how far on it was."""
    reached, waits, on = [0], threading.Event(), []
    write, update, wait = Snapshot.write, Learner.update_generator, Writer.wait

    def late_write(self, run, **kind):
        while reached[0] < self.state.step + 2 and not waits.wait(0.001):
            continue
        on.append(reached[0] - self.state.step)
        return write(self, run, **kind)

    def noted(self, real):
        loss = update(self, real)
        reached[0] = self.step
        return loss

    def waiting(self, *, until_done=True):
        if until_done:
            waits.set()
        wait(self, until_done=until_done)
        waits.clear()

    monkeypatch.setattr(Snapshot, "write", late_write)
    monkeypatch.setattr(Learner, "update_generator", noted)
    monkeypatch.setattr(Writer, "wait", waiting)
    return on


def test_a_checkpoint_that_is_written_while_training_goes_on_is_of_its_own_step(tiny, tmp_path, request):
    spec = tiny(training__keep_last=9)
    run(spec, tmp_path / "whole")
    on = request.getfixturevalue("late")
    run(spec, tmp_path / "late")
    assert min(on[:2]) >= 2
    assert on[2:] == [0]  # the last is there when the run ends
    whole, later = ([Checkpoint(path).state for path in checkpoints(tmp_path / name)] for name in ("whole", "late"))
    for one, other in zip(whole, later, strict=True):
        other = other.model_copy(update={"training_seconds": one.training_seconds})
        assert one.model_copy(update={"sha256": {}}) == other.model_copy(update={"sha256": {}})
        differ = {name for name, digest in one.sha256.items() if digest != other.sha256[name]}
        assert differ <= {"state.json"}


def test_a_disk_that_is_full_ends_the_run_with_the_checkpoint_before(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "whole")
    write = Snapshot.write

    def full(self, run, **kind):
        if self.state.step == 8:
            raise OSError(28, "No space left on device")
        return write(self, run, **kind)

    monkeypatch.setattr(Snapshot, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run(tiny(), tmp_path / "full")
    assert "failed: [Errno 28] No space left on device" in (tmp_path / "full" / "log.txt").read_text()
    assert [path.name for path in checkpoints(tmp_path / "full")] == ["step-00000004"]
    monkeypatch.undo()
    run(tiny(), tmp_path / "full", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "full")


def test_a_roll_back_waits_for_the_checkpoint_it_goes_back_to(tiny, tmp_path, late, poison):
    poison("critic", 5)
    with pytest.raises(RunError):  # a weight is infinite each time
        run(tiny(guard__nonfinite="rollback", guard__max_rollbacks=1), tmp_path)
    assert "Going back to step 4 " in (tmp_path / "log.txt").read_text()


def test_a_finished_run_goes_on_when_given_more_images(tiny, tmp_path):
    run(tiny(), tmp_path / "whole")
    run(tiny(training__images=40), tmp_path / "parts")
    assert run(tiny(), tmp_path / "parts", resume=True).step == 12
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_resuming_a_finished_run_changes_nothing(tiny, tmp_path):
    run(tiny(), tmp_path)
    before, lines = weights(tmp_path), curve(tmp_path)
    assert run(tiny(), tmp_path, resume=True).ended == "finished"
    assert (weights(tmp_path), curve(tmp_path)) == (before, lines)


@pytest.mark.slow
def test_a_run_that_learns_learns(tiny, tmp_path):
    """Six hundred steps on discs: the generator's mean image comes close to the data's."""
    spec = tiny(
        training__images=600 * 8,
        training__checkpoint_every_images=10_000,
        model__generator__width=8,
        model__critic__width=8,
        optimizer__generator={"lr": 2e-3},
        optimizer__critic={"lr": 2e-3},
        tracking__log_every=100,
        tracking__sample_every_images=10_000,
    )
    run(spec, tmp_path)
    index = Index.load(spec.data.shards)
    with Reader(index) as reader:
        data = reader.read(np.arange(50)).mean(0)
    untrained = np.full_like(data, 127.5)
    generator, latents = load_generator(find_checkpoint(tmp_path)), sample_latents(0, 0, 64, spec.model)
    drawn = np.stack(list(draw_images(generator, latents, torch.empty(64, 0)))).mean(0)
    assert np.abs(drawn - data).mean() < 0.5 * np.abs(untrained - data).mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__image_size": 32}, ["data.image_size", "32", "16"]),
        ({"training__batch_size": 51}, ["training.batch_size", "51", "50"]),
        ({"data__lanes": 3}, ["training.batch_size", "data.lanes", "3"]),
        (
            {"training__accumulate": 2, "objective": {"kind": "bce", "share_fakes": True}},
            ["training.accumulate is 2", "objective.share_fakes"],
        ),
        ({"training__precision": "tfloat32"}, ["training.precision is tfloat32", "this processor", "float32"]),
        ({"data__shards": "/nowhere/at/all"}, ["/nowhere/at/all"]),
        ({"data__where": {"class": "evn"}}, ["evn", "even"]),
        ({"objective__kind": "bse"}, ["objective.kind"]),
        ({"model__critic__widht": 3}, ["model.critic", "widht"]),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_written(tiny, tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        run(tiny(**changes), tmp_path / "run")
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_not_written_over(tiny, tmp_path):
    run(tiny(), tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match="--resume"):
        run(tiny(), tmp_path / "run")
    assert weights(tmp_path / "run") == before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    for resume in (False, True):
        with pytest.raises(InputError, match="letters"):
            run(tiny(), tmp_path / "letters", resume=resume)


def test_two_processes_do_not_train_in_one_folder(tiny, tmp_path):
    run(tiny(training__images=16), tmp_path)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            run(tiny(), tmp_path, resume=True)
    assert run(tiny(), tmp_path, resume=True).ended == "finished"


def test_a_folder_that_cannot_be_made_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        for resume in (False, True):
            with pytest.raises(InputError, match="file"):
                run(tiny(), folder, resume=resume)


def test_resuming_with_other_numbers_is_refused_by_name(tiny, tmp_path):
    run(tiny(), tmp_path)
    with pytest.raises(InputError) as caught:
        run(tiny(seed=4, training__batch_size=4), tmp_path, resume=True)
    for word in ("seed: 3 -> 4", "training.batch_size: 8 -> 4"):
        assert word in str(caught.value)


def test_a_run_that_has_learnt_nothing_may_be_resumed_as_another(tiny, tmp_path, labelled):
    """Such as one whose first step failed: what it was told to change must not stand in the way."""
    run(tiny(training__images=8), tmp_path)  # of which all is there that a run leaves, but for its checkpoint
    shutil.rmtree(tmp_path / "checkpoints")
    real = (tmp_path / "samples" / "real.png").read_bytes()
    changed = tiny(seed=4, training__images=16, data__shards=str(labelled), data__where={"class": "dog"})
    assert run(changed, tmp_path, resume=True).ended == "finished"
    assert (tmp_path / "samples" / "real.png").read_bytes() != real
    run(changed, tmp_path / "straight")
    assert weights(tmp_path) == weights(tmp_path / "straight")
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert load_spec(tmp_path / "spec.yaml").seed == 4


def test_resuming_on_other_shards_is_refused(tiny, tmp_path, pack_discs):
    run(tiny(), tmp_path)
    with pytest.raises(InputError, match="fingerprint"):
        run(tiny(data__shards=str(pack_discs(seed=1))), tmp_path, resume=True)
    run(tiny(data__shards=str(pack_discs())), tmp_path, resume=True)  # the same shards, elsewhere


def test_resuming_what_has_no_checkpoint_yet_begins(tiny, tmp_path):
    assert run(tiny(), tmp_path / "new", resume=True).ended == "finished"


def test_a_shard_that_is_missing_or_cut_is_named_before_training(tiny, tmp_path, pack_discs):
    for damage in ("cut", "missing"):
        shards = pack_discs()
        victim = shards / "shard-000002.tar"
        if damage == "cut":
            victim.write_bytes(victim.read_bytes()[:-512])
        else:
            victim.unlink()
        with pytest.raises(InputError, match=r"shard-000002\.tar"):
            run(tiny(data__shards=str(shards)), tmp_path / damage)
        assert not (tmp_path / damage).exists()


def test_a_flipped_bit_stops_the_run_by_name(tiny, tmp_path, pack_discs):
    shards = pack_discs()
    index = Index.load(shards)
    path = shards / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[int(index.offset[11]) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamageError, match=r"shard-000000\.tar.*disc0011"):
        run(tiny(data__shards=str(shards)), tmp_path)


@pytest.fixture
def poison(monkeypatch):
    """Makes a weight of a network infinite after a number of generator updates."""

    def make(network: str, after: int) -> None:
        update = Learner.update_generator

        def poisoned(self, real):
            loss = update(self, real)
            if self.step == after:
                next(getattr(self, network).parameters()).data[0, 0, 0, 0] = float("inf")
            return loss

        monkeypatch.setattr(Learner, "update_generator", poisoned)

    return make


@pytest.mark.parametrize("network", ["generator", "critic"])
@pytest.mark.parametrize("after", [3, 4])
def test_divergence_stops_the_run_before_a_checkpoint(tiny, tmp_path, poison, network, after):
    """Checkpoints are at steps 4 and 8; at step 4 the figures are still finite and the weights are not."""
    poison(network, after)
    with pytest.raises(RunError, match=rf"step {4 if after == 4 else after + 1}: .*(nan|inf)"):
        run(tiny(), tmp_path)
    assert not checkpoints(tmp_path)
    assert "diverged" in (tmp_path / "log.txt").read_text()


def test_after_divergence_the_run_goes_on_from_before(tiny, tmp_path, poison, monkeypatch):
    run(tiny(), tmp_path / "whole")
    poison("generator", 6)
    with pytest.raises(RunError):
        run(tiny(), tmp_path / "parts")
    monkeypatch.undo()
    run(tiny(), tmp_path / "parts", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_divergence_can_be_watched(tiny, tmp_path, poison):
    poison("critic", 2)
    assert run(tiny(guard__nonfinite="warn"), tmp_path).ended == "finished"
    assert any(not np.isfinite(line["loss/critic"]) for line in read_metrics(tmp_path))
    assert "diverged" in (tmp_path / "log.txt").read_text()


def test_a_start_that_was_killed_is_no_run_yet(tiny, tmp_path):
    """All that is there before the specification is."""
    (tmp_path / "samples").mkdir()
    for name in (".lock", ".spec.yaml.partial"):
        (tmp_path / name).touch()
    assert run(tiny(), tmp_path).ended == "finished"


def test_what_changes_no_number_may_change(tiny, tmp_path):
    run(tiny(training__images=48), tmp_path)
    changed = tiny(
        name="renamed",
        training__checkpoint_every_images=16,
        training__keep_last=9,
        objective={"kind": "bce", "terms": "sum"},
        model__generator__activation="relu",
    )
    assert run(changed, tmp_path, resume=True).ended == "finished"
    spec = load_spec(tmp_path / "spec.yaml")
    assert spec.objective.rest["terms"] == "sum"
    options = {
        "width": 2,
        "max_width": None,
        "layer_gain": "plain",
        "normalisation": "batch",
        "image_bias": 0.0,
        "minibatch_stddev": False,
    }
    assert spec.model.critic.rest == options


@pytest.mark.parametrize(
    ("epochs", "batch_size", "n_critic", "images"), [(3, 7, 1, 102), (1, 3, 2, 34), (0.1, 8, 1, 4), (2.5, 34, 1, 85)]
)
def test_epochs_are_of_the_samples_that_are_trained_on(tiny, labelled, tmp_path, epochs, batch_size, n_critic, images):
    """34 of the 50: those of two classes of three."""
    sized = {"batch_size": batch_size, "epochs": epochs, "checkpoint_every_images": 32}
    of_two = {"data__shards": str(labelled), "data__where": {"class": ["cat", "dog"]}, "objective__n_critic": n_critic}
    spec = tiny(training=sized, **of_two)
    steps = -(-images // (batch_size * n_critic))
    assert run(spec, tmp_path / "whole").step == steps
    written = load_spec(tmp_path / "whole" / "spec.yaml")
    assert (written.training.images, written.training.epochs, written.steps) == (images, None, steps)
    assert read_metrics(tmp_path / "whole")[-1]["epoch"] == pytest.approx(steps * batch_size * n_critic / 34)
    run(tiny(training={**sized, "epochs": epochs / 2}, **of_two), tmp_path / "parts")
    run(spec, tmp_path / "parts", resume=True)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_uniform_latents_are_drawn_everywhere(tiny, tmp_path):
    """In training (the plain loop of test_learner draws normal ones), in grids and by a checkpoint's reader."""
    spec = tiny(model__latent="uniform", tracking__sample_scale=0.5)
    run(spec, tmp_path / "run")
    checkpoint = find_checkpoint(tmp_path / "run")
    assert checkpoint.state.spec.model.latent == "uniform"
    latents = sample_latents(spec.seed, 0, 4, spec.model)
    drawn = list(draw_images(load_generator(checkpoint), latents * 0.5, torch.empty(4, 0)))
    save_grid(drawn, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "run" / "samples" / "0000000096.png").read_bytes()
    run(tiny(), tmp_path / "normal")
    assert curve(tmp_path / "run")[0]["critic/fake"] != curve(tmp_path / "normal")[0]["critic/fake"]
    with pytest.raises(InputError, match=r"model\.latent: uniform -> normal"):
        run(tiny(), tmp_path / "run", resume=True)


def test_each_line_has_the_means_of_its_interval(tiny, tmp_path):
    run(tiny(), tmp_path / "often")
    run(tiny(tracking__log_every=5), tmp_path / "seldom")
    every = read_metrics(tmp_path / "often")
    lines = read_metrics(tmp_path / "seldom")
    assert [line["step"] for line in lines] == [5, 10, 12]
    for line, interval in zip(lines, (every[:5], every[5:10], every[10:]), strict=True):
        for name in ("loss/critic", "loss/generator", "grad_norm/critic", "critic/accuracy"):
            assert line[f"mean/{name}"] == pytest.approx(np.mean([each[name] for each in interval]), rel=1e-12)
            assert line[name] == interval[-1][name]


def kept(folder: Path) -> dict[str, str]:
    """The averaged generators that a run has kept alone: the SHA-256 of each."""
    return {path.name: Checkpoint(path).state.sha256["generator_ema.safetensors"] for path in generators(folder)}


def test_generators_are_kept_alone_and_drawn_with(tiny, tmp_path):
    spec = tiny(training__keep_generator_every_images=20, training__keep_last=1)
    run(spec, tmp_path / "run")
    assert list(kept(tmp_path / "run")) == [f"step-{step:08d}" for step in (3, 5, 8, 10)]
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000012"]
    path = generators(tmp_path / "run")[2]
    assert sorted(file.name for file in path.iterdir()) == ["generator_ema.safetensors", "state.json"]
    run(tiny(training__checkpoint_every_images=8, training__keep_last=99), tmp_path / "whole")
    for each, digest in kept(tmp_path / "run").items():
        full = Checkpoint(tmp_path / "whole" / "checkpoints" / each)
        assert full.state.sha256["generator_ema.safetensors"] == digest
    for place in ("checkpoints", "run/generators"):
        folder = tmp_path / ("whole" if place == "checkpoints" else "") / place / "step-00000008"
        sample(find_checkpoint(folder), tmp_path / place.replace("/", "-"), count=3)
    for i in range(3):
        ours, theirs = (tmp_path / place / f"{i:08d}.png" for place in ("checkpoints", "run-generators"))
        assert ours.read_bytes() == theirs.read_bytes()
    with pytest.raises(InputError, match=r"step-00000008 holds no generator\.safetensors.*keep_generator_every_images"):
        sample(Checkpoint(path), tmp_path / "none", ema=False)
    assert find_checkpoint(tmp_path / "run").path == checkpoints(tmp_path / "run")[-1]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert find_checkpoint(tmp_path / "run").path == generators(tmp_path / "run")[-1]


def test_generators_of_steps_that_are_done_again_are_kept_again(tiny, tmp_path, monkeypatch):
    """After a crash they are the same; whoever looks meanwhile finds none of a future that may come otherwise."""
    spec = tiny(training__keep_generator_every_images=8)
    run(spec, tmp_path / "whole")
    snapshot = Learner.snapshot

    def failing(self, *rest):
        if self.step == 8:
            raise OSError("the disk is gone")
        return snapshot(self, *rest)

    monkeypatch.setattr(Learner, "snapshot", failing)
    with pytest.raises(OSError, match="gone"):
        run(spec, tmp_path / "parts")
    monkeypatch.undo()
    assert len(kept(tmp_path / "parts")) == 8
    stop = threading.Event()
    stop.set()
    run(spec, tmp_path / "parts", resume=True, stop=stop)
    assert len(kept(tmp_path / "parts")) == 4
    run(spec, tmp_path / "parts", resume=True)
    assert kept(tmp_path / "parts") == kept(tmp_path / "whole")


def test_a_resumed_run_goes_on_in_what_it_began_in(tiny, tmp_path, monkeypatch):
    """``auto`` is another precision on another device."""
    run(tiny(training__precision="bfloat16"), tmp_path / "whole")
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device: True)
    run(tiny(training__images=48), tmp_path / "parts")
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device: False)
    assert find_checkpoint(tmp_path / "parts").state.spec.training.precision == "bfloat16"
    assert load_spec(tmp_path / "parts" / "spec.yaml").training.precision == "bfloat16"
    with pytest.raises(InputError, match=r"training\.precision: bfloat16 -> float32"):
        run(tiny(training__precision="float32"), tmp_path / "parts", resume=True)
    run(tiny(), tmp_path / "parts", resume=True)
    log = (tmp_path / "parts" / "log.txt").read_text()
    assert "going on in bfloat16, as the run began; of itself this device would compute in float32" in log
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert "going on in" not in (tmp_path / "whole" / "log.txt").read_text()


def test_a_rate_that_falls_until_the_end_is_one_that_falls_until_so_many_images(tiny, tmp_path, stop_after):
    """The number is in the run's folder: a run that is to become longer would have had other rates."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    open_end = {side: {"schedule": {"kind": "cosine"}} for side in ("generator", "critic")}
    run(tiny(optimizer={side: {"schedule": {"kind": "cosine", "until_images": 96}} for side in open_end}), whole)
    run(tiny(optimizer=open_end), parts, stop=stop_after(1))
    assert load_spec(parts / "spec.yaml").optimizer.critic.schedule.until_images == 96
    with pytest.raises(InputError, match=r"optimizer\.critic\.schedule\.until_images: 96 -> 192"):
        run(tiny(optimizer=open_end, training__images=192), parts, resume=True)
    run(tiny(optimizer=open_end), parts, resume=True)
    assert weights(whole) == weights(parts)


def test_a_checkpoint_with_figures_that_are_not_finite_is_gone_on_from(tiny, tmp_path, poison):
    """The guard is told to warn, and remembers what it saw since the last line."""
    poison("critic", 2)
    spec = tiny(guard__nonfinite="warn", tracking__log_every=5, training__images=32)
    run(spec, tmp_path)
    assert run(tiny(guard__nonfinite="warn", tracking__log_every=5), tmp_path, resume=True).ended == "finished"


def test_bfloat16_keeps_its_figures_in_float32(tiny, tmp_path):
    run(tiny(training__precision="bfloat16", training__images=16), tmp_path)
    values = [line["loss/critic"] for line in read_metrics(tmp_path)]
    assert any(value != torch.tensor(value).bfloat16().item() for value in values)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_every_encoding_trains(tiny, tmp_path, pack_discs, channels, encoding):
    shards = pack_discs(channels=channels, encoding=encoding)
    assert run(tiny(data__shards=str(shards), training__images=16), tmp_path).ended == "finished"


def test_blocks_and_lanes_train(tiny, tmp_path):
    assert run(tiny(data__block_samples=10, data__lanes=2), tmp_path).ended == "finished"


@pytest.fixture(scope="module")
def grown(tiny, pack_discs):
    """A run of 11 steps that grows: 2 of 8 pixels, 5 of 16, of which 3 fade in, and 4 of 32, of which 2 do."""
    shards = str(pack_discs(size=32))

    def spec(**changes):
        stages = [
            {"size": 8, "images": 24, "batch_size": 12, "lr": {"critic": 5e-4}},
            {"size": 16, "images": 30, "fade_images": 17, "batch_size": 6},
            {"size": 32, "fade_images": 15},
        ]
        often = {"checkpoint_every_images": 1, "keep_last": 99, "stages": stages, "images": 86, "batch_size": 8}
        tracking = {"log_every": 1, "sample_every_images": 1, "sample_count": 4, "wandb": {"mode": "disabled"}}
        sections = {
            "data__shards": shards,
            "data__image_size": 32,
            "training": {**often, **changes.pop("training", {})},
            "tracking": {**tracking, **changes.pop("tracking", {})},
        }
        return tiny(**{**sections, **changes})

    return spec


@pytest.fixture(scope="module")
def whole(grown, tmp_path_factory) -> Path:
    """That run, with every checkpoint and grid."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(grown(), folder)[:2] == ("finished", 11)
    return folder


IMAGES = [0, 12, 24, 30, 36, 42, 48, 54, 62, 70, 78, 86]
"""Shown after each of its steps."""


def test_a_run_grows(whole):
    lines = read_metrics(whole)
    assert [line["images"] for line in lines] == IMAGES[1:]
    assert [line["image_size"] for line in lines] == [8] * 2 + [16] * 5 + [32] * 4
    fades = [1, 1, 6 / 17, 12 / 17, 1, 1, 1, 8 / 15, 1, 1, 1]
    assert [line["fade"] for line in lines] == pytest.approx(fades)
    assert [line["learning_rate/critic"] for line in lines] == [5e-4] * 2 + [2e-4] * 9
    log = (whole / "log.txt").read_text()
    assert "11 steps of 12 then 6 then 8 images, growing from 8 to 32 pixels" in log
    assert "step 2: images of 16 pixels, in batches of 6; new layers fade in over 17 images" in log
    assert "Image size" in (whole / "report.html").read_text()


def test_pictures_of_all_stages_are_of_the_final_size_and_drawn_again_as_they_were(whole, grown):
    spec = grown()
    latents = sample_latents(spec.seed, 0, 4, spec.model)
    assert [Checkpoint(path).state.images for path in checkpoints(whole)] == IMAGES[1:]
    for path in checkpoints(whole):
        checkpoint = Checkpoint(path)
        images = list(draw_images(load_generator(checkpoint), latents, torch.empty(4, 0)))
        assert images[0].shape == (32, 32, 3)
        save_grid(images, path / "again.png")
        grid = whole / "samples" / f"{checkpoint.state.images:010d}.png"
        assert (path / "again.png").read_bytes() == grid.read_bytes()
        (path / "again.png").unlink()
        times = 4 if checkpoint.state.step <= 2 else 2 if checkpoint.state.step <= 7 else 1
        for image in images:
            assert np.array_equal(image, image[::times, ::times].repeat(times, 0).repeat(times, 1))


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 8])
def test_a_growing_run_goes_on_from_any_step(whole, grown, tmp_path, step):
    """In the middle of a stage and of a fade, before and after a border and on it."""
    shutil.copytree(whole, tmp_path / "run")
    for path in checkpoints(tmp_path / "run"):
        if Checkpoint(path).state.step > step:
            shutil.rmtree(path)
    assert run(grown(), tmp_path / "run", resume=True).ended == "finished"
    assert len(read_metrics(tmp_path / "run")) == 11
    assert weights(whole) == weights(tmp_path / "run")
    assert curve(whole) == curve(tmp_path / "run")
    for grid in (whole / "samples").iterdir():
        assert grid.read_bytes() == (tmp_path / "run" / "samples" / grid.name).read_bytes()
    states = [find_checkpoint(folder).state for folder in (whole, tmp_path / "run")]
    ours, theirs = (  # all but how long it took, and the seal that counts that in
        state.model_copy(update={"training_seconds": 0.0}).sealed(
            {name: digest for name, digest in state.sha256.items() if name.endswith(".safetensors")}
        )
        for state in states
    )
    assert ours == theirs


def test_a_growing_run_that_is_stopped_goes_on(whole, grown, tmp_path, stop_after):
    assert run(grown(), tmp_path, stop=stop_after(3)).step == 3
    assert run(grown(), tmp_path, resume=True).ended == "finished"
    assert weights(whole) == weights(tmp_path)
    assert curve(whole) == curve(tmp_path)


def test_a_growing_run_goes_back_over_a_border(grown, tmp_path, poison):
    poison("critic", 3)
    seldom = {"checkpoint_every_images": 12, "keep_last": 2}
    spec = grown(training=seldom, tracking={"log_every": 3}, guard__nonfinite="rollback", guard__max_rollbacks=2)
    with pytest.raises(RunError, match="2 roll-backs have not helped"):  # the poison comes again each time
        run(spec, tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert "Going back to step 2 with fresh noise" in log
    assert log.count("step 2: images of 16 pixels") == 3


def test_one_stage_of_the_full_size_is_a_run_without_stages(tiny, tmp_path):
    run(tiny(), tmp_path / "plain")
    run(tiny(training__stages=[{"size": 16}]), tmp_path / "staged")
    assert weights(tmp_path / "plain") == weights(tmp_path / "staged")
    told = [{k: v for k, v in line.items() if k not in ("image_size", "fade")} for line in curve(tmp_path / "staged")]
    assert told == curve(tmp_path / "plain")


def test_a_pyramid_is_read_where_it_is_asked_for(whole, grown, tmp_path, pack_discs):
    """Its rounding changes the numbers a little, and all else goes on as it does."""
    shards = {"data__shards": str(pack_discs(size=32, with_pyramid=True))}
    run(grown(**shards), tmp_path / "averaged")
    assert curve(whole) == curve(tmp_path / "averaged")
    spec = grown(**shards, data__pyramid=True)
    run(spec, tmp_path / "read")
    ours, theirs = curve(whole), curve(tmp_path / "read")
    assert ours != theirs
    assert theirs[0]["loss/critic"] == pytest.approx(ours[0]["loss/critic"], rel=1e-2)
    run(grown(**shards, data__pyramid=True, training={"images": 30}), tmp_path / "parts")
    run(spec, tmp_path / "parts", resume=True)
    assert weights(tmp_path / "read") == weights(tmp_path / "parts")
    with pytest.raises(InputError, match=r"data\.pyramid: True -> False"):
        run(grown(**shards), tmp_path / "read", resume=True)


def test_stages_may_not_change(whole, grown):
    stages = [{"size": 8, "images": 24, "batch_size": 12}, {"size": 16, "images": 30}, {"size": 32}]
    with pytest.raises(InputError, match=r"training\.stages: .*fade_images"):
        run(grown(training={"stages": stages}), whole, resume=True)


def test_a_growing_run_may_be_shorter_or_longer(whole, grown, tmp_path):
    assert run(grown(training={"images": 30}), tmp_path).step == 3
    assert (
        "the run ends in the stage of 16 pixels, before the layers of 32 pixels" in (tmp_path / "log.txt").read_text()
    )
    run(grown(), tmp_path, resume=True)
    assert weights(whole) == weights(tmp_path)


UNFIT = [
    (
        {"training": {"stages": [{"size": 16, "images": 9, "batch_size": 51}, {"size": 32}]}},
        ["training.stages.0.batch_size is 51", "50 samples"],
    ),
    (
        {"data__pyramid": True},
        ["data.pyramid is true", "hold no pyramid", "shards pack --pyramid", "leave data.pyramid out"],
    ),
    ({"data__lanes": 4}, ["training.stages.1.batch_size is 6", "data.lanes = 4"]),
    (
        {"training": {"stages": [*({"size": size, "images": 8} for size in (4, 8, 16)), {"size": 32}]}},
        ["training.stages.0.size is 4", "dcgan", "8, 16"],
    ),
    (
        {"model__critic": {"name": "dcgan_keras", "width": 2}},
        ["training.stages", "model.critic is dcgan_keras", "take another network (dcgan"],
    ),
]


@pytest.mark.parametrize(("changes", "words"), UNFIT)
def test_stages_that_do_not_fit_are_named_before_anything_is_written(grown, tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        run(grown(**changes), tmp_path / "run")
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()


KINDS: dict[str, dict[str, Any]] = {
    "penalty": {
        "objective": {"kind": "wasserstein_gp", "n_critic": 2},
        "model__critic": {"width": 2, "normalisation": "layer"},
    },
    "autoencoder": {"objective": {"kind": "elbo"}, "model__critic": {"name": "dcgan_encoder", "width": 2}},
    "relativistic": {
        "objective": {"kind": "relativistic", "r1": 1.0, "r2": 1.0},
        "model__critic": {"width": 2, "normalisation": "spectral"},
    },
    "conditional": {
        "model__condition": {"classes": True, "generator": "batchnorm"},
        "training": {"precision": "bfloat16"},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_grows_and_goes_on(grown, tmp_path, kind):
    def spec(images: int) -> RunSpec:
        changes = dict(KINDS[kind])
        training = {**changes.pop("training", {}), "images": images, "checkpoint_every_images": 1_000}
        return grown(**changes, training=training, tracking={"sample_every_images": 1_000})

    run(spec(86), tmp_path / "whole")
    run(spec(30), tmp_path / "parts")
    run(spec(86), tmp_path / "parts", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert all(np.isfinite(value) for line in read_metrics(tmp_path / "whole") for value in line.values())


class _Endless:
    """Batches of a device whose tensors have shapes but no values: whoever reads one, or waits for one, fails."""

    samples, seconds_waited = 10_000, 0.0

    def __init__(self, learner: Learner, steps: int) -> None:
        self.learner, self.left = learner, steps * learner.spec.objective.n_critic

    def __next__(self) -> Batch:
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        count, size, device = self.learner.slots, self.learner.stage.size, self.learner.precision.device
        return Batch(torch.zeros(count, 3, size, size, device=device), torch.zeros(count, 0, device=device))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", parameters(recipes()))
def test_no_step_waits_for_the_device(tmp_path, monkeypatch, recipe):
    """Nor does the guard between two log lines. A GPU that is waited for has nothing to do until it is told more."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which that device has none of
    monkeypatch.setitem(OPTIMIZERS, "adam", OPTIMIZERS["adam"]._replace(build=torch.optim.Adam))  # nor a fused kernel
    changes = ["tracking.log_every=1_000_000", "tracking.sample_every_images=1_000_000_000"]
    spec = complete(load_spec(recipe, changes)).in_images(_Endless.samples)
    learner = Learner(spec, ImageShape.of(spec, 3), Workers.alone(torch.device("meta")))
    for stage in spec.timetable.stages[:2]:  # the second one is fading in; at its border the guard may wait
        guard = Guard(spec.guard, average=learner.average)
        learner.step = first = stage.first_step + 1
        batches = _Endless(learner, steps=3)
        with pytest.raises(StopIteration):
            loop._take_steps(
                learner, guard, batches, None, Tracker(), Writer(), tmp_path, "", loop._Signals(Event(), Event())
            )
        assert learner.step == first + 3
        with pytest.raises(NotImplementedError, match="no data"):
            guard.means()  # what a log line reads


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),  # so torch has it for cuDNN
    ],
)
def test_too_little_memory_is_said_with_what_helps(tiny, tmp_path, monkeypatch, error):
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(Learner, "update_generator", fail)
    with pytest.raises(RunError, match=r"^rank 0: (?s:.*)a smaller training\.batch_size"):
        train(tiny(), tmp_path / "run", Workers.alone(torch.device("cpu")), console=False)


def test_a_run_is_no_worse_for_charts_that_cannot_be_drawn(tiny, tmp_path, monkeypatch):
    for name in [
        name for name in sys.modules if name.startswith(("distgan.tracking.report", "distgan.tracking.chart"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = train(tiny(), tmp_path / "run", Workers.alone(torch.device("cpu")), console=False)
    assert outcome.ended == "finished"
    assert not (tmp_path / "run" / "report.html").exists()
