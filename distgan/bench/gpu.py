"""All that has to be known of a GPU, from one call of some minutes.

A GPU may be at hand for minutes only, so one call brings home everything, most valuable first, even where parts fail:
each section of :mod:`distgan.bench.sections` is measured by a process of its own with a limit of time, and what it has
found is written down after each.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from distgan.bench.measurements import read_record
from distgan.bench.sections import SECTIONS
from distgan.bench.sections.base import CHECKOUT, GOOD
from distgan.bench.tables import markdown_table
from shards.errors import InputError
from shards.files import ready_or_say, write_or_say
from shards.names import near

MINUTES = 8.5
TABLE, FIGURES, LOG = "gpu.md", "gpu.json", "log.txt"
PROGRAM = "distgan.bench.measurements"
"""The module that a section's process runs."""
_GRACE_S = 5.0
"""How long a process that is asked to end may take."""


@dataclass
class Measured:
    """A measurement.

    Attributes:
        name: Of it.
        state: What became of it.
        rows: What was found, by column.
        seconds: How long it took.
        error: Why it failed.
    """

    name: str
    state: Literal["done", "failed", "cut off", "not begun"] = "not begun"
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None
    error: str = ""

    @property
    def wrong(self) -> int:
        """How many rows are not as they should be."""
        return sum(row.get(GOOD) is False for row in self.rows)


@dataclass
class Found:
    """A section.

    Attributes:
        name: Of it.
        measured: Its measurements.
        seconds: How long it took.
        problem: What became of its process, where that did not end by itself.
    """

    name: str
    measured: list[Measured]
    seconds: float
    problem: str = ""

    @property
    def said(self) -> str:
        """The result in words."""
        states = [each.state for each in self.measured]
        counts = [f"{states.count(state)} {state}" for state in ("done", "failed", "cut off", "not begun")]
        parts = [count for count in counts if not count.startswith("0 ")]
        wrong = sum(each.wrong for each in self.measured)
        return "; ".join(
            [", ".join(parts), *([f"{wrong} rows not {GOOD}"] if wrong else []), *filter(None, [self.problem])]
        )

    @property
    def good(self) -> bool:
        """Whether all was done, and found as it should be."""
        return not self.problem and all(each.state == "done" and not each.wrong for each in self.measured)


def bench_gpu(
    out: Path,
    minutes: float,
    names: Sequence[str],
    say: Callable[[str], None],
    *,
    on_cpu: bool = False,
) -> list[Found]:
    """Measure all sections, and write ``gpu.md`` and ``gpu.json`` after each; ``log.txt`` has all output.

    Args:
        out: The folder for them; what an earlier call left there is written over.
        minutes: When to end, whatever is done by then.
        names: Of :data:`~distgan.bench.sections.SECTIONS`; all of them where there are none.
        say: Tells the person what happens.
        on_cpu: Do little of everything on the CPU, to try all of this.

    Raises:
        InputError: The folder cannot be written, or there is no such section.
    """
    for name in names:
        if name not in SECTIONS:
            raise InputError(f"there is no section {name!r}; {near(name, SECTIONS)}")
    ready_or_say(out / TABLE)
    deadline, found = time.monotonic() + 60 * minutes, list[Found]()
    temporary = tempfile.TemporaryDirectory(prefix="distgan-gpu-", ignore_cleanup_errors=True)
    with temporary as scratch, (out / LOG).open("w", encoding="utf-8") as log:
        for name in [name for name in SECTIONS if not names or name in names]:
            say(f"{SECTIONS[name].title} …")
            found.append(_section(name, Path(scratch), out, log, deadline, on_cpu=on_cpu))
            say(f"  {found[-1].said} ({found[-1].seconds:.0f} s)")
            write_or_say(out / TABLE, as_markdown(found, on_cpu=on_cpu).encode())
            write_or_say(out / FIGURES, as_json(found, on_cpu=on_cpu).encode())
    return found


