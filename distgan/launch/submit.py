"""Runs as Ray jobs: packed, sent, followed, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import distgan
import jobs
import shards
from distgan.errors import RunError
from distgan.launch.packed_login import pack_login
from distgan.spec import RunSpec, dump_spec
from shards.errors import InputError
from shards.names import near

LARGEST_PACKAGE = 20 * 2**20
"""Bytes. What is packed is code; more than this is data that has strayed into it."""
SAVE_WITHIN_S = 120
"""A job that is stopped has so long to save a checkpoint before Ray kills it."""
LOOK_EVERY_S = 1.0
LOST_AFTER_S = 60.0
"""A connection that has been gone for so long is given up."""
QUIET_S = 30.0
"""A log that has been silent for so long is asked for again: the connection may be gone without a word."""

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_LEFTOVERS = ("__pycache__", "runs", "wandb")
_PROGRESS = re.compile(r"^step [\d,]+/[\d,]+ \(\d+%\): ")


class JobEnd(NamedTuple):
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    exit_code: int
    """0 it has done what it was to do; 2 the user's input is wrong; 1 it failed or was stopped."""
    text: str
    """For people."""


class Line(NamedTuple):
    """A line of a job's log, without what Ray writes before it."""

    text: str
    progress: bool
    """Whether the next such line takes its place."""


@dataclass
class _Log:
    """A job's log as it comes, through as many connections as it takes; each of them begins at the log's beginning."""

    show: Callable[[Line], None]
    position: int = 0
    """Characters that this connection has brought."""
    seen: int = 0
    """Characters that some connection has brought."""
    begun: str = ""
    """A line whose end has not come yet."""

    def add(self, text: str) -> None:
        new = text[max(0, self.seen - self.position) :]
        self.position += len(text)
        self.seen = max(self.seen, self.position)
        *lines, self.begun = (self.begun + new).split("\n")
        for line in lines:
            self.show(read_line(line))

    def close(self) -> None:
        if self.begun:
            self.show(read_line(self.begun))


