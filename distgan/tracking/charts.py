"""Figures become charts: thinned to what a page can show, scaled, and drawn as SVG paths in a square of 1000 units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from distgan.evaluation.metrics import BETTER_HIGHER, BETTER_LOWER
from distgan.tracking.events import Event
from distgan.tracking.records import SCORE

Floats = NDArray[np.float64]

BUCKETS = 200
"""Points in a curve, at most. Each stands for equally many neighbouring lines of metrics."""
_SIDE = 1000
_LOG_RATIO = 100
"""Gradient norms that span more than this are drawn on a logarithmic axis."""
_NORMS = "Gradient norms"
_MEAN_NORMS = "Gradient norms, means of the intervals"
_TITLES = (
    ("loss/*", "Losses"),
    ("mean/loss/*", "Losses, means of the intervals between lines"),
    ("mean/grad_norm/*", _MEAN_NORMS),
    ("mean/critic/penalty*", "Gradient penalties, means of the intervals"),
    ("mean/*", "Other means of the intervals"),
    ("critic/accuracy*", "Critic accuracy"),
    ("critic/ranking", "Pairs that the critic ranks right"),
    ("critic/sign", "Sign of the critic's outputs for real images, mean"),
    ("augmentation/probability", "Probability of augmentation"),
    ("critic/penalty*", "Gradient penalties"),
    ("critic/*", "Critic outputs, mean"),
    ("elbo/*", "Terms of the ELBO"),
    ("score/frechet", "Fréchet distance to held-out images"),
    ("score/kernel*", "Kernel distance to held-out images"),
    ("score/wasserstein*", "Sliced Wasserstein distance to held-out images"),
    ("score/ms_ssim*", "MS-SSIM of pairs"),
    ("score/inception", "Inception score"),
    ("score/*", "Precision, recall, density and coverage"),
    ("time/evaluation", "Seconds of an evaluation"),
    ("diversity", "Diversity of the images, share of the data's"),
    ("grad_norm/*", _NORMS),
    ("learning_rate/*", "Learning rates"),
    ("time/images_per_second", "Images per second"),
    ("time/data_wait", "Waiting for data, share of the time"),
)
_CLOCKS = ("step", "images", "epoch")
_BEST_SO_FAR = "best/*"
"""What the marks on the scores' charts show is not drawn once more."""
_short = EngFormatter(sep="")
_steps = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])


@dataclass(frozen=True)
class Thinned:
    """A figure in buckets of neighbouring lines.

    Attributes:
        low: The lowest finite value in each bucket, NaN where there is none.
        mean: The mean, NaN where any value of the bucket is missing, NaN or infinite: a gap in the curve.
        high: The highest finite value in each bucket, NaN where there is none.
    """

    low: Floats
    mean: Floats
    high: Floats


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: how far along it in percent, from left or top, and its label."""

    at: float
    label: str


class Line(NamedTuple):
    """A figure of a run, line by line.

    Attributes:
        images: Real images seen, float64 (n,), ascending.
        values: Float64 (n,).
        comparable_from: Images from which on its values are made alike. Scores before that are of other features, say.
    """

    images: Floats
    values: Floats
    comparable_from: float = 0.0


@dataclass(frozen=True)
class Best:
    """The best value of a score.

    Attributes:
        value: As it is.
        images: Seen when it was.
        at: How far along the axis it lies in percent, from the left.
        down: From the top.
    """

    value: float
    images: float
    at: float = 0.0
    down: float = 0.0

    @property
    def text(self) -> str:
        """For people."""
        return f"{show(self.value)} at {show(self.images)} images"


@dataclass(frozen=True)
class Curve:
    """One figure, or one run, in a chart.

    Attributes:
        label: The figure, without the part that the chart's title says; or the run.
        colour: The number of the colour.
        last: Its last value, as text.
        best: Of a score of which it is known which way is better.
        line: SVG path of the means.
        band: SVG path around everything between low and high.
        lines: Lines of metrics that have the figure.
        nonfinite: Those of them in which it is NaN or infinite.
        points: For those who point at the chart, of each bucket: ``at``, how far along the axis it lies in percent; as
            text the images seen and the values low, mean and high; and how far down the mean lies, None for a gap.
    """

    label: str
    colour: int
    last: str
    best: Best | None
    line: str
    band: str
    lines: int
    nonfinite: int
    points: list[tuple[float, str, str, str, str, float | None]]


@dataclass(frozen=True)
class Mark:
    """An event on the time axis.

    Attributes:
        at: How far along it in percent.
        colour: The number of the run's colour.
        event: What happened.
    """

    at: float
    colour: int
    event: Event


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes: images seen to the right, the figures upwards."""

    title: str
    curves: list[Curve]
    marks: list[Mark]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bottom: float
    """The value at the lower edge; of a logarithmic axis its logarithm."""
    top: float
    logarithmic: bool

    @property
    def hover(self) -> dict[str, object]:
        """What the page needs to smooth the curves, and to say which values the pointer is at."""
        return {
            "curves": [{"label": curve.label, "colour": curve.colour, "points": curve.points} for curve in self.curves],
            "events": [[mark.at, mark.event.text] for mark in self.marks],
            "bottom": self.bottom,
            "top": self.top,
            "logarithmic": self.logarithmic,
        }


