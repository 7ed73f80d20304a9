"""What a run writes down in its own folder: ``metrics.jsonl``, a line per log step, and ``log.txt``, what was said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from distgan.tracking.tracker import Outcome, Sink
from shards.errors import InputError
from shards.files import write_atomically

REAL = "real.png"
"""The grid of real images among the sample grids. Runs of earlier versions have none."""

SCORE = "score/"
"""How the names of scores begin."""
FACTS = "evaluation"
"""The entry of a line of ``metrics.jsonl`` that is no figure: what the line's scores are computed from."""

# Pillow raises SyntaxError of a broken PNG.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What a grid raises that is no picture."""

# JSON has no NaN and no infinity; as these strings every JSON parser reads the line.
_NONFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class LogEntry(NamedTuple):
    """A message in ``log.txt``."""

    time: str
    text: str


class Records(Sink):
    """Appends to ``metrics.jsonl`` and ``log.txt``."""

    def __init__(self, run: Path, *, resume_step: int | None, images_at: Callable[[int], int]) -> None:
        """Open the records of a run; on resume, drop what is newer than the state that training goes on from.

        Args:
            run: The run's folder.
            resume_step: The step that training goes on from (0 when it begins again), or None for a new run.
            images_at: Real images seen after so many steps; grids are named by them.

        Raises:
            InputError: ``metrics.jsonl`` is damaged, or holds figures although the run is new.
            OSError: The folder cannot be written.
        """
        self._metrics = run / "metrics.jsonl"
        self._log = run / "log.txt"
        self._samples = run / "samples"
        self._images_at = images_at
        self._facts: Mapping[str, Any] = {}
        if resume_step is not None:
            self.rewind(resume_step)
        elif self._metrics.exists() and self._metrics.stat().st_size:
            raise InputError(f"{self._metrics} already holds the figures of a run; resume it or choose another folder")
        self._metrics.touch()
        self.message("started" if resume_step is None else f"resumed at step {resume_step}")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Append one line."""
        line = {"step": step, **figures}
        writable: dict[str, Any] = {
            name: value if math.isfinite(value) else str(float(value)) for name, value in line.items()
        }
        if self._facts and any(name.startswith(SCORE) for name in figures):
            writable[FACTS] = self._facts
        _append(self._metrics, json.dumps(writable, allow_nan=False) + "\n")

    def scores_of(self, facts: Mapping[str, Any]) -> None:
        """Write them into each line that has scores."""
        self._facts = facts

    def message(self, text: str) -> None:
        """Append a message."""
        self.record(text)

    def record(self, text: str) -> None:
        """Append a message with the time. Its further lines are indented, so an entry is told from the next."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        _append(self._log, f"{now} " + text.replace("\n", "\n    ") + "\n")

    def rewind(self, step: int) -> None:
        """Drop the lines and grids of later steps."""
        if self._metrics.exists():
            kept = [line.text for line in _lines(self._metrics) if line.figures["step"] <= step]
            with write_atomically(self._metrics) as file:
                file.writelines(text + b"\n" for text in kept)
        for images, path in sample_grids(self._samples):
            if images > self._images_at(step):
                path.unlink()

    def close(self, outcome: Outcome) -> None:
        """Write down how the run ended: the report reads it from the last entry."""
        self.message(outcome)


def read_metrics(run: Path | str) -> list[dict[str, float]]:
    """The lines of a run's ``metrics.jsonl``, oldest first. A last line that was cut by a kill is left out.

    Args:
        run: The run's folder.

    Raises:
        InputError: There is no such file, or a line in it is damaged; the message names the line.
    """
    return read_figures(run)[0]


def read_facts(run: Path | str) -> list[tuple[int, dict[str, Any]]]:
    """What the scores of a run are computed from: from which step on, and what; oldest first, each once.

    Raises:
        InputError: As :func:`read_metrics`.
    """
    return read_figures(run)[1]


def read_figures(run: Path | str) -> tuple[list[dict[str, float]], list[tuple[int, dict[str, Any]]]]:
    """What :func:`read_metrics` and :func:`read_facts` return, of one reading.

    Raises:
        InputError: As :func:`read_metrics`.
    """
    metrics: list[dict[str, float]] = []
    facts: list[tuple[int, dict[str, Any]]] = []
    for line in _lines(Path(run) / "metrics.jsonl"):
        metrics.append(line.figures)
        if line.facts is not None and (not facts or facts[-1][1] != line.facts):
            facts.append((int(line.figures["step"]), line.facts))
    return metrics, facts


def read_log(run: Path) -> list[LogEntry]:
    """The entries of a run's ``log.txt``, oldest first; none where there is no such file."""
    path = run / "log.txt"
    if not path.exists():
        return []
    entries: list[LogEntry] = []
    for line in path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n"):
        if line.startswith(" ") and entries:
            entries[-1] = LogEntry(entries[-1].time, f"{entries[-1].text}\n{line.strip()}")
        else:
            time, _, text = line.partition(" ")
            entries.append(LogEntry(time, text))
    return entries


def sample_grids(samples: Path) -> list[tuple[int, Path]]:
    """The sample grids in a folder with the images seen before each, which is their name; ascending."""
    return sorted((int(path.stem), path) for path in samples.glob("*.png") if path.stem.isdecimal())


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` (two or more) of ``range(count)``, evenly spread, with the first and the last."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))}) if count else []


def _append(path: Path, text: str) -> None:
    """Open, write, close: every line reaches the operating system at once, and one failure does not bring the next."""
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:  # a full disk, say; unlike open(), write() does not tell the file's name
        raise OSError(error.errno, error.strerror, str(path)) from None


class _Line(NamedTuple):
    """A whole line of ``metrics.jsonl``: as it stands in the file, its figures, what its scores are computed from."""

    text: bytes
    figures: dict[str, float]
    facts: dict[str, Any] | None


def _lines(path: Path) -> Iterator[_Line]:
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read the figures of the run in {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        try:
            yield _parse(line)
        except (ValueError, KeyError):
            raise InputError(
                f"{path}, line {number}: not a line of figures; if the rest is wanted, delete this line"
            ) from None
    with suppress(ValueError, KeyError):  # cut by a kill, or empty because the last line is whole
        yield _parse(rest)


def _parse(line: bytes) -> _Line:
    """Raises ValueError or KeyError where the line is not what :meth:`Records.log` writes."""
    tree = json.loads(line)
    if not isinstance(tree, dict) or not isinstance(tree.get("step"), int):
        raise ValueError
    facts = tree.pop(FACTS, None)
    figures = {name: _NONFINITE[value] if isinstance(value, str) else _number(value) for name, value in tree.items()}
    return _Line(line, figures, facts if isinstance(facts, dict) else None)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError
    return value
