"""What all our worker processes have in common."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def usable_cpus() -> int:
    """Cores this process may run on: fewer than the machine has where a scheduler (Slurm, taskset) keeps some away."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def follow_parent() -> None:
    """Called in a new worker process: leave Ctrl-C to the parent, which ends its workers in order, and die with it.

    A killed parent cannot end its workers, and whoever goes on with its work must not meet them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
