"""How fast packing is on this machine, beside a bare loop over the same files.

Each time is taken in a process of its own, as a command has one: what one packing leaves behind, a server that starts
processes or modules that are imported, would make the next one faster than anybody will see it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from shards.images import Transform
from shards.processes import usable_cpus
from shards.sources import open_source
from shards.writer import pack

SIZE = 64
"""Height and width in pixels that is packed to."""


def bench_pack(
    source: Path | None, counts: tuple[int, int] = (2_000, 10_000), rounds: int = 5
) -> dict[str, float | str]:
    """How fast packing to 64 pixels is, beside a bare loop over the same files in the same run.

    The bare loop opens, decodes, cuts and resizes each file with Pillow and writes nothing. What is timed of packing
    goes from the path to the finished set, processes that are started for it included. Medians, as machines are noisy.

    Args:
        source: A folder of images; None invents small ones (64×64) and ones of CelebA's size (178×218), as JPEG.
        counts: How many of each to invent.
        rounds: How often each is timed, in turn; the figures are medians.

    Returns:
        For each set of images: images/s of the bare loop, of one process and of two, and how these relate to the first.

    Raises:
        InputError: The source cannot be packed.
    """
    figures: dict[str, float | str] = {"machine": f"{usable_cpus()} CPUs"}
    with tempfile.TemporaryDirectory() as scratch:
        sets = {} if source is None else {"": source}
        if source is None:
            for (width, height), count in zip(((64, 64), (178, 218)), counts, strict=True):
                sets[f"{width}×{height} "] = invent_files(Path(scratch) / f"{width}", count, width, height)
        for name, folder in sets.items():
            out = Path(scratch) / "out"
            _measure(folder, out, workers=1)  # reads the files into the page cache, and says here what is wrong
            shutil.rmtree(out)
            seconds: dict[int, list[float]] = {0: [], 1: [], 2: []}
            for _ in range(rounds):
                for workers, times in seconds.items():
                    times.append(_in_a_fresh_process(folder, out, workers))
                    shutil.rmtree(out, ignore_errors=True)
            count = len(_files(folder))
            speed = {workers: count / median(times) for workers, times in seconds.items()}
            figures |= {
                f"{name}bare loop, images/s": speed[0],
                f"{name}pack, images/s": speed[1],
                f"{name}pack, 2 processes, images/s": speed[2],
                f"{name}pack / bare loop": speed[1] / speed[0],
                f"{name}pack, 2 processes / bare loop": speed[2] / speed[0],
            }
    return figures


def invent_files(folder: Path, count: int, width: int, height: int) -> Path:
    """Soft colours, whose JPEG files are as large as photographs'.

    Args:
        folder: Where they go; a new folder.
        count: How many.
        width: In pixels.
        height: Likewise.

    Returns:
        The folder.
    """
    folder.mkdir()
    for i in range(count):
        blocks = np.random.Generator(np.random.Philox(key=i)).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:06d}.jpg", quality=90)
    return folder


def _in_a_fresh_process(folder: Path, out: Path, workers: int) -> float:
    """Seconds that ``_measure`` takes there."""
    command = [sys.executable, "-m", "shards.bench", str(folder), str(out), str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 (our own)
    return float(done.stdout)


def _measure(folder: Path, out: Path, workers: int) -> float:
    """Seconds to pack a folder in so many processes, or of the bare loop where that is 0."""
    files = _files(folder)
    began = time.perf_counter()
    if workers:
        source = open_source(folder)
        pack(source, out, Transform(SIZE, source.channels()), workers=workers)
    else:
        _decode_all(files)
    return time.perf_counter() - began


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _decode_all(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError), Image.open(path) as file:
            image = file.convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.crop((left, top, left + side, top + side))
            np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS)).tobytes()


if __name__ == "__main__":
    print(_measure(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))  # noqa: T201
