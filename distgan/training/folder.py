"""A run's folder: begun once, resumed as often as one likes, never written over."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from distgan.checkpoint import Checkpoint, checkpoints
from distgan.sampling.averaging import has_traces
from distgan.spec import PrecisionName, RunSpec, differences, dump_spec, load_spec
from distgan.training.complete import complete
from shards.errors import InputError
from shards.files import write_atomically

LOCK = ".lock"
"""The file by which a process keeps others out of a folder."""
_BEFORE_THE_SPEC = {LOCK, "samples", ".spec.yaml.partial"}
"""What a start that was killed leaves: nothing that anybody could go on with or would miss."""


@contextmanager
def open_run(
    spec: RunSpec,
    run: Path,
    fingerprint: str,
    *,
    resume: bool,
    patience_s: float = 0.0,
    bound: Collection[str] = (),
) -> Iterator[Checkpoint | None]:
    """Make a run's folder ready for training, and keep other processes out of it for the block.

    Args:
        spec: The run, as it is to go on.
        run: The folder.
        fingerprint: Of the shards it is to learn from.
        resume: Go on with what is there, instead of refusing it.
        patience_s: How long to wait for a process that still has the folder, such as one that is being killed.
        bound: Fields that may not change in this run, although others are free to.

    Yields:
        The checkpoint to go on from, or None to begin.

    Raises:
        InputError: The folder holds something else, is in use or cannot be written, or the checkpoint is of another
            run: each difference is named.
    """
    used = check_folder(run, resume=resume)
    with _input_errors(run):
        (run / "samples").mkdir(parents=True, exist_ok=True)
    with alone_in(run, patience_s):
        checkpoint = _newest(spec, run, fingerprint, bound) if used else None
        with _input_errors(run), write_atomically(run / "spec.yaml") as file:
            file.write(dump_spec(spec).encode())
        yield checkpoint


@contextmanager
def alone_in(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Keep other processes that ask the same out of a folder for the block.

    Args:
        folder: It must be there.
        patience_s: How long to wait for a process that still has it.

    Raises:
        InputError: Another process has it, or it cannot be written.
    """
    with _input_errors(folder):
        lock = (folder / LOCK).open("w")
    with lock:
        if not _locked(lock, patience_s):
            raise InputError(f"another process is training in {folder}; stop it first, or give another folder")
        yield


def check_folder(run: Path, *, resume: bool) -> bool:
    """See that a run may begin in a folder or go on there, as far as can be seen without opening it.

    Returns:
        Whether there is something to go on with.

    Raises:
        InputError: The folder holds something else.
    """
    with _input_errors(run):
        used = run.exists() and (not run.is_dir() or any(path.name not in _BEFORE_THE_SPEC for path in run.iterdir()))
        if used and not resume:
            raise InputError(
                f"{run} is not empty; add --resume to go on with the run in it, or give another folder with --out"
            )
        if used and not (run / "spec.yaml").is_file():
            raise InputError(f"{run} is not empty and holds no run (no spec.yaml); give another folder with --out")
        return used


def _locked(file: IO[str], patience_s: float) -> bool:
    """Lock a file, unless another process has it and keeps it."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        except OSError:
            return True  # a file system without locks
        else:
            return True


@contextmanager
def _input_errors(run: Path) -> Iterator[None]:
    """What the file system refuses at the beginning is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write the run's folder {run}: {error.strerror or error}") from None


def precision_of(run: Path) -> PrecisionName | None:
    """What the run in a folder computes in: None where there is none, ``auto`` where an earlier version did not say.

    Raises:
        InputError: The newest checkpoint or the specification is damaged.
    """
    if not (run / "spec.yaml").is_file():
        return None
    _, before = _begun(run)
    return before.training.precision


def _begun(run: Path) -> tuple[Checkpoint | None, RunSpec]:
    """The newest checkpoint of a run, if there is one, and the run as it was begun, every option written out."""
    found = checkpoints(run)
    checkpoint = Checkpoint(found[-1]) if found else None
    return checkpoint, complete(checkpoint.state.spec if checkpoint else load_spec(run / "spec.yaml"))


def _forget_pictures(run: Path) -> None:
    """Make room for another run where one has learnt nothing: what is drawn and shown for it is its own."""
    with _input_errors(run):
        for picture in (run / "samples").glob("*.png"):
            picture.unlink()


def _newest(spec: RunSpec, run: Path, fingerprint: str, bound: Collection[str]) -> Checkpoint | None:
    """The checkpoint to go on from, or None where there is none yet and this run or another may begin.

    Raises:
        InputError: As :func:`open_run`.
    """
    checkpoint, before = _begun(run)
    if before.training.precision == "auto":  # an earlier version did not write down what that was
        before = before.with_training(precision=spec.training.precision)
    changed = differences(before, spec, bound)
    if changed and checkpoint is None:
        _forget_pictures(run)
    elif changed:
        raise InputError(
            f"{run} cannot go on with this specification, because it would change the numbers:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nSet these fields back, or begin a new run with --out."
        )
    if spec.training.keep_traces_every_images and checkpoint and not has_traces(checkpoint):
        raise InputError(
            f"{checkpoint.path} holds no traces: training.keep_traces_every_images is set from the beginning of a run "
            "or not at all"
        )
    if checkpoint and checkpoint.state.fingerprint != fingerprint:
        raise InputError(
            f"the shards in {spec.data.shards} are not those that {run} has learnt from "
            f"(fingerprint {fingerprint[:12]}, then {checkpoint.state.fingerprint[:12]}); "
            "point data.shards at the old ones, or begin a new run with --out"
        )
    return checkpoint
