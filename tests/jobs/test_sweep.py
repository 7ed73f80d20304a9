"""wandb's own commands drive distgan: ``wandb sweep`` and ``wandb agent``, against a stand-in for its server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from distgan.spec import load_spec
from distgan.tracking import read_metrics
from tests.wandb_server import WandbServer

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def serve() -> Iterator[Any]:
    with ExitStack() as stack:
        yield lambda *trials: stack.enter_context(WandbServer(trials))


def wandb(server: WandbServer, folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        **server.variables,
        "WANDB_CONFIG_DIR": str(folder / "config"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "wandb", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "rates"),
    [("${args_no_hyphens}", [1e-05, 0.0002, 0.001]), ("${args}", [1e-05]), ("${args_no_equals}", [1e-05])],
)
def test_a_sweep_s_trials_are_runs_in_folders_of_their_own(serve, pack_discs, tmp_path, form, rates):
    """The shipped example, with the demo's networks made tiny and the server out of the trials' way."""
    shards = pack_discs(count=40, size=64)
    tiny = {
        "data.shards": str(shards),
        "model.generator.width": 2,
        "model.critic.width": 2,
        "training.images": 64,
        "tracking.log_every": 1,
        "tracking.wandb.mode": "offline",
        "data.limit": None,
        "data.flip": False,
    }
    server = serve(*({**tiny, "optimizer.generator.lr": rate} for rate in rates))
    sweep = yaml.safe_load((JOBS / "sweep.yaml").read_text())
    sweep["command"] = [form if word == "${args_no_hyphens}" else word for word in sweep["command"]]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    said = wandb(server, tmp_path, "sweep", "sweep.yaml")
    assert "wandb agent us/distgan/sweep1" in said
    said = wandb(server, tmp_path, "agent", "us/distgan/sweep1")
    assert server.unknown == []
    runs = sorted((tmp_path / "runs" / "demo-sweep1").iterdir())
    assert [run.name for run in runs] == [f"trial{i}" for i in range(len(rates))], said
    for run, rate in zip(runs, rates, strict=True):
        spec = load_spec(run / "spec.yaml")
        assert (spec.optimizer.generator.lr, spec.data.limit, spec.data.flip) == (rate, None, False)
        assert read_metrics(run)[-1]["images"] == 64
        assert [path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")] == [run.name]
