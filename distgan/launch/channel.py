"""What driver, workers and Ray Train's controller say to each other.

The channel is an actor of its own: so nothing is imported here that it could do without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class News(NamedTuple):
    """What the driver hears."""

    lines: list[str]
    """For the person who watches, since the last time."""
    failure: tuple[str, str] | None
    """An error that no new start would mend: the name of its type, and its text."""
    given_up: bool
    """Whether the workers have ended because of it, but Ray would start them again."""


@dataclass
class Channel:
    """What driver, workers and Ray Train's controller say to each other: an actor, beside the driver."""

    max_failures: int
    """Failures in a row, without a new checkpoint between them, after which workers are started again."""
    stop: bool = False
    """Whether the run is to save and end."""
    _resizing: bool = False
    _lines: list[str] = field(default_factory=list)
    _failure: tuple[str, str] | None = None
    _given_up: bool = False
    _starts: int = 0
    _step: int = 0
    _failures: int = 0
    _hosts: dict[int, str] = field(default_factory=dict)
    _taken: list[int] = field(default_factory=list)

    def begin(self, step: int) -> int:
        """Note that a group of workers begins from a step, and return how many have begun before it."""
        if step != self._step:
            self._step, self._failures = step, 0
        self._resizing = False
        self._starts += 1
        return self._starts - 1

    def arrive(self, rank: int, host: str) -> None:
        """Note where a worker is."""
        self._hosts[rank] = host

    def say(self, line: str) -> None:
        """Say something to the person who watches."""
        self._lines.append(line)

    def news(self, stop: bool) -> News:
        """Give the driver what is new, and hear whether the run is to end."""
        self.stop = stop
        lines, self._lines = self._lines, []
        return News(lines, self._failure, self._given_up)

    def resize(self) -> None:
        """Note that another number of workers is to go on in these ones' place."""
        self._resizing = True

    def leaving(self) -> bool:
        """Whether the workers are to save and leave."""
        return self.stop or self._resizing

    def left(self) -> bool:
        """Note that the workers train no more, and return whether the run is to end with that."""
        self._resizing = False
        return self.stop

    def resizing(self) -> bool:
        """Whether workers that are to make room for others still train."""
        return self._resizing

    def fail(self, kind: str, text: str) -> None:
        """Note an error that no new start would mend; the first one counts."""
        self._failure, self._resizing = self._failure or (kind, text), False

    def failed(self) -> bool:
        """Whether there is such an error."""
        return self._failure is not None

    def take(self, ranks: list[int]) -> None:
        """Note that the machines of some workers are about to be taken away."""
        self._taken = ranks

    def lose(self, dead: list[int], broken: dict[int, str]) -> None:
        """Note that a group of workers has failed.

        Args:
            dead: The ranks of those whose processes are gone; the others of their group could not go on without them.
            broken: By rank, what others have said at their end.
        """
        taken, self._taken = dict.fromkeys(self._taken, ": its machine is being taken away"), []
        said = taken or dict.fromkeys(dead, " has died") or {rank: f": {text}" for rank, text in broken.items()}
        why = "; ".join(f"{self._who(rank)}{text}" for rank, text in sorted(said.items()))
        self._failures += 1
        if self._failure is None and 0 <= self.max_failures < self._failures:
            self.fail(
                "RunError",
                f"{why}. Workers have failed {self._failures} times in a row without a new checkpoint after step "
                f"{self._step}; cluster.max_failures is {self.max_failures}. --resume goes on.",
            )
        if self._failure:
            self._given_up = True
        else:
            self.say(f"{why}: workers start again, from the newest checkpoint")

    def _who(self, rank: int) -> str:
        host = self._hosts.get(rank)
        return f"worker {rank} on {host}" if host else f"worker {rank}" if rank >= 0 else "Ray"
