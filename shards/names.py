"""Hints for names that are not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, known: Iterable[str]) -> str:
    """A hint at what may have been meant: the known names that resemble a name, whatever their case, else all."""
    names = list(known)
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3)]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"there are {', '.join(names) or 'none'}"
