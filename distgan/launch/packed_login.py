"""The login to Weights & Biases that travels in a submitted job's package."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import distgan

FILE = "wandb.json"
"""Beside the distgan package, in a package that ``distgan submit`` has made."""
_LOGIN = ("WANDB_BASE_URL", "WANDB_API_KEY")


def pack_login(folder: Path, variables: Mapping[str, str]) -> None:
    """Put wandb's variables into a package, for its owner's eyes only."""
    if variables:
        packed = folder / FILE
        packed.touch(0o600)
        packed.write_text(json.dumps(variables), encoding="utf-8")


def use_packed_login() -> None:
    """Set the packed variables, if there are some.

    A key and the server that it is for belong together: where this machine has one of the two already, both stay away.
    """
    file = Path(distgan.__file__).parent.parent / FILE
    if not file.is_file():
        return
    variables: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    login: dict[str, str] = {name: variables.pop(name) for name in _LOGIN if name in variables}
    if not any(os.environ.get(name) for name in login):
        os.environ.update(login)
    os.environ.update(variables)  # of a sweep
