"""What runs leave of their numbers, as tests compare it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distgan.tracking import read_metrics


def steps(run: Path) -> list[float]:
    """The steps that a run has figures of; none before it has begun."""
    return [line["step"] for line in read_metrics(run)] if (run / "metrics.jsonl").exists() else []


def curve(run: Path) -> list[dict[str, float]]:
    """A run's figures, but for those that depend on the clock."""
    return [{name: value for name, value in line.items() if "time/" not in name} for line in read_metrics(run)]


def assert_same(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """No gap, no step twice, and the same figures, to rounding in float64, as far as both go."""
    numbers = [line["step"] for line in theirs]
    assert numbers == list(range(1, len(numbers) + 1))
    for a, b in zip(ours, theirs, strict=False):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-11)
