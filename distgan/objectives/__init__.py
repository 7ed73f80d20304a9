"""What each side minimises, by name.

To add an objective: a file with its options and its two sides (:class:`~distgan.objectives.side.Side`), and one line in
the registry below.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from distgan.objectives.bce import BCECritic, BCEGenerator, BCEOptions
from distgan.objectives.side import Draw, Loss, Side
from distgan.spec import ObjectiveSpec, Options, validate
from shards.errors import InputError
from shards.names import near

__all__ = ["OBJECTIVES", "Draw", "Game", "Loss", "Side", "build_game", "complete_objective"]


class Game(NamedTuple):
    """The two sides: ``critic(real, draw)`` and ``generator(draw)`` are their losses."""

    generator: Side
    critic: Side


class _Entry(NamedTuple):
    options: type[Options]
    generator: type[Side]
    critic: type[Side]


OBJECTIVES: dict[str, _Entry] = {
    "bce": _Entry(BCEOptions, BCEGenerator, BCECritic),
}


def build_game(spec: ObjectiveSpec, generator: nn.Module, critic: nn.Module, latent_dim: int) -> Game:
    """The game that a specification has two networks play.

    Raises:
        InputError: An unknown objective or a wrong option.
    """
    options, entry = _options(spec), OBJECTIVES[spec.kind]
    return Game(
        generator=entry.generator(options, trained=generator, opponent=critic, latent_dim=latent_dim),
        critic=entry.critic(options, trained=critic, opponent=generator, latent_dim=latent_dim),
    )


def complete_objective(spec: ObjectiveSpec) -> ObjectiveSpec:
    """The ``objective`` section with every option written out.

    Raises:
        InputError: An unknown objective or a wrong option.
    """
    return ObjectiveSpec(kind=spec.kind, n_critic=spec.n_critic, **_options(spec).model_dump())


def _options(spec: ObjectiveSpec) -> Options:
    if spec.kind not in OBJECTIVES:
        raise InputError(f"objective.kind: no objective is called {spec.kind!r}; {near(spec.kind, OBJECTIVES)}")
    return validate(OBJECTIVES[spec.kind].options, spec.rest, "objective")
