"""How torch is used in a thread beside the one that trains or draws."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T], name: str) -> Future[T]:
    """Have a thread do what uses torch, and end.

    The first larger operation of a thread on the CPU gives it OpenMP threads of its own, as many as there are
    processors, and they live as long as it does. While a process has more of them than there are processors, GNU's
    library no longer has them wait for each other awake: on two cores the demo trained at 0.6 of its speed.

    Args:
        work: Called in the thread.
        name: The thread's, for debuggers.
    """
    thread = ThreadPoolExecutor(1, name)
    try:
        return thread.submit(work)
    finally:  # Ctrl-C, too
        thread.shutdown(wait=False)  # when that is done
