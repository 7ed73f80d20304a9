from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb

from distgan.cli import main
from distgan.errors import RunError
from distgan.launch import submit as module
from distgan.launch.local import train_locally
from distgan.launch.submit import Cluster, Line, job_address, pack_project, read_line
from distgan.spec import RunSpec, dump_spec, load_spec
from distgan.tracking.commit import commit_of_distgan
from distgan.training.complete import complete
from shards.errors import InputError
from tests.curves import assert_same, curve, steps
from tests.processes import kill

PROJECT = Path(__file__).parents[3]
KEY = "0123456789abcdef0123456789abcdef01234567"


class Client:
    """A Jobs API as submit.py uses it: a job's log comes in chunks, between which the connection may break."""

    def __init__(
        self, *chunks: str | Exception, status: str = "SUCCEEDED", exit_code: int = 0, message: str = ""
    ) -> None:
        self.chunks = deque(chunks)
        self.jobs: dict[str, SimpleNamespace] = {}
        self.packages: dict[str, bytes] = {}
        self.status, self.exit_code, self.message = status, exit_code, message
        self.sent = ""
        self.busy = 0
        self.silent = False
        self.stopped: list[str] = []

    def submit_job(self, *, submission_id, entrypoint, runtime_env, metadata) -> str:
        if self.busy:
            self.busy -= 1
            raise RuntimeError(
                "Request failed with status code 500: No available agent to submit job, try again later."
            )
        if submission_id in self.jobs:
            raise RuntimeError(
                f"Request failed with status code 500: Traceback …\nJob {submission_id} already exists\n."
            )
        job = submission_id or "raysubmit_1"
        self.packages = {
            str(path.relative_to(runtime_env["working_dir"])): path.read_bytes()
            for path in Path(runtime_env["working_dir"]).rglob("*")
            if path.is_file()
        }
        self.shown = json.dumps([submission_id, entrypoint, runtime_env, metadata])
        self.jobs[job] = SimpleNamespace(
            submission_id=job, job_id=None, status="RUNNING", message=self.message, metadata=metadata,
            entrypoint=entrypoint, driver_exit_code=None, start_time=1_700_000_000_000, end_time=None,
        )  # fmt: skip
        return job

    def list_jobs(self):
        return list(self.jobs.values())

    def get_job_info(self, job):
        if not self.chunks:
            self.jobs[job].status, self.jobs[job].driver_exit_code = self.status, self.exit_code
        return self.jobs[job]

    def get_job_logs(self, job):
        return self.sent

    def stop_job(self, job):
        self.stopped.append(job)
        self.chunks.clear()

    async def tail_job_logs(self, job):
        if self.sent:
            yield self.sent  # a new connection begins at the beginning
        while self.chunks:
            chunk = self.chunks.popleft()
            if isinstance(chunk, Exception):
                raise chunk
            self.sent += chunk
            if self.silent:
                await asyncio.sleep(60)
            yield chunk


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)


@pytest.fixture
def send(tiny):
    """Submits a run to a client, and returns the cluster."""

    def run(client: Client, **options) -> Cluster:
        cluster = Cluster("http://head:8265", client)
        cluster.submit(tiny(), "/mnt/runs/tiny", **options)
        return cluster

    return run


def test_a_job_trains_the_complete_specification_in_the_given_folder(send, tiny, tmp_path):
    client = Client()
    send(client)
    (tmp_path / "run.yaml").write_bytes(client.packages["run.yaml"])
    assert load_spec(tmp_path / "run.yaml") == complete(tiny())
    command = shlex.split(client.jobs["raysubmit_1"].entrypoint)
    assert command[:5] == ["python", "-m", "distgan", "train", "run.yaml"]
    assert command[command.index("--out") + 1] == "/mnt/runs/tiny"
    assert {"--resume", "--address"} < set(command)


def test_a_cluster_that_is_just_starting_is_waited_for(send, monkeypatch):
    client = Client()
    client.busy = 2
    send(client)
    assert client.jobs
    monkeypatch.setattr(module, "LOST_AFTER_S", 0.0)
    client.busy = 2
    with pytest.raises(InputError, match="try again later"):
        send(client, name="another")


