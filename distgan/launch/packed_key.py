"""The key of Weights & Biases that travels in a submitted job's package."""

from __future__ import annotations

import os
from pathlib import Path

import distgan

FILE = "wandb.key"
"""Beside the distgan package, in a package that ``distgan submit`` has made."""


def use_packed_wandb_key() -> None:
    """Put the packed key, if there is one, where wandb looks for it, unless there is one already."""
    file = Path(distgan.__file__).parent.parent / FILE
    if "WANDB_API_KEY" not in os.environ and file.is_file():
        os.environ["WANDB_API_KEY"] = file.read_text().strip()
