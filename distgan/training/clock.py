"""How long a run has trained: what it does beside training is not counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Counts seconds while it runs and is not paused.

    Args:
        device: Where training computes; what it still has to do when the clock is read is waited for.

    Attributes:
        seconds: Counted so far; up to date while the clock stands.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._began: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        assert self._began is None
        self._began = self._now()
        try:
            yield
        finally:
            self._stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the block, which lies within one of :meth:`running`."""
        self._stop()
        try:
            yield
        finally:
            self._began = self._now()

    def _stop(self) -> None:
        assert self._began is not None
        self.seconds += self._now() - self._began
        self._began = None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
