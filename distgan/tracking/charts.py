"""Figures become charts: thinned to what a page can show, scaled, and drawn as SVG paths in a square of 1000 units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

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
    ("best/images", "Images at the best score so far"),
    ("best/*", "Best score so far"),
    ("time/evaluation", "Seconds of an evaluation"),
    ("diversity", "Diversity of the images, share of the data's"),
    ("grad_norm/*", _NORMS),
    ("learning_rate/*", "Learning rates"),
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
        label: The figure, without the part that the chart's title says.
        last: Its last value, as text.
        line: SVG path of the means.
        band: SVG path around everything between low and high.
        lines: Lines of metrics that have the figure.
        nonfinite: Those of them in which it is NaN or infinite.
        points: For those who point at the chart, of each bucket: ``at``, how far along the axis it lies in percent,
            and as text the images seen and the values low, mean and high.
    """

    label: str
    last: str
    line: str
    band: str
    lines: int
    nonfinite: int
    points: list[tuple[float, str, str, str, str]]


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes: images seen to the right, the figures upwards."""

    title: str
    curves: list[Curve]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    logarithmic: bool

    @property
    def hover(self) -> list[dict[str, object]]:
        """What the page needs to say which values the pointer is at."""
        return [{"label": curve.label, "points": curve.points} for curve in self.curves]


def images_of(line: Mapping[str, float], images_at: Callable[[int], int]) -> float:
    """Real images seen at a line of metrics.jsonl.

    Args:
        line: The line.
        images_at: Real images seen after so many steps, for lines of earlier versions, which do not say it.
    """
    return line["images"] if "images" in line else images_at(int(line["step"]))


def draw_charts(metrics: Sequence[Mapping[str, float]], images_at: Callable[[int], int]) -> list[Chart]:
    """A chart for each group of figures that belong together, losses first; unknown ones by what is before the slash.

    Args:
        metrics: The lines of a run, at least one. A figure need not be in every line.
        images_at: Real images seen after so many steps, for lines that do not say it.
    """
    groups: dict[str, dict[str, tuple[Floats, Floats]]] = {title: {} for _, title in _TITLES}
    for name in dict.fromkeys(name for line in metrics for name in line if name not in _CLOCKS):
        having = [line for line in metrics if name in line]
        images = np.array([images_of(line, images_at) for line in having], dtype=np.float64)
        values = np.array([line[name] for line in having], dtype=np.float64)
        groups.setdefault(_title(name), {})[name] = (images, values)
    return [_draw(title, group) for title, group in groups.items() if group]


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


def _draw(title: str, columns: Mapping[str, tuple[Floats, Floats]]) -> Chart:
    """Draw figures, each given as images seen and values."""
    _, x_high = _range([images for images, _ in columns.values()])
    low, high = _range([values for _, values in columns.values()])
    logarithmic = title in (_NORMS, _MEAN_NORMS) and low > 0 and high / low > _LOG_RATIO
    scale = np.log10 if logarithmic else np.positive
    bottom, top = float(scale(low)), float(scale(high))
    margin = 0.04 * (top - bottom)
    if not logarithmic and 0 <= low < high / 2:
        bottom = margin = 0.0
    bottom, top = bottom - margin, top + 0.04 * (top - bottom)
    locator = LogLocator(numticks=6) if logarithmic else _steps
    x_values, y_values = np.asarray(_steps.tick_values(0, x_high)), np.asarray(locator.tick_values(low, high))

    def right(images: Floats) -> Floats:
        return images / x_high

    def down(values: Floats) -> Floats:
        return (top - scale(values)) / (top - bottom)

    def curve(name: str) -> Curve:
        images, values = columns[name]
        thinned = thin(values)
        images = images[np.append(_starts(len(images))[1:], len(images)) - 1]  # a bucket lies where it ends
        at = [round(100 * float(x), 2) for x in right(images)]
        texts = [[show(value) for value in column] for column in (images, thinned.low, thinned.mean, thinned.high)]
        return Curve(
            label=name if len(columns) == 1 else name.removeprefix("mean/").partition("/")[2] or name,
            last=show(values[-1]),
            line=_line(right(images), down(thinned.mean)),
            band=_band(right(images), down(thinned.low), down(thinned.high)),
            lines=len(values),
            nonfinite=int(np.sum(~np.isfinite(values))),
            points=list(zip(at, *texts, strict=True)),
        )

    return Chart(
        title=title,
        curves=[curve(name) for name in columns],
        x_ticks=_ticks(right(x_values), [_short(value) for value in x_values]),
        y_ticks=_ticks(down(y_values), [f"{value:.6g}" for value in y_values]),
        logarithmic=logarithmic,
    )


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
    return [Tick(round(100 * float(place), 2), label) for place, label in places if -1e-6 <= place <= 1 + 1e-6]


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
