"""The pictures of a leaderboard: scores as curves, and what each competitor draws, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from distgan.bench.leaderboard import Result, median_points
from distgan.bench.tables import rounded
from distgan.sampling import Bytes, grid_of
from shards.files import write_or_say

_DPI = 120


def draw_curves(results: Sequence[Result], score: str, title: str, path: Path) -> None:
    """Draw a score against images and against minutes of training: a line a competitor.

    Where a competitor has several seeds they are thin lines, and their median is a thick one.

    Args:
        results: The runs.
        score: The name of the score.
        title: What it is called.
        path: The PNG that is written.

    Raises:
        InputError: It cannot be written.
    """
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    by_label: dict[str, list[Result]] = {}
    for result in results:
        if result.points:
            by_label.setdefault(result.competitor, []).append(result)
    for number, (label, runs) in enumerate(by_label.items()):
        colour = colormaps["tab10"](number % 10)
        style = ("-", "--", ":", "-.")[number // 10 % 4]
        for run in runs if len(runs) > 1 else ():
            thin = [(point.images, point.minutes, point.scores[score]) for point in run.points]
            _draw(axes, thin, style, color=colour, alpha=0.4, linewidth=0.8)
        _draw(axes, median_points(runs, score), style, marker=".", color=colour, linewidth=2.2, label=label)
    scale = "log" if all(point.scores[score] > 0 for run in results for point in run.points) else "linear"
    for place, right in zip(axes, ("real images shown", "minutes of training"), strict=True):
        place.set_xlabel(right)
        place.set_xlim(left=0)
        place.set_yscale(scale)
        place.grid(True, which="both", alpha=0.25)
    axes[0].legend(fontsize="small")
    axes[0].set_ylabel(title)
    for formatted in (axes[0].yaxis.set_major_formatter, axes[0].yaxis.set_minor_formatter):
        formatted(FuncFormatter(lambda value, _: rounded(value)))
    _save(figure, path)


def draw_grids(grids: Mapping[str, Sequence[Bytes]], path: Path) -> None:
    """Draw what each competitor draws of the same latents, side by side.

    Args:
        grids: Images uint8 (H, W, C) of each, by what is written above them; as many of all, grey or in colour.
        path: The PNG that is written.

    Raises:
        InputError: It cannot be written.
    """
    columns = min(len(grids), 4)
    rows = math.ceil(len(grids) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.9 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for place in places[len(grids) :]:
        place.remove()
    for place, (label, images) in zip(places, grids.items(), strict=False):
        place.imshow(grid_of(list(images)), interpolation="nearest", cmap="gray", vmin=0, vmax=255)
        place.set(xticks=[], yticks=[])
        place.set_title("\n".join(fill(line, 40) for line in label.splitlines()), fontsize=9)
    _save(figure, path)


def _draw(axes: Sequence[Axes], points: Sequence[tuple[float, float, float]], style: str, **look: Any) -> None:
    """Draw a line through (images, minutes, score) against images, and one against minutes."""
    for place, at in zip(axes, (0, 1), strict=True):
        place.plot([point[at] for point in points], [point[2] for point in points], style, **look)


def _save(figure: Figure, path: Path) -> None:
    written = BytesIO()
    figure.savefig(written, format="png", dpi=_DPI, bbox_inches="tight")  # titles may need more than their room
    write_or_say(path, written.getvalue())
