"""From a trained generator to pictures.

A picture depends on (seed, index) and on what it is asked to show: not on how many are drawn, and not on the training
run's own random numbers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from distgan.checkpoint import Checkpoint
from distgan.data.conditions import NO_LABELS, LabelDistribution
from distgan.data.noise import Noise
from distgan.networks import ImageShape, build_networks
from distgan.networks.growing import grow
from distgan.objectives import draw_latents
from distgan.spec import ModelSpec
from shards.errors import InputError
from shards.files import write_atomically
from shards.progress import Progress

BATCH = 64
"""Images a forward pass draws. Always this many, so that the same kernels run whatever the count."""

MOST_IN_A_GRID = 10_000

Bytes = NDArray[np.uint8]


def sample(
    checkpoint: Checkpoint,
    out: Path,
    *,
    count: int = 64,
    seed: int = 0,
    columns: int | None = None,
    ema: bool = True,
    where: Mapping[str, object] | None = None,
    truncation: float | None = None,
    device: str | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Draw images with a trained generator.

    Args:
        checkpoint: The trained state.
        out: A ``.png`` file for one grid, else a folder (made if need be) for ``00000000.png``, ….
        count: How many.
        seed: Picture i depends on the seed, on i and on ``where`` alone.
        columns: Images in a row of the grid; None for the squarest grid.
        ema: The averaged weights, else those that training goes on with.
        where: What the pictures are to show, for a run with ``model.condition``: ``{"Smiling": 1, "class": "cat"}``.
            What is not asked for is as the data has it. The latents do not depend on it.
        truncation: As :func:`distgan.sampling.paths.truncated` takes it.
        device: By name; None for a GPU where there is one. Another device rounds differently.
        progress: Told how many images are drawn.

    Raises:
        InputError: A number is out of range, the run does not know what is asked for, the checkpoint is damaged, or
            ``out`` cannot be written.
    """
    check_numbers(count, seed, columns)
    grid = out.suffix.lower() == ".png"
    if out.suffix and not grid:
        raise InputError(f"{out}: give a file that ends in .png for a grid, or a folder for single images")
    if grid and count > MOST_IN_A_GRID:
        raise InputError(f"a grid holds at most {MOST_IN_A_GRID} images, not {count}; give a folder instead of {out}")
    from distgan.sampling.generator import Generator  # which is made of what is below

    generator = Generator(checkpoint, ema=ema, device=device)
    images = _told(generator.images(count, seed=seed, where=where, truncation=truncation), count, progress)
    if grid:
        save_grid_or_say(list(images), out, columns)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise InputError(f"{out} is not empty: give a new folder")
        for i, image in enumerate(images):
            with write_atomically(out / f"{i:08d}.png", lasting=False) as file:  # to wait for the disk takes longer
                file.write(as_png(image))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None


def _told(images: Iterator[Bytes], count: int, progress: Progress) -> Iterator[Bytes]:
    """The same images; progress is told of each that has been dealt with."""
    for done, image in enumerate(images, start=1):
        yield image
        progress(done, count)


def check_numbers(count: int, seed: int, columns: int | None) -> None:
    """See that these can be.

    Raises:
        InputError: One of them is out of range.
    """
    if count < 1 or seed < 0 or (columns is not None and columns < 1):
        raise InputError("--count and --columns are at least 1, --seed at least 0")


