"""The shipped recipes as parameters of tests."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

LARGE = {"gan128_rmsprop", "pggan128", "r3gan64", "r3gan128", "sngan64"}
"""Those whose networks take seconds even to look at."""


def parameters(names: Iterable[str]) -> list[object]:
    """Names of recipes, for ``parametrize``; the large ones are slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in names]
