"""``distgan bench quality``: competitors train on the same images, one after the other, and are scored at fixed points.

The folder that it writes into holds ``leaderboard.md`` with ``curves.png`` and ``grids.png``, ``results.jsonl`` (a line
an evaluation), ``scores/`` (what is known of each run) and ``runs/`` (the runs' own folders, with a generator for each
evaluation). All of it is written anew after each run; called again, what is done is not done again.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distgan.bench.charts import draw_curves, draw_grids
from distgan.bench.competitors import Competitor, check_changes, data_of, schedules_that_end_elsewhere
from distgan.bench.leaderboard import Leaderboard, draw_up
from distgan.bench.records import Evaluation, Record, read_record, write_record
from distgan.bench.tables import board_table, points_table, rounded
from distgan.bench.textbook import train_textbook
from distgan.checkpoint import Checkpoint, checkpoints, generators
from distgan.data.conditions import LabelDistribution, label_names, label_vectors
from distgan.data.selection import select_samples
from distgan.devices import local_device
from distgan.errors import RunError
from distgan.evaluation import Alone, Comparison, held_out, real_images
from distgan.evaluation.metrics import BETTER_HIGHER, BETTER_LOWER, METRICS
from distgan.networks import ImageShape
from distgan.sampling import Bytes
from distgan.sampling.generator import Generator
from distgan.sampling.scored import evaluate
from distgan.spec import RunSpec, StageSpec, differences, entries_that_differ, load_spec
from distgan.tracking import Sink
from distgan.training.complete import complete
from distgan.training.folder import LOCK, alone_in
from distgan.training.learner import Learner
from distgan.training.loop import train
from distgan.training.workers import Workers
from shards.errors import InputError
from shards.files import write_or_say
from shards.index import Index
from shards.progress import Bars

METRICS_UNLESS_TOLD = ("frechet", "kernel", "neighbours")
CALIBRATION_SECONDS = 20.0
"""Of training, from which the length of a run in images is told where it is given in minutes."""
_ENDLESS = 10**12
"""Images of a run that something else ends."""
WARM_UP_STEPS = 3
"""That are not counted then: memory is taken and kernels are chosen."""
DRAWN = 25
"""Images of each competitor in the picture that shows them side by side."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Yardstick:
    """What all competitors have in common.

    Attributes:
        shards: The packed set that they learn from.
        minutes: How long each trains; None where ``images`` says it.
        images: How long each trains, in real images shown; None where ``minutes`` says it.
        every: Images between two evaluations; None for an eighth of the length.
        seeds: Runs of each: their seeds are 0, 1, ….
        count: Images to draw for an evaluation; at most as many real ones are taken.
        metrics: Names in METRICS. The leaderboard is of the first one's score.
        features: As :func:`distgan.evaluation.features.load_features` takes it.
        held_out: The packed set to compare with; None for ``shards``, of another split.
        where: Which of its images; None for those that are trained on, of another split.
        common: ``key.path=value``: changes of all recipes.
    """

    shards: str
    minutes: float | None = None
    images: int | None = None
    every: int | None = None
    seeds: int = 1
    count: int = 2_000
    metrics: tuple[str, ...] = METRICS_UNLESS_TOLD
    features: str | None = None
    held_out: str | None = None
    where: Mapping[str, object] | None = None
    common: tuple[str, ...] = ()


