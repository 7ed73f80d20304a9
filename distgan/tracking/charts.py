"""Figures become charts: thinned to what a page can show, scaled, and drawn as SVG paths in a square of 1000 units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BUCKETS = 400
"""Points in a curve, at most. Each stands for equally many neighbouring lines of metrics."""
_SIDE = 1000
_LOG_RATIO = 100
"""Positive figures that span more than this are drawn on a logarithmic axis."""
_TITLES = (
    ("loss/*", "Losses"),
    ("critic/accuracy*", "Critic accuracy"),
    ("critic/*", "Critic outputs, mean"),
    ("grad_norm/*", "Gradient norms"),
    ("time/images_per_second", "Images per second"),
    ("time/data_wait", "Waiting for data, share of the time"),
)
_CLOCKS = ("step", "images", "epoch")
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


@dataclass(frozen=True)
class Curve:
    """One figure in a chart.

    Attributes:
        name: The figure.
        label: The figure without the part that the chart's title says.
        last: Its last value, as text.
        line: SVG path of the means.
        band: SVG path around everything between low and high.
        nonfinite: Lines in which it is NaN or infinite.
        values: ``[low, mean, high]`` as text for each bucket, for those who point at it.
    """

    name: str
    label: str
    last: str
    line: str
    band: str
    nonfinite: int
    values: list[list[str]]


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes. ``at`` and ``images`` say where each bucket lies, in percent and as text."""

    title: str
    curves: list[Curve]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    logarithmic: bool
    at: list[float]
    images: list[str]

    @property
    def hover(self) -> dict[str, object]:
        """What the page needs to say which values the pointer is at."""
        curves = [{"label": curve.label, "values": curve.values} for curve in self.curves]
        return {"at": self.at, "images": self.images, "curves": curves}


def draw_charts(metrics: Sequence[Mapping[str, float]], images_per_step: int) -> list[Chart]:
    """A chart for each group of figures that belong together, losses first; unknown ones by what is before the slash.

    Args:
        metrics: The lines of a run, at least one.
        images_per_step: For lines that do not say how many images were seen.
    """
    names = list(dict.fromkeys(name for line in metrics for name in line if name not in _CLOCKS))
    groups: dict[str, list[str]] = {title: [] for _, title in _TITLES}
    for name in names:
        groups.setdefault(_title(name), []).append(name)
    images = np.array([line.get("images", line["step"] * images_per_step) for line in metrics], dtype=np.float64)
    columns = {name: np.array([line.get(name, np.nan) for line in metrics], dtype=np.float64) for name in names}
    return [_draw(title, {name: columns[name] for name in group}, images) for title, group in groups.items() if group]


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
    """A figure as people read it: four digits."""
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"


def _starts(count: int) -> NDArray[np.int64]:
    """The index of the first line of each bucket."""
    buckets = min(count, BUCKETS)
    return np.arange(buckets, dtype=np.int64) * count // buckets


def _title(name: str) -> str:
    for pattern, title in _TITLES:
        if fnmatchcase(name, pattern):
            return title
    return name.partition("/")[0].replace("_", " ").capitalize()


def _draw(title: str, columns: Mapping[str, Floats], images: Floats) -> Chart:
    thinned = {name: thin(column) for name, column in columns.items()}
    x = images[np.append(_starts(len(images))[1:], len(images)) - 1]  # a bucket lies where it ends
    x_low, x_high = _range([images], zero=True)
    low, high = _range([curve.low for curve in thinned.values()] + [curve.high for curve in thinned.values()])
    logarithmic = low > 0 and high / low > _LOG_RATIO and not title.startswith(("Images", "Waiting"))
    if logarithmic:
        y_low, y_high = np.log10(low), np.log10(high)
        y_values = np.asarray(LogLocator(numticks=6).tick_values(low, high))
    else:
        y_low, y_high = (0.0 if 0 <= low < high / 2 else low), high
        y_values = np.asarray(_steps.tick_values(y_low, y_high))
    margin = 0.04 * (y_high - y_low)
    y_low, y_high = (y_low if y_low == 0 and not logarithmic else y_low - margin), y_high + margin

    def right(value: Floats) -> Floats:
        return (value - x_low) / (x_high - x_low)

    def down(value: Floats) -> Floats:
        return (y_high - (np.log10(value) if logarithmic else value)) / (y_high - y_low)

    x_values = np.asarray(_steps.tick_values(x_low, x_high))
    return Chart(
        title=title,
        curves=[
            Curve(
                name=name,
                label=name if len(columns) == 1 else name.partition("/")[2] or name,
                last=show(columns[name][-1]),
                line=_line(right(x), down(curve.mean)),
                band=_band(right(x), down(curve.low), down(curve.high)),
                nonfinite=int(np.sum(~np.isfinite(columns[name]))),
                values=[
                    [show(value) for value in values] for values in zip(curve.low, curve.mean, curve.high, strict=True)
                ],
            )
            for name, curve in thinned.items()
        ],
        x_ticks=_ticks(x_values, right(x_values), [_short(value) for value in x_values]),
        y_ticks=_ticks(y_values, down(y_values), [f"{value:.6g}" for value in y_values]),
        logarithmic=logarithmic,
        at=[round(100 * float(at), 2) for at in right(x)],
        images=[f"{value:,.0f}" for value in x],
    )


def _range(arrays: Iterable[Floats], zero: bool = False) -> tuple[float, float]:
    """The lowest and the highest finite value, made to differ."""
    values = np.concatenate([array[np.isfinite(array)] for array in arrays])
    if not len(values):
        return 0.0, 1.0
    low, high = (0.0 if zero else float(values.min())), float(values.max())
    if low == high:
        return low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    return low, high


def _ticks(values: Floats, at: Floats, labels: list[str]) -> list[Tick]:
    return [
        Tick(round(100 * float(place), 2), label)
        for place, label in zip(at, labels, strict=True)
        if -1e-6 <= place <= 1 + 1e-6
    ]


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
