from __future__ import annotations

import pytest

from shards.names import near


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smiling", "did you mean 'Smiling'?"),
        ("SMILNG", "did you mean 'Smiling'?"),
        ("Smiler", "did you mean 'Smiling' or 'Smile'?"),
        ("xyz", "there are Smiling, Smile, Bald"),
    ],
)
def test_the_nearest_or_all(name: str, hint: str) -> None:
    known = ["Smiling", "Smile", "Bald"]
    assert set(near(name, known).split()) == set(hint.split()) or near(name, known) == hint


def test_nothing_is_known() -> None:
    assert near("x", iter(())) == "there are none"
