"""What is known of a run, on disk and back."""

from __future__ import annotations

import math

import pytest

from distgan.bench.leaderboard import Point, Result
from distgan.bench.records import Evaluation, Record, read_record, write_record
from shards.errors import InputError


def test_a_record_is_read_as_it_was_written(tmp_path):
    evaluations = (
        Evaluation(step=2, images=16, minutes=0.5, scores={"frechet": 3.25, "kernel": math.inf}),
        Evaluation(step=4, images=32, minutes=1.0, scores={"frechet": 2.5, "kernel": 0.1}),
    )
    record = Record(competitor="a", baseline=True, seed=3, run="runs/a/seed-3", evaluations=evaluations, failure="NaN")
    path = tmp_path / "scores" / "a-seed-3.json"
    assert read_record(path) is None
    write_record(path, record)
    assert read_record(path) == record
    points = (Point(16, 0.5, {"frechet": 3.25, "kernel": math.inf}), Point(32, 1.0, {"frechet": 2.5, "kernel": 0.1}))
    assert record.result == Result("a", 3, points, "NaN")


@pytest.mark.parametrize("text", ["", "[]", '{"competitor": "a"}', "{"])
def test_a_damaged_record_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json cannot be read.*Remove it"):
        read_record(path)
