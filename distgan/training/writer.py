"""Checkpoints are written beside training: it waits for a copy of the state, not for the disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from types import TracebackType

from distgan.checkpoint import Checkpoint
from distgan.threads import aside


class Writer:
    """Writes one checkpoint at a time, each in a thread that ends with it: see :func:`distgan.threads.aside`.

    What went wrong there is raised where training looks next; a checkpoint is under its name whole or not at all, as
    ever, so a kill meanwhile leaves the one before. In a ``with`` block, nothing is written any more when it ends.
    """

    def __init__(self) -> None:
        self._begun: tuple[Future[Checkpoint], Callable[[Checkpoint], None]] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._begun:
            wait([self._begun[0]])

    def begin(self, write: Callable[[], Checkpoint], then: Callable[[Checkpoint], None]) -> None:
        """Have the thread write a checkpoint. The one before has been waited for.

        Args:
            write: Called in the thread.
            then: Called with what was written, in the thread that waits for it.
        """
        assert self._begun is None
        self._begun = aside(write, "checkpoint"), then

    def wait(self, *, until_done: bool = True) -> None:
        """Wait until what was begun is written.

        Args:
            until_done: Otherwise only look whether it is.

        Raises:
            OSError: It could not be written; nothing is left behind.
        """
        if self._begun and (until_done or self._begun[0].done()):
            (written, then), self._begun = self._begun, None
            then(written.result())
