"""The latent that draws what is nearest to a photograph, by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from distgan.checkpoint import Checkpoint
from distgan.evaluation.scoring import Progress
from distgan.sampling import BATCH, Bytes, check_png, save_grid_or_say
from distgan.sampling.generator import Generator
from distgan.spec import Latent
from shards.errors import InputError
from shards.files import ready_or_say
from shards.images import ImageError, Transform, apply, decode

CANDIDATES = 512
"""Latents of which the best begin."""
STARTS = 8
STEPS = 400
LEARNING_RATE = 0.05
LEAST_PIXELS = 4
"""Of the smallest scale at which pictures are compared."""
UNLIKELY = 1e-3
"""What a mean square of a latent's numbers above 1 counts, beside mean squares of pixels in [-1, 1]."""
MOST_BYTES = 100_000_000


@dataclass(frozen=True)
class Inverted:
    """What comes nearest to a photograph.

    Attributes:
        latent: Its latent.
        rmse: The root of the mean squared difference of their pixels, in levels of 255.
        psnr: The same in decibels.
        begun_with: ``rmse`` of the best of all latents before the descent.
    """

    latent: list[float]
    rmse: float
    psnr: float
    begun_with: float


def invert(
    checkpoint: Checkpoint,
    photograph: Path,
    out: Path,
    *,
    crop: bool = False,
    steps: int = STEPS,
    seed: int = 0,
    ema: bool = True,
    where: Mapping[str, object] | None = None,
    device: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Inverted:
    """Find the latent that draws what is nearest to a photograph.

    The best 8 of 512 latents descend side by side (Adam, a cosine to 0), on mean squared differences of pixels at the
    picture's size and at each half of it down to 4 pixels, so that what lies a little aside counts little. Latents that
    training hardly ever draws are held back.

    Args:
        checkpoint: The trained state.
        photograph: An image file. A square one is brought to the size of what the generator draws.
        out: A ``.png``: the photograph as it was brought to that size, and what is nearest.
        crop: Cut the middle square out of a photograph that is none.
        steps: Of the descent.
        seed: Of the latents it begins with.
        ema: The averaged weights, else those that training goes on with.
        where: What the picture is to show, for a run with ``model.condition``.
        device: By name; None for a GPU where there is one. Another device rounds differently.
        progress: Told how many steps are done.

    Raises:
        InputError: The photograph cannot be read or is not square, a number is out of range, the run does not know what
            is asked for, or ``out`` cannot be written.
    """
    check_png(out)
    if steps < 1:
        raise InputError("--steps is at least 1")
    ready_or_say(out)
    state = checkpoint.state
    pixels = _read(photograph, Transform(state.spec.data.image_size, state.channels), crop)
    generator = Generator(checkpoint, ema=ema, device=device)
    latents = generator.latents(CANDIDATES, seed=seed).to(generator.device)
    labels = generator.labels(CANDIDATES, seed=seed, where=where).to(generator.device)
    wanted = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(generator.device).float() / 127.5 - 1
    with torch.no_grad():
        batches = zip(torch.split(latents, BATCH), torch.split(labels, BATCH), strict=True)
        begun = torch.cat([_apart(_drawn(generator, *batch), wanted) for batch in batches])
    best = begun.argsort()[:STARTS]
    latents, labels = latents[best], labels[best]
    found = _descend(generator, latents, labels, wanted, steps, progress)
    pictures = np.stack(list(generator.draw_with(found, labels)))
    errors = [_rmse(picture, pixels) for picture in pictures]
    nearest = int(np.argmin(errors))
    (first,) = generator.draw_with(latents[:1], labels[:1])
    save_grid_or_say([pixels, pictures[nearest]], out, columns=2)
    rmse = errors[nearest]
    return Inverted(
        latent=found[nearest].tolist(),
        rmse=rmse,
        psnr=20 * math.log10(255 / rmse) if rmse else math.inf,
        begun_with=_rmse(first, pixels),
    )


def _read(path: Path, transform: Transform, crop: bool) -> Bytes:
    """A photograph as uint8 (size, size, channels).

    Raises:
        InputError: It cannot be read, or is not square and is not to be cut.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES:,} bytes")
        image = decode(path.read_bytes())
    except ImageError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if image.width != image.height and not crop:
        raise InputError(
            f"{path} is {image.width}×{image.height}, and the run draws squares of {transform.size}: --crop cuts its "
            "middle square out, or cut it as the images were that the run has learnt from"
        )
    return apply(image, transform)


def _descend(
    generator: Generator, latents: Tensor, labels: Tensor, wanted: Tensor, steps: int, progress: Progress
) -> Tensor:
    """Latents (n, latent_dim) that draw what is nearer, each on its own way."""
    latent = generator.spec.model.latent
    latents = latents.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        loss = (_apart(_drawn(generator, latents, labels), wanted) + _unlikely(latents, latent)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if latent == "uniform":
            with torch.no_grad():
                latents.clamp_(-1, 1)
        progress(step + 1, steps)
    return latents.detach()


def _drawn(generator: Generator, latents: Tensor, labels: Tensor) -> Tensor:
    """Images (n, C, S, S) in [-1, 1], through which gradients go."""
    weight = next(generator.module.parameters())
    images: Tensor = generator.module(latents.to(weight), labels.to(weight))
    return images.float()


def _apart(images: Tensor, wanted: Tensor) -> Tensor:
    """How far images (n, C, S, S) are from one: (n,), mean squares over pixels, added over scales."""
    apart = (images - wanted).square().mean((1, 2, 3))
    while images.shape[-1] >= 2 * LEAST_PIXELS:
        images, wanted = avg_pool2d(images, 2), avg_pool2d(wanted, 2)
        apart = apart + (images - wanted).square().mean((1, 2, 3))
    return apart


def _unlikely(latents: Tensor, latent: Latent) -> Tensor:
    """How unlikely latents are: (n,). Uniform ones are all alike."""
    if latent == "uniform":
        return latents.new_zeros(len(latents))
    return UNLIKELY * latents.square().mean(1)


def _rmse(one: Bytes, other: Bytes) -> float:
    return float(np.sqrt(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)))
