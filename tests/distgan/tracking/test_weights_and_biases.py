from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

from distgan.tracking import read_metrics, weights_and_biases
from distgan.tracking.records import read_log
from distgan.tracking.weights_and_biases import WeightsAndBiases, _api_key, start
from tests.distgan.tracking.conftest import draw_grid, figures, make_spec, open_run

KEY = "0123456789abcdef0123456789abcdef01234567"
HOST = "https://api.wandb.ai"


def records(file: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(found: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    items = [record["history"]["item"] for record in found if record["type"] == "history"]
    return {item["_step"]: item for item in items}


def test_offline_holds_the_same_figures_and_grids_and_is_resumed(run, capfd):
    spec = make_spec("auto", tags=["small"])
    tracker = open_run(run, spec)
    run_id = tracker.wandb_run_id
    assert run_id
    for step in (10, 20, 30):
        tracker.log(step, figures(step))
    tracker.picture(20 + 10, 240, draw_grid(run, 240))
    tracker.close("interrupted")
    resumed = open_run(run, spec, resume_step=20, wandb_run_id=run_id)
    assert resumed.wandb_run_id == run_id
    resumed.log(40, figures(40))
    resumed.close("finished")
    assert capfd.readouterr() == ("", "")

    first, second = (records(file) for file in sorted(run.glob("wandb/offline-run-*/*.wandb")))
    steps = history(first)
    assert sorted(steps) == [10, 20, 30]
    for step in (10, 20, 30):
        assert {name: steps[step][name] for name in figures(step)} == pytest.approx(figures(step))
    samples = {name: value for name, value in steps[30].items() if name.startswith("samples")}
    assert "240 images" in json.dumps(samples)
    assert len(list(run.glob("wandb/offline-run-*/files/media/images/samples_*.png"))) == 1
    started = next(record["run"] for record in first if record["type"] == "run")
    config = started["config"]["update"]
    assert {name: config[name] for name in spec.model_dump()} == spec.model_dump(mode="json")
    assert (started["run_id"], started["display_name"], started["tags"]) == (run_id, "faces", ["small"])
    assert [record["exit"]["exit_code"] for record in first if record["type"] == "exit"] == [130]
    assert sorted(history(second)) == [40]
    assert next(record["run"] for record in second if record["type"] == "run")["run_id"] == run_id
    assert any("wandb sync" in entry.text for entry in read_log(run))
    # Nothing of the user's repository or terminal goes along.
    assert not list(run.glob("wandb/*/files/output.log"))
    assert not list(run.glob("wandb/*/files/diff.patch"))
    assert not [path for path in run.glob("wandb/*/files/code/**/*") if path.is_file()]


def test_a_server_out_of_reach_leaves_an_offline_run_and_no_trace_of_the_key(run, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the port of nobody
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    wandb.teardown()
    try:
        tracker = open_run(run, make_spec("auto"), wandb_run_id="theone")
        tracker.log(10, figures(10))
        tracker.close("finished")
    finally:
        wandb.teardown()
    assert tracker.wandb_run_id == "theone"
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    assert sorted(history(records(file))) == [10]
    assert sum("cannot be reached" in entry.text for entry in read_log(run)) == 1
    written = [path for path in run.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_disabled_does_not_even_import_wandb(run, monkeypatch):
    forbid_wandb(monkeypatch)
    tracker = open_run(run, make_spec("disabled"), wandb_run_id="old")
    assert tracker.wandb_run_id == "old"
    assert [entry.text for entry in read_log(run)] == ["started"]


@pytest.mark.parametrize("mode", ["auto", "online", "offline"])
def test_without_the_package_training_goes_on(run, monkeypatch, mode):
    forbid_wandb(monkeypatch)
    tracker = open_run(run, make_spec(mode), wandb_run_id="old")
    tracker.log(1, figures(1))
    tracker.picture(1, 8, draw_grid(run, 8))
    tracker.close("finished")
    assert tracker.wandb_run_id == "old"
    assert len(read_metrics(run)) == 1
    assert sum("not installed" in entry.text for entry in read_log(run)) == 1
    assert not (run / "wandb").exists()


def forbid_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_wandb(name, *args, **kwargs):
        if name.partition(".")[0] == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_wandb)


class FakeRun(wandb.Run):
    """A run of which one call fails."""

    id = "fake"
    url = "https://example.invalid/fake"
    settings = wandb.Settings()

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.calls: list[tuple[object, ...]] = []

    def _call(self, name: str, *args: object) -> None:
        self.calls.append((name, *args))
        if name == self.fails:
            raise wandb.errors.CommError("quota exceeded")

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self._call("log", data, step)

    def finish(self, exit_code: int | None = None) -> None:
        self._call("finish", exit_code)

    def define_metric(self, *args, **kwargs):
        self._call("define_metric")


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_failure_is_said_once_and_training_goes_on(fails):
    said: list[str] = []
    fake = FakeRun(fails)
    sink = WeightsAndBiases(fake, said.append)
    sink.log(1, figures(1))
    sink.log(2, figures(2))
    sink.close("finished")
    assert len(said) == 1
    assert "quota exceeded" in said[0]
    assert [call[0] for call in fake.calls] == (["log"] if fails == "log" else ["log", "log", "finish"])


def test_a_grid_that_is_not_there_does_not_stop_training(tmp_path):
    said: list[str] = []
    WeightsAndBiases(FakeRun("nothing"), said.append).picture(1, 8, tmp_path / "missing.png")
    assert len(said) == 1


def test_nothing_starts_and_training_goes_on(run, monkeypatch):
    def fail(**options):
        raise TypeError("a broken installation")

    monkeypatch.setattr(wandb, "init", fail)
    said: list[str] = []
    assert start(make_spec("auto"), run, "old", said.append) == (None, "old")
    assert len(said) == 1
    assert "a broken installation" in said[0]


@pytest.mark.parametrize(
    ("mode", "key", "variable", "expected"),
    [
        ("auto", "", "", "offline"),
        ("auto", KEY, "", "online"),
        ("auto", KEY, "offline", "offline"),
        ("online", "", "", "offline"),
        ("online", KEY, "offline", "online"),
        ("offline", KEY, "", "offline"),
    ],
)
def test_which_mode(run, monkeypatch, mode, key, variable, expected):
    seen: dict[str, object] = {}

    def init(**options):
        seen.update(options)
        return FakeRun("nothing")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", variable) if variable else None
    said: list[str] = []
    sink, run_id = start(make_spec(mode), run, "old", said.append)
    assert isinstance(sink, WeightsAndBiases)
    assert run_id == "fake"
    assert (seen["mode"], seen["id"], seen["resume"], seen["dir"]) == (expected, "old", "allow", run)
    assert any("no API key" in text for text in said) == (mode == "online" and not key)


def test_a_key_is_found_in_netrc_and_only_for_the_host(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert _api_key(HOST) is None
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    assert _api_key(HOST) == KEY
    assert _api_key("https://wandb.example.org") is None
    (tmp_path / "netrc").write_text("machine\n")
    assert _api_key(HOST) is None
    monkeypatch.setenv("WANDB_API_KEY", "from the environment")
    assert _api_key(HOST) == "from the environment"


def test_wandb_is_imported_nowhere_else():
    package = Path(weights_and_biases.__file__).parents[1]
    importing = [path.name for path in package.rglob("*.py") if "import wandb" in path.read_text()]
    assert importing == ["weights_and_biases.py"]
