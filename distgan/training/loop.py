"""The training loop: the same for every recipe and every launcher."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from distgan.checkpoint import Checkpoint, checkpoints, drop_later, go_back
from distgan.data.conditions import LabelDistribution, label_names, label_vectors
from distgan.data.prefetch import Batches
from distgan.data.selection import select_samples
from distgan.devices import lacks_memory
from distgan.errors import RunError
from distgan.networks import ImageShape
from distgan.networks.normalisation import has_batchnorm
from distgan.spec import PrecisionName, RunSpec
from distgan.stages import Stage
from distgan.tracking import Sink, Tracker, open_tracker
from distgan.tracking.timeline import TIMELINE, timeline
from distgan.training import said
from distgan.training.advice import Advice
from distgan.training.complete import complete
from distgan.training.evaluation import Evaluation
from distgan.training.figures import Meter, device_memory, diversity_of_batch, figures_of_step, to_host
from distgan.training.folder import open_run, precision_of
from distgan.training.guard import Guard, RollBack, Trouble
from distgan.training.learner import Learner
from distgan.training.pictures import show_generated, show_real
from distgan.training.precision import Precision
from distgan.training.saving import begin_checkpoint, new_best, offer
from distgan.training.workers import GO_ON, LEAVE, SAVE, Wish, Workers
from distgan.training.writer import Writer
from shards.errors import InputError
from shards.reader import Reader

LOCK_WITHIN_S = 30.0
"""Workers that take the place of killed ones wait so long for the folder those still hold."""


class Outcome(NamedTuple):
    """How a call of :func:`train` ended."""

    ended: Literal["finished", "interrupted"]
    step: int
    images: int


def train(
    spec: RunSpec,
    run: Path,
    workers: Workers,
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    save: threading.Event | None = None,
    console: bool = True,
    listener: Sink | None = None,
) -> Outcome:
    """Train what a specification says, from the beginning or from the newest checkpoint, to the end.

    Args:
        spec: The run.
        run: The run's folder, the same for all workers. Created when it is not there.
        workers: This process and the others that call this together.
        resume: Go on from the run's newest checkpoint; begin where there is none yet.
        stop: When set in any process, the run ends after the current step, with a checkpoint.
        save: When set in any process, a checkpoint is written after the current step; cleared then.
        console: Show progress on the terminal.
        listener: Told all that is written down, in the first process.

    Raises:
        InputError: The specification, the shards, the run's folder and its checkpoint do not fit each other.
        RunError: Training went wrong.
        DamageError: A sample is not what was packed.
        OSError: The run's folder could not be written.
    """
    signals = _Signals(stop or threading.Event(), save or threading.Event())
    spec = complete(spec)
    with workers.together():
        index, kept = select_samples(spec)
        if reason := spec.cannot_share(workers.world_size):
            raise InputError(reason)
        vectors = label_vectors(spec.model.condition, index, kept)
        labels = LabelDistribution.of(label_names(spec.model.condition, index), vectors)
    spec, own = _in_precision(spec.in_images(len(kept)), run, workers, resume=resume)

    def begin(checkpoint: Checkpoint | None) -> tuple[Learner, Guard]:
        with workers.together():
            learner = Learner(spec, ImageShape.of(spec, index.transform.channels), workers, labels)
            if checkpoint:
                learner.load(checkpoint)
        remembered = checkpoint.state.guard if checkpoint else {}
        advice = Advice(spec, len(kept), remembered.get("advice"))
        return learner, Guard(spec.guard, remembered, learner.average, _epoch_steps(learner.stage, len(kept)), advice)

    patience = 0.0 if workers.world_size == 1 else LOCK_WITHIN_S
    learner, guard = begin(None)  # before anything is written: what does not fit together is said here
    evaluation = None
    with workers.together():
        if spec.evaluation.every_images is not None:
            evaluation = Evaluation(spec, index, index.transform.channels, workers)
    with ExitStack() as stack:
        bound = ("training.accumulate",) if any(map(has_batchnorm, (learner.generator, learner.critic))) else ()
        place = open_run(spec, run, index.fingerprint, resume=resume, patience_s=patience, bound=bound)
        opened = workers.from_first(lambda: _path(stack.enter_context(place)))
        workers.check_shared(run)
        writer = stack.enter_context(Writer())
        checkpoint = Checkpoint(opened) if opened else None
        if checkpoint:
            learner, guard = begin(checkpoint)
        tracker = Tracker()
        with workers.together():
            if workers.first:
                drop_later(run, learner.step)
                tracker = open_tracker(
                    spec,
                    run,
                    resume_step=learner.step if (run / "metrics.jsonl").exists() else None,
                    wandb_run_id=checkpoint.state.wandb_run_id if checkpoint else None,
                    total_steps=spec.steps,
                    console=console,
                    fingerprint=index.fingerprint,
                    steps_undone=learner.steps_undone,
                )
                if listener:
                    tracker.sinks.append(listener)
        ended: Literal["finished", "interrupted", "failed"] = "failed"
        try:
            notes = said.of_choices(spec, index, learner.generator, learner.critic)
            if evaluation:
                tracker.scores_of(evaluation.facts)
                notes += evaluation.notes
                if workers.first:
                    notes += evaluation.other_best(run)
            notes.append(said.of_training(spec, len(kept), workers))
            notes += said.of_precision(spec, own, checkpoint.state.spec.training.precision if checkpoint else None)
            for note in notes:
                tracker.message(note)
            with Reader(index, cache=spec.data.cache) as reader:
                with workers.together():
                    if workers.first:
                        show_real(reader, kept, spec, run)
                while True:
                    share, dtype = (workers.rank, workers.world_size), learner.precision.dtype
                    batches = Batches(reader, kept, vectors, spec, learner.step, *share, workers.device, dtype)
                    try:
                        with batches, learner.clock.running():
                            _take_steps(
                                learner, guard, batches, evaluation, tracker, writer, run, index.fingerprint, signals
                            )
                        break
                    except RollBack as rollback:
                        learner, guard = _roll_back(run, learner, rollback.trouble, begin, tracker, writer)
            ended = "finished" if learner.step >= spec.steps else "interrupted"
            if ended == "finished" and workers.first:
                offer("last", Checkpoint(checkpoints(run)[-1]), {}, tracker)
        except KeyboardInterrupt:
            ended = "interrupted"
            raise
        except Exception as error:
            tracker.record(f"failed: {error if workers.connected else 'the other workers are gone'}")
            if lacks_memory(error):
                raise RunError(
                    f"rank {workers.rank}: {error}\nTake more workers, a greater training.accumulate, a "
                    "smaller training.batch_size or training.precision=bfloat16."
                ) from None
            raise
        finally:
            _close(tracker, ended, learner, run)
    return Outcome(ended, learner.step, learner.images)


def _in_precision(spec: RunSpec, run: Path, workers: Workers, *, resume: bool) -> tuple[RunSpec, PrecisionName | None]:
    """The run with ``training.precision: auto`` settled: what it has begun in, else what rank 0's device is good at.

    Returns:
        The run, and what this device would have taken by itself; None where the specification asks for one.
    """
    if spec.training.precision != "auto":
        return spec, None
    own = Precision("auto", workers.device).name

    def begun_in() -> PrecisionName:
        before = precision_of(run) if resume else None
        if before == "auto":  # an earlier version's, which was float32 on every processor
            return "float32" if workers.device.type == "cpu" else own
        return before or own

    return spec.with_training(precision=workers.from_first(begun_in)), own


class _Signals(NamedTuple):
    """What this process has been asked for, from outside."""

    stop: threading.Event
    save: threading.Event

    @property
    def wish(self) -> Wish:
        """What it wants all processes to do after this step."""
        return LEAVE if self.stop.is_set() else SAVE if self.save.is_set() else GO_ON


def _take_steps(
    learner: Learner,
    guard: Guard,
    batches: Batches,
    evaluation: Evaluation | None,
    tracker: Tracker,
    writer: Writer,
    run: Path,
    fingerprint: str,
    signals: _Signals,
) -> None:
    """The loop: critic, critic, …, generator; and now and then a figure, a score, a picture, a checkpoint.

    Raises:
        RollBack: Training should go back to before a trouble.
    """
    spec, workers = learner.spec, learner.workers
    meter = Meter(learner, batches)
    if learner.step == 0:
        show_generated(learner, run, tracker)
    steps = spec.steps
    leaving = learner.step >= steps or workers.agree(signals.wish) == LEAVE
    while not leaving:
        stage = learner.stage
        if spec.training.stages and learner.step == stage.first_step:
            tracker.message(said.of_stage(stage))
            guard.begin_stage(_epoch_steps(stage, batches.samples))
        of_critic: dict[str, Tensor] = {}  # of its last update; a penalty, of the last one that had it
        for repeat in range(spec.objective.n_critic):
            real = next(batches)
            critic_loss = learner.update_critic(real, repeat)
            of_critic |= critic_loss.figures
        generator_loss = learner.update_generator(real)
        critic_loss = critic_loss._replace(figures=of_critic)
        figures = figures_of_step(spec, critic_loss, generator_loss, learner.gradient_norms())
        guard.observe(figures)
        tracker.progress(learner.step)
        for sentence in learner.news():
            tracker.message(sentence)

        last = learner.step == steps
        wish = workers.agree(signals.wish)
        leaving = last or wish == LEAVE
        saving = leaving or wish == SAVE or learner.crossed(spec.training.checkpoint_every_images)
        evaluating = evaluation is not None and (last or learner.crossed(spec.evaluation.every_images))
        best = None
        if last or evaluating or learner.step % spec.tracking.log_every == 0:  # here the host waits for the device
            values = to_host(figures, learner)
            if stage.batch_size > 1:
                values["diversity"] = diversity_of_batch(learner, critic_loss.fake, real.images)
            rates = {f"learning_rate/{name}": rate for name, rate in learner.learning_rates().items()}
            memory = device_memory(workers)
            if spec.training.stages:
                values |= {"image_size": stage.size, "fade": spec.timetable.fade(learner.step - 1)}
            values |= guard.means()
            if evaluation and evaluating:
                with learner.clock.paused():
                    values |= evaluation.scores(learner)
                best = workers.from_first(partial(new_best, learner, run, values, evaluation.digest, writer))
                saving = saving or best is not None
            drawn, ratio = learner.images // spec.objective.n_critic, values.get("diversity")
            advice = guard.advise(learner.images, drawn, ratio)
            with workers.together():
                tracker.log(learner.step, {**meter.clock(), **values, **rates, **meter.rates(), **memory})
                for sentence in advice:
                    tracker.message(f"step {learner.step}: {sentence}")
                writer.wait(until_done=False)
            _handle(guard.judge(learner.step, drawn, ratio), guard, learner, tracker)
        if last or learner.crossed(spec.tracking.sample_every_images):
            show_generated(learner, run, tracker)
        if leaving and not last:
            tracker.message("stopping: saving a checkpoint; another signal ends the run at once")
        keeping = learner.crossed(spec.training.keep_generator_every_images)
        tracing = learner.crossed(spec.training.keep_traces_every_images)
        if saving or keeping or tracing:
            with learner.clock.paused():
                finite = bool(workers.from_first(learner.finite))
            _handle(guard.check_state(learner.step, finite), guard, learner, tracker)
        if keeping or tracing:
            with learner.clock.paused(), workers.together():
                if workers.first and keeping:
                    learner.save_generator(run, fingerprint, tracker.wandb_run_id)
                if workers.first and tracing:
                    learner.save_traces(run, fingerprint, tracker.wandb_run_id)
        if saving:
            at_once = leaving or wish == SAVE  # else training goes on while it is written
            with learner.clock.paused(), workers.together():
                if workers.first:
                    writer.wait()
                    snapshot = learner.snapshot(fingerprint, tracker.wandb_run_id, guard.state())
                    begin_checkpoint(writer, snapshot, run, best, guard.suspects, tracker)
                    if at_once:
                        writer.wait()
            if at_once:  # it is there
                signals.save.clear()


def _close(tracker: Tracker, ended: Literal["finished", "interrupted", "failed"], learner: Learner, run: Path) -> None:
    """Draw the film of the grids, end the tracking, write the report; what ended the run matters more than they do."""
    first = learner.workers.first
    try:
        if first and learner.spec.tracking.timeline:
            with suppress(InputError, OSError):  # no grids yet, or no room
                timeline(run, run / TIMELINE)
                tracker.film(learner.step, learner.images, run / TIMELINE)
    finally:
        tracker.close(ended)
    if first:
        with suppress(InputError, OSError, ImportError):  # no figures yet, no room, or nothing to draw with
            from distgan.tracking.report import write_report  # no step need wait for that

            write_report(run, complete=complete)


def _epoch_steps(stage: Stage, samples: int) -> int:
    """Steps of a stage in which so many samples are shown once each."""
    return -(-samples // stage.images_per_step)


def _handle(troubles: list[Trouble], guard: Guard, learner: Learner, tracker: Tracker) -> None:
    """Do what the specification asks about troubles.

    Raises:
        RollBack: Training should go back to before one of them.
        RunError: It should stop.
    """
    with learner.workers.together():
        for trouble in troubles:
            tracker.alert(trouble.kind, trouble.text)
            tracker.message(guard.handle(trouble, learner.rollbacks))


def _roll_back(
    run: Path,
    learner: Learner,
    trouble: Trouble,
    begin: Callable[[Checkpoint | None], tuple[Learner, Guard]],
    tracker: Tracker,
    writer: Writer,
) -> tuple[Learner, Guard]:
    """The learner and the guard from before a trouble, with fresh noise and lower learning rates."""
    rollbacks, rate_scale = learner.rollbacks + 1, learner.rate_scale * learner.spec.guard.rollback_lr
    clock, reached = learner.clock, learner.step + learner.steps_undone  # what is done in vain takes its time too

    def find() -> Path | None:
        writer.wait()
        return _path(go_back(run, trouble.since))

    good = learner.workers.from_first(find)
    learner, guard = begin(Checkpoint(good) if good else None)
    learner.clock = clock
    learner.set_back(rollbacks, reached - learner.step, rate_scale)
    tracker.rewind(learner.step)
    tracker.message(
        f"{trouble.text}. Going back to step {learner.step} with fresh noise and learning rates times {rate_scale:g}: "
        f"roll-back {rollbacks} of at most {learner.spec.guard.max_rollbacks}."
    )
    return learner, guard


def _path(checkpoint: Checkpoint | None) -> Path | None:
    """Where a checkpoint lies, for processes that are to read it too."""
    return checkpoint.path if checkpoint else None
