"""Who makes the best images in the least time: what is made of the scores of several runs. Trains and reads nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import NamedTuple

from distgan.evaluation.metrics import BETTER_HIGHER

SEEDS_TO_CLAIM = 3
"""With fewer, a difference between competitors may be one between seeds."""


class Point(NamedTuple):
    """An evaluation of a run, with the same scores as all others.

    Attributes:
        images: Real images shown to the critic until then.
        minutes: Of training alone.
        scores: By name, as in :mod:`distgan.evaluation.metrics`.
    """

    images: int
    minutes: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Result:
    """What became of one run of a competitor.

    Attributes:
        competitor: Its label.
        seed: Of the run.
        points: Its evaluations, in the order of images. None where it failed at once.
        failure: Why it ended before its time; "" where it did not.
    """

    competitor: str
    seed: int
    points: tuple[Point, ...]
    failure: str = ""


class Reached(NamedTuple):
    """When a run had a score.

    Attributes:
        minutes: Of training until then; infinite where it never had.
        at_most: Whether that is the first evaluation, and so it may have been earlier.
    """

    minutes: float
    at_most: bool = False


@dataclass(frozen=True)
class Standing:
    """A competitor on the leaderboard. Each number is the median over its seeds.

    Attributes:
        competitor: Its label.
        seeds: How many runs.
        failed: How many of them failed; they count as the worst there is.
        images: Shown in a whole run.
        minutes: Of training, in a whole run.
        reached: When it had the reference's final score.
        times_faster: The reference's minutes as a multiple of these; 0 where it never had that score.
        scores: After as many minutes as the reference trains, or at its end where that is earlier.
        lowest: The least of the seeds in the score that the board is of.
        highest: The greatest of them.
        ratio: Its score as a multiple of the reference's.
        ratio_to_best: And of the best baseline's.
    """

    competitor: str
    seeds: int
    failed: int
    images: float
    minutes: float
    reached: Reached
    times_faster: float
    scores: dict[str, float]
    lowest: float
    highest: float
    ratio: float
    ratio_to_best: float


@dataclass(frozen=True)
class Leaderboard:
    """Competitors, the best first.

    Attributes:
        score: The name of the score that it is of.
        reference: The competitor that the others are compared with.
        baselines: The competitors that are there to be beaten.
        best_baseline: The best of them.
        target: The reference's final score, the median over its seeds.
        minutes: How long the reference trains, the median over its seeds.
        standings: One for each competitor.
    """

    score: str
    reference: str
    baselines: tuple[str, ...]
    best_baseline: str
    target: float
    minutes: float
    standings: tuple[Standing, ...]


def at_minutes(points: Sequence[Point], score: str, minutes: float) -> float:
    """A score after so many minutes, on a straight line between the evaluations before and after.

    Before the first and after the last evaluation it is that one's.

    Args:
        points: At least one, in the order of minutes.
        score: Its name.
        minutes: Of training.
    """
    for before, after in pairwise(points):
        if before.minutes <= minutes < after.minutes:
            share = (minutes - before.minutes) / (after.minutes - before.minutes)
            return before.scores[score] * (1 - share) + after.scores[score] * share
    return (points[0] if minutes < points[0].minutes else points[-1]).scores[score]


def minutes_until(points: Sequence[Point], score: str, target: float) -> Reached:
    """When a run first had a score, on a straight line between the evaluations before and after.

    Args:
        points: In the order of minutes.
        score: Its name.
        target: What is to be reached.
    """

    def lacks(point: Point) -> float:
        """By how much the point falls short; 0 or less where it does not."""
        return target - point.scores[score] if score in BETTER_HIGHER else point.scores[score] - target

    if points and lacks(points[0]) <= 0:
        return Reached(points[0].minutes, at_most=True)
    for before, after in pairwise(points):
        if lacks(after) <= 0 < lacks(before):
            share = lacks(before) / (lacks(before) - lacks(after))
            return Reached(before.minutes + share * (after.minutes - before.minutes))
    return Reached(math.inf)


def draw_up(results: Sequence[Result], score: str, baselines: Collection[str]) -> Leaderboard:
    """The leaderboard of some runs.

    Args:
        results: Of whole runs, or of failed ones. Runs of one competitor have its label.
        score: The name of the score that it is of; all points have it.
        baselines: Labels of competitors that are there to be beaten, the reference first. If none of them has a
            result that did not fail, the competitor of the first one takes their place.

    Raises:
        ValueError: There is no run that did not fail.
    """
    sound = [result.competitor for result in results if not result.failure]
    if not sound:
        raise ValueError("no run came to its end")
    known = [label for label in baselines if label in sound] or sound[:1]
    reference = known[0]
    ends = [run.points[-1] for run in _runs(results, reference) if not run.failure]
    minutes, target = median(end.minutes for end in ends), median(end.scores[score] for end in ends)
    labels = list(dict.fromkeys(result.competitor for result in results))

    def final(label: str) -> float:
        return median(_final(run, score, minutes) for run in _runs(results, label))

    worse = -1 if score in BETTER_HIGHER else 1
    best = min(known, key=lambda label: worse * final(label))

    def stand(label: str) -> Standing:
        runs = _runs(results, label)
        whole = [run for run in runs if not run.failure]
        names = list(dict.fromkeys(name for run in whole for name in run.points[-1].scores))
        finals = [_final(run, score, minutes) for run in runs]
        reached = sorted(Reached(math.inf) if run.failure else minutes_until(run.points, score, target) for run in runs)
        middle = reached[(len(reached) - 1) // 2 : len(reached) // 2 + 1]
        until = Reached(mean(each.minutes for each in middle), any(each.at_most for each in middle))
        return Standing(
            competitor=label,
            seeds=len(runs),
            failed=len(runs) - len(whole),
            images=median(run.points[-1].images for run in whole) if whole else math.nan,
            minutes=median(run.points[-1].minutes for run in whole) if whole else math.nan,
            reached=until,
            times_faster=minutes / until.minutes,
            scores={name: median(_final(run, name, minutes) for run in runs) for name in names},
            lowest=min(finals),
            highest=max(finals),
            ratio=final(label) / final(reference),
            ratio_to_best=final(label) / final(best),
        )

    standings = sorted(map(stand, labels), key=lambda each: worse * final(each.competitor))
    return Leaderboard(score, reference, tuple(known), best, target, minutes, tuple(standings))


def _runs(results: Sequence[Result], label: str) -> list[Result]:
    return [result for result in results if result.competitor == label]


def _final(run: Result, score: str, minutes: float) -> float:
    """A run's score when the reference is done; the worst there is where the run failed."""
    if run.failure:
        return -math.inf if score in BETTER_HIGHER else math.inf
    return at_minutes(run.points, score, minutes)


def median_points(runs: Sequence[Result], score: str) -> list[tuple[float, float, float]]:
    """The curve between those of several seeds: images, minutes and score, the median of each at every evaluation.

    Args:
        runs: Of one competitor. Evaluations that one of them lacks are left out.
        score: The score's name.
    """
    by_images = [{point.images: point for point in run.points} for run in runs]
    shared = [images for images in by_images[0] if all(images in each for each in by_images)] if by_images else []
    return [
        (
            images,
            median(each[images].minutes for each in by_images),
            median(each[images].scores[score] for each in by_images),
        )
        for images in sorted(shared)
    ]
