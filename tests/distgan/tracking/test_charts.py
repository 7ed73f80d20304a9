from __future__ import annotations

import math
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distgan.evaluation.metrics import BETTER_HIGHER, BETTER_LOWER
from distgan.tracking.charts import BUCKETS, Chart, Line, best_in, draw_charts, draw_side_by_side, lines_of, show, thin
from distgan.tracking.events import Event
from tests.distgan.tracking.conftest import figures

VALUES = arrays.arrays(np.float64, st.integers(1, 3 * BUCKETS), elements=st.floats(width=32))


def drawn(metrics: list[dict[str, float]], events: list[Event] | None = None) -> list[Chart]:
    scores, others = draw_charts(lines_of(metrics), events or [])
    return [*scores, *others]


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
    (chart,) = drawn([{"step": i, "images": 8 * i, name: value} for i, value in enumerate(values)])
    (curve,) = chart.curves
    points = re.findall(r"(-?[\d.]+|nan|inf),(-?[\d.]+|nan|inf)", curve.line)
    assert len(points) == sum(map(math.isfinite, values))
    assert all(0 <= float(number) <= 1000 for point in points for number in point)
    assert all(0 <= tick.at <= 100 for tick in chart.x_ticks + chart.y_ticks)
    assert curve.nonfinite == len(values) - len(points)


def test_a_gap_stays_a_gap():
    values = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0]
    (chart,) = drawn([{"step": i + 1, "images": i + 1, "loss/a": value} for i, value in enumerate(values)])
    assert chart.curves[0].line.count("M") == 3


def test_figures_that_belong_together_share_a_chart():
    others = {"critic/real": 1.0, "critic/fake": -1.0, "critic/accuracy_real": 0.9, "mystery/a": 1.0, "lonely": 3.0}
    charts = drawn([{"step": step, **figures(step, **others)} for step in (1, 2)])
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
    score = drawn(metrics)[1].curves[0]
    assert (score.lines, score.nonfinite, score.line.count("M")) == (10, 0, 1)
    assert [point[1] for point in score.points] == [str(step) for step in range(10, 101, 10)]


def test_gradient_norms_over_decades_get_a_logarithmic_axis():
    norms = [10.0**power for power in range(-3, 4)]
    metrics = [{"step": i + 1, "images": i + 1, "grad_norm/a": norm, "loss/a": norm} for i, norm in enumerate(norms)]
    charts = drawn(metrics)
    assert [chart.logarithmic for chart in charts] == [False, True]
    heights = [float(y) for y in re.findall(r",([\d.]+)", charts[1].curves[0].line)]
    np.testing.assert_allclose(np.diff(heights), np.diff(heights)[0], atol=0.2)


def test_numbers_are_for_people():
    values = [0.0, 1.0, 640000000, 0.123456, -1234.5, 1e-7, 3e20, math.nan, math.inf]
    expected = ["0", "1", "640,000,000", "0.1235", "-1234", "1e-07", "3e+20", "nan", "inf"]
    assert [show(value) for value in values] == expected


def test_means_of_intervals_have_charts_of_their_own_named_by_the_figure():
    line = {
        "step": 1,
        "images": 8,
        "loss/critic": 1.0,
        "loss/generator": 2.0,
        "mean/loss/critic": 3.0,
        "mean/loss/generator": 4.0,
    }
    first, second = drawn([line])
    assert (first.title, second.title) == ("Losses", "Losses, means of the intervals between lines")
    assert [curve.label for curve in first.curves] == [curve.label for curve in second.curves]
    assert [curve.last for curve in second.curves] == ["3", "4"]


def test_scores_come_apart_and_the_best_so_far_is_not_drawn_once_more():
    line = {"step": 1, "images": 8, "loss/a": 1.0, "score/frechet": 3.0, "best/frechet": 3.0, "best/images": 8.0}
    scores, others = draw_charts(lines_of([line]))
    assert [chart.title for chart in scores] == ["Fréchet distance to held-out images"]
    assert [chart.title for chart in others] == ["Losses"]


