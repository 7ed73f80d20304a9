"""The training loop: the same for every recipe and every launcher."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from distgan.checkpoint import Best, Checkpoint, Snapshot, best_of, checkpoints, drop_later, go_back, mark_best, prune
from distgan.data.conditions import LabelDistribution, label_names, label_vectors
from distgan.data.order import Ids
from distgan.data.prefetch import Batches
from distgan.data.selection import select_samples, split_note
from distgan.devices import lacks_memory
from distgan.errors import RunError
from distgan.export import export_safetensors
from distgan.networks import ImageShape
from distgan.networks.normalisation import has_batchnorm
from distgan.objectives import Loss
from distgan.sampling import draw_images, sample_labels, sample_latents, save_grid, thumbnails
from distgan.sampling.real import first_trained_on
from distgan.spec import PrecisionName, RunSpec
from distgan.stages import Stage
from distgan.tracking import REAL, Sink, Tracker, open_tracker
from distgan.tracking.timeline import TIMELINE, timeline
from distgan.tracking.tracker import Which
from distgan.training.advice import Advice
from distgan.training.complete import complete
from distgan.training.evaluation import Evaluation, improves
from distgan.training.folder import open_run, precision_of
from distgan.training.guard import MOST_COMPARED, Guard, RollBack, Trouble, diversity
from distgan.training.learner import Learner
from distgan.training.micro_batches import micro_batch_note
from distgan.training.precision import Precision
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
    spec = spec.in_images(len(kept))
    asked, own = spec.training.precision, Precision("auto", workers.device).name

    def begun_in() -> PrecisionName:
        before = precision_of(run) if resume else None
        if before == "auto":  # an earlier version's, which was float32 on every processor
            return "float32" if workers.device.type == "cpu" else own
        return before or own

    if asked == "auto":  # what the run has begun in, else what rank 0 is good at: the same for all
        spec = spec.with_training(precision=workers.from_first(begun_in))

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
        of_parts = micro_batch_note(spec, learner.generator, learner.critic)
        notes = [note for note in (split_note(index, spec), spec.cut_short, of_parts) if note]
        try:
            if evaluation:
                tracker.scores_of(evaluation.facts)
                notes += evaluation.notes
                if workers.first:
                    notes += evaluation.other_best(run)
            for note in notes:
                tracker.message(note)
            tracker.message(
                f"training on {_where(workers)} in {learner.precision.name}{_threads(workers)}: {len(kept):,} samples, "
                f"{spec.steps:,} steps of {_of_images(spec)}"
            )
            if checkpoint and checkpoint.state.spec.training.precision == "auto":
                tracker.message(
                    "the checkpoint, of an earlier version, does not say in which precision it was computed; going on "
                    f"in {spec.training.precision}"
                )
            if asked == "auto" and spec.training.precision != own:
                tracker.message(
                    f"going on in {spec.training.precision}, as the run began; of itself this device would compute in "
                    f"{own}"
                )
            with Reader(index, cache=spec.data.cache) as reader:
                with workers.together():
                    if workers.first:
                        _show_real(reader, kept, spec, run)
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
                _offer("last", Checkpoint(checkpoints(run)[-1]), {}, tracker)
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
            try:
                if workers.first and spec.tracking.timeline:
                    # No grids yet, or no room: what ended the run matters more.
                    with suppress(InputError, OSError):
                        timeline(run, run / TIMELINE)
                        tracker.film(learner.step, learner.images, run / TIMELINE)
            finally:
                tracker.close(ended)
            if workers.first:
                with suppress(InputError, OSError, ImportError):  # no figures yet, no room, or nothing to draw with
                    from distgan.tracking.report import write_report  # no step need wait for that

                    write_report(run, complete=complete)
    return Outcome(ended, learner.step, learner.images)


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
    meter = _Meter(learner, batches)
    if learner.step == 0:
        _picture(learner, run, tracker)
    steps = spec.steps
    leaving = learner.step >= steps or workers.agree(signals.wish) == LEAVE
    while not leaving:
        stage = learner.stage
        if spec.training.stages and learner.step == stage.first_step:
            tracker.message(_said_of_stage(stage))
            guard.begin_stage(_epoch_steps(stage, batches.samples))
        of_critic: dict[str, Tensor] = {}  # of its last update; a penalty, of the last one that had it
        for repeat in range(spec.objective.n_critic):
            real = next(batches)
            critic_loss = learner.update_critic(real, repeat)
            of_critic |= critic_loss.figures
        generator_loss = learner.update_generator(real)
        critic_loss = critic_loss._replace(figures=of_critic)
        figures = _figures(spec, critic_loss, generator_loss, learner.gradient_norms())
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
            values = _to_host(figures, learner)
            if stage.batch_size > 1:
                values["diversity"] = _diversity(learner, critic_loss.fake, real.images)
            rates = {f"learning_rate/{name}": rate for name, rate in learner.learning_rates().items()}
            memory = _memory(workers)
            if spec.training.stages:
                values |= {"image_size": stage.size, "fade": spec.timetable.fade(learner.step - 1)}
            values |= guard.means()
            if evaluation and evaluating:
                with learner.clock.paused():
                    values |= evaluation.scores(learner)
                best = workers.from_first(partial(_new_best, learner, run, values, evaluation.digest, writer))
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
            _picture(learner, run, tracker)
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
                    _begin_checkpoint(writer, snapshot, run, best, guard.suspects, tracker)
                    if at_once:
                        writer.wait()
            if at_once:  # it is there
                signals.save.clear()


def _begin_checkpoint(
    writer: Writer, snapshot: Snapshot, run: Path, best: Best | None, suspects: set[int], tracker: Tracker
) -> None:
    """Have a checkpoint written; it is then the best one if its score is, and others may go."""
    training = snapshot.state.spec.training

    def write() -> Checkpoint:
        saved = snapshot.write(run)
        if best:
            mark_best(run, best._replace(path=saved.path))
        prune(run, training.keep_last, _spans(snapshot.state.spec), suspects)
        return saved

    def offer(saved: Checkpoint) -> None:
        if best:
            _offer("best", saved, {best.metric: best.value}, tracker)

    writer.begin(write, offer)


def _epoch_steps(stage: Stage, samples: int) -> int:
    """Steps of a stage in which so many samples are shown once each."""
    return -(-samples // stage.images_per_step)


def _spans(spec: RunSpec) -> Callable[[int], int] | None:
    """From a step to the span of ``training.keep_every_images`` that it lies in."""
    images, timetable = spec.training.keep_every_images, spec.timetable
    return None if images is None else lambda step: timetable.images(step) // images


def _new_best(learner: Learner, run: Path, values: dict[str, float], of: str, writer: Writer) -> Best | None:
    """The best score of the run, where the one just made is it; its checkpoint is still to be written.

    The best score so far, and the images that it is of, are added to the values. One that was computed from something
    else, as ``of`` says, is none.
    """
    metric = learner.spec.training.keep_best
    if metric is None or not math.isfinite(values.get(f"score/{metric}", math.nan)):
        return None
    writer.wait()  # it may be of the best one so far
    value, before = values[f"score/{metric}"], best_of(run)
    if before and (before.metric, before.of) == (metric, of) and not improves(metric, value, before.value):
        values |= {f"best/{metric}": before.value, "best/images": learner.spec.timetable.images(before.step)}
        return None
    values |= {f"best/{metric}": value, "best/images": learner.images}
    return Best(run, metric, value, of)


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


def _offer(which: Which, checkpoint: Checkpoint, scores: dict[str, float], tracker: Tracker) -> None:
    """Let sinks have the generator of a checkpoint."""
    state = checkpoint.state
    facts = {"step": state.step, "images": state.images, "fingerprint": state.fingerprint, **scores}

    def export(out: Path) -> None:
        if not checkpoint.path.exists():
            raise InputError("its checkpoint is gone: there is a better one, or a roll-back has removed it")
        export_safetensors(checkpoint, out)

    tracker.generator(which, state.step, facts, export)


def _path(checkpoint: Checkpoint | None) -> Path | None:
    """Where a checkpoint lies, for processes that are to read it too."""
    return checkpoint.path if checkpoint else None


def _where(workers: Workers) -> str:
    return str(workers.device) if workers.world_size == 1 else f"{workers.world_size} × {workers.device.type}"


def _threads(workers: Workers) -> str:
    """With how many threads processors compute, for people. To be called by all workers, which may differ."""
    if workers.device.type != "cpu":
        return ""
    threads = torch.get_num_threads()
    most, least = (abs(round(count)) for count in workers.most([threads, -threads]))
    count = f"{most} thread{'s' if most > 1 else ''}" if most == least else f"{least} to {most} threads"
    return f", {count}{' each' if workers.world_size > 1 else ''}"


def _of_images(spec: RunSpec) -> str:
    """What a step's images are, for people."""
    stages = spec.timetable.stages
    images = f"{' then '.join(dict.fromkeys(f'{stage.images_per_step:,}' for stage in stages))} images"
    if spec.training.accumulate > 1:
        images += f", each batch in {spec.training.accumulate} micro-batches"
    return f"{images}, growing from {stages[0].size} to {stages[-1].size} pixels" if len(stages) > 1 else images


