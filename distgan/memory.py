"""Memory that tensors leave on a CPU stays with the process."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_M_TRIM_THRESHOLD = -1  # malloc.h of glibc
_M_MMAP_THRESHOLD = -3
_NEVER = 2**31 - 1

LARGEST_MMAP_THRESHOLD = 32 * 1024**2
"""Bytes of the smallest tensor that comes from the system by itself, and goes back to it: glibc takes no more."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors leave, for the next ones, instead of returning it to the system.

    A step's activations are freed and asked for again thousands of times, and what comes from the system anew is
    cleared page by page. With R2's networks and a batch of 128, two cores trained 7 % faster, and described pictures
    with lite0 at 224 pixels in half the time. The process holds its peak from then on.

    Returns:
        Whether it was done: not where the C library is another than glibc, and not where the user has set
        ``GLIBC_TUNABLES`` or ``MALLOC_…_THRESHOLD_``.
    """
    chosen = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if any(name in os.environ for name in chosen):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - other libraries' mallopt may mean other things
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    threshold = mallopt(_M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    return bool(threshold and mallopt(_M_TRIM_THRESHOLD, _NEVER))