def test_the_package_is_the_code_and_nothing_else(send, monkeypatch, tmp_path):
    client = Client()
    send(client)
    assert {"distgan/commands/base.py", "distgan/tracking/report.html", "shards/writer.py", "jobs/dcgan64.yaml"} <= set(
        client.packages
    )
    for name in client.packages:
        assert name == "run.yaml" or name.split("/")[0] in {"distgan", "shards", "jobs"}
        assert not any(part.startswith((".", "__pycache__")) for part in name.split("/"))


def test_what_is_packed_runs_by_itself(tiny, tmp_path):
    pack_project(tmp_path, complete(tiny()), {})
    program = "import distgan, shards, jobs; print(distgan.__file__); from distgan.cli import app"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(str(tmp_path)), done.stderr


def test_a_package_with_data_in_it_is_refused_and_says_what_is_large(tiny, monkeypatch, tmp_path):
    copy = shutil.copytree(module.jobs.__path__[0], tmp_path / "jobs")
    (copy / "celeba.tar").write_bytes(bytes(module.LARGEST_PACKAGE))
    (tmp_path / "out").mkdir()
    pack_project(tmp_path / "out", tiny(), {})  # the code alone
    code = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    code -= (tmp_path / "out" / "run.yaml").stat().st_size
    monkeypatch.setattr(module.jobs, "__path__", [str(copy)])
    said = f"{20 + code / 2**20:.1f} MiB, more than 20"
    with pytest.raises(InputError, match=rf"{re.escape(said)}(.|\n)*20\.0 MiB  jobs/celeba\.tar"):
        pack_project(tmp_path / "refused", tiny(), {})
    assert not (tmp_path / "refused").exists()


LOGIN = {"WANDB_BASE_URL": "https://wandb.example.org", "WANDB_API_KEY": KEY}


def test_the_login_is_in_the_package_and_nowhere_else(send):
    client = Client("hello\n")
    cluster = send(client, login=LOGIN)
    assert json.loads(client.packages["wandb.json"]) == LOGIN
    assert KEY not in client.shown
    assert KEY not in json.dumps(cluster.status("raysubmit_1"))
    assert all(KEY.encode() not in data for name, data in client.packages.items() if name != "wandb.json")
    shown = []
    cluster.follow("raysubmit_1", shown.append)
    assert KEY not in str(shown)


@pytest.fixture
def submit(tiny, tmp_path, monkeypatch, capsys):
    """``distgan submit`` of a run that leaves W&B to the environment: what was sent, the run, and what was said."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    written = tiny(tracking__wandb={"mode": "auto"}).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "spec.yaml").write_text(json.dumps(written))

    def run(*arguments: str) -> tuple[Client, RunSpec, str]:
        wandb.teardown()  # it keeps what it has read
        client = Client()
        monkeypatch.setattr(module, "_connect", lambda address: client)
        command = ["distgan", "submit", "spec.yaml", "--address=http://head:8265", "--out=/mnt/run", "--no-wait"]
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = "".join(capsys.readouterr())
        assert not ended.value.code, said
        Path("sent.yaml").write_bytes(client.packages["run.yaml"])
        assert KEY not in client.shown + said
        return client, load_spec("sent.yaml"), said

    return run


def packed_login(client: Client) -> dict[str, str]:
    """wandb's variables in the package, without the commit, which is no secret."""
    variables: dict[str, str] = json.loads(client.packages.get("wandb.json", b"{}"))
    assert variables.pop("WANDB_GIT_COMMIT", None) in (None, commit_of_distgan())
    return variables


@pytest.mark.parametrize("how", ["variable", "dryrun", "disabled", "folder", "specification"])
def test_a_run_that_stays_offline_is_sent_without_a_key_and_stays_so_there(submit, monkeypatch, how):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    if how == "folder":
        subprocess.run([sys.executable, "-m", "wandb", "offline"], check=True, capture_output=True)
    elif how != "specification":
        monkeypatch.setenv("WANDB_MODE", {"variable": "offline"}.get(how, how))
    client, sent, _ = submit(*(["tracking.wandb.mode=offline"] if how == "specification" else []))
    assert packed_login(client) == {}
    assert sent.tracking.wandb.mode == ("disabled" if how == "disabled" else "offline")
    assert all(KEY.encode() not in data for data in client.packages.values())


