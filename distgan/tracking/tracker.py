"""One object that the training loop tells everything, and the sinks behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["finished", "interrupted", "failed"]


class Sink:
    """Where figures, pictures and messages go. A sink overrides what it has a use for."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a step."""

    def progress(self, step: int) -> None:
        """Take note that a step is done. Called at every step, so it must cost microseconds."""

    def scores_of(self, facts: Mapping[str, Any]) -> None:
        """Take note of what all ``score/…`` from now on are computed from."""

    def picture(self, step: int, images: int, path: Path) -> None:
        """Take a sample grid that lies under ``path``, drawn after ``images`` images."""

    def message(self, text: str) -> None:
        """Take a sentence for the person watching."""

    def record(self, text: str) -> None:
        """Take a sentence for whoever looks later, which the person watching hears otherwise."""

    def rewind(self, step: int) -> None:
        """Take note that training has gone back to an earlier step, and forget what came after it."""

    def close(self, outcome: Outcome) -> None:
        """Take note of how the run ended, and let go of everything."""


class Tracker(Sink):
    """Passes everything on to its sinks, in order. Without sinks (any rank but 0) it does nothing.

    Attributes:
        sinks: Who is told.
        wandb_run_id: The Weights & Biases run, kept in checkpoints so that a resumed run goes on in it.
    """

    def __init__(self, sinks: Sequence[Sink] = (), wandb_run_id: str | None = None) -> None:
        self.sinks = list(sinks)
        self.wandb_run_id = wandb_run_id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write down the figures of a step.

        Args:
            step: Generator steps done so far.
            figures: By name, such as ``loss/critic``; ``images`` and ``epoch`` among them. May be NaN or infinite.

        Raises:
            OSError: ``metrics.jsonl`` cannot be written.
        """
        for sink in self.sinks:
            sink.log(step, figures)

    def progress(self, step: int) -> None:
        """Move the progress bar. Costs microseconds: the bar redraws itself by time.

        Args:
            step: Generator steps done so far.
        """
        for sink in self.sinks:
            sink.progress(step)

    def scores_of(self, facts: Mapping[str, Any]) -> None:
        """Write down beside all scores from now on what they are computed from.

        Args:
            facts: By name, as JSON has them: counts, filters, features and the hash of their weights.
        """
        for sink in self.sinks:
            sink.scores_of(facts)

    def picture(self, step: int, images: int, path: Path) -> None:
        """Show a sample grid that training has written.

        Args:
            step: Generator steps done so far.
            images: Real images seen so far.
            path: The PNG file, ``RUN/samples/IMAGES.png``.
        """
        for sink in self.sinks:
            sink.picture(step, images, path)

    def message(self, text: str) -> None:
        """Tell the person watching, and keep it with the time in ``log.txt``.

        Args:
            text: A sentence.

        Raises:
            OSError: ``log.txt`` cannot be written.
        """
        for sink in self.sinks:
            sink.message(text)

    def record(self, text: str) -> None:
        """Keep a sentence with the time in ``log.txt``, without showing it.

        Args:
            text: A sentence.

        Raises:
            OSError: ``log.txt`` cannot be written.
        """
        for sink in self.sinks:
            sink.record(text)

    def rewind(self, step: int) -> None:
        """Forget what came after a step, since training goes back to it.

        Weights & Biases forgets nothing: there, the repeated steps keep their first figures.

        Args:
            step: Generator steps done.

        Raises:
            OSError: ``metrics.jsonl`` cannot be written.
        """
        for sink in self.sinks:
            sink.rewind(step)

    def close(self, outcome: Outcome) -> None:
        """End the run. Every sink is closed, also when another one fails at it.

        Args:
            outcome: How the run ended.

        Raises:
            OSError: ``log.txt`` cannot be written.
        """
        with ExitStack() as stack:
            for sink in self.sinks:
                stack.callback(sink.close, outcome)