class Charts(NamedTuple):
    """The charts of a page."""

    scores: list[Chart]
    others: list[Chart]


def lines_of(metrics: Sequence[Mapping[str, float]], scored_alike_from: float = 0.0) -> dict[str, Line]:
    """Each figure of a run that is drawn. It need not be in every line.

    Args:
        metrics: The lines of the run, each with ``images``.
        scored_alike_from: Images from which on scores are made alike.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in metrics:
        seen = line["images"]
        for name, value in line.items():
            if name in found:
                images, values = found[name]
                images.append(seen)
                values.append(value)
            else:
                found[name] = [seen], [value]
    return {
        name: Line(
            np.array(images, dtype=np.float64),
            np.array(values, dtype=np.float64),
            scored_alike_from if name.startswith(SCORE) else 0.0,
        )
        for name, (images, values) in found.items()
        if name not in _CLOCKS and not fnmatchcase(name, _BEST_SO_FAR)
    }


def draw_charts(lines: Mapping[str, Line], events: Sequence[Event] = ()) -> Charts:
    """A chart for each group of a run's figures that belong together; unknown ones by what is before the slash.

    Args:
        lines: The figures, at least one.
        events: Marked in every chart.
    """
    groups: dict[str, dict[str, Line]] = {title: {} for _, title in _TITLES}
    for name, line in lines.items():
        groups.setdefault(_title(name), {})[name] = line
    _, far = _range(line.images for line in lines.values())
    charts = Charts([], [])
    for title, group in groups.items():
        if group:
            several = len(group) > 1
            curves = [
                _Drawn(name, _short_name(name) if several else name, i, group[name]) for i, name in enumerate(group)
            ]
            kind = charts.scores if next(iter(group)).startswith(SCORE) else charts.others
            kind.append(_draw(title, curves, far, [events]))
    return charts


def draw_side_by_side(runs: Mapping[str, Mapping[str, Line]], events: Sequence[Sequence[Event]]) -> Charts:
    """A chart for each figure that some run has, with a curve for each run. A run keeps its colour in all charts.

    Args:
        runs: The figures of each run by its label, at least one in all.
        events: Of each run, marked in every chart.
    """
    titles = {title: number for number, (_, title) in enumerate(_TITLES)}
    names = dict.fromkeys(name for lines in runs.values() for name in lines)
    figures_of: dict[str, set[str]] = {}
    for name in names:
        figures_of.setdefault(_title(name), set()).add(name)
    _, far = _range(line.images for lines in runs.values() for line in lines.values())
    charts = Charts([], [])
    for name in sorted(names, key=lambda name: titles.get(_title(name), len(titles))):
        title = _title(name)
        if len(figures_of[title]) > 1:
            title = f"{title}: {_short_name(name)}"
        curves = [_Drawn(name, label, i, lines[name]) for i, (label, lines) in enumerate(runs.items()) if name in lines]
        (charts.scores if name.startswith(SCORE) else charts.others).append(_draw(title, curves, far, events))
    return charts


def best_in(name: str, line: Line) -> Best | None:
    """The best value of a score, of those that compare with its last; None where it is not known which way is better.

    Args:
        name: As in metrics.jsonl: ``score/frechet``.
        line: Its values.
    """
    score = name.removeprefix(SCORE)
    counts = np.isfinite(line.values) & (line.images >= line.comparable_from)
    if not name.startswith(SCORE) or score not in BETTER_LOWER | BETTER_HIGHER or not counts.any():
        return None
    values = np.where(counts, line.values, np.nan)
    place = int(np.nanargmin(values) if score in BETTER_LOWER else np.nanargmax(values))
    return Best(float(values[place]), float(line.images[place]))


def thin(values: Floats) -> Thinned:
    """Put a figure's values, float64 (n,), into at most :data:`BUCKETS` buckets; no extreme gets lost."""
    starts = _starts(len(values))
    finite = np.where(np.isfinite(values), values, np.nan)
    sizes = np.diff(starts, append=len(values))
    return Thinned(
        low=np.fmin.reduceat(finite, starts),
        mean=np.add.reduceat(finite / np.repeat(sizes, sizes), starts),  # divided first: sums could overflow
        high=np.fmax.reduceat(finite, starts),
    )


def show(value: float) -> str:
    """A figure as people read it: whole, or with four digits."""
    whole = float(value).is_integer() or abs(value) >= 10_000
    return f"{value:,.0f}" if whole and abs(value) < 1e12 else f"{value:.4g}"


