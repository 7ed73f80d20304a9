"""A stand-in for the server of Weights & Biases: it records what it gets, deals out a sweep's trials, fails at will.

It answers what the clients of wandb 0.31 ask (``wandb-core``, ``wandb sweep``, ``wandb agent``, wandb-workspaces), in
as many words as they need. What it has no answer for is in :attr:`WandbServer.unknown`.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote

KEY = "0123456789abcdef0123456789abcdef01234567"
"""Looks like a key; the server takes any."""
ENTITY = "us"

Fault = Literal["500", "hang", "drop"]
"""What may happen to a request: an error of the server, no answer for ever, or a connection that is closed."""


@dataclass
class Run:
    """What the server knows of a run."""

    project: str
    config: dict[str, Any] = field(default_factory=dict)
    display_name: str = ""
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    """By name, such as ``wandb-history.jsonl``: its lines by number."""
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    """Title, text, level."""
    exit_codes: list[int] = field(default_factory=list)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Its rows, in order."""
        return self._rows("wandb-history.jsonl")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The metrics of its system, in order."""
        return self._rows("wandb-events.jsonl")

    @property
    def summary(self) -> dict[str, Any]:
        """The newest figures."""
        rows = self._rows("wandb-summary.json")
        return rows[-1] if rows else {}

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in sorted(self.lines.get(name, {}).items())]


@dataclass
class Artifact:
    """What the server knows of an artifact."""

    name: str
    type: str
    aliases: list[str]
    metadata: dict[str, Any]
    manifest: bytes = b""
    committed: bool = False


class WandbServer(ThreadingHTTPServer):
    """The server, on a port of this machine; a block in which it serves.

    Args:
        trials: Settings of a sweep's trials.

    Attributes:
        runs: By id.
        artifacts: In the order in which they were begun.
        stored: The bytes of artifacts' files by their path there.
        views: Workspaces and reports, as they were asked for.
        requests: Method, path, and the operation where it is GraphQL, of each.
        fault: What happens to each request, but where ``healthy`` says otherwise.
        healthy: A pattern of what is answered all the same, found in path or operation.
        unknown: Questions that it had no answer to.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, trials: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.trials = list(trials)
        self.sweep_config = ""
        self.dealt = 0
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.stored: dict[str, bytes] = {}
        self.views: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, str]] = []
        self.unknown: list[str] = []
        self.bodies: list[bytes] = []
        self.fault: Fault | None = None
        self.healthy: str | None = None
        self.hanging = 0
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def variables(self) -> dict[str, str]:
        """What makes wandb take it for the user's own."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is none of ours."""

    def fails(self, path: str, operation: str) -> Fault | None:
        if self.healthy and re.search(self.healthy, f"{path} {operation}"):
            return None
        return self.fault

    # Answers: GraphQL

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        for name, reply in _REPLIES:
            if re.search(rf"\b{name}", query):
                found: dict[str, Any] = reply(self, given)
                return found
        self.unknown.append(query)
        return {}

    def _viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "teams": {"edges": []}, "flags": "{}", "email": ""}
        return {"viewer": viewer, "serverInfo": self._info({})["serverInfo"]}

    def _info(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []}}

    def _organization(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        bucket = None
        if run:
            history, events = (run.lines.get(f"wandb-{name}.jsonl", {}) for name in ("history", "events"))
            tails = [json.dumps([lines[max(lines)]] if lines else []) for lines in (history, events)]
            bucket = {
                "id": given["name"],
                "name": given["name"],
                "summaryMetrics": json.dumps(run.summary),
                "displayName": run.display_name,
                "logLineCount": 0,
                "historyLineCount": len(history),
                "eventsLineCount": len(events),
                "historyTail": tails[0],
                "eventsTail": tails[1],
                "config": json.dumps(run.config),
                "tags": [],
                "notes": "",
                "wandbConfig": json.dumps({"t": 1}),
            }
        entity = {"id": "1", "name": ENTITY}
        return {"model": {"id": "1", "name": given.get("project"), "entity": entity, "bucket": bucket}}

    def _upsert_run(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("name") or given.get("id") or ""
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(given.get("project") or "uncategorized"))
        if given.get("config"):
            run.config |= json.loads(given["config"])
        run.display_name = given.get("displayName") or run.display_name or name
        project = {"id": "1", "name": run.project, "entity": {"id": "1", "name": ENTITY}}
        bucket = {
            "id": name,
            "name": name,
            "displayName": run.display_name,
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": given.get("sweep"),
            "project": project,
            "historyLineCount": len(run.lines.get("wandb-history.jsonl", {})),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        run = given["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _alert(self, given: dict[str, Any]) -> dict[str, Any]:
        self.runs[given["runName"]].alerts.append((given["title"], given["text"], given["severity"]))
        return {"notifyScriptableRunAlert": {"success": True}}

    def _artifact_type(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _create_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        asked = given["input"]
        (name,) = asked.get("artifactCollectionNames") or [asked.get("artifactCollectionName")]
        aliases = [alias["alias"] for alias in asked.get("aliases") or []]
        metadata = json.loads(asked.get("metadata") or "{}")
        self.artifacts.append(Artifact(name, asked["artifactTypeName"], aliases, metadata))
        number = len(self.artifacts) - 1
        artifact = {
            "id": f"artifact{number}",
            "state": "PENDING",
            "artifactSequence": {"id": "1", "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        whose = given.get("artifactID") or given["artifactManifestID"]
        upload = {"id": "1", "uploadUrl": f"{self.url}/manifest/{whose}", "uploadHeaders": []}
        return {
            name: {"artifactManifest": {"id": whose, "file": upload}}
            for name in ("createArtifactManifest", "updateArtifactManifest")
        }

    def _artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes: list[dict[str, Any]] = [
            {
                "storagePath": f"{asked['artifactID']}/{asked['name']}",
                "uploadUrl": f"{self.url}/artifact/{asked['artifactID']}/{asked['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": asked["artifactID"]},
            }
            for asked in given["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _commit_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifact_of(given["artifactID"]).committed = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "0"}}}

    def _upsert_view(self, given: dict[str, Any]) -> dict[str, Any]:
        self.views.append(given)
        view = {
            "id": "view",
            "name": given.get("name"),
            "displayName": given.get("displayName"),
            "type": given.get("type"),
        }
        return {"upsertView": {"view": view, "inserted": True}}

    def _upsert_sweep(self, given: dict[str, Any]) -> dict[str, Any]:
        self.sweep_config = given["config"]
        project = {"id": "1", "name": "distgan", "entity": {"id": "1", "name": ENTITY}}
        sweep = {"id": "1", "name": "sweep1", "state": "RUNNING", "project": project, "config": self.sweep_config}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _sweep(self, given: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": "1", "name": "sweep1", "config": self.sweep_config, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _agent(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def _heartbeat(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self._commands(given))}}

    def _commands(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        if json.loads(given["runState"] or "{}"):  # one is running
            return []
        if self.dealt == len(self.trials):
            return [{"type": "exit"}]
        number, self.dealt = self.dealt, self.dealt + 1
        arguments = {name: {"value": value} for name, value in self.trials[number].items()}
        return [{"type": "run", "run_id": f"trial{number}", "program": "train.py", "args": arguments}]

    def artifact_of(self, name: str) -> Artifact:
        return self.artifacts[int(name.removeprefix("artifact"))]

    # Answers: files

    def stream(self, run: str, body: dict[str, Any]) -> dict[str, Any]:
        known = self.runs.setdefault(run, Run("unknown"))
        for name, chunk in (body.get("files") or {}).items():
            lines = known.lines.setdefault(name, {})
            lines.update(enumerate(chunk["content"], start=chunk["offset"]))
        if body.get("complete"):
            known.exit_codes.append(body["exitcode"])
        return {"exitcode": None, "limits": {}}

    def put(self, path: str, body: bytes) -> None:
        kind, whose, name = (*path.lstrip("/").split("/", 2), "")[:3]
        if kind == "upload":
            self.runs[whose].files[name] = body
        elif kind == "manifest":
            self.artifact_of(whose).manifest = body
        elif kind == "artifact":
            self.stored[f"{whose}/{name}"] = body


_REPLIES: list[tuple[str, Any]] = [
    ("upsertSweep", WandbServer._upsert_sweep),
    ("query SweepWithRuns", WandbServer._sweep),
    ("createAgent", WandbServer._agent),
    ("agentHeartbeat", WandbServer._heartbeat),
    ("RunResumeStatus", WandbServer._resume_status),
    ("upsertBucket", WandbServer._upsert_run),
    ("createRunFiles", WandbServer._run_files),
    ("notifyScriptableRunAlert", WandbServer._alert),
    ("query ArtifactType", WandbServer._artifact_type),
    ("createArtifact\\b", WandbServer._create_artifact),
    ("createArtifactManifest", WandbServer._manifest),
    ("updateArtifactManifest", WandbServer._manifest),
    ("createArtifactFiles", WandbServer._artifact_files),
    ("commitArtifact", WandbServer._commit_artifact),
    ("upsertView", WandbServer._upsert_view),
    ("query OrganizationCoreWeave", WandbServer._organization),
    ("viewer", WandbServer._viewer),
    ("serverInfo", WandbServer._info),
]
"""A word of a GraphQL question, and who answers it."""


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked, operation = {}, ""
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            operation = found[1] if found else ""
        if not self._received(operation, body):
            return
        with self.server.lock:
            if asked:
                reply = {"data": self.server.answer(asked["query"], asked.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                reply = self.server.stream(self.path.split("/")[-2], json.loads(body))
            else:
                reply = {}  # figures on wandb's own working
        self._reply(json.dumps(reply).encode())

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._received("", body):
            return
        with self.server.lock:
            self.server.put(unquote(self.path), body)
        self._reply(b"")

    def do_GET(self) -> None:
        if self._received("", b""):
            self.send_error(404)

    def _received(self, operation: str, body: bytes) -> bool:
        """Write the request down, and see whether it is answered."""
        with self.server.lock:
            self.server.requests.append((self.command, self.path, operation))
            self.server.bodies.append(body)
        fault = self.server.fails(self.path, operation)
        if fault == "500":
            self.send_error(500)
        elif fault == "hang":
            self.server.hanging += 1
            self.server.ended.wait()
        if fault:
            self.close_connection = True
        return fault is None

    def _reply(self, body: bytes) -> None:
        with suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass
