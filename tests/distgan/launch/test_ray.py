from __future__ import annotations

import os
import re
import signal
import socket
from contextlib import nullcontext

import pytest
import torch

from distgan.checkpoint import find_checkpoint
from distgan.launch import ray
from distgan.launch.local import train_locally
from distgan.spec import dump_spec
from shards.errors import InputError
from tests.curves import assert_same, curve, steps

pytestmark = pytest.mark.slow


@pytest.fixture
def spec(tiny):
    return tiny(training__images=3200, training__precision="float64", training__checkpoint_every_images=160)


def test_a_run_whose_workers_are_killed_is_the_run_of_one_worker(spec, start, tmp_path):
    train_locally(spec, tmp_path / "alone", console=False)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    run, offline = tmp_path / "run", "tracking.wandb.mode=offline"
    training = start("distgan", "train", tmp_path / "spec.yaml", "--workers", 2, "--out", run, "--set", offline)
    training.until(lambda: len(steps(run)) >= 30)
    os.kill(training.workers("RayTrainWorker")[0], signal.SIGKILL)  # as the kernel does when memory runs out
    training.until(lambda: "resumed at step" in (run / "log.txt").read_text())
    again = len(steps(run))
    training.until(lambda: len(steps(run)) > again)  # so that all workers there are work
    os.kill(training.workers("RayTrainWorker")[-1], signal.SIGTERM)  # as a machine does that is taken away
    status, text = training.wait()
    assert status == 0, text
    assert "finished at step 400" in text
    assert re.search(r"^worker \d on \S+ has died: workers start again, from the newest checkpoint$", text, re.M)
    assert "Traceback" not in text
    assert (run / "log.txt").read_text().count("resumed at step") == 2
    assert len(steps(run)) == 400
    assert_same(curve(tmp_path / "alone")[:100], curve(run))
    folders = [path.name for path in (run / "wandb").glob("offline-run-*")]
    assert len(folders) == 3  # one each time that rank 0 began
    assert len({name.rpartition("-")[2] for name in folders}) == 1  # of one run


def test_sigterm_saves_and_one_worker_goes_on(spec, start, tmp_path):
    train_locally(spec, tmp_path / "alone", console=False)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    run = tmp_path / "run"
    each = "cluster.cpus_per_worker=2"  # but tests set OMP_NUM_THREADS to 1
    training = start("distgan", "train", tmp_path / "spec.yaml", "--workers", "1-2", "--set", each, "--out", run)
    training.until(lambda: len(steps(run)) >= 7)
    training.process.terminate()
    status, text = training.wait()
    assert status == 0, text
    assert "training on 2 × cpu in float64, 1 thread each: " in text
    assert "interrupted at step" in text
    step = find_checkpoint(run).state.step
    assert step == steps(run)[-1]
    alone = start(
        "distgan",
        "train",
        tmp_path / "spec.yaml",
        "--out",
        run,
        "--resume",
        "--set",
        f"training.images={(step + 9) * 8}",
    )
    status, text = alone.wait()
    assert status == 0, text
    assert len(steps(run)) == step + 9
    assert_same(curve(tmp_path / "alone"), curve(run))


def test_what_workers_find_wrong_is_said_once_and_is_the_user_s_to_mend(spec, start, tmp_path):
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.doc").write_text("important")
    (run / "spec.yaml").write_text("name: [")
    status, text = start("distgan", "train", tmp_path / "spec.yaml", "--workers", 2, "--out", run, "--resume").wait()
    assert status == 2, text
    assert "error: rank 0 on " in text
    assert "spec.yaml: not valid YAML" in text
    assert "Traceback" not in text
    assert (run / "thesis.doc").read_text() == "important"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__generator": {"width": "abc"}}, r"model\.generator: 'width' .* not 'abc'"),
        ({"objective": {"kind": "wasserstein_gp"}}, r"model\.critic\.normalisation"),
        ({"training__graphs": "on"}, r"training\.graphs is on"),
        ({"training__compile": "on"}, r"training\.compile is on, .* several workers"),
        ({"model__condition": {"attributes": ["Smiling"]}}, r"model\.condition\.attributes"),
    ],
)
def test_what_workers_of_this_machine_would_refuse_is_said_before_they_start(
    tiny, tmp_path, monkeypatch, changes, said
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ray, "_connected", lambda spec, address: nullcontext())
    monkeypatch.setattr(ray, "_train", lambda *arguments: pytest.fail("workers start"))
    with pytest.raises(InputError, match=said):
        ray.train_on_ray(tiny(cluster__workers=2, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("important")
    with pytest.raises(InputError, match="add --resume"):
        ray.train_on_ray(tiny(cluster__workers=2), tmp_path / "run")
    with pytest.raises(InputError, match=r"no spec\.yaml"):
        ray.train_on_ray(tiny(cluster__workers=2), tmp_path / "run", resume=True)


@pytest.mark.parametrize("address", ["127.0.0.1:PORT", "nowhere.invalid:6379", "http://127.0.0.1:8265"])
def test_a_cluster_that_is_not_there_is_said_to_be_at_once(spec, start, tmp_path, address):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = address.replace("PORT", str(taken.getsockname()[1]))
        (tmp_path / "spec.yaml").write_text(dump_spec(spec))
        status, text = start(
            "distgan", "train", tmp_path / "spec.yaml", "--out", tmp_path / "run", "--address", address
        ).wait(60)
    assert status == 2, text
    assert f"error: cannot reach the Ray cluster at {address}: " in text
    assert len(text.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("cores", "workers", "asked", "alone", "each"),
    [
        (16, 2, None, True, 8.0),
        (16, 3, None, True, 5.0),
        (2, 4, None, True, 1.0),
        (16, (1, 4), None, True, 4.0),  # however many there are: numbers of a run do not depend on room
        (16, 2, 3.0, True, 3.0),
        (16, 2, 0.5, False, 0.5),
        (16, 2, None, False, 1.0),
    ],
)
def test_workers_of_this_machine_alone_share_its_cores(tiny, monkeypatch, cores, workers, asked, alone, each):
    monkeypatch.setattr(ray, "usable_cpus", lambda: cores)
    spec = tiny(cluster__workers=workers, cluster__cpus_per_worker=asked)
    assert ray._cpus_per_worker(spec, alone) == each


def test_settings_are_the_users_and_are_taken_back(tiny, monkeypatch):
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    before = dict(os.environ)
    for alone in (True, False):
        with ray._settings(tiny(cluster__start_timeout_s=12.5), alone):
            assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"
            assert os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "12.5"
            assert ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" in os.environ) == alone
        assert dict(os.environ) == before
