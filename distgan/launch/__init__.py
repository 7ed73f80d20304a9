"""Who calls the training loop: this process, torchrun's processes, or Ray's workers."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from shards.errors import InputError

if TYPE_CHECKING:
    from distgan.spec import RunSpec
    from distgan.tracking import Sink
    from distgan.training.loop import Outcome


def launch(
    spec: RunSpec,
    run: Path,
    *,
    resume: bool = False,
    address: str | None = None,
    stop: threading.Event | None = None,
    console: bool = True,
    listener: Sink | None = None,
) -> Outcome:
    """Train what a specification says, on as many workers as it says.

    Args:
        spec: The run. With ``cluster.workers`` 1 and no address it is trained in this process.
        run: The run's folder.
        resume: Go on from the run's newest checkpoint; begin where there is none yet.
        address: Of a Ray cluster, "auto" for the one that this process belongs to. None is what ``RAY_ADDRESS`` says,
            as it does in a Ray job; without it, several workers get a cluster on this machine while the run lasts.
        stop: When set, the run ends after the current step, with a checkpoint.
        console: Show progress on the terminal.
        listener: Told all that is written down; for a run in this process.

    Raises:
        InputError: Something that the user can mend, see :func:`distgan.training.loop.train`.
        RunError: Training went wrong, or was given up after failures.
        DamageError: A sample is not what was packed.
        OSError: The run's folder could not be written.
    """
    from distgan.tracking.weights_and_biases import settled

    spec = settled(spec)  # here, where the user's settings are: workers may be elsewhere
    if under_torchrun():
        from distgan.launch.torchrun import train_under_torchrun

        return train_under_torchrun(spec, run, resume=resume, console=console)
    if address is None and spec.cluster.workers == 1:
        from distgan.launch.local import train_locally

        return train_locally(spec, run, resume=resume, stop=stop, console=console, listener=listener)
    if listener:
        raise InputError(f"on_log hears a run of one worker, not of {spec.cluster.workers}: read metrics.jsonl instead")
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        _keep_others_out()
    from distgan.launch.ray import train_on_ray

    return train_on_ray(spec, run, resume=resume, address=address, stop=stop, console=console)


def under_torchrun() -> bool:
    """Whether torchrun (torch.distributed.run) has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def run_folder(spec: RunSpec, out: Path | None) -> Path:
    """Where a run goes.

    Args:
        spec: The run.
        out: What the user says; None is the run's name, in ``cluster.storage`` or in ``runs``.

    Returns:
        The run's folder. In a sweep of Weights & Biases that is one in the given folder, or in one that is named after
        the run and the sweep, so that each trial has its own.
    """
    from distgan.tracking.weights_and_biases import trial

    name, found = spec.name, trial()
    if found:
        name += f"-{found[0]}"
    folder = out or Path(spec.cluster.storage or "runs") / name
    return folder / found[1] if found else folder


def _keep_others_out() -> None:
    """Have a cluster of our own let nobody in who does not know its token. Ray looks at this when it is imported."""
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
