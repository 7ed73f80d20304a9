"""What all our worker processes have in common."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.context import BaseContext


def usable_cpus() -> int:
    """Cores this process may run on: fewer than the machine has where a scheduler (Slurm, taskset) keeps some away."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_context() -> BaseContext:
    """How worker processes are started: a plain fork of a process with threads may hang.

    A terminal sends Ctrl-C to all processes. Those that are still starting would end with a traceback, so they inherit
    that it is blocked.
    """
    resource_tracker.ensure_running()  # first, as it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return get_context("forkserver")


def follow_parent() -> None:
    """Called in a new worker process: leave Ctrl-C to the parent, which ends its workers in order, and die with it.

    A killed parent cannot end its workers, and whoever goes on with its work must not meet them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
