"""Numbers that move from update to update, where a device finds them that is told none.

A CUDA graph does again what was done while it was captured, with the numbers of the host that there were then. So
whoever computes with a number that moves says how it comes about (:func:`moving`, :func:`moving_key`). As a rule that
is the number. While :class:`Numbers` are collected it is a place in a tensor on the device, and what is there is
computed anew, and written, before each replay.

What decides which operations there are is no such number: see :attr:`distgan.objectives.side.Side.kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST = 4096
"""Numbers of an update that may move."""

_collected: ContextVar[Numbers | None] = ContextVar("_collected", default=None)


def moving(compute: Callable[[], float], dtype: torch.dtype = torch.float64) -> float | Tensor:
    """A number that is another one next time.

    Args:
        compute: What it is, whenever this is called: it reads what moves, and keeps nothing of it.
        dtype: Of the tensor.

    Returns:
        The number itself; while numbers are collected, a scalar on the device.
    """
    numbers = _collected.get()
    return compute() if numbers is None else numbers.add_real(compute).to(dtype)


def moving_key(compute: Callable[[], int]) -> int | Tensor:
    """Likewise, a whole number of 64 bits with a sign."""
    numbers = _collected.get()
    return compute() if numbers is None else numbers.add_key(compute)


def times(x: Tensor, number: float | Tensor) -> Tensor:
    """The product x · number in x's type, with the same bits for a number of the host and for a scalar on the device.

    torch rounds numbers of the host to float32 beside bfloat16, but scalars on the device to bfloat16.
    """
    if not isinstance(number, Tensor):
        return x * number
    exact = torch.promote_types(x.dtype, torch.float32)
    return (x.to(exact) * number.to(exact)).to(x.dtype)


class Numbers:
    """The numbers that an update asks for, in their order, in one tensor on the device.

    Args:
        device: That one.
    """

    def __init__(self, device: torch.device) -> None:
        self._host = np.zeros(MOST, np.int64)
        host = torch.from_numpy(self._host)
        self._keys = host if device.type == "cpu" else torch.zeros_like(host, device=device)
        self._reals = self._keys.view(torch.float64)
        self._computed: list[tuple[np.ndarray[Any, Any], Callable[[], float]]] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Have what is asked for in the block be found on the device from now on."""
        token = _collected.set(self)
        try:
            yield
        finally:
            _collected.reset(token)

    def add_real(self, compute: Callable[[], float]) -> Tensor:
        """One more: its place on the device, a float64 scalar."""
        return self._reals[self._add(self._host.view(np.float64), compute)]

    def add_key(self, compute: Callable[[], int]) -> Tensor:
        """One more: its place on the device, an int64 scalar."""
        return self._keys[self._add(self._host, compute)]

    def write(self) -> None:
        """Compute them all and send them to the device, which is not waited for."""
        for place, (array, compute) in enumerate(self._computed):
            array[place] = compute()
        if self._keys.device.type != "cpu":
            # From memory of its own each time: what was sent before may still be on its way.
            sent = torch.from_numpy(self._host[: len(self._computed)]).pin_memory()
            self._keys[: len(self._computed)].copy_(sent, non_blocking=True)

    def _add(self, array: np.ndarray[Any, Any], compute: Callable[[], float]) -> int:
        place = len(self._computed)
        if place == MOST:
            raise RuntimeError(f"more than {MOST:,} of its numbers move")
        array[place] = compute()
        self._computed.append((array, compute))
        return place
