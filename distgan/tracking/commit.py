"""The git commit that a run's code, or else its specification, is at: its hash alone, no remote and no difference."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import distgan

VARIABLE = "WANDB_GIT_COMMIT"
"""wandb's own, which workers on other machines are told, too."""
_SECONDS = 10.0


def note_commit(spec: Path) -> None:
    """Have a run that this process starts carry the commit of its specification's folder, where distgan's has none."""
    if not spec.is_file() or os.environ.get(VARIABLE) or commit_of_distgan():
        return
    if found := commit_of(spec.parent):
        os.environ[VARIABLE] = found


def commit_of_distgan() -> str | None:
    """The commit of distgan's own checkout; None where it is installed, as a package inside another's checkout."""
    checkout = Path(distgan.__file__).parents[1]
    return commit_of(checkout) if (checkout / ".git").exists() else None


def commit_of(folder: Path) -> str | None:
    """The commit of the checkout that a folder lies in; None where it lies in none, or git is not installed."""
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
