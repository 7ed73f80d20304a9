from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from PIL import Image

import distgan
from distgan.checkpoint import Checkpoint, checkpoints, find_checkpoint
from distgan.launch.local import train_locally
from distgan.spec import dump_spec, load_spec
from distgan.tracking import read_metrics, wandb_sink
from distgan.tracking.commit import commit_of_distgan
from distgan.tracking.records import read_log
from distgan.tracking.tracker import Sink
from distgan.tracking.wandb_sink import MOST_ALERTS, WeightsAndBiases, _shown
from distgan.training.learner import Learner
from tests.distgan.tracking.conftest import FakeRun, draw_grid, figures, history, make_spec, records
from tests.wandb_server import KEY


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_failure_is_said_once_and_training_goes_on(fails, tmp_path):
    said: list[str] = []
    fake = FakeRun(fails)
    sink = WeightsAndBiases(lambda tell: fake, said.append, make_spec(), tmp_path)
    sink.log(1, figures(1))
    sink.log(2, figures(2))
    sink.close("finished")
    assert len(said) == 1
    assert "quota exceeded" in said[0]
    assert [call[0] for call in fake.calls] == (["log"] if fails == "log" else ["log", "log", "finish"])


def test_a_grid_that_a_roll_back_has_removed_is_left_out(tmp_path):
    said: list[str] = []
    fake = FakeRun("nothing")
    sink = WeightsAndBiases(lambda tell: fake, said.append, make_spec(), tmp_path)
    sink.picture(1, 8, tmp_path / "missing.png")
    sink.close("finished")
    assert said == []
    assert [call[0] for call in fake.calls] == ["finish"]


def test_what_has_not_ended_in_time_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb_sink, "_END_SECONDS", 0.1)
    said: list[str] = []
    ended = threading.Event()
    sink = WeightsAndBiases(lambda tell: ended.wait() and FakeRun("nothing"), said.append, make_spec(), tmp_path)
    sink.close("finished")
    ended.set()
    assert [text for text in said if "has not taken everything" in text]


def test_nothing_of_wandb_is_called_in_the_thread_that_trains(run):
    fake = FakeRun("nothing")
    sink = WeightsAndBiases(lambda tell: fake, lambda text: None, make_spec(artifacts="last"), run)
    sink.log(1, figures(1))
    sink.alert("won", "the critic has won")
    sink.picture(1, 8, draw_grid(run, 8))
    Image.new("L", (8, 8)).save(run / "timeline.gif")
    sink.film(1, 8, run / "timeline.gif")
    sink.generator("last", 1, {"images": 8}, lambda folder: folder.mkdir())
    sink.progress(1)
    sink.rewind(0)
    sink.close("finished")
    assert [call[0] for call in fake.calls] == ["log", "alert", "log", "log", "log_artifact", "finish"]
    assert fake.threads == {"wandb"}


@pytest.mark.parametrize("stuck", ["init", "log"])
def test_training_ends_while_wandb_is_stuck_in_its_first_call(tiny, tmp_path, monkeypatch, stuck):
    """It comes back only after training has ended: had training waited for it once, neither would ever end."""
    monkeypatch.setattr(wandb_sink, "_END_SECONDS", 0.1)
    trained = threading.Event()

    class Stuck(FakeRun):
        def log(self, data, step=None, commit=None):
            trained.wait()

    def init(**options):
        if stuck == "init":
            trained.wait()
        return Stuck("nothing")

    monkeypatch.setattr(wandb, "init", init)
    train_locally(tiny(tracking__wandb={"mode": "offline"}), tmp_path / "run", console=False)
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(1, 13))
    assert any("has not taken everything" in entry.text for entry in read_log(tmp_path / "run"))
    trained.set()


def test_what_waits_for_a_stuck_wandb_is_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb_sink, "MOST_WAITING", 10)
    fake, said, free = FakeRun("nothing"), list[str](), threading.Event()
    sink = WeightsAndBiases(lambda tell: free.wait() and fake, said.append, make_spec(), tmp_path)
    for step in range(1, 31):
        sink.log(step, figures(step))
    free.set()
    sink.close("finished")
    assert [call[2] for call in fake.calls[:-1]] == list(range(1, 11))
    assert [text for text in said if "too slow for 20 figures" in text]