def test_a_key_is_sent_with_the_server_and_the_project_that_it_is_for(submit, monkeypatch, tmp_path):
    client, sent, said = submit()
    assert packed_login(client) == {}
    assert "no login for https://" in said
    own = "https://wandb.example.org:8080"
    (tmp_path / "netrc").write_text(f"machine wandb.example.org:8080 login user password {KEY}\n")
    monkeypatch.setenv("WANDB_BASE_URL", own)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    client, sent, said = submit()
    assert packed_login(client) == {"WANDB_BASE_URL": own, "WANDB_API_KEY": KEY}
    assert (sent.tracking.wandb.project, sent.tracking.wandb.entity) == ("theirs", "team")
    assert "no login" not in said
    client, sent, _ = submit("--no-key")
    assert packed_login(client) == {"WANDB_BASE_URL": own}


@pytest.mark.parametrize(
    ("changes", "run", "word"),
    [
        ({}, "runs/tiny", "relative"),
        ({"data__shards": "data/faces"}, "/mnt/runs/tiny", "data.shards is data/faces"),
        ({"model__generator": {"name": "dcgam"}}, "/mnt/runs/tiny", "did you mean 'dcgan'"),
    ],
)
def test_what_cannot_run_there_is_not_sent(tiny, changes, run, word):
    client = Client()
    with pytest.raises(InputError, match=word):
        Cluster("http://head:8265", client).submit(tiny(**changes), run)
    assert client.jobs == {}


def test_shards_behind_a_url_are_found_from_everywhere(tiny):
    client = Client()
    Cluster("http://head:8265", client).submit(tiny(data__shards="s3://bucket/faces"), "/mnt/runs/tiny")
    assert client.jobs


PROGRESS = "step 40/39,063 (0%): critic 0.16, generator 14.14, 36 images/s, 38:39:56 left"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (PROGRESS, Line(PROGRESS, True)),
        ("step 1 is done", Line("step 1 is done", False)),
        ("", Line("", False)),
    ],
)
def test_lines_that_tell_how_far_the_run_is_are_known(text, line):
    assert read_line(text) == line


def test_a_log_is_followed_through_broken_connections_without_gap_or_repetition(send):
    client = Client("one\ntw", "o\nthr", RuntimeError("closed"), "ee\n", ConnectionError("refused"), "four\nfive")
    shown: list[Line] = []
    cluster = send(client)
    assert cluster.follow("raysubmit_1", shown.append).exit_code == 0
    assert [line.text for line in shown] == ["one", "two", "three", "four", "five"]
    assert [line.text for line in cluster.logs("raysubmit_1")] == ["one", "two", "three", "four", "five"]


def test_a_job_that_ends_while_its_log_cannot_be_heard_is_read_to_the_end(send, monkeypatch):
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    client = Client("one\ntwo\n")
    client.silent = True
    shown: list[Line] = []
    assert send(client).follow("raysubmit_1", shown.append).exit_code == 0
    assert [line.text for line in shown] == ["one", "two"]


def test_a_cluster_that_is_gone_is_said_to_be(send, monkeypatch):
    monkeypatch.setattr(module, "LOST_AFTER_S", 0.0)
    with pytest.raises(RunError, match=r"has not answered(.|\n)*logs raysubmit_1 --follow"):
        send(Client("one\n", ConnectionError("refused"))).follow("raysubmit_1", lambda line: None)


@pytest.mark.parametrize(
    ("status", "exit_code", "expected", "word"),
    [
        ("SUCCEEDED", 0, 0, "well"),
        ("FAILED", 1, 1, "no room"),
        ("FAILED", 2, 2, "failed: no room"),
        ("STOPPED", None, 1, "stopped"),
    ],
)
def test_a_job_s_end_is_the_command_s(send, status, exit_code, expected, word):
    cluster = send(Client("x\n", status=status, exit_code=exit_code, message="Traceback\nerror: no room"))
    end = cluster.follow("raysubmit_1", lambda line: None)
    assert (end.status, end.exit_code) == (status, expected)
    assert word in end.text


def test_stop_waits_for_the_end(send):
    client, said = Client("never ending", status="STOPPED"), []
    assert send(client).stop("raysubmit_1", said.append).status == "STOPPED"
    assert client.stopped == ["raysubmit_1"]
    assert len(said) == 1


def test_unknown_jobs_and_taken_names_are_said(send):
    cluster = send(Client(), name="faces")
    for ask in (cluster.status, lambda job: list(cluster.logs(job)), lambda job: cluster.stop(job, print)):
        with pytest.raises(InputError, match="no job 'facs'; did you mean 'faces'"):
            ask("facs")
    with pytest.raises(InputError, match="Job faces already exists"):
        cluster.submit(RunSpec.model_validate({"name": "x", "data": {"shards": "/x"}}), "/x", name="faces")


