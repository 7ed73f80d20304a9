from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

from distgan.spec import RunSpec, dump_spec
from distgan.tracking import Tracker, open_tracker
from distgan.tracking.tracker import Outcome
from tests.wandb_server import WandbServer


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path, tmp_path_factory):
    """No test may depend on, or reach, the account of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    wandb.teardown()  # it keeps what it has read


@pytest.fixture
def server(monkeypatch) -> Iterator[WandbServer]:
    """A stand-in for wandb's server, which is the user's own."""
    with WandbServer() as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        yield server
    wandb.teardown()


def make_spec(mode: str = "disabled", **wandb: object) -> RunSpec:
    """A run of 10,000 steps of 8 images."""
    return RunSpec.model_validate(
        {
            "name": "faces",
            "data": {"shards": "faces"},
            "training": {"batch_size": 8, "images": 80_000},
            "tracking": {"wandb": {"mode": mode, **wandb}},
        }
    )


def make_run(folder: Path, spec: RunSpec | None = None) -> Path:
    """A run's folder as training makes it."""
    (folder / "samples").mkdir(parents=True)
    (folder / "spec.yaml").write_text(dump_spec(spec or make_spec()))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder."""
    return make_run(tmp_path / "run")


def a_run(run: Path, lines: int = 20, grids: int = 3, outcome: Outcome | None = "finished") -> None:
    """Fill it as training does."""
    tracker = open_run(run)
    tracker.message("training on <b>cpu</b>")
    for step in range(1, lines + 1):
        tracker.log(step, figures(step))
    for number in range(grids):
        draw_grid(run, 100 * number)
    if outcome:
        tracker.close(outcome)


def open_run(
    run: Path, spec: RunSpec | None = None, *, resume_step: int | None = None, wandb_run_id: str | None = None
) -> Tracker:
    spec = spec or make_spec()
    return open_tracker(
        spec, run, resume_step=resume_step, wandb_run_id=wandb_run_id, total_steps=spec.steps, console=False
    )


def draw_grid(run: Path, images: int, size: int = 16, mode: str = "RGB") -> Path:
    path = run / "samples" / f"{images:010d}.png"
    Image.new(mode, (size, size), color=images % 200).save(path)
    return path


def figures(step: int, **others: float) -> dict[str, float]:
    return {
        "images": 8 * step,
        "epoch": step / 100,
        "loss/critic": 1.0 / step,
        "loss/generator": 2.0,
        "grad_norm/critic": 1.0,
        "time/images_per_second": 800.0,
        "time/data_wait": 0.001,
        **others,
    }


class FakeRun(wandb.Run):
    """A run of which one call fails."""

    id = "fake"
    url = "https://example.invalid/fake"
    settings = wandb.Settings()

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.calls: list[tuple[object, ...]] = []
        self.threads: set[str] = set()

    def _call(self, name: str, *args: object) -> None:
        self.calls.append((name, *args))
        self.threads.add(threading.current_thread().name)
        if name == self.fails:
            raise wandb.errors.CommError("quota exceeded")

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self._call("log", data, step)

    def finish(self, exit_code: int | None = None) -> None:
        self._call("finish", exit_code)

    def alert(self, title: str, text: str, level=None, wait_duration=None) -> None:
        self._call("alert", title, text)

    def log_artifact(self, artifact, aliases=None, **options):
        self._call("log_artifact", aliases)

    def define_metric(self, *args, **kwargs):
        self._call("define_metric")


def records(file: Path) -> list[dict[str, Any]]:
    """What a file of wandb's holds, a record each."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(found: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Its rows by step."""
    items = [record["history"]["item"] for record in found if record["type"] == "history"]
    return {item["_step"]: item for item in items}
