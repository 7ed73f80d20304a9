"""The grids of a run as a film: the same latents, as training draws them over time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from distgan.sampling import Bytes
from distgan.sampling.films import check_film, save_film
from distgan.tracking.records import UNREADABLE, evenly, sample_grids
from shards.errors import InputError

TIMELINE = "timeline.gif"
"""In a run's folder: the film that ``tracking.timeline`` asks for."""
FRAMES_PER_SECOND = 6
MOST_FRAMES = 300
MOST_PIXELS = 40_000_000
"""Of all frames together; a byte each in a GIF. Of more grids, some are shown, evenly over the run, the first and the
last among them."""
_HELD_S = 2
"""How long the last grid is shown."""
_CAPTION_PIXELS = 14


def timeline(run: Path, out: Path, *, frames_per_second: float = FRAMES_PER_SECOND) -> list[str]:
    """Write the sample grids of a run as a film, below each the images that had been shown before it.

    Args:
        run: The run's folder.
        out: A ``.gif`` or ``.mp4`` file.
        frames_per_second: Grids a second.

    Returns:
        Names of grids that could not be read.

    Raises:
        InputError: This is no run's folder, it has no grid, or the film cannot be written.
    """
    check_film(out, pictures=False)
    if not (run / "spec.yaml").is_file():
        raise InputError(f"{run} is not a run's folder: there is no spec.yaml in it")
    grids = sample_grids(run / "samples")
    frames, unreadable = [], []
    for images, path in _some(grids):
        try:
            frames.append(_captioned(_read(path), f"{images:,} images"))
        except UNREADABLE:
            unreadable.append(path.name)
    if not frames:
        raise InputError(
            f"{run / 'samples'} has no grids to show: tracking.sample_every_images says when the run draws them"
        )
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    frames = [_padded(frame, height, width) for frame in frames]
    film = [*frames, *frames[-1:] * round(_HELD_S * frames_per_second)]
    save_film(film, out, frames_per_second=frames_per_second)
    return unreadable


def _some(grids: Sequence[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """So many of the grids as fit into a film, by the size of the last one."""
    most = MOST_FRAMES
    if grids:
        with suppress(*UNREADABLE), Image.open(grids[-1][1], formats=["PNG"]) as last:
            most = min(most, max(2, MOST_PIXELS // (last.width * last.height)))
    return list(grids) if len(grids) <= most else [grids[i] for i in evenly(len(grids), most)]


def _read(path: Path) -> Image.Image:
    with Image.open(path, formats=["PNG"]) as image:
        return image.convert("L" if image.mode == "L" else "RGB")


def _captioned(grid: Image.Image, text: str) -> Bytes:
    """A grid uint8 (H + 14, W, C) over a line of text."""
    picture = Image.new(grid.mode, (grid.width, grid.height + _CAPTION_PIXELS))
    picture.paste(grid)
    font = ImageFont.load_default(_CAPTION_PIXELS - 3)
    ImageDraw.Draw(picture).text((2, grid.height), text, fill="white", font=font)
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _padded(frame: Bytes, height: int, width: int) -> Bytes:
    """Grids of a run are of one size, unless its specification was changed on the way."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)))
