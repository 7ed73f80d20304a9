"""The training loop: the same for every recipe and every launcher."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from distgan.checkpoint import Checkpoint, go_back, prune
from distgan.data.conditions import LabelDistribution, label_names, label_vectors
from distgan.data.order import rank_slots
from distgan.data.prefetch import Batches
from distgan.data.selection import select_samples
from distgan.networks import ImageShape
from distgan.objectives import Loss
from distgan.sampling import draw_images, sample_labels, sample_latents, save_grid
from distgan.spec import RunSpec
from distgan.tracking import Tracker, open_tracker, write_report
from distgan.training.complete import complete
from distgan.training.folder import open_run
from distgan.training.guard import Guard, RollBack, Trouble, diversity
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
    spec = complete(spec)
    index, kept = select_samples(spec, place.world_size)
    vectors = label_vectors(spec.model.condition, index, kept)
    labels = LabelDistribution.of(label_names(spec.model.condition, index), vectors)
    slots = torch.from_numpy(rank_slots(spec.training.batch_size, place.rank, place.world_size))

    def begin(checkpoint: Checkpoint | None) -> tuple[Learner, Guard]:
        image = ImageShape(index.transform.channels, spec.data.image_size)
        learner = Learner(spec, image, place.device, slots, labels)
        if checkpoint:
            learner.load(checkpoint)
        return learner, Guard(spec.guard, checkpoint.state.guard if checkpoint else None)

    learner, guard = begin(None)  # before anything is written: what does not fit together is said here
    with open_run(spec, run, index.fingerprint, resume=resume) as checkpoint:
        if checkpoint:
            learner, guard = begin(checkpoint)
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
            with Reader(index, cache=spec.data.cache) as reader:
                while True:
                    update, dtype = learner.critic_updates, learner.precision.dtype
                    batches = Batches(reader, kept, vectors, slots, spec, update, place.device, dtype)
                    try:
                        with batches:
                            _take_steps(learner, guard, batches, tracker, run, index.fingerprint, stop)
                        break
                    except RollBack as rollback:
                        learner, guard = _roll_back(run, learner, rollback.trouble, begin, tracker)
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
    learner: Learner,
    guard: Guard,
    batches: Batches,
    tracker: Tracker,
    run: Path,
    fingerprint: str,
    stop: threading.Event,
) -> None:
    """The loop: critic, critic, …, generator; and now and then a figure, a picture, a checkpoint.

    Raises:
        RollBack: Training should go back to before a trouble.
    """
    spec = learner.spec
    meter = _Meter(learner, batches)
    if learner.step == 0:
        _picture(learner, run, tracker)
    leaving = learner.step >= spec.steps or stop.is_set()
    while not leaving:
        for repeat in range(spec.objective.n_critic):
            real = next(batches)
            critic_loss = learner.update_critic(real, repeat)
        generator_loss = learner.update_generator(real.labels)
        figures = _figures(spec, critic_loss, generator_loss, learner.gradient_norms())
        guard.observe(figures)
        tracker.progress(learner.step)

        last = learner.step == spec.steps
        leaving = last or stop.is_set()
        saving = leaving or learner.crossed(spec.training.checkpoint_every_images)
        if last or learner.step % spec.tracking.log_every == 0:  # here the host waits for the device
            if len(real.images) > 1:
                figures["diversity"] = diversity(critic_loss.fake) / diversity(real.images).clamp_min(1e-12)
            values = _to_host(figures)
            rates = {f"learning_rate/{name}": rate for name, rate in learner.learning_rates().items()}
            tracker.log(learner.step, {**meter.clock(), **values, **rates, **meter.rates()})
            for trouble in guard.judge(learner.step, learner.images, values.get("diversity")):
                tracker.message(guard.handle(trouble, learner.rollbacks))
        if last or learner.crossed(spec.tracking.sample_every_images):
            _picture(learner, run, tracker)
        if leaving and not last:
            tracker.message("stopping: saving a checkpoint; another signal ends the run at once")
        if saving:
            for trouble in guard.check_state(learner.step, learner.finite()):
                tracker.message(guard.handle(trouble, learner.rollbacks))
            learner.save(run, fingerprint, tracker.wandb_run_id, guard.state())
            prune(run, spec.training.keep_last, spec.keep_every_steps, guard.suspect_from)


def _roll_back(
    run: Path,
    learner: Learner,
    trouble: Trouble,
    begin: Callable[[Checkpoint | None], tuple[Learner, Guard]],
    tracker: Tracker,
) -> tuple[Learner, Guard]:
    """The learner and the guard from before a trouble, with fresh noise and lower learning rates."""
    rollbacks, rate_scale = learner.rollbacks + 1, learner.rate_scale * learner.spec.guard.rollback_lr
    learner, guard = begin(go_back(run, trouble.since))
    learner.set_back(rollbacks, rate_scale)
    tracker.rewind(learner.step)
    tracker.message(
        f"{trouble.text}. Going back to step {learner.step} with fresh noise and learning rates times {rate_scale:g}: "
        f"roll-back {rollbacks} of at most {learner.spec.guard.max_rollbacks}."
    )
    return learner, guard


def _figures(spec: RunSpec, critic: Loss, generator: Loss | None, norms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The step's figures, on the device."""
    losses = {"loss/critic": critic.value, "loss/generator": generator.value} if generator else {}
    return {
        **(losses or {f"loss/{spec.objective.kind}": critic.value}),
        **critic.figures,
        **(generator.figures if generator else {}),
        **{f"grad_norm/{name}": norm for name, norm in norms.items()},
    }


def _to_host(figures: dict[str, Tensor]) -> dict[str, float]:
    """Figures as numbers, in one transfer."""
    values = torch.stack([figure.detach().double() for figure in figures.values()]).tolist()
    return dict(zip(figures, values, strict=True))


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
    device, dtype, count = learner.precision.device, learner.precision.dtype, spec.tracking.sample_count
    latents = sample_latents(spec.seed, 0, count, spec.model.latent_dim, device) * spec.tracking.sample_scale
    labels = sample_labels(learner.labels, spec.seed, 0, count, device=device)
    images = list(draw_images(learner.averaged_generator(), latents.to(dtype), labels.to(dtype)))
    path = run / "samples" / f"{learner.images:010d}.png"
    save_grid(images, path)
    tracker.picture(learner.step, learner.images, path)
