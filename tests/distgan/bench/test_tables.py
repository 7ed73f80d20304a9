"""What people read of a leaderboard."""

from __future__ import annotations

import json
import math

from distgan.bench.leaderboard import Point, Result, draw_up
from distgan.bench.tables import board_json, board_table, points_table


def result(name: str, *scores: float, seed: int = 0, failure: str = "") -> Result:
    points = (Point(600 * i, float(i), {"frechet": each, "kernel": 0.002}) for i, each in enumerate(scores, start=1))
    return Result(name, seed, tuple(points), failure)


RESULTS = [
    *(result("textbook", 1200.0, 80.0 + seed, seed=seed) for seed in range(3)),
    result("textbook 32", 70.0, 40.0),
    result("a|b", 90.0, 85.0),
    result("dead", 90.0, failure="NaN"),
]
BOARD = draw_up(RESULTS, "frechet", ["textbook", "textbook 32"])


def rows(table: str) -> dict[str, dict[str, str]]:
    """The cells of a Markdown table by the first column and the column's title."""
    lines = [line.replace("\\|", "/").strip("| ").split("|") for line in table.splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line] for line in lines]
    assert all(len(row) == len(head) for row in body)
    return {row[0]: dict(zip(head, row, strict=True)) for row in body}


def test_the_table_of_a_board():
    text = board_table(BOARD, "FID")
    found = rows(text)
    assert list(found) == ["textbook 32", "textbook", "a/b", "dead"]
    assert found["textbook"] == {
        "competitor": "textbook",
        "seeds": "3",
        "images": "1,200",
        "minutes": "2.00",
        "images/s": "10",
        "minutes to 81": "2.00",
        "times faster": "1.00",
        "FID": "81",
        "lowest–highest": "80–82",
        "of textbook's": "1.000",
        "of textbook 32's": "2.025",
        "kernel distance × 1000": "2",
    }
    small, other, dead = (found[name] for name in ("textbook 32", "a/b", "dead"))
    assert (small["minutes to 81"], small["times faster"]) == ("≤ 1.00", "≥ 2.00")
    assert (other["minutes to 81"], other["times faster"]) == ("not reached", "–")
    assert (dead["seeds"], dead["of textbook's"]) == ("1, 1 failed", "inf")
    assert "Of textbook, textbook 32, textbook 32 is the best, by whole runs." in text
    assert "A run that failed counts as the worst there is." in text
    assert "Fewer than 3 seeds of textbook 32, a|b, dead: no difference" in text


def test_the_score_to_reach_is_written_as_the_scores_are():
    text = board_table(draw_up(RESULTS, "kernel", ["textbook"]), "FID")
    assert rows(text)["textbook"]["kernel distance × 1000"] == "2"
    assert rows(text)["textbook"]["minutes to 2"] == "≤ 1.00"
    assert "2 is the kernel distance × 1000 of textbook at its end" in text


def test_with_three_seeds_nothing_is_disclaimed():
    board = draw_up(RESULTS[:3], "frechet", ["textbook"])
    assert "Fewer than" not in board_table(board, "FID")
    assert "of textbook 32's" not in board_table(board, "FID")


def test_the_table_of_evaluations():
    text = points_table(RESULTS, "FID")
    assert len([line for line in text.splitlines() if line.startswith("| textbook  ")]) == 6
    assert "dead, seed 0, failed: NaN" in text
    assert rows(text)["a/b"]["kernel distance × 1000"] == "2"


def test_json_has_no_infinity():
    document = json.loads(json.dumps(board_json(BOARD), allow_nan=False))
    by_name = {each["competitor"]: each for each in document["standings"]}
    assert by_name["a|b"]["reached"] == {"minutes": None, "at_most": False}
    assert by_name["dead"]["highest"] is None
    assert by_name["textbook"]["scores"] == {"frechet": 81.0, "kernel": 0.002}
    assert math.isclose(document["target"], 81)
