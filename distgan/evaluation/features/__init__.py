"""Networks that describe pictures, by name.

To add one: a file with ``load(argument) -> Features``, and a line in the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distgan.evaluation.features import classifier, inception, lite0, module
from distgan.evaluation.features.base import Described, Features
from shards.errors import InputError
from shards.names import near

__all__ = ["FEATURES", "Described", "Features", "load_features", "while_training"]

FEATURES: dict[str, Callable[[str], Features]] = {
    "inception": inception.load,
    "lite0": lite0.load,
}
"""By the word before the colon of ``NAME[:ARGUMENT]``; anything else is a file."""


def load_features(asked: str | None) -> Features | None:
    """The features that somebody asks for.

    Args:
        asked: "inception", "inception:FILE", "lite0", "lite0:SIZE", a file (``distgan classifier train`` writes such;
            TorchScript; torch.export's ``.pt2``), or "none". None takes Inception where its weights are at hand, else
            lite0 where it is installed, else none.

    Raises:
        InputError: There are none of that name, something is missing, or the file is not what it says.
    """
    if asked is None:
        if inception.at_hand():
            return inception.load("")
        return lite0.load("") if lite0.installed() else None
    if asked == "none":
        return None
    name, _, argument = asked.partition(":")
    if name in FEATURES:
        return FEATURES[name](argument)
    if not Path(asked).exists():
        raise InputError(
            f"features {asked}: there is no such file, and no features of this name; {near(name, FEATURES)}"
        )
    return classifier.load(asked) if classifier.is_classifier(Path(asked)) else module.load(asked)


def while_training() -> str | None:
    """What a run that asks for none is scored with: as None has it, but lite0 at an eighth of the work."""
    return None if inception.at_hand() or not lite0.installed() else "lite0:112"
