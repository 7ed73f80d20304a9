"""Whose turn it is, where one thing is done at a time and the newest wish counts most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class OvertakenError(Exception):
    """Newer ones came before it, more than are let wait."""


class Turns:
    """One at a time. Of those that wait the newest comes next; where too many wait, the oldest gives way.

    Args:
        most: That may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy = False
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, and have it while the block runs.

        Raises:
            OvertakenError: Too many newer ones came.
        """
        if self._busy:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(mine)
            if len(self._waiting) > self._most:
                self._waiting.pop(0).set_exception(OvertakenError())
            try:
                await mine
            except asyncio.CancelledError:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                elif not mine.cancelled():
                    self._next()  # it had just become its turn
                raise
        self._busy = True
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        while self._waiting:
            newest = self._waiting.pop()
            if not newest.done():  # else it was cancelled, and has not come to say so
                newest.set_result(None)
                return
        self._busy = False
