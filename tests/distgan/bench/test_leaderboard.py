"""The arithmetic of the leaderboard, on invented curves."""

from __future__ import annotations

import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.bench.leaderboard import Point, Reached, Result, at_minutes, draw_up, median_points, minutes_until

values = st.floats(0.01, 1000)


@st.composite
def curves(draw, least: int = 1) -> list[Point]:
    """Evaluations at rising minutes, of a score that is the better the lower and one that is its opposite."""
    gaps = draw(st.lists(st.floats(0.1, 10), min_size=least, max_size=8))
    minutes = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    scores = [draw(values) for _ in gaps]
    return [
        Point(1000 * (i + 1), at, {"frechet": score, "precision": -score})
        for i, (at, score) in enumerate(zip(minutes, scores, strict=True))
    ]


def result(name: str, scores: list[float], seed: int = 0, minutes: float = 1.0, failure: str = "") -> Result:
    points = (Point(100 * (i + 1), minutes * (i + 1), {"frechet": score}) for i, score in enumerate(scores))
    return Result(name, seed, tuple(points), failure)


@given(curves())
def test_at_an_evaluation_the_score_is_its_own(points):
    for point in points:
        assert at_minutes(points, "frechet", point.minutes) == pytest.approx(point.scores["frechet"])
    assert at_minutes(points, "frechet", 0) == points[0].scores["frechet"]
    assert at_minutes(points, "frechet", math.inf) == points[-1].scores["frechet"]


@given(curves(least=2), st.floats(0, 1), st.data())
def test_between_two_evaluations_the_score_is_on_the_line(points, share, data):
    i = data.draw(st.integers(0, len(points) - 2))
    (a, b), (before, after) = points[i : i + 2], [point.scores["frechet"] for point in points[i : i + 2]]
    found = at_minutes(points, "frechet", a.minutes + share * (b.minutes - a.minutes))
    assert found == pytest.approx(before + share * (after - before), rel=1e-6, abs=1e-6)


@given(curves(), values)
def test_a_target_is_first_reached_where_the_line_has_it(points, target):
    reached = minutes_until(points, "frechet", target)
    below = [point for point in points if point.scores["frechet"] <= target]
    assert math.isinf(reached.minutes) == (not below)
    if below:
        assert reached.minutes <= below[0].minutes
        assert reached.at_most == (below[0] is points[0])
        assert at_minutes(points, "frechet", reached.minutes) <= target * (1 + 1e-6) + 1e-6
        assert all(point.scores["frechet"] > target for point in points if point.minutes < reached.minutes)
    assert minutes_until(points, "precision", -target) == reached  # the higher, the better


def test_not_reached_and_reached_at_once():
    points = result("a", [9.0, 8.0]).points
    assert minutes_until(points, "frechet", 7) == Reached(math.inf)
    assert minutes_until(points, "frechet", 8.5) == Reached(1.5)
    assert minutes_until(points, "frechet", 9) == Reached(1.0, at_most=True)
    assert minutes_until([], "frechet", 9) == Reached(math.inf)


def test_a_board():
    results = [
        *(result("textbook", [100, 40 + seed], seed, minutes=10) for seed in range(3)),
        *(result("textbook 32", [50, 30], seed, minutes=10) for seed in range(3)),
        result("ours", [60, 20, 10, 5], 0, minutes=5),
        result("ours", [60, 22, 11, 6], 1, minutes=5),
        result("ours", [60, 24, 12, 90], 2, minutes=5),
        result("long", [80, 60, 40, 20], minutes=10),
    ]
    board = draw_up(results, "frechet", ["textbook", "textbook 32"])
    assert (board.reference, board.best_baseline, board.target, board.minutes) == ("textbook", "textbook 32", 41, 20)
    assert [each.competitor for each in board.standings] == ["ours", "textbook 32", "textbook", "long"]
    ours, small, textbook, long = board.standings
    assert ours.reached.minutes == pytest.approx(median(5 + 5 * 19 / (60 - last) for last in (20, 22, 24)))
    assert ours.times_faster == pytest.approx(20 / ours.reached.minutes)
    assert (ours.seeds, ours.failed, ours.images, ours.minutes) == (3, 0, 400, 20)
    assert (ours.scores["frechet"], ours.lowest, ours.highest) == (6, 5, 90)
    assert (ours.ratio, ours.ratio_to_best) == (pytest.approx(6 / 41), pytest.approx(6 / 30))
    assert small.reached == Reached(pytest.approx(10 + 10 * 9 / 20))
    assert (textbook.ratio, textbook.reached.minutes) == (1, 20)
    assert long.scores["frechet"] == 60  # after 20 minutes, not at its end
    assert long.reached.minutes == pytest.approx(20 + 10 * 19 / 20)


@given(st.permutations([("a", 3.0), ("b", 2.0), ("c", 1.0)]))
def test_the_order_of_results_does_not_matter(order):
    board = draw_up([result(name, [score]) for name, score in order], "frechet", ["b"])
    assert [(each.competitor, each.ratio) for each in board.standings] == [("c", 0.5), ("b", 1), ("a", 1.5)]


def test_the_best_is_the_highest_where_higher_is_better():
    scores = {"a": 0.2, "b": 0.9, "c": 0.5}
    results = [Result(name, 0, (Point(1, 1.0, {"precision": score}),)) for name, score in scores.items()]
    board = draw_up(results, "precision", ["a", "c"])
    assert [each.competitor for each in board.standings] == ["b", "c", "a"]
    assert (board.reference, board.best_baseline) == ("a", "c")


def test_a_run_that_failed_is_the_worst_there_is():
    results = [
        result("textbook", [9.0, 8.0]),
        result("odd", [9.0, 1.0], 0),
        result("odd", [], 1, failure="NaN"),
        result("odd", [9.0, 2.0], 2),
        result("dead", [3.0], failure="NaN"),
    ]
    board = draw_up(results, "frechet", ["textbook"])
    odd, _, dead = board.standings
    assert (odd.competitor, odd.scores["frechet"], odd.failed, odd.highest) == ("odd", 2.0, 1, math.inf)
    assert odd.reached.minutes == pytest.approx(1 + 1 / 7)
    assert (dead.failed, dead.ratio, dead.reached) == (1, math.inf, Reached(math.inf))
    with pytest.raises(ValueError, match="no run"):
        draw_up([result("dead", [3.0], failure="NaN")], "frechet", [])


def test_without_the_textbook_the_first_is_the_reference():
    board = draw_up([result("a", [2.0]), result("b", [1.0])], "frechet", ["textbook"])
    assert (board.reference, board.best_baseline) == ("a", "a")


@given(st.lists(curves(least=2), min_size=1, max_size=3))
def test_the_median_of_curves(runs):
    results = [Result("a", seed, tuple(points)) for seed, points in enumerate(runs)]
    found = median_points(results, "frechet")
    assert [images for images, _, _ in found] == [1000 * (i + 1) for i in range(min(map(len, runs)))]
    for i, (_, minutes, score) in enumerate(found):
        assert minutes == median(points[i].minutes for points in runs)
        assert score == median(points[i].scores["frechet"] for points in runs)
