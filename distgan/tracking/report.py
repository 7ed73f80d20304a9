"""The report: one HTML page that shows what a run learnt, or several side by side, and needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import jinja2
import numpy as np
from markupsafe import Markup

from distgan.checkpoint import best_of
from distgan.evaluation.metrics import BETTER_LOWER
from distgan.spec import RunSpec, fields_that_differ, load_spec
from distgan.tracking.charts import BUCKETS, Charts, Line, best_in, draw_charts, draw_side_by_side, lines_of, show
from distgan.tracking.events import Event, read_events
from distgan.tracking.grids import MOST_GRIDS, Grid, Grids, load_grids
from distgan.tracking.recipes import Complete, departure, table
from distgan.tracking.records import SCORE, LogEntry, evenly, read_figures, read_log
from distgan.tracking.tracker import Outcome
from distgan.tracking.ways import draw_ways
from shards.errors import InputError
from shards.files import write_or_say

REPORT = "report.html"
MOST_RUNS = 12
"""Side by side: more colours and dashes are not told apart."""
MOST_GRID_BYTES = 14_000_000
"""Of all grids together, as image files. In the page they take a third more."""
_LOG_ENTRIES = 200
_EVENTS = 50
"""Of a run that are marked, at most: the latest."""
_TIME = "%Y-%m-%d %H:%M"
_LEFT_TO_TRAINING_S = 5.0
"""When a run ends, training writes the page, too."""


def write_report(
    runs: Path | Sequence[Path],
    out: Path | None = None,
    *,
    complete: Complete = lambda spec: spec,
    refresh: float | None = None,
) -> Path:
    """Write the page. Runs may be finished, running, interrupted or failed.

    The page is self-contained, and forbids itself every connection (Content-Security-Policy). It stays under about
    20 MB: of many grids it shows some, evenly over the run, always with the first and the last.

    Args:
        runs: A run's folder, or several, all different.
        out: Where the page goes; None for ``RUN/report.html``, of several runs ``report.html`` here.
        complete: Writes out every option of a specification, so that it can be compared with others.
        refresh: While a run is still running, the page loads itself anew after so many seconds; None for never.

    Returns:
        The page.

    Raises:
        InputError: A folder is no run's, its specification or metrics are damaged, or it has no figures yet; or the
            page cannot be written.
    """
    folders = [runs] if isinstance(runs, Path) else list(runs)
    return _write(_read(folders), out, complete, refresh)


def watch_report(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    every: float,
    complete: Complete = lambda spec: spec,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Write the page again and again, where there is news, until all runs have ended or Ctrl-C (KeyboardInterrupt).

    Args:
        runs: As in :func:`write_report`. One that has no figures yet is waited for.
        out: As there.
        every: Seconds between two looks at the runs.
        complete: As there.
        say: Tells the person what happens.
        sleep: Waits.

    Returns:
        The page, which no longer refreshes itself.

    Raises:
        InputError: As there.
    """
    said: set[str] = set()

    def say_once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    seen = None
    try:
        while True:
            news = [_stamps(run) for run in runs]
            if news != seen:
                seen = news
                try:
                    read = _read(runs)
                    if all(run.state != "running" for run in read):
                        if said:
                            sleep(min(every, _LEFT_TO_TRAINING_S))
                        break
                    say_once(f"{_write(read, out, complete, every)}, anew every {every:g} seconds; Ctrl-C ends this")
                except NoFiguresError as error:
                    say_once(f"waiting: {error}")
            sleep(every)
    except KeyboardInterrupt:
        pass
    return _write(_read(runs), out, complete, None)


class NoFiguresError(InputError):
    """A run has not written down any figures yet."""


