"""How many cores this process may use."""

from __future__ import annotations

import os


def usable_cpus() -> int:
    """Cores this process may run on: fewer than the machine has where a scheduler (Slurm, taskset) keeps some away."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