VALUES_OF_A_SCORE = st.lists(st.floats(width=32), min_size=1, max_size=30)


@given(
    values=VALUES_OF_A_SCORE, score=st.sampled_from(sorted(BETTER_LOWER | BETTER_HIGHER)), skipped=st.integers(0, 30)
)
def test_the_best_is_the_lowest_or_the_highest_finite_one_of_those_that_compare(values, score, skipped):
    images = 8.0 * np.arange(len(values))
    best = best_in(f"score/{score}", Line(images, np.array(values), comparable_from=8.0 * skipped))
    finite = [(value, at) for value, at in zip(values[skipped:], images[skipped:], strict=True) if math.isfinite(value)]
    if not finite:
        assert best is None
        return
    extreme = (min if score in BETTER_LOWER else max)(value for value, _ in finite)
    assert best is not None
    assert best.value == extreme
    assert best.images == next(at for value, at in finite if value == extreme)


def test_where_no_way_is_known_to_be_better_there_is_no_best():
    line = Line(np.array([8.0]), np.array([1.0]))
    assert best_in("score/ms_ssim", line) is None
    assert best_in("score/kernel_error", line) is None
    assert best_in("loss/frechet", line) is None


def test_the_best_is_marked_on_its_curve():
    scores = [9.0, 4.0, 6.0, math.nan]
    (chart,) = drawn([{"step": i + 1, "images": 100 * (i + 1), "score/frechet": v} for i, v in enumerate(scores)])
    (curve,) = chart.curves
    assert curve.best is not None
    assert (curve.best.text, curve.best.at) == ("4 at 200 images", 50.0)
    assert f"{10 * curve.best.at:.1f},{10 * curve.best.down:.1f}" in curve.line
    assert curve.best.down == max(point[5] for point in curve.points if point[5] is not None)  # the lowest of them


@given(values=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40), name=st.sampled_from(["loss/a", "grad_norm/a"]))
def test_a_page_knows_the_values_from_where_the_points_lie(values, name):
    (chart,) = drawn([{"step": i + 1, "images": i + 1, name: value} for i, value in enumerate(values)])
    for value, point in zip(values, chart.curves[0].points, strict=True):
        assert point[5] is not None
        scaled = chart.top - point[5] / 100 * (chart.top - chart.bottom)
        np.testing.assert_allclose(scaled, math.log10(value) if chart.logarithmic else value, atol=1e-3 * max(values))


def test_all_charts_have_one_time_axis_on_which_events_are_marked():
    metrics = [{"step": i, "images": 10 * i, "loss/a": 1.0} for i in range(1, 101)]
    metrics[49]["score/frechet"] = 1.0
    events = [Event(25, 250, "roll-back", "", "back"), Event(200, 2000, "note", "", "beyond what is drawn")]
    charts = drawn(metrics, events)
    assert [[(mark.at, mark.event.text) for mark in chart.marks] for chart in charts] == [[(25.0, "back")]] * 2
    assert charts[0].curves[0].points[0][0] == 50.0
    assert len({tuple(chart.x_ticks) for chart in charts}) == 1


def test_runs_side_by_side_share_a_chart_for_each_figure_and_keep_their_colours():
    short = lines_of([{"step": 1, "images": 10, "loss/a": 1.0, "loss/b": 2.0}])
    long = lines_of([{"step": i, "images": 10 * i, "loss/b": 3.0, "diversity": 0.5} for i in (1, 2)])
    event = Event(1, 10, "restart", "", "resumed")
    scores, others = draw_side_by_side({"short": short, "long": long}, [[], [event]])
    assert scores == []
    assert {chart.title: [(curve.label, curve.colour) for curve in chart.curves] for chart in others} == {
        "Losses: a": [("short", 0)],
        "Losses: b": [("short", 0), ("long", 1)],
        "Diversity of the images, share of the data's": [("long", 1)],
    }
    assert [curve.points[-1][0] for curve in others[1].curves] == [50.0, 100.0]
    assert all([(mark.at, mark.colour) for mark in chart.marks] == [(50.0, 1)] for chart in others)
