"""The training loop: the same for every recipe and every launcher."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from distgan.checkpoint import prune
from distgan.data.order import rank_slots
from distgan.data.prefetch import Batches
from distgan.data.selection import select_samples
from distgan.networks import ImageShape, complete_model
from distgan.objectives import Loss, complete_objective
from distgan.sampling import draw_images, sample_latents, save_grid
from distgan.spec import RunSpec
from distgan.tracking import Tracker, open_tracker, write_report
from distgan.training.folder import open_run
from distgan.training.guard import Guard
from distgan.training.learner import Learner
from shards.errors import InputError
from shards.reader import Reader


class Outcome(NamedTuple):
    """How a call of :func:`train` ended."""

    ended: Literal["finished", "interrupted"]
    step: int
    images: int


class Place(NamedTuple):
    """Where a process stands among the workers, and what it computes on."""

    rank: int
    world_size: int
    device: torch.device


def train(
    spec: RunSpec,
    run: Path,
    place: Place,
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    console: bool = True,
) -> Outcome:
    """Train what a specification says, from the beginning or from the newest checkpoint, to the end.

    Args:
        spec: The run.
        run: The run's folder. Created when it is not there.
        place: This process.
        resume: Go on from the run's newest checkpoint; begin where there is none yet.
        stop: When set, the run ends after the current step, with a checkpoint.
        console: Show progress on the terminal.

    Raises:
        InputError: The specification, the shards, the run's folder and its checkpoint do not fit each other.
        RunError: Training went wrong.
        DamageError: A sample is not what was packed.
        OSError: The run's folder could not be written.
    """
    stop = stop or threading.Event()
    spec = spec.model_copy(
        update={"model": complete_model(spec.model), "objective": complete_objective(spec.objective)}
    )
    index, kept = select_samples(spec, place.world_size)
    slots = torch.from_numpy(rank_slots(spec.training.batch_size, place.rank, place.world_size))
    learner = Learner(spec, ImageShape(index.transform.channels, spec.data.image_size), place.device, slots)
    with open_run(spec, run, index.fingerprint, resume=resume) as checkpoint:
        if checkpoint:
            learner.load(checkpoint)
        tracker = open_tracker(
            spec,
            run,
            resume_step=learner.step if (run / "metrics.jsonl").exists() else None,
            wandb_run_id=checkpoint.state.wandb_run_id if checkpoint else None,
            total_steps=spec.steps,
            console=console,
        )
        ended: Literal["finished", "interrupted", "failed"] = "failed"
        try:
            tracker.message(
                f"training on {place.device} in {learner.precision.name}: {len(kept):,} samples, {spec.steps:,} steps "
                f"of {spec.images_per_step:,} images"
            )
            reader = Reader(index, cache=spec.data.cache)
            batches = Batches(reader, kept, slots, spec, learner.critic_updates, place.device, learner.precision.dtype)
            with reader, batches:
                _take_steps(learner, batches, tracker, run, index.fingerprint, stop)
            ended = "finished" if learner.step >= spec.steps else "interrupted"
        except KeyboardInterrupt:
            ended = "interrupted"
            raise
        except Exception as error:
            tracker.record(f"failed: {error}")
            raise
        finally:
            tracker.close(ended)
            with suppress(InputError, OSError):  # no figures yet, or no room: what ended the run matters more
                write_report(run)
    return Outcome(ended, learner.step, learner.images)


def _take_steps(
    learner: Learner, batches: Batches, tracker: Tracker, run: Path, fingerprint: str, stop: threading.Event
) -> None:
    """The loop: critic, critic, …, generator; and now and then a figure, a picture, a checkpoint."""
    spec = learner.spec
    guard = Guard(spec.guard, tracker.message)
    meter = _Meter(learner, batches)
    if learner.step == 0:
        _picture(learner, run, tracker)
    leaving = learner.step >= spec.steps or stop.is_set()
    while not leaving:
        for repeat in range(spec.objective.n_critic):
            critic_loss = learner.update_critic(next(batches), repeat)
        generator_loss = learner.update_generator()
        tracker.progress(learner.step)

        last = learner.step == spec.steps
        leaving = last or stop.is_set()
        logging = last or learner.step % spec.tracking.log_every == 0
        saving = leaving or learner.crossed(spec.training.checkpoint_every_images)
        if logging or saving:  # the only places where the host waits for the device
            figures = _figures(critic_loss, generator_loss, learner.gradient_norms())
            guard.check_figures(learner.step, figures)
            if logging:
                tracker.log(learner.step, {**meter.clock(), **figures, **meter.rates()})
        if last or learner.crossed(spec.tracking.sample_every_images):
            _picture(learner, run, tracker)
        if leaving and not last:
            tracker.message("stopping: saving a checkpoint; another signal ends the run at once")
        if saving:
            guard.check_weights(learner.step, learner.finite())
            learner.save(run, fingerprint, tracker.wandb_run_id)
            prune(run, spec.training.keep_last, spec.keep_every_steps)


def _figures(critic_loss: Loss, generator_loss: Loss, norms: dict[str, Tensor]) -> dict[str, float]:
    """The step's figures on the host, in one transfer."""
    tensors = {
        "loss/critic": critic_loss.value.detach(),
        "loss/generator": generator_loss.value.detach(),
        **critic_loss.figures,
        **generator_loss.figures,
        **{f"grad_norm/{side}": norm for side, norm in norms.items()},
    }
    values = torch.stack([tensor.double() for tensor in tensors.values()]).tolist()
    return dict(zip(tensors, values, strict=True))


class _Meter:
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


def _picture(learner: Learner, run: Path, tracker: Tracker) -> None:
    """Write the grid of the run's fixed latents, drawn by the averaged generator."""
    spec = learner.spec
    latents = sample_latents(spec.seed, 0, spec.tracking.sample_count, spec.model.latent_dim, learner.precision.device)
    images = list(draw_images(learner.averaged_generator(), latents.to(learner.precision.dtype)))
    path = run / "samples" / f"{learner.images:010d}.png"
    save_grid(images, path)
    tracker.picture(learner.step, learner.images, path)
