"""How a run differs from the recipe that distgan ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from distgan.spec import UNSET, RunSpec, dump_value, fields_that_differ, is_free, parse_spec
from jobs import read, recipes
from shards.errors import InputError

_OF_A_MACHINE = ("name", "data.shards", "data.cache", "data.prefetch_batches", "cluster", "tracking.wandb")
"""Fields (or whole sections) that differ from run to run and say nothing of either."""

Complete = Callable[[RunSpec], RunSpec]
"""Writes out every option of a specification; what training does when a run begins."""


@dataclass(frozen=True)
class Departure:
    """What a run does otherwise.

    Attributes:
        recipe: The name of a shipped recipe.
        by_name: Whether the run has its name; else it is the one that the run differs least from.
        rows: Field, the recipe's value, the run's.
    """

    recipe: str
    by_name: bool
    rows: list[tuple[str, ...]]


def departure(spec: RunSpec, complete: Complete, samples: int | None) -> Departure | str:
    """How a run differs from the shipped recipe of its name, else from the one that it differs least from.

    Args:
        spec: The run.
        complete: So that options which one of the two leaves to their defaults are compared as well.
        samples: Images that the run trains on, for recipes whose length is in epochs; None where that is not known.

    Returns:
        Why it cannot be said, where the run has options that this version does not know.
    """
    known = _shipped()
    try:
        own = complete(spec)
    except InputError as error:
        return str(error)
    shipped = {
        name: _as_begun(complete(known[name]), own, samples) for name in ([spec.name] if spec.name in known else known)
    }
    differing = {name: fields_that_differ([recipe, own]) for name, recipe in shipped.items()}
    name = min(differing, key=lambda name: sum(not is_free(key) for key in differing[name]))
    return Departure(name, spec.name in known, table(differing[name]))


@cache
def _shipped() -> dict[str, RunSpec]:
    """The shipped recipes, whatever files of their names lie about; read once, as that takes longer than the page."""
    return {name: parse_spec(read(name), name) for name in recipes()}


def table(differing: Mapping[str, Sequence[object]]) -> list[tuple[str, ...]]:
    """Fields that differ as rows of text: the field and its values; without those of a machine alone."""
    return [
        (key, *("–" if value is None or value == UNSET else dump_value(value) for value in values))
        for key, values in differing.items()
        if not any(key == field or key.startswith(f"{field}.") for field in _OF_A_MACHINE)
    ]


def _as_begun(recipe: RunSpec, own: RunSpec, samples: int | None) -> RunSpec:
    """A recipe with what is decided when a run begins: its length in images, its precision."""
    if recipe.training.precision == "auto":
        recipe = recipe.with_training(precision=own.training.precision)
    if samples is not None and own.training.images is not None:
        with suppress(InputError):  # its schedules do not fit a set so small
            return recipe.in_images(samples)
    return recipe
