"""From one picture to another in small steps: how smooth what a generator has learnt is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from distgan.checkpoint import Checkpoint
from distgan.sampling import MOST_IN_A_GRID
from distgan.sampling.films import FRAMES_PER_SECOND, check_film, show_ways
from distgan.sampling.generator import Generator
from distgan.sampling.paths import between
from shards.errors import InputError

STEPS = 9
"""Pictures of a way in a strip, its two ends among them."""
STEPS_OF_A_FILM = 36


def interpolate(
    checkpoint: Checkpoint,
    out: Path,
    *,
    pairs: int = 4,
    steps: int | None = None,
    seed: int = 0,
    ema: bool = True,
    where: Mapping[str, object] | None = None,
    truncation: float | None = None,
    frames_per_second: float = FRAMES_PER_SECOND,
    device: str | None = None,
) -> None:
    """Draw the ways between pairs of pictures.

    Args:
        checkpoint: The trained state.
        out: A ``.png`` for a row each way, or a ``.gif`` or ``.mp4``, in which all go there and back side by side.
        pairs: How many ways. Way i goes from picture 2i of the seed to picture 2i + 1.
        steps: Pictures from one end to the other, both among them; None for a number that suits the file.
        seed: Of the pictures, as :func:`distgan.sampling.sample` takes it.
        ema: The averaged weights, else those that training goes on with.
        where: What the pictures are to show, for a run with ``model.condition``. What is not asked for is on the whole
            way as the first picture has it.
        truncation: As :func:`distgan.sampling.paths.truncated` takes it.
        frames_per_second: Of a film.
        device: By name; None for a GPU where there is one. Another device rounds differently.

    Raises:
        InputError: A number is out of range, the run does not know what is asked for, the checkpoint is damaged, or
            ``out`` cannot be written.
    """
    check_film(out)
    film = out.suffix.lower() != ".png"
    steps = steps if steps is not None else STEPS_OF_A_FILM if film else STEPS
    if pairs < 1 or steps < 2:
        raise InputError("--pairs is at least 1, and --steps at least 2")
    if pairs * steps > MOST_IN_A_GRID:
        raise InputError(f"at most {MOST_IN_A_GRID:,} pictures are drawn, not {pairs} × {steps}")
    generator = Generator(checkpoint, ema=ema, device=device)
    ends = generator.latents(2 * pairs, seed=seed, truncation=truncation)
    way = between(ends[0::2], ends[1::2], torch.linspace(0, 1, steps), generator.spec.model.latent)
    labels = generator.labels(2 * pairs, seed=seed, where=where)[0::2]
    images = list(generator.draw_with(way.flatten(0, 1), labels.repeat(steps, 1)))
    show_ways(np.stack(images).reshape(steps, pairs, *images[0].shape), out, frames_per_second)
