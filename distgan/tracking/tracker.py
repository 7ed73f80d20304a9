"""One object that the training loop tells everything, and the sinks behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["finished", "interrupted", "failed"]
Which = Literal["best", "last"]
"""The generator that has scored best, or the one that a run ends with."""


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

    def alert(self, title: str, text: str) -> None:
        """Take note of something that somebody should look at who may not be watching; a message tells it, too."""

    def generator(self, which: Which, step: int, facts: Mapping[str, Any], export: Callable[[Path], None]) -> None:
        """Take the generator of a step; ``export`` writes it, with its model card, into a new folder."""

    def film(self, step: int, images: int, path: Path) -> None:
        """Take the grids of the run as a film that lies under ``path``."""

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

    def alert(self, title: str, text: str) -> None:
        """Let somebody know who may not be watching: what the guard has found.

        Args:
            title: A few words, the same for the same kind of trouble.
            text: A sentence.
        """
        for sink in self.sinks:
            sink.alert(title, text)

    def generator(self, which: Which, step: int, facts: Mapping[str, Any], export: Callable[[Path], None]) -> None:
        """Offer the generator of a checkpoint to whoever keeps such.

        Args:
            which: The best so far, or the run's last.
            step: That it was saved after.
            facts: Of it, by name: images, scores.
            export: Writes it, with its model card, into a new folder; called in another thread, later or never.
                Raises InputError where the checkpoint is gone by then.
        """
        for sink in self.sinks:
            sink.generator(which, step, facts, export)

    def film(self, step: int, images: int, path: Path) -> None:
        """Show the grids as a film, at the end of the run.

        Args:
            step: Generator steps done so far.
            images: Real images seen so far.
            path: The GIF file.
        """
        for sink in self.sinks:
            sink.film(step, images, path)

    def rewind(self, step: int) -> None:
        """Forget what came after a step, since training goes back to it.

        Weights & Biases forgets nothing: there, figures of both attempts stay, against the same images.

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
