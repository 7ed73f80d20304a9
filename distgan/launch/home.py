"""Folders of one's own for a process that has none: a container's bare user id, a home that cannot be written."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Set ``HOME`` where it is missing, and ``XDG_CACHE_HOME`` where the cache folder cannot be written.

    Libraries fail without them, or litter the working directory and the terminal. What is set is what the system says,
    or else an empty folder that goes when the process does.
    """
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # empty, it would stand for the working directory
        try:
            os.environ["HOME"] = str(Path.home())
        except RuntimeError:
            os.environ["HOME"] = _passing_folder()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        usable = os.access(cache, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        os.environ["XDG_CACHE_HOME"] = _passing_folder()
        os.environ.setdefault("MPLCONFIGDIR", os.environ["XDG_CACHE_HOME"])  # else Matplotlib complains at length


def _passing_folder() -> str:
    folder = tempfile.mkdtemp(prefix="distgan-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
