"""SIGTERM and Ctrl-C ask a run to save and end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT set an event instead of ending the process; a second one ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals: whoever trains in another one sets `stop` itself
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
