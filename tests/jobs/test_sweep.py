"""wandb's own commands drive distgan: ``wandb sweep`` and ``wandb agent``, against a stand-in for its server."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from distgan.spec import load_spec
from distgan.tracking import read_metrics

JOBS = Path(__file__).parents[2] / "jobs"
KEY = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Answers what the two commands ask of wandb's server, and deals out trials."""

    def __init__(self, trials: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.trials = trials
        self.config = ""
        self.dealt = 0
        self.unknown: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertSweep" in query:
            self.config = variables["config"]
            project = {"id": "1", "name": "distgan", "entity": {"id": "1", "name": "us"}}
            sweep = {"id": "1", "name": "sweep1", "state": "RUNNING", "project": project, "config": self.config}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
        if "query SweepWithRuns" in query:
            sweep = {"id": "1", "name": "sweep1", "config": self.config, "runs": {"edges": []}}
            return {"project": {"sweep": sweep}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "agent"}}}
        if "agentHeartbeat" in query:
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self.commands(variables))}}
        if "viewer" in query:
            viewer = {"id": "1", "entity": "us", "username": "us", "teams": {"edges": []}, "flags": "{}", "email": ""}
            return {"viewer": viewer, "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None}}
        self.unknown.append(query)
        return {}

    def commands(self, variables: dict[str, Any]) -> list[dict[str, Any]]:
        if json.loads(variables["runState"] or "{}"):  # one is running
            return []
        if self.dealt == len(self.trials):
            return [{"type": "exit"}]
        number, self.dealt = self.dealt, self.dealt + 1
        arguments = {name: {"value": value} for name, value in self.trials[number].items()}
        return [{"type": "run", "run_id": f"trial{number}", "program": "train.py", "args": arguments}]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/graphql"):
            self.send_error(404)  # figures on wandb's own working
            return
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body)
        answer = json.dumps({"data": self.server.answer(asked["query"], asked.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def make(*trials: dict[str, Any]) -> Server:
        server = Server(list(trials))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def wandb(server: Server, folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": KEY,
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
        assert read_metrics(run)[-1]["step"] == 2
        assert [path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")] == [run.name]
