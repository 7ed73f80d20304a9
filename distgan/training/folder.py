"""A run's folder: begun once, resumed as often as one likes, never written over."""

from __future__ import annotations

from pathlib import Path

from distgan.checkpoint import Checkpoint, checkpoints
from distgan.spec import RunSpec, differences, dump_spec, load_spec
from shards.errors import InputError
from shards.files import write_atomically


def open_run(spec: RunSpec, run: Path, fingerprint: str, *, resume: bool) -> Checkpoint | None:
    """Make a run's folder ready for training.

    Args:
        spec: The run, as it is to go on.
        run: The folder.
        fingerprint: Of the shards it is to learn from.
        resume: Go on with what is there, instead of refusing it.

    Returns:
        The checkpoint to go on from, or None to begin.

    Raises:
        InputError: The folder holds something else, or the checkpoint is of another run: each difference is named.
    """
    checkpoint = None
    try:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            if not resume:
                raise InputError(
                    f"{run} is not empty; add --resume to go on with the run in it, or give another folder with --out"
                )
            checkpoint = _newest(spec, run, fingerprint)
        (run / "samples").mkdir(parents=True, exist_ok=True)
        with write_atomically(run / "spec.yaml") as file:
            file.write(dump_spec(spec).encode())
    except OSError as error:
        raise InputError(f"cannot write the run's folder {run}: {error.strerror or error}") from None
    return checkpoint


def _newest(spec: RunSpec, run: Path, fingerprint: str) -> Checkpoint | None:
    if not (run / "spec.yaml").is_file():
        raise InputError(f"{run} is not empty and holds no run (no spec.yaml); give another folder with --out")
    found = checkpoints(run)
    checkpoint = Checkpoint(found[-1]) if found else None
    before = checkpoint.state.spec if checkpoint else load_spec(run / "spec.yaml")
    changed = differences(before, spec)
    if changed:
        raise InputError(
            f"{run} cannot go on with this specification, because it would change the numbers:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nSet these fields back, or begin a new run with --out."
        )
    if checkpoint and checkpoint.state.fingerprint != fingerprint:
        raise InputError(
            f"the shards in {spec.data.shards} are not those that {run} has learnt from "
            f"(fingerprint {fingerprint[:12]}, then {checkpoint.state.fingerprint[:12]}); "
            "point data.shards at the old ones, or begin a new run with --out"
        )
    return checkpoint