def check_png(out: Path) -> None:
    """See that a picture can be written there, by its name.

    Raises:
        InputError: It cannot.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: give a file that ends in .png")


def load_generator(checkpoint: Checkpoint, *, ema: bool = True) -> nn.Module:
    """The generator of a checkpoint, in evaluation mode, on the CPU.

    Args:
        checkpoint: Where from.
        ema: The averaged weights, with BatchNorm statistics that match them; else those that training goes on with.

    Raises:
        InputError: The checkpoint is damaged.
    """
    state = checkpoint.state
    spec, timetable = state.spec, state.spec.timetable
    generator, _ = build_networks(spec.model, ImageShape.of(spec, state.channels), spec.seed, len(state.label_names))
    checkpoint.load_into(generator, "generator_ema" if ema else "generator")
    grow(generator, timetable, timetable.last(state.step))
    return generator.eval()


def load_labels(checkpoint: Checkpoint) -> LabelDistribution:
    """How often each label vector occurs in the data that a checkpoint has learnt from.

    Raises:
        InputError: The checkpoint is damaged.
    """
    names = checkpoint.state.label_names
    if not names:
        return NO_LABELS
    return LabelDistribution.from_tensors(names, checkpoint.tensors("labels"))


def sample_labels(
    distribution: LabelDistribution, seed: int, first: int, count: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Labels (count, K) of the pictures first, first + 1, … of a seed: as the data has them.

    Where the distribution is what is :meth:`~distgan.data.conditions.LabelDistribution.given` a condition, another
    condition leaves most of the entries that neither speaks of as they are.
    """
    noise = Noise(seed, torch.arange(first, first + count, device=device), "sample")
    return distribution.draw(noise.uniform("labels", (distribution.choices,)))


def sample_latents(seed: int, first: int, count: int, model: ModelSpec, device: torch.device | str = "cpu") -> Tensor:
    """Latents (count, latent_dim) of the pictures first, first + 1, … of a seed, drawn as training draws them."""
    noise = Noise(seed, torch.arange(first, first + count, device=device), "sample")
    return draw_latents(noise, model.latent_dim, model.latent)


@torch.inference_mode()
def draw_images(generator: nn.Module, latents: Tensor, labels: Tensor, batch: int = BATCH) -> Iterator[Bytes]:
    """Images of latents (N, latent_dim) and labels (N, K): one uint8 (H, W, C) after the other.

    Args:
        generator: In evaluation mode: in training mode an image would depend on its neighbours.
        latents: On its device.
        labels: Likewise.
        batch: Images a forward pass draws, whatever N. Another number may round otherwise.
    """
    assert not generator.training
    for start in range(0, len(latents), batch):
        some = [inputs[start : start + batch] for inputs in (latents, labels)]
        padded = [torch.cat([each, each.new_zeros(batch - len(each), each.shape[1])]) for each in some]
        yield from image_bytes(generator(*padded)[: len(some[0])])


def thumbnails(images: Tensor) -> Tensor:
    """Images (N, C, S, S) at 16 pixels, where it is faces that differ and not noise: rows (N, C · 256)."""
    exact = torch.promote_types(images.dtype, torch.float32)
    return adaptive_avg_pool2d(images.to(exact), 16).flatten(1)


def as_uint8(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] as uint8: the inverse of what a training batch goes through."""
    return images.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def image_bytes(images: Tensor) -> Bytes:
    """Images (N, C, H, W) in [-1, 1] as uint8 (N, H, W, C)."""
    return as_uint8(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def grid_of(images: Sequence[Bytes], columns: int | None = None) -> Bytes:
    """Images uint8 (H, W, C) row by row in one, with as many channels; ``columns`` defaults to the squarest grid.

    As torchvision's ``make_grid`` arranges them, with black between and around; but importing that takes longer than
    all the rest that a run begins with.
    """
    if len(images) == 1:
        return images[0]
    (height, width, channels), gap = images[0].shape, 2
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    grid = np.zeros((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def save_grid(images: Sequence[Bytes], path: Path, columns: int | None = None) -> None:
    """Write images uint8 (H, W, C) as one PNG, as :func:`grid_of` arranges them.

    Raises:
        OSError: The file cannot be written.
    """
    save_image(grid_of(images, columns), path)


def save_grid_or_say(images: Sequence[Bytes], path: Path, columns: int | None = None) -> None:
    """Write a grid that a person has asked for, and the folder that it is in.

    Raises:
        InputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_grid(images, path, columns)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def save_image(image: Bytes, path: Path) -> None:
    """Write uint8 (H, W, C) as a PNG.

    Raises:
        OSError: The file cannot be written.
    """
    with write_atomically(path) as file:
        file.write(as_png(image))


def as_png(image: Bytes) -> bytes:
    """The PNG of uint8 (H, W, C)."""
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, format="PNG")
    return file.getvalue()