def test_the_address_is_given_or_the_environment_s(monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="--address"):
        job_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "http://a:1")
    assert job_address(None) == "http://a:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://b:1")
    assert job_address(None) == "http://b:1"
    assert job_address("http://c:1") == "http://c:1"
    with pytest.raises(InputError, match="dashboard"):
        job_address("10.0.0.1:6379")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head of one CPU on this machine, with a token; ended with everything that it has started."""
    folder, port = tmp_path_factory.mktemp("ray"), free_port()
    # Ray tells jobs the address of the head that was started last in its temporary folder, whoever's that is. Sockets
    # lie there too, and their paths must be short.
    own = tempfile.mkdtemp(prefix="ray-")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": KEY}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # jobs run "python"
    address = f"http://127.0.0.1:{port}"
    command = [
        Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=2",
        f"--dashboard-port={port}", "--disable-usage-stats",
        f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000", f"--temp-dir={own}",
    ]  # fmt: skip
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "head.log").read_text()
                assert time.monotonic() < deadline, (folder / "head.log").read_text()
                time.sleep(0.2)
        yield address, environment
    finally:
        kill(process)
        shutil.rmtree(own, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.xdist_group("head")
def test_a_real_cluster_runs_stops_and_tells(head, tiny, tmp_path):
    address, environment = head

    def distgan(*arguments: object, **more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "distgan", *map(str, arguments), "--address", address]
        done = subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, timeout=400)
        return done.returncode, done.stdout + done.stderr

    (tmp_path / "spec.yaml").write_text(dump_spec(tiny(tracking__wandb={"mode": "offline"})))
    send = ("submit", tmp_path / "spec.yaml", "--out")
    code, text = distgan(*send, tmp_path / "run", "--name", "first")
    assert code == 0, text
    assert "step 12/12 (100%)" in text
    assert "finished at step 12" in text
    assert (tmp_path / "run" / "report.html").exists()
    code, text = distgan(*send, tmp_path / "long", "--name", "second", "--no-wait", "--set", "training.images=800000")
    assert code == 0, text
    deadline = time.monotonic() + 200
    while not (tmp_path / "long" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline, distgan("logs", "second")[1]
        time.sleep(0.2)
    assert distgan("stop", "second")[0] == 0
    assert "interrupted" in (tmp_path / "long" / "log.txt").read_text()
    code, text = distgan("status", "second", "--json")
    assert json.loads(text)["status"] == "STOPPED"
    assert distgan("logs", "second", "--follow")[0] == 1
    code, text = distgan("status", "third")
    assert code == 2
    assert "no job 'third'" in text
    code, text = distgan("status", "first", RAY_AUTH_TOKEN=KEY[::-1])
    assert code == 2
    assert "lets nobody in without its token" in text
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.xdist_group("head")
def test_ray_s_own_command_sends_the_code_alone_and_trains_the_same(head, tiny, tmp_path):
    """``ray job submit`` from a checkout that has data, runs and a history in it, as jobs/README.md says."""
    address, environment = head
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("distgan", "shards", "jobs", "cluster", "README.md", "pyproject.toml", ".gitignore", ".rayignore"):
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, checkout / name)
    for name in (
        "data/faces/shard-000000.tar",
        "runs/old/spec.yaml",
        ".git/objects/pack",
        ".venv/bin/python",
        "me.zip",
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(bytes(1000))
    spec = tiny(training__precision="float64")
    (checkout / "run.yaml").write_text(dump_spec(spec))
    train = f"python -m distgan train run.yaml --workers 2 --resume --out {tmp_path / 'run'}"
    command = [
        Path(sys.executable).parent / "ray", "job", "submit", "--address", address, "--working-dir", ".",
        "--runtime-env-json", json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}),
        "--", "sh", "-c", f"find . -type f && {train}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=400)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "finished at step 12" in text
    sent = set(re.findall(r"^\./(\S+)$", text, re.M))
    assert {"run.yaml", "distgan/commands/base.py", "distgan/tracking/report.html", "shards/writer.py"} <= sent
    assert {name.split("/")[0] for name in sent} <= {"run.yaml", "distgan", "shards", "jobs"}
    train_locally(spec, tmp_path / "alone", console=False)
    assert len(steps(tmp_path / "run")) == 12
    assert_same(curve(tmp_path / "alone"), curve(tmp_path / "run"))
