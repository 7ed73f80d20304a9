"""The leaderboard and all evaluations as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from distgan.bench.leaderboard import SEEDS_TO_CLAIM, Leaderboard, Result, Standing
from distgan.evaluation.metrics import as_shown

_TITLES = {
    "kernel": "kernel distance × 1000",
    "kernel_error": "± × 1000",
    "wasserstein": "sliced Wasserstein × 1000",
    "ms_ssim": "MS-SSIM",
    "ms_ssim_of_real": "MS-SSIM of real",
}
_IN_THE_BOARD = ("frechet", "kernel", "precision", "recall", "wasserstein", "inception")


def board_table(board: Leaderboard, distance: str) -> str:
    """The leaderboard, and in words what its columns are.

    Args:
        board: The leaderboard.
        distance: What the Fréchet distance of the features is called; "" without features.
    """
    titles = {"frechet": distance, **_TITLES}
    score, target = titles.get(board.score, board.score), _score(board.score, board.target)
    best = board.standings[0].scores
    others = [name for name in _IN_THE_BOARD if name in best and name != board.score]
    head = [
        "competitor",
        "seeds",
        "images",
        "minutes",
        "images/s",
        f"minutes to {target}",
        "times faster",
        score,
        "lowest–highest",
        f"of {board.reference}'s",
        *([f"of {board.best_baseline}'s"] if board.best_baseline != board.reference else []),
        *(titles.get(name, name) for name in others),
    ]
    rows = [_row(board, standing, others) for standing in board.standings]
    said = [
        f"Minutes are of training alone. {target} is the {score} of {board.reference} at its end, after "
        f"{board.minutes:.3g} minutes. The scores are those after as many minutes, or at the end of a run that was "
        "shorter; between two evaluations they are read off a straight line. Of several seeds each number is the "
        "median."
    ]
    if len(board.baselines) > 1:
        said.append(f"Of {', '.join(board.baselines)}, {board.best_baseline} is the best, by whole runs.")
    if any(standing.failed for standing in board.standings):
        said.append("A run that failed counts as the worst there is.")
    few = [standing.competitor for standing in board.standings if standing.seeds < SEEDS_TO_CLAIM]
    if few:
        said.append(
            f"Fewer than {SEEDS_TO_CLAIM} seeds of {', '.join(few)}: no difference to the others is claimed, it may be "
            "one between seeds."
        )
    return f"{markdown_table(head, rows)}\n{' '.join(said)}\n"


def points_table(results: Sequence[Result], distance: str) -> str:
    """All evaluations of all runs."""
    titles = {"frechet": distance, **_TITLES}
    names = list(dict.fromkeys(name for run in results for point in run.points for name in point.scores))
    head = ["competitor", "seed", "images", "minutes", "images/s", *(titles.get(name, name) for name in names)]
    rows = [
        [
            run.competitor,
            str(run.seed),
            f"{point.images:,}",
            f"{point.minutes:.2f}",
            rounded(point.images / (60 * point.minutes)),
            *(_score(name, point.scores.get(name, math.nan)) for name in names),
        ]
        for run in results
        for point in run.points
    ]
    failed = [f"{run.competitor}, seed {run.seed}, failed: {run.failure}\n" for run in results if run.failure]
    return "\n".join([markdown_table(head, rows), *failed])


def board_json(board: Leaderboard) -> dict[str, Any]:
    """The leaderboard as JSON has it: null where a number is none, such as the minutes to what was never reached."""
    document = asdict(board)
    for row, standing in zip(document["standings"], board.standings, strict=True):
        row["reached"] = standing.reached._asdict()
    found: dict[str, Any] = json_document(document)
    return found


def json_document(value: Any) -> Any:
    """A value as JSON can hold it, and all that is in it: null for a number that is none."""
    if isinstance(value, dict):
        return {name: json_document(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_document(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(board: Leaderboard, standing: Standing, others: Sequence[str]) -> list[str]:
    reached = standing.reached
    until = "not reached" if math.isinf(reached.minutes) else f"{'≤ ' * reached.at_most}{reached.minutes:.2f}"
    lowest, highest = (_score(board.score, value) for value in (standing.lowest, standing.highest))
    return [
        standing.competitor,
        f"{standing.seeds}" + (f", {standing.failed} failed" if standing.failed else ""),
        f"{standing.images:,.0f}",
        f"{standing.minutes:.2f}",
        rounded(standing.images / (60 * standing.minutes)),
        until,
        "–" if math.isinf(reached.minutes) else f"{'≥ ' * reached.at_most}{standing.times_faster:.2f}",
        _score(board.score, standing.scores.get(board.score, math.nan)),
        lowest if standing.seeds == 1 else f"{lowest}–{highest}",
        f"{standing.ratio:.3f}",
        *([f"{standing.ratio_to_best:.3f}"] if board.best_baseline != board.reference else []),
        *(_score(name, standing.scores.get(name, math.nan)) for name in others),
    ]


def _score(name: str, value: float) -> str:
    return rounded(as_shown(name, value))


def rounded(value: float) -> str:
    """A figure as people read it: whole from 1,000 on, else with three digits."""
    return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.3g}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown has it, and as it is read without."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"
