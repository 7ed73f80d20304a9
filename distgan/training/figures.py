"""The figures of a step: losses, norms, diversity, memory, speed."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from distgan.data.prefetch import Batches
from distgan.objectives import Loss
from distgan.sampling import thumbnails
from distgan.spec import RunSpec
from distgan.training.guard import MOST_COMPARED, diversity
from distgan.training.learner import Learner
from distgan.training.workers import Workers


def figures_of_step(spec: RunSpec, critic: Loss, generator: Loss | None, norms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The step's figures, on the device."""
    losses = {"loss/critic": critic.value, "loss/generator": generator.value} if generator else {}
    return {
        **(losses or {f"loss/{spec.objective.kind}": critic.value}),
        **critic.figures,
        **(generator.figures if generator else {}),
        **{f"grad_norm/{name}": norm for name, norm in norms.items()},
    }


def to_host(figures: dict[str, Tensor], learner: Learner) -> dict[str, float]:
    """Figures of the global batch as numbers, in one transfer."""
    values = learner.average(torch.stack([figure.detach().double() for figure in figures.values()])).tolist()
    return dict(zip(figures, values, strict=True))


def diversity_of_batch(learner: Learner, fake: Tensor, real: Tensor) -> float:
    """How diverse the generated images of the global batch are, as a share of the real ones' diversity."""
    of_fake, of_real = (diversity(learner.assemble(thumbnails(images), MOST_COMPARED)) for images in (fake, real))
    return float(of_fake / of_real.clamp_min(1e-12))


def device_memory(workers: Workers) -> dict[str, float]:
    """GiB of the fullest GPU since the last call; nothing on CPUs. The allocator knows: no device is waited for."""
    if workers.device.type != "cuda":
        return {}
    peaks = torch.cuda.max_memory_allocated(workers.device), torch.cuda.max_memory_reserved(workers.device)
    torch.cuda.reset_peak_memory_stats(workers.device)
    allocated, reserved = (value / 2**30 for value in workers.most(peaks))
    return {"gpu/memory_gib": allocated, "gpu/memory_reserved_gib": reserved}


class Meter:
    """How far the run is, and how fast."""

    def __init__(self, learner: Learner, batches: Batches) -> None:
        self._learner, self._batches = learner, batches
        self._last = (time.perf_counter(), learner.images, batches.seconds_waited)

    def clock(self) -> dict[str, float]:
        """Real images shown to the critic, and how often that is the whole data set."""
        return {"images": self._learner.images, "epoch": self._learner.images / self._batches.samples}

    def rates(self) -> dict[str, float]:
        """Images a second, and the share of the time that was spent waiting for data, since the last call."""
        before, now = self._last, (time.perf_counter(), self._learner.images, self._batches.seconds_waited)
        self._last = now
        seconds, images, waited = (b - a for a, b in zip(before, now, strict=True))
        return {"time/images_per_second": images / seconds, "time/data_wait": waited / seconds}
