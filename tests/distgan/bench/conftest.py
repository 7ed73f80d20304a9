"""A textbook's loop that is quick."""

from __future__ import annotations

import pytest

from distgan.bench import textbook
from distgan.evaluation import pictures
from distgan.spec import ModelSpec, NetworkSpec


@pytest.fixture
def small_textbook(monkeypatch) -> None:
    """The textbook's loop with narrow networks; and scores of few patches."""
    small = NetworkSpec(name="dcgan", width=2)
    monkeypatch.setattr(textbook, "MODEL", ModelSpec(generator=small, critic=small))
    monkeypatch.setattr(pictures, "PATCHES", 512)