def test_alerts_are_bounded():
    fake = FakeRun("nothing")
    sink = WeightsAndBiases(lambda tell: fake, lambda text: None, make_spec(), Path())
    for number in range(3 * MOST_ALERTS):
        sink.alert("won", f"{number}")
    sink.close("finished")
    assert [call for call in fake.calls if call[0] == "alert"] == [
        ("alert", "faces: won", f"{number}") for number in range(MOST_ALERTS)
    ]


def test_steps_there_never_go_back_and_a_resumed_run_has_the_same(tmp_path):
    def steps(sink: WeightsAndBiases, fake: FakeRun) -> list[object]:
        sink.close("finished")
        return [call[2] for call in fake.calls if call[0] == "log"]

    fake, said = FakeRun("nothing"), list[str]()
    sink = WeightsAndBiases(lambda tell: fake, said.append, make_spec(), tmp_path)
    for step in (1, 2, 3, 4, 5):
        sink.progress(step)
        sink.log(step, figures(step))
    sink.rewind(2)
    for step in (3, 4):
        sink.progress(step)
        sink.log(step, figures(step))
    assert steps(sink, fake) == [1, 2, 3, 4, 5, 6, 7]
    assert [call[1]["images"] for call in fake.calls[:-1]] == [8 * step for step in (1, 2, 3, 4, 5, 3, 4)]
    assert len(said) == 1
    assert "figures of steps 3 to 5 stay" in said[0]
    fake = FakeRun("nothing")
    resumed = WeightsAndBiases(lambda tell: fake, said.append, make_spec(), tmp_path, steps_undone=3)
    resumed.log(5, figures(5))
    assert steps(resumed, fake) == [8]