@dataclass(frozen=True)
class Run:
    """What the folder of a run tells.

    Attributes:
        folder: Its path.
        label: What it is called among the others.
        spec: As the run wrote it.
        spec_text: The same as text.
        metrics: Lines of figures, at least one, each with ``images``.
        scored: From which step on, and what, scores are computed from.
        log: What was said.
        changed: When the last figures were written, in seconds since 1970.
    """

    folder: Path
    label: str
    spec: RunSpec
    spec_text: str
    metrics: list[dict[str, float]]
    scored: list[tuple[int, dict[str, Any]]]
    log: list[LogEntry]
    changed: float

    @cached_property
    def state(self) -> str:
        """The outcome that the tracker has written last, if it came to that."""
        last = self.log[-1].text if self.log else ""
        return last if last in get_args(Outcome) else "running"

    @cached_property
    def events(self) -> list[Event]:
        """The latest ones."""
        return read_events(self.log, self.spec.timetable.images)[-_EVENTS:]

    @cached_property
    def lines(self) -> dict[str, Line]:
        """Its figures."""
        return lines_of(self.metrics, self.spec.timetable.images(self.scored[-1][0]) if self.scored else 0.0)

    @cached_property
    def seconds(self) -> float:
        """Spent training, from the speed between lines: the clock on the wall also counts interruptions."""
        seconds, before = 0.0, 0.0
        for line in self.metrics:
            speed = line.get("time/images_per_second", math.nan)
            if speed > 0:
                seconds += (line["images"] - before) / speed
            before = line["images"]
        return seconds

    @property
    def images(self) -> float:
        """Real images seen."""
        return self.metrics[-1]["images"]

    @property
    def samples(self) -> int | None:
        """Images that it trains on; None where its lines, of an earlier version, do not say so."""
        epoch = self.metrics[-1].get("epoch", 0.0)
        return round(self.images / epoch) if epoch > 0 else None


def _read(folders: Sequence[Path]) -> list[Run]:
    """Read all runs.

    Raises:
        NoFiguresError: Some have none, and there is nothing else to complain of.
        InputError: Some cannot be read. One message says of each what is wrong.
    """
    if len(folders) > MOST_RUNS:
        raise InputError(f"{len(folders)} runs: at most {MOST_RUNS} are shown side by side")
    runs: list[Run] = []
    errors: list[InputError] = []
    for folder, label in zip(folders, _labels(folders), strict=True):
        try:
            runs.append(_read_run(folder, label))
        except InputError as error:
            errors.append(error)
    if errors:
        kind = NoFiguresError if all(isinstance(error, NoFiguresError) for error in errors) else InputError
        raise kind("\n".join(map(str, errors)))
    return runs


def _read_run(folder: Path, label: str) -> Run:
    if not (folder / "spec.yaml").is_file():
        raise InputError(f"{folder} is not a run's folder: there is no spec.yaml in it")
    spec = load_spec(folder / "spec.yaml")
    metrics, scored = read_figures(folder)
    if not metrics:
        raise NoFiguresError(
            f"{folder / 'metrics.jsonl'} has no figures yet; the first come after {spec.tracking.log_every} steps "
            "(tracking.log_every)"
        )
    for line in metrics:  # those of earlier versions do not say it
        if "images" not in line:
            line["images"] = spec.timetable.images(int(line["step"]))
    text = (folder / "spec.yaml").read_text(encoding="utf-8")
    return Run(folder, label, spec, text, metrics, scored, read_log(folder), _changed(folder / "metrics.jsonl"))


def _labels(folders: Sequence[Path]) -> list[str]:
    """The end of each path, as long as it must be to tell them apart: ``a`` and ``b``, or ``a/run`` and ``b/run``."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts))):
        labels = ["/".join(each[-length:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def _write(runs: Sequence[Run], out: Path | None, complete: Complete, refresh: float | None) -> Path:
    path = out or (runs[0].folder / REPORT if len(runs) == 1 else Path(REPORT))
    grids = [load_grids(run.folder / "samples", MOST_GRID_BYTES // len(runs)) for run in runs]
    view = _one(runs[0], complete) if len(runs) == 1 else _several(runs, complete)
    page = _template().render(
        runs=list(zip(runs, grids, strict=True)),
        real=_real(runs, grids),
        stops=_stops(grids),
        charts=_charts(runs),
        thinned=any(len(run.metrics) > BUCKETS for run in runs),
        refresh=refresh if any(run.state == "running" for run in runs) else None,
        written=datetime.now().astimezone().strftime(_TIME),
        **view,
    )
    write_or_say(path, page.encode())
    return path


@cache
def _template() -> jinja2.Template:
    """The page, compiled."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files("distgan.tracking") / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["csp_hash"] = _csp_hash
    environment.filters["show"] = show
    for name in ("style", "script"):
        text = (files("distgan.tracking") / f"report.{'css' if name == 'style' else 'js'}").read_text(encoding="utf-8")
        environment.globals[name] = Markup(text)  # noqa: S704  (ours)
    return environment.get_template("report.html")


