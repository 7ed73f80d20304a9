"""Ways through the latent space for a page: what lies between the pictures of a trained generator."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image

from distgan.checkpoint import STATE, Checkpoint, best_of, find_checkpoint
from distgan.sampling import Bytes, grid_of, image_bytes
from distgan.sampling.generator import Generator
from distgan.sampling.paths import between
from distgan.tracking.grids import Grid, encode
from shards.errors import InputError

WAYS = 6
STEPS = 9
"""Pictures of a way, its two ends among them."""
SECONDS = 10.0
"""No further way is drawn after so long. The first one is, however slow the generator."""
_MOST_PIXELS = 1_600
"""Of the whole picture's width: larger ones are made smaller."""
_AS_JPEG = 1_000_000
"""Bytes from which on a PNG is too large for a page."""


@dataclass(frozen=True)
class Ways:
    """What lies between some pictures.

    Attributes:
        picture: A row for each way, from one picture on the left to another on the right.
        count: Rows.
        step: Steps done by the checkpoint that drew it.
        images: Real images that it had seen.
        best: Whether it is the one that has scored best; else it is the newest.
    """

    picture: Grid
    count: int
    step: int
    images: int
    best: bool


def draw_ways(run: Path) -> Ways | str:
    """Draw ways with the checkpoint of a run that has scored best, else with its newest.

    Returns:
        Why it cannot be done, in a sentence, where it cannot: nobody has asked for it.
    """
    best = best_of(run)
    try:
        path = best.path if best else find_checkpoint(run).path
        return _draw(path, best is not None, (path / STATE).stat().st_mtime_ns)
    except InputError as error:
        return str(error)
    except (OSError, RuntimeError, MemoryError) as error:  # a checkpoint that is removed just now, too little memory
        return str(error).partition("\n")[0] or type(error).__name__


@lru_cache(maxsize=32)
def _draw(path: Path, best: bool, written: int) -> Ways:
    """A checkpoint never changes, but after a roll-back there is another of its name, written at another time.

    A page that is written again and again shows the same ways.
    """
    checkpoint = Checkpoint(path)
    rows = _rows(Generator(checkpoint, device="cpu"))
    pixels = grid_of([picture for row in rows for picture in row], columns=STEPS)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if image.width > _MOST_PIXELS:
        size = _MOST_PIXELS, round(image.height * _MOST_PIXELS / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
    picture = encode(image, as_jpeg=False)
    if len(picture.data) > _AS_JPEG:
        picture = encode(image, as_jpeg=True)
    return Ways(picture, len(rows), checkpoint.state.step, checkpoint.state.images, best)


@torch.inference_mode()
def _rows(generator: Generator) -> list[Bytes]:
    """Pictures uint8 (STEPS, H, W, C) of each way, as many ways as there is time for."""
    ends, labels = generator.latents(2 * WAYS), generator.labels(2 * WAYS)[0::2]
    ways = between(ends[0::2], ends[1::2], torch.linspace(0, 1, STEPS), generator.spec.model.latent)
    weight = next(generator.module.parameters())
    began, rows = time.monotonic(), []
    for way, label in zip(ways.unbind(1), labels, strict=True):
        # Not Generator.draw_with, which draws whole batches: a large generator would take minutes for one.
        rows.append(image_bytes(generator.module(way.to(weight), label.repeat(STEPS, 1).to(weight))))
        if time.monotonic() - began > SECONDS:
            break
    return rows
