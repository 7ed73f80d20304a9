from __future__ import annotations

import pytest

from shards.names import near


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smilling", "did you mean 'Smiling'?"),
        ("BALD", "did you mean 'Bald'?"),
        ("hat", "did you mean 'Hat' or 'Hats'?"),
        ("xyz", "there are Smiling, Hats, Bald, Hat"),
    ],
)
def test_the_nearest_or_all(name: str, hint: str) -> None:
    assert near(name, ["Smiling", "Hats", "Bald", "Hat"]) == hint


def test_nothing_is_known() -> None:
    assert near("x", iter(())) == "there are none"
