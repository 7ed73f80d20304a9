"""The report of a run: one HTML page that shows what it learnt and needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from distgan.checkpoint import best_of
from distgan.spec import RunSpec, load_spec
from distgan.tracking.charts import BUCKETS, draw_charts, images_of, show
from distgan.tracking.records import (
    REAL,
    SCORE,
    UNREADABLE,
    LogEntry,
    evenly,
    read_facts,
    read_log,
    read_metrics,
    sample_grids,
)
from distgan.tracking.tracker import Outcome
from shards.errors import InputError
from shards.files import write_atomically

MOST_GRIDS = 60
MOST_GRID_BYTES = 14_000_000
"""Of all grids together, as image files. In the page they take a third more."""
_LOG_ENTRIES = 200
_TIME = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class Grid:
    """A grid as it stands in the page.

    Attributes:
        images: Seen before it was drawn; None where it shows real ones.
        width: In pixels.
        height: In pixels.
        mime: The kind of ``data``.
        data: An image file.
    """

    images: int | None
    width: int
    height: int
    mime: str
    data: bytes

    @property
    def uri(self) -> str:
        """The picture itself, as an address."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


def write_report(run: Path) -> Path:
    """Write ``RUN/report.html``. The run may be finished, running, interrupted or failed.

    The page is self-contained, and forbids itself every connection (Content-Security-Policy). It stays under about
    20 MB: of many grids it shows some, evenly over the run, always with the first and the last.

    Args:
        run: The run's folder.

    Returns:
        The page.

    Raises:
        InputError: This is no run's folder, its specification or metrics are damaged, or it has no figures yet.
        OSError: The page cannot be written.
    """
    if not (run / "spec.yaml").is_file():
        raise InputError(f"{run} is not a run's folder: there is no spec.yaml in it")
    spec = load_spec(run / "spec.yaml")
    metrics = read_metrics(run)
    if not metrics:
        raise InputError(
            f"{run / 'metrics.jsonl'} has no figures yet; the first come after {spec.tracking.log_every} steps "
            "(tracking.log_every)"
        )
    log = read_log(run)
    real, unreadable = _load_real(run / "samples" / REAL)
    room = MOST_GRID_BYTES - (len(real.data) if real else 0)
    grids, others = _load_grids([path for _, path in sample_grids(run / "samples")], room)
    page = _template().render(
        spec=spec,
        spec_text=(run / "spec.yaml").read_text(encoding="utf-8"),
        state=_state(log),
        facts={
            **_facts(spec, metrics, log, (run / "metrics.jsonl").stat().st_mtime),
            **_scores(run, metrics, spec.timetable.images),
        },
        charts=draw_charts(metrics, spec.timetable.images),
        thinned=len(metrics) > BUCKETS,
        figures=_table(metrics),
        real=real,
        grids=grids,
        unreadable=[*unreadable, *others],
        log=log[-_LOG_ENTRIES:],
        earlier=max(0, len(log) - _LOG_ENTRIES),
        written=datetime.now().astimezone().strftime(_TIME),
    )
    path = run / "report.html"
    with write_atomically(path) as file:
        file.write(page.encode())
    return path


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["csp_hash"] = _csp_hash
    return environment.from_string((files("distgan.tracking") / "report.html").read_text(encoding="utf-8"))


def _csp_hash(text: str) -> Markup:
    """How a Content-Security-Policy allows this very style or script and no other."""
    digest = hashlib.sha256(text.encode()).digest()
    return Markup(f"'sha256-{base64.b64encode(digest).decode()}'")  # noqa: S704  (base64 needs no escaping)


def _state(log: Sequence[LogEntry]) -> str:
    """The outcome that the tracker has written last, if it came to that."""
    last = log[-1].text if log else ""
    return last if last in get_args(Outcome) else "running"


