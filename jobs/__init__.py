"""Run specifications, one YAML file per recipe, shipped with distgan and found by name."""

from __future__ import annotations

import re
from importlib.resources import files

SWEEP = "sweep"
"""The one file here that is no run's specification but a sweep's, of Weights & Biases."""


def recipes() -> dict[str, str]:
    """The names of the shipped specifications, each with what the head of its file says in a line."""
    found = sorted(file.name for file in files(__name__).iterdir() if file.name.endswith(".yaml"))
    return {
        stem: _first_sentence(read(stem)) for stem in (name.removesuffix(".yaml") for name in found) if stem != SWEEP
    }


def read(name: str) -> str:
    """The text of a file here, by its name without ``.yaml``.

    Raises:
        FileNotFoundError: There is none of that name.
    """
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")


def _first_sentence(text: str) -> str:
    head = re.sub(r"^# (R\d: )?", "", text.partition("\n")[0])
    sentence = re.split(r"\. (?=[A-Z])", head)[0].rstrip(".")
    return sentence[:1].upper() + sentence[1:]