def _starts(count: int) -> NDArray[np.int64]:
    """The index of the first line of each bucket."""
    buckets = min(count, BUCKETS)
    return np.arange(buckets, dtype=np.int64) * count // buckets


def _title(name: str) -> str:
    for pattern, title in _TITLES:
        if fnmatchcase(name, pattern):
            return title
    return name.partition("/")[0].replace("_", " ").capitalize()


def _short_name(name: str) -> str:
    """A figure's name without the part that its chart's title says."""
    return name.removeprefix("mean/").partition("/")[2] or name


class _Drawn(NamedTuple):
    """What is drawn as one curve."""

    name: str
    label: str
    colour: int
    line: Line


def _draw(title: str, drawn: Sequence[_Drawn], far: float, events: Sequence[Sequence[Event]]) -> Chart:
    """Draw curves on an axis that goes up to ``far`` images."""
    low, high = _range(each.line.values for each in drawn)
    norms = title.partition(":")[0] in (_NORMS, _MEAN_NORMS)
    logarithmic = norms and low > 0 and high / low > _LOG_RATIO
    scale = np.log10 if logarithmic else np.positive
    bottom, top = float(scale(low)), float(scale(high))
    margin = 0.04 * (top - bottom)
    if not logarithmic and 0 <= low < high / 2:
        bottom = margin = 0.0
    bottom, top = bottom - margin, top + 0.04 * (top - bottom)
    locator = LogLocator(numticks=6) if logarithmic else _steps
    x_values, y_values = np.asarray(_steps.tick_values(0, far)), np.asarray(locator.tick_values(low, high))

    def right(images: Floats) -> Floats:
        return images / far

    def down(values: Floats) -> Floats:
        return (top - scale(values)) / (top - bottom)

    def curve(each: _Drawn) -> Curve:
        images, values, _ = each.line
        thinned = thin(values)
        images = images[np.append(_starts(len(images))[1:], len(images)) - 1]  # a bucket lies where it ends
        at = [_percent(float(x)) for x in right(images)]
        texts = [[show(value) for value in column] for column in (images, thinned.low, thinned.mean, thinned.high)]
        depths = [None if math.isnan(y) else _percent(float(y)) for y in down(thinned.mean)]
        best = best_in(each.name, each.line)
        if best:
            place = right(np.array(best.images)), down(np.array(best.value))
            best = Best(best.value, best.images, *(_percent(float(number)) for number in place))
        return Curve(
            label=each.label,
            colour=each.colour,
            last=show(values[-1]),
            best=best,
            line=_line(right(images), down(thinned.mean)),
            band=_band(right(images), down(thinned.low), down(thinned.high)),
            lines=len(values),
            nonfinite=int(np.sum(~np.isfinite(values))),
            points=list(zip(at, *texts, depths, strict=True)),
        )

    return Chart(
        title=title,
        curves=[curve(each) for each in drawn],
        marks=[
            Mark(_percent(event.images / far), number, event)
            for number, of_run in enumerate(events)
            for event in of_run
            if event.images <= far
        ],
        x_ticks=_ticks(right(x_values), [_short(value) for value in x_values]),
        y_ticks=_ticks(down(y_values), [f"{value:.6g}" for value in y_values]),
        bottom=bottom,
        top=top,
        logarithmic=logarithmic,
    )


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _range(arrays: Iterable[Floats]) -> tuple[float, float]:
    """The lowest and the highest finite value, made to differ."""
    values = np.concatenate([array[np.isfinite(array)] for array in arrays])
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    return low, high


def _ticks(at: Floats, labels: list[str]) -> list[Tick]:
    """The marks that lie on the axis."""
    places = zip(at, labels, strict=True)
    return [Tick(_percent(float(place)), label) for place, label in places if -1e-6 <= place <= 1 + 1e-6]


def _line(x: Floats, y: Floats) -> str:
    """Points joined by lines, broken where y is NaN. A point between two gaps becomes a dot (line caps are round)."""
    return "".join(
        f"M{points[0]}h0L{' '.join(points[1:])}" if len(points) > 1 else f"M{points[0]}h0" for points in _parts(x, y)
    )


def _band(x: Floats, low: Floats, high: Floats) -> str:
    """The outline of what lies between two curves, broken where they are NaN."""
    above, below = _parts(x, high), _parts(x, low)
    return "".join(f"M{' '.join(top + bottom[::-1])}Z" for top, bottom in zip(above, below, strict=True))


def _parts(x: Floats, y: Floats) -> list[list[str]]:
    """The stretches without NaN, as ``x,y`` in the square."""
    known = np.flatnonzero(~np.isnan(y))
    stretches = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    return [[f"{_SIDE * x[i]:.1f},{_SIDE * y[i]:.1f}" for i in stretch] for stretch in stretches if len(stretch)]
