"""The processes that train together, and what they say to each other beside gradients and BatchNorm's sums."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from distgan.errors import RunError
from shards.errors import DamageError, InputError

T = TypeVar("T")

Wish = Literal[0, 1, 2]
"""What a process wants all to do after a step; the greater wish wins."""
GO_ON: Wish = 0
SAVE: Wish = 1
LEAVE: Wish = 2
"""With a checkpoint."""

ERRORS = (InputError, DamageError, RunError, OSError)
"""What goes wrong with words for people."""

SHARED_WITHIN_S = 10.0
"""A network file system may be so late in showing one machine what another has written."""


class Workers:
    """One process among those that share each global batch.

    With a world size above 1 the default process group of torch.distributed connects them, and everything here but the
    attributes is to be called by all of them, in the same order. Alone, nothing is said to nobody.

    Args:
        rank: Of this process, in [0, world_size).
        world_size: How many there are.
        device: What this process computes on. If it is a GPU, it is the calling thread's own from here on.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device
        if device.index is not None and device.type == "cuda":  # one without a number is the thread's own already
            torch.cuda.set_device(device)  # Ray leaves each thread at the machine's first GPU
        self.failed_together = False
        """Whether all processes have raised the error that this one has."""
        self._asked: tuple[dist.Work, Tensor] | None = None

    @classmethod
    def alone(cls, device: torch.device) -> Workers:
        """One process that has the whole batch."""
        return cls(0, 1, device)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes things down."""
        return self.rank == 0

    @property
    def connected(self) -> bool:
        """Whether the others have not been given up yet."""
        return self.world_size == 1 or dist.is_initialized()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the device."""
        if self.world_size == 1:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def most(self, values: Sequence[float]) -> list[float]:
        """The greatest of any process, of each of these numbers. No device is waited for."""
        if self.world_size == 1:
            return list(values)
        most = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return [float(value) for value in most]

    def agree(self, wish: Wish) -> Wish:
        """The most that any process wants, asked at the end of a step.

        Among several, what comes back is what they wanted a step ago: so nobody waits for the slowest at every step,
        and all still hear the same after the same step.
        """
        if self.world_size == 1:
            return wish
        answer = GO_ON
        if self._asked:
            work, most = self._asked
            work.wait()
            answer = most.item()  # type: ignore[assignment]
        asked = torch.tensor(wish)  # on the CPU: no device is waited for
        work = dist.all_reduce(asked, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._asked = work, asked
        return answer

    def from_first(self, work: Callable[[], T]) -> T | None:
        """Have rank 0 do something, and give its result to everyone.

        Raises:
            Exception: What rank 0 raised, on every rank.
        """
        result: list[T | None] = [None]
        with self.together():
            if self.first:
                result = [work()]
        if self.world_size > 1:
            dist.broadcast_object_list(result, src=0, device=torch.device("cpu"))
        return result[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block after which all processes go on, or none: an error of one, in words for people, is raised by all.

        In the block nothing is said to the others: one that has left it with an error would not answer.
        """
        if self.world_size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except ERRORS as raised:
            error = raised
        failed = torch.tensor(int(error is not None))
        dist.all_reduce(failed)
        if not failed.item():
            return
        told: list[tuple[type[Exception], str] | None] = [None] * self.world_size
        dist.all_gather_object(told, (_kind(error), self._signed(error)) if error else None)
        self.failed_together = True
        errors = [each for each in told if each]
        if error and len(errors) == self.world_size:  # what went wrong for all need not be signed
            raise error
        raise errors[0][0]("\n".join(text for _, text in errors))

    def check_shared(self, folder: Path) -> None:
        """Find out whether all processes see the same folder, before hours are spent.

        Raises:
            InputError: Some do not; the message names their hosts.
        """
        if self.world_size == 1:
            return
        mark = folder / ".shared"
        token = self.from_first(lambda: _write(mark, f"{random.SystemRandom().getrandbits(64):x}"))
        assert token is not None
        with self.together():
            deadline = time.monotonic() + SHARED_WITHIN_S
            while _read(mark) != token:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"{folder} is not the folder that rank 0 writes to; the run's folder must be on storage that "
                        "every machine sees at the same path: mount it there, or choose another with --out"
                    )
                time.sleep(0.1)
        with self.together():
            if self.first:
                mark.unlink(missing_ok=True)

    def _signed(self, error: Exception) -> str:
        return f"rank {self.rank} on {socket.gethostname()}: {error}"


def _kind(error: Exception) -> type[Exception]:
    return next(kind for kind in ERRORS if isinstance(error, kind))


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return text


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
