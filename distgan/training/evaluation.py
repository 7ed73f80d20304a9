"""Scores while training: every worker draws and reads its share, and the first writes down what comes of it."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from distgan.checkpoint import best_of
from distgan.evaluation import Comparison
from distgan.evaluation.features import while_training
from distgan.evaluation.metrics import BETTER_HIGHER, BETTER_LOWER
from distgan.evaluation.scoring import add_up, scores
from distgan.sampling.scored import drawn_images
from distgan.spec import RunSpec
from distgan.training.learner import Learner
from distgan.training.workers import Workers
from shards.errors import InputError
from shards.index import Index
from shards.names import near

SEED = 0
"""Of the latents: all evaluations of all runs draw from the same."""


class Evaluation:
    """The scores that a run has asked for.

    Args:
        spec: The run; ``evaluation.every_images`` is set.
        index: The set that it is trained on.
        channels: Of its images.
        workers: This process and the others. All of them make one.

    Raises:
        InputError: The held-out images, the features, the metrics and the run do not fit each other.
    """

    def __init__(self, spec: RunSpec, index: Index, channels: int, workers: Workers) -> None:
        asked = spec.evaluation
        best = spec.training.keep_best
        if best is not None and best not in BETTER_LOWER | BETTER_HIGHER:
            raise InputError(
                f"training.keep_best: no score is called {best!r}; {near(best, sorted(BETTER_LOWER | BETTER_HIGHER))}"
            )
        shards = Index.load(asked.shards) if asked.shards else index
        try:
            self._comparison = Comparison.of_run(
                spec,
                channels,
                shards,
                asked.where,
                whose="this run",
                count=asked.count,
                metrics=asked.metrics,
                features=asked.features or while_training(),
                workers=workers,
            )
        except InputError as error:
            raise InputError(f"evaluation: {error}") from None
        if best is not None and best not in self._comparison.scores:
            raise InputError(
                f"training.keep_best is {best}, which these metrics, features and images do not give; they give "
                f"{', '.join(self._comparison.scores)}"
            )
        self._spec = spec
        self._workers = workers

    @property
    def facts(self) -> dict[str, Any]:
        """What the scores are computed from."""
        return {**self._comparison.facts, "ema": True, "seed": SEED}

    @property
    def digest(self) -> str:
        """Of the facts: scores of the same can be compared."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:32]

    def other_best(self, run: Path) -> list[str]:
        """What should be known of a best checkpoint whose score was computed from something else, in sentences."""
        best = best_of(run)
        if best is None or self._spec.training.keep_best is None:
            return []
        if (best.metric, best.of) == (self._spec.training.keep_best, self.digest):
            return []
        return [f"the best so far, {best.path.name}, was scored in another way: the best begins anew"]

    @property
    def notes(self) -> list[str]:
        """What should be known of the scores, in sentences."""
        facts = self.facts
        of = f"features {facts['features']}" if "features" in facts else "no features"
        return [
            f"scores every {self._spec.evaluation.every_images:,} images: {facts['count']:,} generated and "
            f"{facts['real_count']:,} real images, {of}",
            *self._comparison.notes,
        ]

    def scores(self, learner: Learner) -> dict[str, float]:
        """Score the averaged generator. All workers call this.

        Returns:
            ``score/NAME`` by name and ``time/evaluation`` in seconds; nothing on other ranks than 0.

        Raises:
            InputError, DamageError, OSError: On all workers, where one of them could not do its share.
        """
        began = time.perf_counter()
        workers = self._workers
        with workers.together():
            generator, where = learner.averaged_generator(), self._comparison.where
            drawn = drawn_images(generator, learner.labels, where, self._spec.model, SEED, workers.device)
            made = self._comparison.gather(drawn)
        add_up(made, workers)
        found: dict[str, float] = {}
        with workers.together():
            if workers.first:
                found = {f"score/{name}": value for name, value in scores(made).items()}
                found["time/evaluation"] = time.perf_counter() - began
        return found


def improves(metric: str, value: float, best: float | None) -> bool:
    """Whether a score is better than the best so far."""
    if best is None:
        return True
    return value < best if metric in BETTER_LOWER else value > best
