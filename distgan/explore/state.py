"""What the page shows, as the query of an address: the same state is the same text, and the same picture.

``step=1500&seed=7&truncation=1.5&show.Smiling=2``. What is as it is at first is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from shards.errors import InputError


class Bounds(NamedTuple):
    """The least and the most that a number may be, and how fine it is chosen."""

    least: float
    most: float
    step: float = 1


SEED = Bounds(0, 2**32 - 1)
NUMBER = Bounds(0, 9_999)
STEP = Bounds(0, 10**15)
TRUNCATION = Bounds(0.1, 4.0, 0.05)
MIX = Bounds(0.0, 1.0, 0.01)
STRENGTH = Bounds(-4.0, 4.0, 0.1)
DECIMALS = 3
"""Of numbers that are not whole: what is finer than that nobody sees."""
LONGEST = 8_000
"""Characters of a state."""
SHOW, PRINCIPAL, WHERE = "show.", "principal.", "where."
"""What the names of attribute directions, principal directions and conditions begin with."""


@dataclass(frozen=True)
class State:
    """What a picture is drawn from.

    Attributes:
        step: Which checkpoint draws it; None for the newest.
        seed: Of the face, as ``distgan sample`` takes it.
        number: Which picture of that seed, from 0.
        truncation: As ``distgan sample`` takes it; None for none.
        other_seed: Of the face that it is mixed with.
        other_number: Which picture of that seed.
        mix: How far it goes on the way to the other face, in [0, 1].
        directions: The step of the checkpoint that the directions are found for; None for that which draws.
        show: How far to go towards attributes or classes, by name.
        principal: How far to go along principal directions, by number, from 1.
        where: What it is to show, of what the run was conditioned on: "1" or "-1" by attribute, and "class".
    """

    step: int | None = None
    seed: int = 0
    number: int = 0
    truncation: float | None = None
    other_seed: int = 1
    other_number: int = 0
    mix: float = 0.0
    directions: int | None = None
    show: Mapping[str, float] = field(default_factory=dict)
    principal: Mapping[int, float] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        """Whether it goes anywhere along a direction."""
        return bool(self.show or self.principal)

    def to_query(self) -> str:
        """The query that :meth:`from_query` reads, in one order."""
        plain = {
            "step": self.step,
            "seed": self.seed or None,
            "number": self.number or None,
            "truncation": self.truncation,
            "other_seed": self.other_seed if self.other_seed != State.other_seed else None,
            "other_number": self.other_number or None,
            "mix": self.mix or None,
            "directions": self.directions,
        }
        pairs = [(name, _text(value)) for name, value in plain.items() if value is not None]
        for prefix, strengths in ((SHOW, self.show), (PRINCIPAL, self.principal)):
            pairs += [(f"{prefix}{name}", _text(value)) for name, value in sorted(strengths.items()) if value]
        pairs += [(f"{WHERE}{name}", value) for name, value in sorted(self.where.items())]
        return urlencode(pairs)

    @classmethod
    def from_query(cls, query: str) -> State:
        """The state that a query says.

        Raises:
            InputError: It is too long, a number is none or out of bounds, or there is no such field.
        """
        if len(query) > LONGEST:
            raise InputError(f"a state has at most {LONGEST:,} characters, not {len(query):,}")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
        except ValueError:
            raise InputError(f"a state is like seed=7&truncation=1.5, not {query[:80]!r}") from None
        found: dict[str, str] = {}
        for name, text in pairs:
            if name in found:
                raise InputError(f"{name[:80]} is there twice")
            found[name] = text

        def whole(name: str, bounds: Bounds) -> int | None:
            return _whole(name, found.pop(name), bounds) if name in found else None

        def number(name: str, bounds: Bounds) -> float | None:
            return _number(name, found.pop(name), bounds) if name in found else None

        plain = {
            "step": whole("step", STEP),
            "seed": whole("seed", SEED),
            "number": whole("number", NUMBER),
            "truncation": number("truncation", TRUNCATION),
            "other_seed": whole("other_seed", SEED),
            "other_number": whole("other_number", NUMBER),
            "mix": number("mix", MIX),
            "directions": whole("directions", STEP),
        }
        show, principal, where = {}, {}, {}
        for name, text in found.items():
            if name.startswith(SHOW):
                show[name.removeprefix(SHOW)] = _number(name, text, STRENGTH)
            elif name.startswith(PRINCIPAL):
                place = _whole("the number of a principal direction", name.removeprefix(PRINCIPAL), Bounds(1, 999))
                if place in principal:
                    raise InputError(f"{PRINCIPAL}{place} is there twice")
                principal[place] = _number(name, text, STRENGTH)
            elif name.startswith(WHERE):
                where[name.removeprefix(WHERE)] = text
            else:
                raise InputError(
                    f"there is no {name[:80]!r} in a state; there are {', '.join(plain)}, {SHOW}NAME, "
                    f"{PRINCIPAL}NUMBER and {WHERE}NAME"
                )
        return cls(
            **{name: value for name, value in plain.items() if value is not None},  # type: ignore[arg-type]
            show={name: strength for name, strength in show.items() if strength},
            principal={place: strength for place, strength in principal.items() if strength},
            where=where,
        )


def _whole(name: str, text: str, bounds: Bounds) -> int:
    least, most = int(bounds.least), int(bounds.most)
    # So long that Python would not read it, it is too large anyway.
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(most)) else -1
    if not least <= value <= most:
        raise InputError(f"{name[:80]} is a whole number from {least:,} to {most:,}, not {text[:80]!r}")
    return value


def _number(name: str, text: str, bounds: Bounds) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not bounds.least <= value <= bounds.most:
        raise InputError(f"{name[:80]} is a number from {bounds.least:g} to {bounds.most:g}, not {text[:80]!r}")
    return round(value, DECIMALS) + 0.0  # not -0


def _text(value: float) -> str:
    """A number without needless digits."""
    return str(value) if isinstance(value, int) else f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")