class Cluster:
    """The Jobs API of a Ray cluster.

    Args:
        address: Of the cluster's dashboard, such as ``http://127.0.0.1:8265``.
        client: What speaks to it; a ``ray.job_submission.JobSubmissionClient`` when not given.

    Raises:
        InputError: There is no cluster, or it lets nobody in without its token.
    """

    def __init__(self, address: str, client: Any = None) -> None:
        self.address = address
        self._client = client or _connect(address)

    def submit(
        self, spec: RunSpec, run: str, *, name: str | None = None, login: Mapping[str, str] | None = None
    ) -> str:
        """Send a run, and return the job's id as soon as the cluster has it.

        Args:
            spec: The run.
            run: Its folder on the cluster's shared storage. A run that is there already goes on.
            name: The job's id; made up when not given.
            login: wandb's variables, its key among them. They travel in the package, never in what the cluster shows
                of a job.

        Raises:
            InputError: The specification cannot be run there, the package is too large, or the id is taken.
        """
        from distgan.training.complete import complete  # brings torch, which the other commands do without

        spec = complete(spec)
        _check_places(spec, run)
        with tempfile.TemporaryDirectory() as folder:
            pack_project(Path(folder), spec, login or {})
            command = ["python", "-m", "distgan", "train", "run.yaml", "--address", "auto", "--resume", "--out", run]
            variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(SAVE_WITHIN_S), "PYTHONUNBUFFERED": "1"}
            deadline = time.monotonic() + LOST_AFTER_S
            while True:
                with self._in_words():
                    try:
                        return str(
                            self._client.submit_job(
                                submission_id=name,
                                entrypoint=shlex.join(command),
                                runtime_env={"working_dir": folder, "env_vars": variables},
                                metadata={"run": spec.name},
                            )
                        )
                    except RuntimeError as error:  # a cluster that has just started
                        if "try again later" not in str(error) or time.monotonic() > deadline:
                            raise
                time.sleep(LOOK_EVERY_S)

    def follow(self, job: str, show: Callable[[Line], None]) -> JobEnd:
        """Show a job's log from its beginning, until the job ends.

        Raises:
            InputError: There is no such job.
            RunError: The cluster is lost.
        """
        info = self._info(job)
        log, lost = _Log(show), 0.0
        while True:
            try:
                asyncio.run(self._read(job, log))
                lost = 0.0
                if info.status in _ENDED:  # it had, before the log was read: nothing is missing
                    log.close()
                    return _end(job, info)
                info = self._client.get_job_info(job)
            except _broken() as error:
                now = time.monotonic()
                lost = now if log.position or not lost else lost
                if now - lost >= LOST_AFTER_S:
                    raise RunError(
                        f"the cluster at {self.address} has not answered for {LOST_AFTER_S:.0f} s ({_reason(error)}). "
                        f"The job goes on if the cluster does: distgan logs {job} --follow --address {self.address}"
                    ) from None
            time.sleep(LOOK_EVERY_S)

    async def _read(self, job: str, log: _Log) -> None:
        """Read a log from its beginning until the job ends, or until it has been silent for long."""
        log.position = 0
        async with aclosing(self._client.tail_job_logs(job)) as stream:
            while True:
                try:
                    log.add(await asyncio.wait_for(anext(stream), QUIET_S))
                except (StopAsyncIteration, asyncio.TimeoutError):
                    return

    def logs(self, job: str) -> Iterator[Line]:
        """A job's log up to now."""
        self._info(job)
        with self._in_words():
            for text in str(self._client.get_job_logs(job)).splitlines():
                yield read_line(text)

    def status(self, job: str) -> dict[str, Any]:
        """What the cluster knows of a job."""
        info = self._info(job)
        return {
            "job": job,
            "status": _status(info),
            "message": _last_line(info.message),
            "run": (info.metadata or {}).get("run"),
            "entrypoint": info.entrypoint,
            "exit_code": info.driver_exit_code,
            "start": _clock(info.start_time),
            "end": _clock(info.end_time),
        }

    def stop(self, job: str, saying: Callable[[str], None]) -> JobEnd:
        """Have a job save and end, and wait until it has.

        Raises:
            InputError: There is no such job, or the cluster is lost.
            RunError: It has not ended.
        """
        info = self._info(job)
        if info.status in _ENDED:
            return _end(job, info)
        with self._in_words():
            self._client.stop_job(job)
            saying(f"asked job {job} to save and end")
            deadline = time.monotonic() + SAVE_WITHIN_S + LOST_AFTER_S
            while info.status not in _ENDED and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY_S)
                info = self._client.get_job_info(job)
        if info.status not in _ENDED:
            raise RunError(f"job {job} has not ended yet: distgan logs {job} --address {self.address}")
        return _end(job, info)

    def _info(self, job: str) -> Any:
        with self._in_words():
            known = {each.submission_id or each.job_id: each for each in self._client.list_jobs()}
        if job not in known:
            raise InputError(f"the cluster at {self.address} has no job {job!r}; {near(job, known)}")
        return known[job]

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except _broken() as error:
            raise InputError(_let_in(self.address, error) or f"{self.address} refuses: {_reason(error)}") from None


def _broken() -> tuple[type[Exception], ...]:
    """What the client raises when a request or a connection fails."""
    from aiohttp import ClientError
    from ray.exceptions import RayError

    return OSError, RuntimeError, ValueError, ClientError, RayError


def _status(info: Any) -> str:
    return str(getattr(info.status, "value", info.status))


def _last_line(text: str | None) -> str:
    return ((text or "").strip().splitlines() or [""])[-1]