def _facts(
    spec: RunSpec, metrics: Sequence[Mapping[str, float]], log: Sequence[LogEntry], changed: float
) -> dict[str, str]:
    """What the head of the page says, by name."""
    last = metrics[-1]
    images_at = spec.timetable.images
    images = images_of(last, images_at)
    facts = {
        "Steps": f"{last['step']:,.0f} of {spec.steps:,}",
        "Images": f"{images:,.0f} of {images_at(spec.steps):,}",
    }
    if "epoch" in last:
        facts["Epochs"] = f"{last['epoch']:,.1f}"
    seconds = _training_seconds(metrics, images_at)
    if seconds:
        facts["Training time"] = str(timedelta(seconds=round(seconds)))
        facts["Images per second"] = f"{images / seconds:,.0f}"
    if log:
        facts["Started"] = log[0].time[:16].replace("T", " ")
    facts["Last figures"] = datetime.fromtimestamp(changed).astimezone().strftime(_TIME)
    return facts


def _scores(run: Path, metrics: Sequence[Mapping[str, float]], images_at: Callable[[int], int]) -> dict[str, str]:
    """The best score and the last one, and what they are computed from."""
    scored = [line for line in metrics if any(name.startswith(SCORE) for name in line)]
    if not scored:
        return {}
    found: dict[str, str] = {}
    if best := best_of(run):
        images = images_at(best.step)
        found["Best checkpoint"] = f"{best.path.name} ({images:,} images): {best.metric} {best.value:.4g}"
        if f"score/{best.metric}" in scored[-1]:
            last = scored[-1]
            found["Last score"] = (
                f"step {last['step']:,.0f} ({last['images']:,.0f} images): "
                f"{best.metric} {last[f'score/{best.metric}']:.4g}"
            )
    said = [(step, _said_of_scores(facts)) for step, facts in read_facts(run)]
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


def _training_seconds(metrics: Sequence[Mapping[str, float]], images_at: Callable[[int], int]) -> float:
    """Time spent training, from the speed between log lines: the clock on the wall also counts interruptions."""
    seconds, before = 0.0, 0.0
    for line in metrics:
        images = images_of(line, images_at)
        speed = line.get("time/images_per_second", math.nan)
        if speed > 0:
            seconds += (images - before) / speed
        before = images
    return seconds


def _table(metrics: Sequence[Mapping[str, float]]) -> list[tuple[str, str, str, str]]:
    """Each figure with its last, lowest and highest value."""
    rows = []
    for name in dict.fromkeys(name for line in metrics for name in line):
        values = np.array([line[name] for line in metrics if name in line], dtype=np.float64)
        finite = values[np.isfinite(values)]
        extremes = (show(finite.min()), show(finite.max())) if len(finite) else ("–", "–")
        rows.append((name, show(values[-1]), *extremes))
    return rows


def _load_real(path: Path) -> tuple[Grid | None, list[str]]:
    """The grid of real images, if there is one, and its name where it is no picture."""
    if not path.exists():
        return None, []
    try:
        return _load_grid(path, None, as_jpeg=path.stat().st_size > MOST_GRID_BYTES // 8), []
    except UNREADABLE:
        return None, [path.name]


def _load_grids(paths: Sequence[Path], room: int) -> tuple[list[Grid], list[str]]:
    """The grids for the page, oldest first, in about so many bytes, and the names of files that are no pictures."""
    grids, unreadable = [], []
    chosen = [paths[i] for i in evenly(len(paths), MOST_GRIDS)]
    # Large grids: the last one is looked at closely and stays as it is; JPEG does for the others.
    compress = sum(path.stat().st_size for path in chosen) > room
    for path in chosen:
        huge = path.stat().st_size > room // 2
        try:
            grids.append(_load_grid(path, int(path.stem), as_jpeg=compress and (huge or path != chosen[-1])))
        except UNREADABLE:
            unreadable.append(path.name)
    kept = grids
    while len(kept) > 2 and sum(len(grid.data) for grid in kept) > room:
        kept = [grids[i] for i in evenly(len(grids), len(kept) - 1)]
    return kept, unreadable


def _load_grid(path: Path, images: int | None, *, as_jpeg: bool) -> Grid:
    data, mime = path.read_bytes(), "image/png"
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        if as_jpeg:
            compressed = io.BytesIO()
            image.convert("L" if image.mode == "L" else "RGB").save(compressed, "JPEG", quality=90)
            data, mime = compressed.getvalue(), "image/jpeg"
        return Grid(images, image.width, image.height, mime, data)