class Quality:
    """A benchmark in a folder. Making one checks all that can be wrong; it trains and writes nothing.

    Args:
        taking_part: The competitors.
        yardstick: What they have in common.
        out: The folder.

    Attributes:
        distance: What the Fréchet distance of the features is called; "" without features.

    Raises:
        InputError: The shards, the held-out images, the features, the metrics, a recipe and the folder do not fit each
            other.
    """

    def __init__(self, taking_part: Sequence[Competitor], yardstick: Yardstick, out: Path) -> None:
        if (yardstick.minutes is None) == (yardstick.images is None):
            raise InputError("say how long each competitor trains: either --minutes or --images")
        if yardstick.count < 2:
            raise InputError("--count is at least 2")
        check_changes(yardstick.common)
        self._taking_part, self._yardstick, self._out = list(taking_part), yardstick, out
        self._runs = [(competitor, seed) for seed in range(yardstick.seeds) for competitor in taking_part]
        self._device = local_device()
        index = Index.load(yardstick.shards)
        compared = Index.load(yardstick.held_out) if yardstick.held_out else index
        self._image = ImageShape(index.transform.channels, index.transform.size)
        self._data = data_of(yardstick.shards, self._image.size, yardstick.common)
        trained_on = {name: value for name, value in self._data.where.items() if name != "split"}
        self._held = held_out(compared, trained_on if yardstick.where is None else yardstick.where)
        comparison = Comparison.of_run(
            RunSpec(name="quality", data=self._data),
            self._image.channels,
            compared,
            self._held.where,
            whose="each competitor",
            count=yardstick.count,
            metrics=yardstick.metrics,
            features=yardstick.features,
            workers=Alone(self._device),
        )
        self.distance = str(comparison.facts.get("distance", ""))
        self._facts, self._notes = comparison.facts, [note for note in (self._held.note, *comparison.notes) if note]
        self._score = self._leading(comparison.scores)
        for competitor in self._taking_part:
            try:
                self._check(competitor)
            except InputError as error:
                raise InputError(f"{competitor.text}: {error}") from None
        self._settings = {
            "minutes": yardstick.minutes,
            "images": yardstick.images,
            "every": yardstick.every,
            "set": list(yardstick.common),
            "trained_on": index.fingerprint,
            "metrics": list(yardstick.metrics),
            "compared_with": self._facts,
            "device": str(self._device),
            "threads": torch.get_num_threads(),
        }
        self._check_folder()

    def run(self, say: Say, bars: Bars, stop: threading.Event, *, console: bool = True) -> bool:
        """Train and score all that has not been, and write down what comes of it after each run.

        Args:
            say: Tells the person what happens.
            bars: Makes a progress bar with a title.
            stop: When set, this ends soon; what is done is kept.
            console: Show the progress of training on the terminal.

        Returns:
            Whether all is done.

        Raises:
            DamageError: An image is not what was packed.
            InputError: Something cannot be written, or another process is at work in the folder.
            OSError: A run's folder cannot be written.
        """
        try:
            self._out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {self._out}: {error.strerror or error}") from None
        with alone_in(self._out):
            return self._all_done(say, bars, stop, console)

    def _all_done(self, say: Say, bars: Bars, stop: threading.Event, console: bool) -> bool:
        """As :meth:`run`, of a folder that nobody else writes to."""
        write_or_say(self._out / "settings.json", _json(self._settings))
        lengths = self._lengths(say, stop)
        if self._yardstick.minutes is not None:
            self._notes.append(
                "the length of each run in images follows from its speed, measured once before; its minutes vary with "
                "what else the machine does"
            )
        for number, (competitor, seed) in enumerate(self._runs, start=1):
            if stop.is_set():
                return False
            spec = self._spec(competitor, seed, lengths.get(competitor.text, 1))
            if seed == 0:
                self._notes += [f"{competitor.label}: {note}" for note in schedules_that_end_elsewhere(spec)]
            record = self._record(competitor, seed)
            if record.complete:
                continue
            say(f"run {number} of {len(self._runs)}: {competitor.label}, seed {seed}, {spec.training.images:,} images")
            record = self._made(competitor, record, spec, say, bars, stop, console)
            if not record.complete:
                return False
            self.board()
        return True

    def board(self) -> Leaderboard | None:
        """Write the leaderboard of all runs in the folder; None where none has come to its end yet.

        Raises:
            InputError: It cannot be written, or what was written before is damaged.
        """
        read = (read_record(path) for path in sorted((self._out / "scores").glob("*.json")))
        records = sorted(
            (record for record in read if record and record.complete),
            key=lambda record: (not record.baseline, record.competitor, record.seed),
        )
        results = [record.result for record in records]
        if all(result.failure for result in results):
            return None
        baselines = list(dict.fromkeys(record.competitor for record in records if record.baseline))
        board = draw_up(results, self._score, baselines)
        title = self.distance if self._score == "frechet" else self._score
        lines = [
            {
                "competitor": record.competitor,
                "seed": record.seed,
                "images": each.images,
                "minutes": each.minutes,
                "images_per_second": each.images / (60 * each.minutes),
                **each.scores,
            }
            for record in records
            for each in record.evaluations
        ]
        write_or_say(self._out / "results.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        draw_curves(results, self._score, title, self._out / "curves.png")
        draw_grids(self._grids(records, title), self._out / "grids.png")
        text = [
            "# Leaderboard\n",
            f"Trained on {self._yardstick.shards}, {self._image.size} pixels; {self._length_said()}; {self._device}, "
            f"{torch.get_num_threads()} thread(s).\n",
            board_table(board, self.distance),
            *(f"- {note}" for note in self._notes),
            "\n![Scores against images and minutes](curves.png)\n",
            "![Images of the same latents](grids.png)\n",
            "## All evaluations\n",
            points_table(results, self.distance),
        ]
        write_or_say(self._out / "leaderboard.md", "\n".join(text).encode())
        return board

    # ---- what is checked ----

    def _leading(self, scores: Sequence[str]) -> str:
        """The score that the leaderboard is of: the first metric's.

        Raises:
            InputError: It cannot be had, or none is better than another by it.
        """
        metric = self._yardstick.metrics[0]
        names = [name for name in METRICS[metric].names if name in BETTER_LOWER | BETTER_HIGHER]
        if not names:
            raise InputError(f"--metrics {metric}: no generator is better than another by it; name another one first")
        if names[0] not in scores:
            raise InputError(
                f"--metrics {metric} cannot be had without features: pip install 'distgan[lite0]', give --features, or "
                "take --metrics wasserstein"
            )
        return names[0]

    def _spec(self, competitor: Competitor, seed: int, images: int) -> RunSpec:
        return competitor.spec(self._data, self._yardstick.common, seed, images, self._yardstick.every)

    def _check(self, competitor: Competitor) -> None:
        """See that a competitor can be trained, and has not learnt from what it is compared with.

        Raises:
            InputError: It cannot, or would.
        """
        spec = complete(self._spec(competitor, 0, self._yardstick.images or 1))
        index, kept = select_samples(spec)
        seen = len(np.intersect1d(kept, self._held.ids)) if index.fingerprint == self._held.index.fingerprint else 0
        if seen:
            raise InputError(
                f"{seen:,} of the {len(self._held.ids):,} images to compare with would be trained on. Pack a folder "
                "with train/ and test/ in it, or give a packed set of other images with --held-out"
            )
        condition = spec.model.condition
        labels = LabelDistribution.of(label_names(condition, index), label_vectors(condition, index, kept))
        image = ImageShape.of(spec, self._image.channels)
        Learner(spec, image, Workers.alone(torch.device("cpu")), labels)  # what does not fit together is said here

    def _check_folder(self) -> None:
        """See that the folder is empty, or holds results that can be compared with those to come.

        Raises:
            InputError: It does not.
        """
        path = self._out / "settings.json"
        try:
            before = json.loads(path.read_bytes())
            if not isinstance(before, dict):
                raise ValueError("it holds no settings")
        except (FileNotFoundError, NotADirectoryError):
            if self._out.exists() and (
                not self._out.is_dir() or any(path.name != LOCK for path in self._out.iterdir())
            ):
                raise InputError(f"{self._out} is not empty and holds no benchmark: give another --out") from None
            return
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from None
        after = json.loads(_json(self._settings))
        changed = [f"{name}: {old} -> {new}" for name, (old, new) in entries_that_differ([before, after]).items()]
        _refuse(f"{self._out} holds results that cannot be compared with these", changed, "Give another --out")
        for competitor, seed in self._runs:
            run, record = self._run(competitor, seed), self._record_path(competitor, seed)
            if (run / "spec.yaml").exists():
                begun = complete(load_spec(run / "spec.yaml"))
                assert begun.training.images is not None
                asked = complete(self._spec(competitor, seed, begun.training.images)).in_images(1)
                asked = asked.with_training(precision=begun.training.precision)
                remedy = f"Remove that folder and {record}, or give another --out"
                _refuse(f"{competitor.text}: {run} was begun otherwise", differences(begun, asked), remedy)

    # ---- what is done ----

    def _lengths(self, say: Say, stop: threading.Event) -> dict[str, int]:
        """Images that each competitor is shown, by its text, unless its own changes say it.

        Where minutes are given its speed is measured, once for all calls.
        """
        if self._yardstick.images is not None:
            return {competitor.text: self._yardstick.images for competitor in self._taking_part}
        assert self._yardstick.minutes is not None
        path = self._out / "lengths.json"
        lengths: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
        for competitor in self._taking_part:
            if competitor.text in lengths or competitor.says_length or stop.is_set():
                continue
            spec = self._spec(competitor, 0, _ENDLESS)
            stages = [stage.images for stage in spec.timetable.stages]
            speeds = [self._speed(competitor, number, stop) for number in range(len(stages))]
            if stop.is_set():
                break
            lengths[competitor.text] = shown_within(60 * self._yardstick.minutes, stages, speeds)
            said = ", then ".join(f"{speed:,.3g}" for speed in speeds)
            say(f"{competitor.label}: {said} images/s, so {lengths[competitor.text]:,} images")
            write_or_say(path, _json(lengths))
        return lengths

    def _speed(self, competitor: Competitor, number: int, stop: threading.Event) -> float:
        """Images/s of a competitor's training alone, in the stage that so many others come before.

        A fade's layers for the size before are left out: they are little beside the whole.
        """
        spec = self._spec(competitor, 0, _ENDLESS)
        watch = _Stopwatch(stop, before=number)
        with tempfile.TemporaryDirectory() as folder:
            if competitor.is_textbook:
                train_textbook(spec, Path(folder), self._device, stop=watch.stop, progress=watch.shown)
            else:
                if spec.training.stages:
                    spec = spec.with_training(stages=_soon_at(number, spec.training.stages))
                watch.images_at = spec.timetable.images
                here = Workers.alone(self._device)
                train(spec, Path(folder) / "run", here, stop=watch.stop, console=False, listener=watch)
        return watch.images_per_second

    def _made(
        self,
        competitor: Competitor,
        record: Record,
        spec: RunSpec,
        say: Say,
        bars: Bars,
        stop: threading.Event,
        console: bool,
    ) -> Record:
        """Train a run and score all that it has kept; incomplete where this was stopped."""
        run, failure = self._out / record.run, ""
        try:
            if not self._trained(competitor, spec, run, bars, stop, console):
                return record
        except RunError as error:
            failure = str(error)
            say(f"{competitor.label}, seed {spec.seed}, failed: {failure}")
        scored = {each.step: each for each in record.evaluations}
        kept = _kept(run)
        for number, checkpoint in enumerate(kept, start=1):
            state = checkpoint.state
            if state.step in scored:
                continue
            if stop.is_set():
                return record
            with bars(f"scoring {number} of {len(kept)}") as progress:
                found = evaluate(
                    checkpoint,
                    self._yardstick.held_out or self._yardstick.shards,
                    count=self._yardstick.count,
                    metrics=self._yardstick.metrics,
                    features=self._yardstick.features,
                    where=self._held.where,
                    device=self._device,
                    progress=progress,
                )
            minutes = state.training_seconds / 60
            scored[state.step] = Evaluation(step=state.step, images=state.images, minutes=minutes, scores=found.scores)
            say(
                f"  {state.images:>10,} images, {minutes:6.2f} minutes: "
                + ", ".join(f"{name} {rounded(value)}" for name, value in found.scores.items())
            )
            record = self._written(competitor, spec.seed, scored)
        return self._written(competitor, spec.seed, scored, failure=failure, complete=True)

    def _trained(
        self, competitor: Competitor, spec: RunSpec, run: Path, bars: Bars, stop: threading.Event, console: bool
    ) -> bool:
        """Train a run to its end, from where it is; False where this was stopped.

        Raises:
            RunError: Training went wrong.
        """
        if not competitor.is_textbook:
            here = Workers.alone(self._device)
            return train(spec, run, here, resume=run.exists(), stop=stop, console=console).ended == "finished"
        assert spec.training.images is not None
        kept = _kept(run)
        if kept and kept[-1].state.images >= spec.training.images:
            return True
        with bars("training") as progress:
            return train_textbook(spec, run, self._device, stop=stop, progress=progress)

    # ---- what is on disk ----

    def _run(self, competitor: Competitor, seed: int) -> Path:
        return self._out / "runs" / competitor.folder / f"seed-{seed}"

    def _record(self, competitor: Competitor, seed: int) -> Record:
        """What is known of a run."""
        return read_record(self._record_path(competitor, seed)) or self._new(competitor, seed)

    def _new(self, competitor: Competitor, seed: int, **fields: Any) -> Record:
        run = self._run(competitor, seed).relative_to(self._out)
        return Record(competitor=competitor.label, baseline=competitor.is_textbook, seed=seed, run=str(run), **fields)

    def _record_path(self, competitor: Competitor, seed: int) -> Path:
        return self._out / "scores" / f"{competitor.folder}-seed-{seed}.json"

    def _written(self, competitor: Competitor, seed: int, scored: Mapping[int, Evaluation], **fields: Any) -> Record:
        evaluations = tuple(scored[step] for step in sorted(scored))
        record = self._new(competitor, seed, evaluations=evaluations, **fields)
        write_record(self._record_path(competitor, seed), record)
        return record

    # ---- what is shown ----

    def _length_said(self) -> str:
        asked = self._yardstick
        return f"{asked.minutes:g} minutes each" if asked.images is None else f"{asked.images:,} images each"

    def _grids(self, records: Sequence[Record], title: str) -> dict[str, list[Bytes]]:
        """Real images, and what each competitor's first run draws at its end, by what is written above them."""
        with real_images(self._held, torch.device("cpu")) as real:
            some = real(0, min(DRAWN, len(self._held.ids))).permute(0, 2, 3, 1)
        grids = {"real, held out": list(some.numpy())}
        shown: set[str] = set()
        for record in sorted(records, key=lambda record: record.seed):
            kept = _kept(self._out / record.run)
            if record.competitor in shown or not kept or not record.evaluations:
                continue
            shown.add(record.competitor)
            last = record.evaluations[-1]
            above = f"{record.competitor}\n{title} {rounded(last.scores[self._score])} after {last.minutes:.1f} minutes"
            grids[above] = list(Generator(kept[-1]).images(DRAWN))
        return grids


def _soon_at(number: int, stages: Sequence[StageSpec]) -> list[StageSpec]:
    """Stages of which one is reached after a step of each of those before, and lasts; nothing fades in."""
    *smaller, last = [stage.model_copy(update={"fade_images": 0}) for stage in stages]
    lengths = [*[1] * number, _ENDLESS, *[1] * len(smaller)]
    return [*(stage.model_copy(update={"images": n}) for stage, n in zip(smaller, lengths, strict=False)), last]


def shown_within(seconds: float, stages: Sequence[int | None], speeds: Sequence[float]) -> int:
    """Images that a run shows within a time; at least one.

    Args:
        seconds: The time.
        stages: The images of each of its stages; the last one lasts until the end.
        speeds: Images/s in each.
    """
    shown = 0
    for images, speed in zip(stages, speeds, strict=True):
        if images is None or images >= seconds * speed:
            return max(1, shown + round(seconds * speed))
        shown, seconds = shown + images, seconds - images / speed
    return shown


class _Stopwatch(Sink):
    """Stops training after a while, and knows how fast it was.

    Args:
        asked: When set, training stops at once.
        before: Steps that are not counted.
    """

    def __init__(self, asked: threading.Event, before: int = 0) -> None:
        self.stop = threading.Event()
        self.images_at: Callable[[int], int] = lambda steps: steps
        self.images_per_second = math.nan
        self._asked = asked
        self._steps = -before
        self._began = (0.0, 0)

    def progress(self, step: int) -> None:
        """Take note that a step is done."""
        self.shown(self.images_at(step), 0)

    def shown(self, images: int, total: int) -> None:
        """Take note that so many images have been shown."""
        now, self._steps = time.perf_counter(), self._steps + 1
        if self._steps == WARM_UP_STEPS:
            self._began = now, images
        seconds = now - self._began[0]
        if self._steps > WARM_UP_STEPS and seconds >= CALIBRATION_SECONDS:
            self.images_per_second = (images - self._began[1]) / seconds
            self.stop.set()
        if self._asked.is_set():
            self.stop.set()


def _kept(run: Path) -> list[Checkpoint]:
    """The generators that a run has kept, and its last checkpoint where that is later; oldest first."""
    kept = [Checkpoint(path) for path in generators(run)]
    last = [Checkpoint(path) for path in checkpoints(run)[-1:]]
    return [*kept, *(each for each in last if not kept or each.state.step > kept[-1].state.step)]


def _refuse(what: str, changed: Sequence[str], remedy: str) -> None:
    """Refuse to go on where something has changed.

    Raises:
        InputError: It has.
    """
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise InputError(f"{what}:\n{lines}\n{remedy}.")


def _json(document: object) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"