def _csp_hash(text: str) -> Markup:
    """How a Content-Security-Policy allows this very style or script and no other."""
    digest = hashlib.sha256(text.encode()).digest()
    return Markup(f"'sha256-{base64.b64encode(digest).decode()}'")  # noqa: S704  (base64 needs no escaping)


def _one(run: Run, complete: Complete) -> dict[str, Any]:
    """What the page says of a single run."""
    return {
        "facts": {**_facts(run), **_scores(run)},
        "ways": draw_ways(run.folder),
        "departure": departure(run.spec, complete, run.samples),
        "figures": _table(run.metrics),
        "log": run.log[-_LOG_ENTRIES:],
        "earlier": max(0, len(run.log) - _LOG_ENTRIES),
    }


def _several(runs: Sequence[Run], complete: Complete) -> dict[str, Any]:
    """What the page says of several runs."""
    return {
        "summary": _summary(runs),
        "scored_alike": len({repr(facts) for run in runs for _, facts in run.scored[-1:]}) < 2,
        "settings": table(fields_that_differ([_completed(run.spec, complete) for run in runs])),
    }


def _completed(spec: RunSpec, complete: Complete) -> RunSpec:
    try:
        return complete(spec)
    except InputError:  # of an option that this version does not know
        return spec


def _charts(runs: Sequence[Run]) -> Charts:
    if len(runs) == 1:
        return draw_charts(runs[0].lines, runs[0].events)
    return draw_side_by_side({run.label: run.lines for run in runs}, [run.events for run in runs])


def _real(runs: Sequence[Run], grids: Sequence[Grids]) -> Grid | None:
    """The real images that all runs train on, if it is known that they are the same."""
    same = len({(run.spec.data.shards, run.spec.data.image_size) for run in runs}) == 1
    return next((each.real for each in grids if each.real), None) if same else None


def _stops(grids: Sequence[Grids]) -> list[int]:
    """Image counts that the slider goes through: those at which some run has a grid."""
    found = sorted({grid.images for each in grids for grid in each.drawn if grid.images is not None})
    return [found[i] for i in evenly(len(found), MOST_GRIDS)]


def _facts(run: Run) -> dict[str, str]:
    """What the head of the page says, by name."""
    last = run.metrics[-1]
    facts = {
        "Steps": f"{last['step']:,.0f} of {run.spec.steps:,}",
        "Images": f"{run.images:,.0f} of {run.spec.timetable.images(run.spec.steps):,}",
    }
    if "epoch" in last:
        facts["Epochs"] = f"{last['epoch']:,.1f}"
    if run.seconds:
        facts["Training time"] = str(timedelta(seconds=round(run.seconds)))
        facts["Images per second"] = f"{run.images / run.seconds:,.0f}"
    if run.log:
        facts["Started"] = run.log[0].time[:16].replace("T", " ")
    facts["Last figures"] = datetime.fromtimestamp(run.changed).astimezone().strftime(_TIME)
    return facts