def _end(job: str, info: Any) -> JobEnd:
    """How a job that has ended did so."""
    status = _status(info)
    if status == "SUCCEEDED":
        return JobEnd(status, 0, f"job {job} has ended well")
    if status == "STOPPED":
        return JobEnd(status, 1, f"job {job} was stopped; the same distgan submit goes on from its last checkpoint")
    code = 2 if info.driver_exit_code == 2 else 1
    last = _last_line(info.message).removeprefix("error: ") or "its log says why"
    return JobEnd(status, code, f"job {job} failed: {last}")


def pack_project(folder: Path, spec: RunSpec, login: Mapping[str, str]) -> None:
    """Put into an empty folder what a cluster needs to train a run: the code, the specification, perhaps a login.

    Raises:
        InputError: It is too large; the message names what is. Nothing has been copied.
    """
    packages = [Path(package.__path__[0]) for package in (distgan, shards, jobs)]
    files = {file.relative_to(package.parent): file for package in packages for file in _files(package)}
    sizes = Counter[str]()
    for name, file in files.items():
        sizes["/".join(name.parts[:2])] += file.stat().st_size
    if sizes.total() > LARGEST_PACKAGE:
        listed = "\n".join(f"  {size / 2**20:8.1f} MiB  {name}" for name, size in sizes.most_common(5))
        raise InputError(
            f"the package has {sizes.total() / 2**20:.1f} MiB, more than {LARGEST_PACKAGE / 2**20:.0f}; data and runs "
            f"do not belong into the code's folders. The largest:\n{listed}"
        )
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    (folder / "run.yaml").write_text(dump_spec(spec), encoding="utf-8")
    pack_login(folder, login)


def _files(package: Path) -> Iterator[Path]:
    """A package's files: nothing hidden, compiled or that training left, and nothing from behind linked folders."""
    for at, folders, names in os.walk(package):
        folders[:] = [name for name in folders if name not in _LEFTOVERS and not name.startswith(".")]
        files = (Path(at, name) for name in names if not name.startswith("."))
        yield from (file for file in files if file.is_file())


def read_line(text: str) -> Line:
    """A line of a job's log, and whether it tells how far the run is."""
    return Line(text, bool(_PROGRESS.match(text)))


def job_address(given: str | None) -> str:
    """Where the cluster's dashboard is.

    Raises:
        InputError: Neither the user nor the environment says it.
    """
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        raise InputError("which cluster? Give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    if urlsplit(address).scheme not in ("http", "https"):
        raise InputError(f"--address {address}: jobs go to the cluster's dashboard, such as http://HEAD:8265")
    return address


def _check_places(spec: RunSpec, run: str) -> None:
    if not PurePosixPath(run).is_absolute():
        raise InputError(
            f"the run's folder {run} is relative, but a job has no lasting working directory: give an absolute one on "
            "storage that every machine of the cluster sees, with --out or cluster.storage"
        )
    place = spec.data.shards
    if "://" not in place and not PurePosixPath(place).is_absolute():
        raise InputError(
            f"data.shards is {place}, which the cluster's machines would not find: give an absolute path on storage "
            "that all of them see, or a URL"
        )


def _connect(address: str) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise InputError("jobs need Ray: pip install 'distgan[ray]'") from None
    logging.disable(logging.INFO)  # what Ray uploads and closes is not for the user
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # the client would prefer the environment's to ours
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # requests', Ray's, aiohttp's: there are many ways not to be connected
        raise InputError(
            _let_in(address, error)
            or f"cannot reach a Ray cluster at {address}: {_reason(error)}. Is the address the dashboard's, and is it "
            "forwarded to this machine?"
        ) from None


def _let_in(address: str, error: Exception) -> str | None:
    """What to do when a cluster wants its token; None when that is not what is wrong."""
    from ray.exceptions import AuthenticationError

    if not isinstance(error, AuthenticationError):
        return None
    return (
        f"the cluster at {address} lets nobody in without its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to "
        "the token or RAY_AUTH_TOKEN_PATH to a file with it"
    )


def _clock(milliseconds: int | None) -> str | None:
    """A time of the Jobs API as people read it."""
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat(timespec="seconds")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")
