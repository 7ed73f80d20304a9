"""Names of classes, attributes and splits: as people write them, and what they may have meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache

import numpy as np

from shards.errors import InputError

_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
_TRUTHS = {"1": True, "true": True, "-1": False, "false": False}
_QUOTED = r'"((?:[^"]|"")*)"'
# The alternatives exclude each other by their first character, so that no text takes long to be refused.
_CONDITION = re.compile(rf'\s*(?:{_QUOTED}|([^\s",=][^,=]*?))\s*=\s*(?:{_QUOTED}|([^\s",][^,]*?))\s*(,|\Z)')


def near(name: str, known: Iterable[str]) -> str:
    """A hint at what may have been meant: the known names that resemble a name, whatever their case, else all."""
    names = list(known)
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3)]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"there are {', '.join(names) or 'none'}"


def counts(names: Sequence[str], numbers: np.ndarray) -> dict[str, int]:
    """How often each name occurs, by the names' positions; -1 is none."""
    found = np.bincount(numbers[numbers >= 0], minlength=len(names))
    return dict(zip(names, found.tolist(), strict=True))


@lru_cache(4096)  # a folder's name comes once for each file in it
def canonical_split(name: str) -> str | None:
    """Which of "train", "val" and "test" a name stands for, or None where it is another word.

    Case, spaces, "_", "-" and what comes after the word do not matter: "Training_set", "valid", "dev", "val2017",
    "test images".
    """
    word = re.sub(r"(?:dataset|set|data|images?|split|\d)+$", "", re.sub(r"[\s_-]+", "", name.lower()))
    return next((split for split, words in _SPLITS.items() if word in words), None)


def in_a_row(names: Sequence[str]) -> bool:
    """Whether names are alike but for the number that ends them, which counts from 0 or 1 on without a gap."""
    found = [re.fullmatch(r"(.*?)([0-9]{1,18})", name) for name in names]
    numbers = sorted(int(match[2]) for match in found if match)
    alike = len({match[1] for match in found if match}) == 1 and len(numbers) == len(names)
    return alike and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def as_written(value: object, what: str) -> list[str]:
    """The names that somebody gives, one or a list of them, as the text that they wrote.

    Args:
        value: A text, or a list of them. A whole number stands for its digits.
        what: What they name, for the message: "class".

    Raises:
        InputError: Something is no text, so that what was written cannot be known any more.
    """
    items = value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if not isinstance(item, (str, int)) or isinstance(item, bool):
            raise InputError(f"{what} {item!r} is no text: quote it")
    return [str(item) for item in items]


def parse_where(texts: Sequence[str]) -> dict[str, object]:
    """What ``--where`` asks for, each time it is given: conditions NAME=VALUE with commas between them.

    Spaces around a name or a value do not count. In double quotes a name may hold anything, and a value too; a double
    quote itself is written twice there: ``class="Smith, John"``.

    Args:
        texts: What was given.

    Returns:
        As Index.select takes it: attribute to whether it is to be there, "class" and "split" to lists of names.

    Raises:
        InputError: Something is not written as it should be, or asked for twice.
    """
    asked: dict[str, object] = {}
    names: dict[str, list[str]] = {}
    for text in texts:
        position, comma = 0, ","
        while comma:
            found = _CONDITION.match(text, position)
            if not found:
                raise InputError(
                    f"--where {text}: write NAME=VALUE, for example Smiling=1,Eyeglasses=-1 or class=cat; "
                    'in double quotes where it holds a comma: class="Smith, John"'
                )
            position = found.end()
            quoted_name, plain_name, quoted_value, plain_value, comma = found.groups()
            name = plain_name or quoted_name.replace('""', '"')
            value = plain_value or quoted_value.replace('""', '"')
            if name in ("class", "split"):
                names.setdefault(name, []).append(value)
            elif value.lower() not in _TRUTHS:
                raise InputError(f"--where {text}: {name} is 1 or -1, not {value!r}")
            elif name in asked:
                raise InputError(f"--where {text}: {name} is asked for twice")
            else:
                asked[name] = _TRUTHS[value.lower()]
    return {**asked, **names}
