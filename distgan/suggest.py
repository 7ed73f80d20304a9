"""What to train on one's own images in so many minutes: a whole specification, with a reason for each choice.

It begins with ``jobs/faces64.yaml`` or ``jobs/faces128.yaml``; what the set and the budget change about them is here. The
leaderboard that these choices come from is in ``jobs/README.md``.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from distgan.bench.speed import training_speed
from distgan.data.selection import select_samples
from distgan.evaluation import held_out
from distgan.spec import DataSpec, RunSpec, make_spec
from jobs import read
from shards.errors import InputError
from shards.index import Index

LARGE = 64
"""Pixels beyond which the recipe is that for 128."""
NOT_MIRRORED = ("mnist",)
"""Layouts of letters and digits."""
WIDTHS = (64, 32)
"""Of the networks, the widest first."""
LEAST_IMAGES = 200_000
"""Images that a run of the full width should have time for; else narrower networks learn more in it."""
BATCHES = ((0, 32), (2_000_000, 64), (8_000_000, 128), (30_000_000, 256))
"""The global batch of a run of so many images or more."""
EPOCHS = 40
"""From which on a critic begins to know its images by heart."""
SHARE_OF_WORKERS = 0.8
"""Of the speed of so many machines, what is counted on: they also talk to each other."""

Reasons = dict[str, str]
"""Why a field is as it is, by its dotted path."""


@dataclass(frozen=True)
class Facts:
    """What is known of the images.

    Attributes:
        shards: The packed set.
        size: Of an image, in pixels.
        channels: 1 or 3.
        images: Trained on.
        mirrored: Whether a mirror image is still one of their kind: letters and digits are not.
        held_out: Images of another split to compare with; 0 where there is none.
        classes: Their names, where there are several.
    """

    shards: str
    size: int
    channels: int
    images: int
    mirrored: bool = True
    held_out: int = 0
    classes: tuple[str, ...] = ()


def facts_of(shards: str) -> Facts:
    """What the index of a packed set says.

    Raises:
        InputError: There is none, or nothing to train on.
    """
    index = Index.load(shards)
    spec = RunSpec(name="suggested", data=DataSpec(shards=shards, image_size=index.transform.size))
    index, kept = select_samples(spec.with_training(batch_size=1))
    held = held_out(index, {})
    symbols = bool(index.class_names) and all(re.fullmatch(r"\w", name) for name in index.class_names)
    return Facts(
        shards=shards,
        size=index.transform.size,
        channels=index.transform.channels,
        images=len(kept),
        mirrored=index.layout not in NOT_MIRRORED and not symbols,
        held_out=len(held.ids) if "split" in held.where else 0,
        classes=index.class_names if len(index.class_names) > 1 else (),
    )