def _said_of_stage(stage: Stage) -> str:
    said = f"step {stage.first_step:,}: images of {stage.size} pixels, in batches of {stage.batch_size}"
    return f"{said}; new layers fade in over {stage.fade_images:,} images" if stage.fade_images else said


def _figures(spec: RunSpec, critic: Loss, generator: Loss | None, norms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The step's figures, on the device."""
    losses = {"loss/critic": critic.value, "loss/generator": generator.value} if generator else {}
    return {
        **(losses or {f"loss/{spec.objective.kind}": critic.value}),
        **critic.figures,
        **(generator.figures if generator else {}),
        **{f"grad_norm/{name}": norm for name, norm in norms.items()},
    }


def _to_host(figures: dict[str, Tensor], learner: Learner) -> dict[str, float]:
    """Figures of the global batch as numbers, in one transfer."""
    values = learner.average(torch.stack([figure.detach().double() for figure in figures.values()])).tolist()
    return dict(zip(figures, values, strict=True))


def _diversity(learner: Learner, fake: Tensor, real: Tensor) -> float:
    """How diverse the generated images of the global batch are, as a share of the real ones' diversity."""
    of_fake, of_real = (diversity(learner.assemble(thumbnails(images), MOST_COMPARED)) for images in (fake, real))
    return float(of_fake / of_real.clamp_min(1e-12))


def _memory(workers: Workers) -> dict[str, float]:
    """GiB of the fullest GPU since the last call; nothing on CPUs. The allocator knows: no device is waited for."""
    if workers.device.type != "cuda":
        return {}
    peaks = torch.cuda.max_memory_allocated(workers.device), torch.cuda.max_memory_reserved(workers.device)
    torch.cuda.reset_peak_memory_stats(workers.device)
    allocated, reserved = (value / 2**30 for value in workers.most(peaks))
    return {"gpu/memory_gib": allocated, "gpu/memory_reserved_gib": reserved}


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


def _show_real(reader: Reader, kept: Ids, spec: RunSpec, run: Path) -> None:
    """Write the first real images that the run trains on, in the layout of its sample grids; once in a run."""
    path = run / "samples" / REAL
    if not path.exists():
        count, data = spec.tracking.sample_count, spec.data
        ids = first_trained_on(kept, spec.seed, count, block=data.block_samples, lanes=data.lanes)
        save_grid(list(reader.read(ids)), path, columns=math.ceil(math.sqrt(count)))


def _picture(learner: Learner, run: Path, tracker: Tracker) -> None:
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