def _section(name: str, scratch: Path, out: Path, log: IO[str], deadline: float, *, on_cpu: bool) -> Found:
    """Run a section's process; again where it crashed, after the measurement that it crashed in."""
    began = time.monotonic()
    until = min(deadline, began + SECTIONS[name].seconds)
    record, problem, crashes = scratch / f"{name}.jsonl", "", 0
    command = [sys.executable, "-m", PROGRAM, name, str(scratch), str(out.resolve()), *(["small"] if on_cpu else [])]
    while True:
        known = len(read_record(record))
        status = _run(command, _environment(on_cpu), log, until - time.monotonic())
        if status is None:
            problem = "out of time"
        elif status:  # what that has cost, the measurement says
            crashes += 1
            if len(read_record(record)) > known:
                continue
            problem = (
                f"its process ended {crashes} times by itself, at last with status {status} before it did anything"
            )
        break
    return Found(name, _read(read_record(record)), time.monotonic() - began, problem)


def _environment(on_cpu: bool) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if on_cpu else {}
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "WANDB_MODE": "disabled", **hidden}


def _run(command: Sequence[str], environment: Mapping[str, str], log: IO[str], seconds: float) -> int | None:
    """Run a command for at most so long: its exit status, or None where time ran out. Nothing of it is left."""
    if seconds <= 0:
        return None
    process = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also when a person ends this
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process's group, which may outlive it; torchrun needs time to end its own processes."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        number: int = ending
        until = time.monotonic() + _GRACE_S
        while time.monotonic() < until:
            with suppress(PermissionError):
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    return
            process.poll()  # what has ended goes
            number = 0  # said once; now only whether somebody is left
            time.sleep(0.05)


def _read(lines: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """The measurements that a section's process has written down."""
    found = {name: Measured(name) for line in lines for name in line.get("planned", [])}
    for line in lines:
        if "began" in line:
            found[line["began"]].state = "cut off"
        elif "of" in line:
            found[line["of"]].rows.append(line["row"])
        elif "ended" in line:
            found[line["ended"]].state, found[line["ended"]].seconds = "done", line["seconds"]
        elif "failed" in line:
            found[line["failed"]].state, found[line["failed"]].error = "failed", line["error"]
    return list(found.values())


def as_json(found: Sequence[Found], *, on_cpu: bool) -> str:
    """All that was found, for programs. Numbers that are none are words."""
    sections = [{**asdict(each), "title": SECTIONS[each.name].title, "result": each.said} for each in found]
    return (
        json.dumps(_plain({"on_cpu": on_cpu, "sections": sections}), indent=1, ensure_ascii=False, allow_nan=False)
        + "\n"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def as_markdown(found: Sequence[Found], *, on_cpu: bool) -> str:
    """All that was found, for people: a table of the sections, then one for each."""
    rows = [[SECTIONS[each.name].title, each.said or "nothing", f"{each.seconds:.0f}"] for each in found]
    said = "Little of everything, on the CPU: where it says GPU, that is the CPU too.\n"
    parts = [
        "# distgan bench gpu\n",
        *([said] if on_cpu else []),
        markdown_table(["section", "result", "seconds"], rows),
    ]
    for section in found:
        parts.append(f"## {SECTIONS[section.name].title}\n")
        lines = [row for each in section.measured for row in each.rows]
        names = list(dict.fromkeys(name for row in lines for name in row if name != GOOD))
        names += [GOOD] if any(GOOD in row for row in lines) else []
        if lines:
            parts.append(
                markdown_table(names, [[_cell(row.get(name), wanted=name == GOOD) for name in names] for row in lines])
            )
        lost = [each for each in section.measured if each.state != "done"]
        if lost:
            parts.append("".join(f"- {each.name}: {each.state}{each.error and f': {each.error}'}\n" for each in lost))
    return "\n".join(parts)


def _cell(value: Any, *, wanted: bool) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO" if wanted else "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
