"""The pictures of a leaderboard are written, whatever there is to show."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from distgan.bench.charts import draw_curves, draw_grids
from distgan.bench.leaderboard import Point, Result
from shards.errors import InputError


def results(seeds: int, lowest: float) -> list[Result]:
    return [
        Result(f"competitor {name}", seed, tuple(Point(100 * i, i / 2, {"frechet": lowest + i}) for i in range(1, 4)))
        for name in range(12)
        for seed in range(seeds)
    ]


@pytest.fixture
def figures(monkeypatch):
    """All figures that are saved."""
    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **more: (saved.append(self), save(self, *args, **more)))
    return saved


@pytest.mark.parametrize(("seeds", "lowest", "scale"), [(1, 1.0, "log"), (3, -2.0, "linear")])
def test_curves(tmp_path, figures, seeds, lowest, scale):
    draw_curves([*results(seeds, lowest), Result("dead", 0, (), "NaN")], "frechet", "FID", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 1000
    (figure,) = figures
    for axes, step in zip(figure.axes, (100, 0.5), strict=True):
        lines = axes.get_lines()
        assert len(lines) == 12 * (1 if seeds == 1 else seeds + 1)
        assert all(list(line.get_xdata()) == [step, 2 * step, 3 * step] for line in lines)
        assert all(list(line.get_ydata()) == [lowest + 1, lowest + 2, lowest + 3] for line in lines)
        assert axes.get_yscale() == scale
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        f"competitor {name}" for name in range(12)
    ]


@pytest.mark.parametrize(("lowest", "labels"), [(4000.0, {"4,001", "4,003"}), (20.0, {"21", "23"})])
def test_scores_are_written_as_people_read_them(tmp_path, figures, lowest, labels):
    draw_curves(results(1, lowest), "frechet", "FID", tmp_path / "curves.png")
    axis = figures[0].axes[0].yaxis
    written = {text.get_text() for text in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))}
    assert labels <= written, written


@pytest.mark.parametrize("channels", [1, 3])
def test_grids(tmp_path, channels):
    images = [np.full((16, 16, channels), 10 * i, np.uint8) for i in range(5)]
    draw_grids({f"{name} {'long ' * 20}\nand more": images for name in range(6)}, tmp_path / "grids.png")
    with Image.open(tmp_path / "grids.png") as picture:
        assert picture.size[0] > picture.size[1] > 300


@pytest.mark.parametrize("count", [1, 2, 6])
def test_what_is_written_above_grids_is_all_there(tmp_path, count):
    images = [np.full((64, 64, 1), 255, np.uint8)] * 25
    draw_grids({f"{name}\nabove it": images for name in range(count)}, tmp_path / "grids.png")
    with Image.open(tmp_path / "grids.png") as picture:
        edges = np.asarray(picture.convert("L"))
    for edge in (edges[0], edges[-1], edges[:, 0], edges[:, -1]):
        assert (edge == 255).all()


def test_a_picture_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file"):
        draw_curves(results(1, 1.0), "frechet", "FID", tmp_path / "file" / "curves.png")