def test_of_many_best_generators_some_are_sent_and_the_last_at_the_end(tmp_path):
    fake, exported = FakeRun("nothing"), list[int]()
    tree = make_spec().model_dump(exclude_unset=True)  # of 80,000 images
    tree |= {"evaluation": {"every_images": 800}, "tracking": {"wandb": {"artifacts": "best"}}}
    tree["training"]["keep_best"] = "frechet"
    spec = distgan.RunSpec.model_validate(tree)
    sink = WeightsAndBiases(lambda tell: fake, lambda text: None, spec, tmp_path)
    for images in range(800, 80_001, 800):

        def export(folder: Path, images: int = images) -> None:
            folder.mkdir()
            exported.append(images)

        sink.generator("best", images // 8, {"images": images}, export)
        sink.generator("last", images // 8, {"images": images}, export)
    sink.close("finished")
    assert exported == sorted(set(exported))  # a worse one that has not been sent yet is left out
    assert len(exported) <= 11
    assert exported[-1] == 80_000


def test_a_generator_that_cannot_be_had_costs_no_figures(tmp_path):
    def gone(folder: Path) -> None:
        raise distgan.InputError("it is gone")

    fake, said = FakeRun("nothing"), list[str]()
    sink = WeightsAndBiases(lambda tell: fake, said.append, make_spec(artifacts="last"), tmp_path)
    sink.generator("last", 3, {"images": 24}, gone)
    sink.log(4, figures(4))
    sink.close("finished")
    assert [call[0] for call in fake.calls] == ["log", "finish"]
    assert len(said) == 1
    assert "it is gone" in said[0]


def test_a_url_s_login_and_query_are_not_shown():
    tree = make_spec().model_dump(mode="json")
    tree["data"]["shards"] = "https://me:secret@example.org/faces64?token=secret#secret"
    tree["evaluation"] = {"shards": "s3://bucket/held-out"}
    shown = _shown(distgan.RunSpec.model_validate(tree))
    assert shown["data"]["shards"] == "https://example.org/faces64"
    assert shown["evaluation"]["shards"] == "s3://bucket/held-out"
    assert "secret" not in json.dumps(shown)


@pytest.mark.slow
def test_what_arrives_of_a_run(tiny, tmp_path, server, monkeypatch):
    monkeypatch.setattr("distgan.evaluation.pictures.PATCHES", 1024)
    spec = tiny(
        objective={"kind": "wasserstein_gp", "n_critic": 1},
        model__critic={"width": 2, "normalisation": "none"},
        evaluation={"every_images": 32, "count": 20, "features": "none", "metrics": ["wasserstein"]},
        training__keep_best="wasserstein",
        tracking__timeline=True,
        tracking__wandb={"mode": "online", "artifacts": "best"},
    )
    folder = tmp_path / "run"
    train_locally(spec, folder, console=False)
    (run_id,) = server.runs
    run, lines = server.runs[run_id], read_metrics(folder)
    state = json.loads(next(folder.glob("checkpoints/*/state.json")).read_text())
    assert state["wandb_run_id"] == run_id
    assert run.project == "distgan"
    assert run.exit_codes == [0]

    config = {name: entry["value"] for name, entry in run.config.items()}
    written = load_spec(folder / "spec.yaml").model_dump(mode="json")
    written["data"].pop("where")  # W&B has no empty mappings
    assert {name: config[name] for name in written} == written
    assert config["fingerprint"] == state["fingerprint"]
    assert config["scores_of"]["count"] == 20
    metrics = config["_wandb"]["m"]
    assert any(metric.get("2") == "*" for metric in metrics)  # as define_metric says: by images
    assert any(metric.get("1") == "images" for metric in metrics)

    rows = {row["_step"]: row for row in run.history}
    assert [row["images"] for row in run.history] == sorted(row["images"] for row in run.history)
    for line in lines:
        row = rows[line["step"]]
        assert {name: row[name] for name in line} == pytest.approx(line)
    row = rows[lines[-1]["step"]]
    assert row["critic/wasserstein"] == pytest.approx(row["critic/real"] - row["critic/fake"], abs=1e-6)
    best = min(line["score/wasserstein"] for line in lines if "score/wasserstein" in line)
    assert run.summary["best/wasserstein"] == pytest.approx(best)
    assert run.summary["images"] == lines[-1]["images"]
    assert run.events  # metrics of the system

    grids = sorted((folder / "samples").glob("0*.png"))
    sent = [row["samples"]["path"] for row in run.history if "samples" in row]
    assert [run.files[path] for path in sent] == [path.read_bytes() for path in grids]
    (real,) = [row["real"] for row in run.history if "real" in row]
    assert run.files[real["path"]] == (folder / "samples" / "real.png").read_bytes()
    assert "real" in rows[0]  # beside the first grid
    (film,) = [row["timeline"] for row in run.history if "timeline" in row]
    assert run.files[film["path"]] == (folder / "timeline.gif").read_bytes()

    assert all(artifact.committed for artifact in server.artifacts)
    (number, artifact) = [(i, each) for i, each in enumerate(server.artifacts) if each.type == "model"][-1]
    assert artifact.name == f"tiny-{run_id}"
    assert "best" in artifact.aliases
    assert artifact.metadata["wasserstein"] == pytest.approx(best)
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for path, content in server.stored.items():
        if path.startswith(f"artifact{number}/"):
            (downloaded / Path(path).name).write_bytes(content)
    assert "library_name: distgan" in (downloaded / "README.md").read_text()
    ours = distgan.load(find_checkpoint(folder, best=True).path)
    assert np.array_equal(distgan.load(downloaded).sample(4, seed=1), ours.sample(4, seed=1))
    assert not (folder / "wandb" / "generators").exists()  # it is there now

    assert all(config["git_commit"] == commit for commit in [commit_of_distgan()] if commit)
    kept = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert [body for body in [*server.bodies, *kept] if KEY.encode() in body] == []
    assert server.unknown == []


def test_a_run_that_is_rolled_back_and_resumed_is_one_run_there(tiny, tmp_path, server, monkeypatch):
    """Both attempts at a step are there, against its images; what is logged after resuming comes once."""
    update, spoilt = Learner.update_generator, list[bool]()

    def spoil(learner: Learner, *arguments):
        loss = update(learner, *arguments)
        if learner.step == 6 and not spoilt:
            spoilt.append(True)
            with torch.no_grad():
                next(learner.generator.parameters()).fill_(math.nan)
        return loss

    monkeypatch.setattr(Learner, "update_generator", spoil)
    folder, stop = tmp_path / "run", threading.Event()
    spec = tiny(guard__nonfinite="rollback", tracking__wandb={"mode": "online"})

    class StopsAt10(Sink):
        def log(self, step, figures):
            if step == 10:
                stop.set()

    train_locally(spec, folder, console=False, stop=stop, listener=StopsAt10())
    assert Checkpoint(checkpoints(folder)[-1]).state.steps_undone == 3
    train_locally(spec, folder, console=False, resume=True)
    (run,) = server.runs.values()
    assert run.exit_codes == [255, 0]
    rows = [(row["_step"], row["step"], row["images"]) for row in run.history if "loss/critic" in row]
    trained = [1, 2, 3, 4, 5, 6, 7, *range(5, 13)]
    assert rows == [(i, step, 8 * step) for i, step in enumerate(trained, start=1)]
    assert [(title, level) for title, _, level in run.alerts] == [("tiny: nonfinite", "WARN")]
    assert "step 7" in run.alerts[0][1]
    told = [entry.text for entry in read_log(folder)]
    assert sum("cannot forget: there, figures of steps 5 to 7 stay" in text for text in told) == 1


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_goes_on_as_one_run(tiny, tmp_path, server):
    long = {"training__images": 8 * 10**6, "training__checkpoint_every_images": 8 * 10**6}
    spec = tiny(**long, tracking__sample_every_images=8 * 10**6, tracking__wandb={"mode": "online"})
    (tmp_path / "run.yaml").write_text(dump_spec(spec))
    command = [sys.executable, "-m", "distgan", "train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not server.runs or len(read_metrics(tmp_path / "run")) < 5:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert checkpoints(tmp_path / "run") == []
    subprocess.run([*command, "--resume", "--set", "training.images=160"], check=True)
    (run,) = server.runs.values()
    steps = [row["step"] for row in run.history if "loss/critic" in row]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 20
    assert [operation for *_, operation in server.requests].count("RunResumeStatus") == 2  # a process each
    assert run.exit_codes == [0]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "hang", "drop"])
@pytest.mark.parametrize("when", ["from the beginning", "once it has begun"])
def test_whatever_the_server_does_training_goes_on(tiny, tmp_path, server, monkeypatch, fault, when):
    monkeypatch.setattr(wandb_sink, "_START_SECONDS", 2.0)
    monkeypatch.setattr(wandb_sink, "_END_SECONDS", 10.0)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    begun = threading.Event()

    class Breaks(Sink):
        def log(self, step, figures):
            if step == 3 and when == "once it has begun":
                assert begun.wait(60)
                server.fault = fault

    init = wandb.init

    def beginning(**options):
        found = init(**options)
        begun.set()
        return found

    monkeypatch.setattr(wandb, "init", beginning)
    if when == "from the beginning":
        server.fault = fault
    folder = tmp_path / "run"
    train_locally(tiny(tracking__wandb={"mode": "online"}), folder, console=False, listener=Breaks())
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 13))
    told = " ".join(entry.text for entry in read_log(folder))
    if when == "from the beginning":
        assert "cannot be reached, staying offline" in told
        (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    else:
        (file,) = folder.glob("wandb/run-*/*.wandb")
    assert [row["step"] for row in history(records(file)).values() if "step" in row] == list(range(1, 13))
    assert "error" not in told.lower() or "Weights & Biases" in told
    server.fault = None


def test_offline_holds_the_generator_and_the_film_and_sends_nothing(tiny, tmp_path, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    spec = tiny(tracking__timeline=True, tracking__wandb={"mode": "online", "artifacts": "last"})
    train_locally(spec, folder, console=False)
    assert server.requests == []
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = records(file)
    assert any(name.startswith("timeline") for row in history(found).values() for name in row)
    assert [record["artifact"]["name"] for record in found if record["type"] == "artifact" and "artifact" in record]
    (kept,) = folder.glob("wandb/generators/*/*")
    assert distgan.load(kept).sample(1).shape == (1, 16, 16, 3)
