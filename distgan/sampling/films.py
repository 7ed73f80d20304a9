"""Pictures in a row as a film: an animated GIF, or an MP4 where ffmpeg is at hand."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from distgan.sampling import Bytes, grid_of, save_grid_or_say
from shards.errors import InputError
from shards.files import write_or_say

SUFFIXES = (".gif", ".mp4")
FRAMES_PER_SECOND = 12
LEAST_PIXELS = 256
"""Smaller frames are enlarged, by whole numbers, until height and width are this or more: players blur small ones."""
_STALLED_S = 600.0


def check_film(out: Path, *, pictures: bool = True) -> None:
    """See that a film can be written, before anything is drawn for it.

    Args:
        out: The file.
        pictures: Whether a ``.png`` will do as well.

    Raises:
        InputError: A file of another kind, or an MP4 without ffmpeg.
    """
    suffix = out.suffix.lower()
    if suffix not in (*SUFFIXES, *([".png"] if pictures else [])):
        kinds = ".png for a picture, .gif or .mp4 for a film" if pictures else ".gif or .mp4"
        raise InputError(f"{out}: give a file that ends in {kinds}")
    if suffix == ".mp4":
        _ffmpeg(out)


def save_film(frames: Sequence[Bytes], out: Path, *, frames_per_second: float = FRAMES_PER_SECOND) -> None:
    """Write frames uint8 (H, W, 1 or 3), all of one shape, as a film that begins again when it is over.

    Nothing is left of it where it cannot be written.

    Args:
        frames: In order. A GIF has 256 colours a frame, of which grey needs no more; an MP4 has half the colour
            resolution.
        out: A ``.gif`` or ``.mp4`` file.
        frames_per_second: A GIF counts in hundredths of a second.

    Raises:
        InputError: It is neither, ffmpeg is missing or fails, or it cannot be written.
    """
    check_film(out, pictures=False)
    zoom = max(1, -(-LEAST_PIXELS // min(frames[0].shape[:2])))
    film = [frame.repeat(zoom, 0).repeat(zoom, 1) for frame in frames]
    write_or_say(out, _gif(film, frames_per_second) if out.suffix.lower() == ".gif" else _mp4(film, frames_per_second))


def show_ways(pictures: Bytes, out: Path, frames_per_second: float = FRAMES_PER_SECOND) -> None:
    """Write several ways from picture to picture.

    Args:
        pictures: uint8 (steps, ways, H, W, 1 or 3).
        out: A ``.png``, with a row for each way, or a film, in which all go there and back side by side.
        frames_per_second: Of a film.

    Raises:
        InputError: It cannot be written.
    """
    if out.suffix.lower() == ".png":
        save_grid_or_say(list(pictures.swapaxes(0, 1).reshape(-1, *pictures.shape[2:])), out, columns=len(pictures))
        return
    frames = [grid_of(list(row)) for row in pictures]
    save_film([*frames, *frames[-2:0:-1]], out, frames_per_second=frames_per_second)


def _gif(frames: Sequence[Bytes], frames_per_second: float) -> bytes:
    # Quantised here and without dithering: noise that moves from frame to frame takes room and is seen.
    images = [
        Image.fromarray(frame[..., 0])
        if frame.shape[2] == 1
        else Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)
        for frame in frames
    ]
    file = io.BytesIO()
    duration = max(20, round(1000 / frames_per_second))  # browsers slow down what is faster
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return file.getvalue()


def _mp4(frames: Sequence[Bytes], frames_per_second: float) -> bytes:
    height, width, channels = frames[0].shape
    with tempfile.TemporaryDirectory() as scratch:
        film = Path(scratch) / "film.mp4"
        command = [_ffmpeg(film), "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray" if channels == 1 else "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", f"{frames_per_second:g}", "-i", "-", "-an"]
        # What browsers and phones play wants even sizes and yuv420p.
        command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(film)]
        pixels = b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)
        try:
            done = subprocess.run(command, input=pixels, capture_output=True, timeout=_STALLED_S, check=False)  # noqa: S603
            if done.returncode == 0:
                return film.read_bytes()
            said = done.stderr.decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"it exited with {done.returncode}"
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
    raise InputError(f"ffmpeg could not make the film ({reason}); a .gif needs no ffmpeg")


def _ffmpeg(out: Path) -> str:
    """The program's path: the system's, or what imageio-ffmpeg brings.

    Raises:
        InputError: There is none.
    """
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise InputError(
            f"{out} needs ffmpeg, which is not installed: install it, or pip install 'distgan[films]', or give a .gif"
        ) from None
