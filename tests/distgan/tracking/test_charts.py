from __future__ import annotations

import math
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distgan.tracking.charts import BUCKETS, draw_charts, show, thin
from tests.distgan.tracking.conftest import figures

VALUES = arrays.arrays(np.float64, st.integers(1, 3 * BUCKETS), elements=st.floats(width=32))


def images_at(step: int) -> int:
    """Images seen after so many steps, which lines of today's versions say themselves."""
    return 8 * step


@settings(deadline=None)
@given(values=VALUES)
def test_thinning_keeps_extremes_and_gaps(values):
    thinned = thin(values)
    finite = values[np.isfinite(values)]
    assert len(thinned.low) == len(thinned.mean) == len(thinned.high) == min(len(values), BUCKETS)
    assert np.isnan(thinned.mean).any() == (len(finite) < len(values))
    if len(finite):
        assert np.nanmin(thinned.low) == finite.min()
        assert np.nanmax(thinned.high) == finite.max()
    known = ~np.isnan(thinned.mean)
    slack = 1e-9 * np.abs(thinned.mean[known]) + 1e-300
    assert (thinned.low[known] <= thinned.mean[known] + slack).all()
    assert (thinned.mean[known] <= thinned.high[known] + slack).all()


@settings(deadline=None)
@given(values=VALUES.filter(lambda values: len(values) <= BUCKETS))
def test_short_runs_are_shown_as_they_are(values):
    expected = np.where(np.isfinite(values), values, np.nan)
    for thinned in thin(values).__dict__.values():
        np.testing.assert_array_equal(thinned, expected)


@settings(deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=40), name=st.sampled_from(["loss/a", "grad_norm/a"]))
def test_every_point_lies_in_the_square_and_every_finite_one_is_drawn(values, name):
    (chart,) = draw_charts([{"step": i, "images": 8 * i, name: value} for i, value in enumerate(values)], images_at)
    (curve,) = chart.curves
    points = re.findall(r"(-?[\d.]+|nan|inf),(-?[\d.]+|nan|inf)", curve.line)
    assert len(points) == sum(map(math.isfinite, values))
    assert all(0 <= float(number) <= 1000 for point in points for number in point)
    assert all(0 <= tick.at <= 100 for tick in chart.x_ticks + chart.y_ticks)
    assert curve.nonfinite == len(values) - len(points)


def test_a_gap_stays_a_gap():
    values = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0]
    (chart,) = draw_charts(
        [{"step": i + 1, "images": i + 1, "loss/a": value} for i, value in enumerate(values)], images_at
    )
    assert chart.curves[0].line.count("M") == 3


def test_figures_that_belong_together_share_a_chart():
    others = {"critic/real": 1.0, "critic/fake": -1.0, "critic/accuracy_real": 0.9, "mystery/a": 1.0, "lonely": 3.0}
    charts = draw_charts([{"step": step, **figures(step, **others)} for step in (1, 2)], images_at)
    assert {chart.title: [curve.label for curve in chart.curves] for chart in charts} == {
        "Losses": ["critic", "generator"],
        "Critic accuracy": ["critic/accuracy_real"],
        "Critic outputs, mean": ["real", "fake"],
        "Gradient norms": ["grad_norm/critic"],
        "Images per second": ["time/images_per_second"],
        "Waiting for data, share of the time": ["time/data_wait"],
        "Mystery": ["mystery/a"],
        "Lonely": ["lonely"],
    }
    assert charts[0].title == "Losses"


def test_a_figure_of_some_lines_only_is_a_curve_without_gaps():
    metrics = [{"step": i, "images": i, "loss/a": 1.0} for i in range(1, 101)]
    for line in metrics[9::10]:
        line["score"] = float(line["step"])
    score = draw_charts(metrics, images_at)[1].curves[0]
    assert (score.lines, score.nonfinite, score.line.count("M")) == (10, 0, 1)
    assert [point[1] for point in score.points] == [str(step) for step in range(10, 101, 10)]


def test_gradient_norms_over_decades_get_a_logarithmic_axis():
    norms = [10.0**power for power in range(-3, 4)]
    metrics = [{"step": i + 1, "images": i + 1, "grad_norm/a": norm, "loss/a": norm} for i, norm in enumerate(norms)]
    charts = draw_charts(metrics, images_at)
    assert [chart.logarithmic for chart in charts] == [False, True]
    heights = [float(y) for y in re.findall(r",([\d.]+)", charts[1].curves[0].line)]
    np.testing.assert_allclose(np.diff(heights), np.diff(heights)[0], atol=0.2)


def test_numbers_are_for_people():
    values = [0.0, 1.0, 640000000, 0.123456, -1234.5, 1e-7, 3e20, math.nan, math.inf]
    expected = ["0", "1", "640,000,000", "0.1235", "-1234", "1e-07", "3e+20", "nan", "inf"]
    assert [show(value) for value in values] == expected


def test_means_of_intervals_have_charts_of_their_own_named_by_the_figure():
    line = {"step": 1, "loss/critic": 1.0, "loss/generator": 2.0, "mean/loss/critic": 3.0, "mean/loss/generator": 4.0}
    first, second = draw_charts([line], images_at)
    assert (first.title, second.title) == ("Losses", "Losses, means of the intervals between lines")
    assert [curve.label for curve in first.curves] == [curve.label for curve in second.curves]
    assert [curve.last for curve in second.curves] == ["3", "4"]
