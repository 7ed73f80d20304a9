"""What happened to a run, as ``log.txt`` tells it: roll-backs, warnings, restarts, each at its place in time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from distgan.tracking.records import LogEntry

Kind = Literal["roll-back", "failure", "warning", "restart", "note"]

_STEP = re.compile(r"(?:^step |since step )([\d,]+)")
_BACK = re.compile(r"Going back to step ([\d,]+)")
_RESUMED = re.compile(r"^resumed at step ([\d,]+)$")
_WARNED = re.compile(r"Going on, as guard\.\w+ is warn\.$")
_FAILED = "failed: "


class Event(NamedTuple):
    """Something that happened to a run.

    Attributes:
        step: The step that it lies at. What made training go back lies where it went back to: there the curves go on.
        images: Real images seen by then.
        kind: What it was.
        time: As the log has it.
        text: As the log has it.
    """

    step: int
    images: int
    kind: Kind
    time: str
    text: str


def read_events(log: Sequence[LogEntry], images_at: Callable[[int], int]) -> list[Event]:
    """The entries of a log that say at which step they happened, in the order of the steps.

    Notes and warnings of steps that were done again later are left out: the guard has said anew what was so again.

    Args:
        log: From :func:`distgan.tracking.records.read_log`.
        images_at: Real images seen after so many steps.
    """
    found: list[Event] = []
    for time, text in log:
        kind, step = _kind_and_step(text)
        if kind in ("roll-back", "restart"):
            undone = [event for event in found if event.step > step]
            found = [event for event in found if event.step <= step]
            found += [
                event._replace(step=step, images=images_at(step))
                for event in undone
                if event.kind not in ("note", "warning")
            ]
        if kind:
            found.append(Event(step, images_at(step), kind, time, text))
    return sorted(found, key=lambda event: event.step)


def _kind_and_step(text: str) -> tuple[Kind | None, int]:
    if match := _RESUMED.search(text):
        return "restart", _number(match)
    if match := _BACK.search(text):
        return "roll-back", _number(match)
    match = _STEP.search(text.removeprefix(_FAILED))
    if match is None:
        return None, 0
    kind: Kind = "failure" if text.startswith(_FAILED) else "warning" if _WARNED.search(text) else "note"
    return kind, _number(match)


def _number(match: re.Match[str]) -> int:
    return int(match[1].replace(",", ""))
