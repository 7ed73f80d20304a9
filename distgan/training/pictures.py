"""The pictures that a run draws of itself."""

from __future__ import annotations

import math
from pathlib import Path

from distgan.data.order import Ids
from distgan.sampling import draw_images, sample_labels, sample_latents, save_grid
from distgan.sampling.real import first_trained_on
from distgan.spec import RunSpec
from distgan.tracking import REAL, Tracker
from distgan.training.learner import Learner
from shards.reader import Reader


def show_real(reader: Reader, kept: Ids, spec: RunSpec, run: Path) -> None:
    """Write the first real images that the run trains on, in the layout of its sample grids; once in a run."""
    path = run / "samples" / REAL
    if not path.exists():
        count, data = spec.tracking.sample_count, spec.data
        ids = first_trained_on(kept, spec.seed, count, block=data.block_samples, lanes=data.lanes)
        save_grid(list(reader.read(ids)), path, columns=math.ceil(math.sqrt(count)))


def show_generated(learner: Learner, run: Path, tracker: Tracker) -> None:
    """Have rank 0 write the grid of the run's fixed latents, drawn by the averaged generator."""
    with learner.clock.paused(), learner.workers.together():
        if learner.workers.first:
            _draw_picture(learner, run, tracker)


def _draw_picture(learner: Learner, run: Path, tracker: Tracker) -> None:
    spec = learner.spec
    device, dtype, count = learner.precision.device, learner.precision.dtype, spec.tracking.sample_count
    latents = sample_latents(spec.seed, 0, count, spec.model, device) * spec.tracking.sample_scale
    labels = sample_labels(learner.labels, spec.seed, 0, count, device=device)
    images = list(draw_images(learner.averaged_generator(), latents.to(dtype), labels.to(dtype)))
    path = run / "samples" / f"{learner.images:010d}.png"
    save_grid(images, path)
    tracker.picture(learner.step, learner.images, path)
