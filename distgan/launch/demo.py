"""The whole path at once, for somebody who has nothing yet: faces → shards → training → report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from distgan.data.selection import select_samples
from distgan.devices import local_device
from distgan.launch.local import train_locally
from distgan.spec import parse_spec
from distgan.training.check import check
from distgan.training.loop import Outcome
from distgan.training.workers import Workers
from jobs import read
from shards.images import Transform
from shards.progress import Progress
from shards.sources import open_source
from shards.synth import synthesize
from shards.writer import pack

FACES = 4096
RECIPE = "jobs/demo.yaml"


def demo(
    out: Path,
    overrides: Sequence[str],
    say: Callable[[str], None],
    progress: Callable[[str], AbstractContextManager[Progress]],
    faces: int = FACES,
) -> Outcome:
    """Draw faces, pack them, train ``jobs/demo.yaml`` on them, and write the report.

    Called again, it goes on where it was interrupted.

    Args:
        out: The folder for ``faces/``, ``shards/`` and ``run/``.
        overrides: ``key.path=value`` for the specification.
        say: Tells the person what happens.
        progress: Makes a progress bar with a title.
        faces: How many to draw.

    Returns:
        How training ended; ``OUT/run/report.html`` shows it.

    Raises:
        InputError: The folder cannot be used or an override is wrong.
        RunError: Training went wrong.
    """
    drawn, packed, run = out / "faces", out / "shards", out / "run"
    spec = parse_spec(read("demo"), RECIPE, [f"data.shards={json.dumps(str(packed))}", *overrides])
    check(spec, 3, 0, Workers.alone(local_device()))  # what does not fit is said at once
    if not (drawn / "identity_CelebA.txt").exists():
        say(f"1/3 drawing {faces} faces in CelebA's layout: {drawn}")
        with progress("drawing") as bar:
            synthesize(drawn, faces, spec.seed, progress=bar)
    if not (packed / "index.json").exists():
        say(f"2/3 packing them into shards: {packed}")
        with progress("packing") as bar:
            pack(open_source(drawn, "celeba"), packed, Transform(size=spec.data.image_size, channels=3), progress=bar)
    _, kept = select_samples(spec)
    say(f"3/3 training {RECIPE} for {spec.in_images(len(kept)).steps} steps: {run}")
    return train_locally(spec, run, resume=run.exists())