def _scores(run: Run) -> dict[str, str]:
    """The best score and the last one, and what they are computed from."""
    scored = [line for line in run.metrics if any(name.startswith(SCORE) for name in line)]
    if not scored:
        return {}
    found: dict[str, str] = {}
    if best := best_of(run.folder):
        images = run.spec.timetable.images(best.step)
        found["Best checkpoint"] = f"{best.path.name} ({images:,} images): {best.metric} {best.value:.4g}"
        if f"{SCORE}{best.metric}" in scored[-1]:
            last = scored[-1]
            found["Last score"] = (
                f"step {last['step']:,.0f} ({last['images']:,.0f} images): "
                f"{best.metric} {last[f'{SCORE}{best.metric}']:.4g}"
            )
    said = [(step, _said_of_scores(facts)) for step, facts in run.scored]
    for step, text in said:
        all_of_them = len(said) == 1 and scored[0]["step"] == step
        found["Scores" if all_of_them else f"Scores from step {step:,} on"] = text
    return found


def _said_of_scores(facts: Mapping[str, Any]) -> str:
    """What scores are computed from, for people."""
    parts = [f"{facts['count']:,} generated and {facts['real_count']:,} real images"]
    parts.append(", ".join(f"{name} {value}" for name, value in facts["where"].items()) or "no filter")
    if "features" in facts:
        parts.append(f"{facts['distance']} ({facts['features']}, weights {facts['features_sha256'][:12]})")
    else:
        parts.append("no features")
    parts += [", ".join(f"{name} {value}" for name, value in facts["transform"].items() if value is not None)]
    return "; ".join([*parts, "EMA" if facts["ema"] else "training weights"])


@dataclass(frozen=True)
class Row:
    """A line of the table of runs.

    Attributes:
        name: What it says.
        cells: Of each run.
        leader: The run that does best in it, where that can be said.
    """

    name: str
    cells: list[str]
    leader: int | None = None


def _summary(runs: Sequence[Run]) -> list[Row]:
    """How far each run is, and its scores, best and last; those of which it is known which way is better."""
    rows = [
        Row("Specification", [run.spec.name for run in runs]),
        Row("Images", [f"{run.images:,.0f}" for run in runs]),
        Row("Minutes of training", [f"{run.seconds / 60:,.1f}" if run.seconds else "–" for run in runs]),
        Row("Images per second", [f"{run.images / run.seconds:,.0f}" if run.seconds else "–" for run in runs]),
    ]
    for name in dict.fromkeys(name for run in runs for name in run.lines):
        lines = [run.lines.get(name) for run in runs]
        best = [best_in(name, line) if line else None for line in lines]
        if known := [each.value for each in best if each]:
            score = name.removeprefix(SCORE)
            top = min(known) if score in BETTER_LOWER else max(known)
            leader = next(i for i, each in enumerate(best) if each and each.value == top) if len(known) > 1 else None
            cells = [f"{show(each.value)} at {show(each.images)}" if each else "–" for each in best]
            rows.append(Row(f"{score}, best (at images)", cells, leader))
            rows.append(Row(f"{score}, last", [show(line.values[-1]) if line else "–" for line in lines]))
    return rows


def _table(metrics: Sequence[Mapping[str, float]]) -> list[tuple[str, str, str, str]]:
    """Each figure with its last, lowest and highest value."""
    columns: dict[str, list[float]] = {}
    for line in metrics:
        for name, value in line.items():
            columns.setdefault(name, []).append(value)
    rows = []
    for name, column in columns.items():
        values = np.array(column, dtype=np.float64)
        finite = values[np.isfinite(values)]
        extremes = (show(finite.min()), show(finite.max())) if len(finite) else ("–", "–")
        rows.append((name, show(values[-1]), *extremes))
    return rows


def _stamps(run: Path) -> list[tuple[float, int]]:
    """What changes when a run has something new to show."""
    found = []
    for name in ("spec.yaml", "metrics.jsonl", "log.txt", "samples", "checkpoints", "best.json"):
        try:
            status = os.stat(run / name)  # noqa: PTH116
            found.append((status.st_mtime, status.st_size))
        except OSError:
            found.append((0.0, 0))
    return found


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # training has gone back, and is just writing it anew
        return time.time()
