"""What the person at the terminal sees: a progress bar, or plain lines where the output goes into a file."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from distgan.tracking.tracker import Outcome, Sink

PLAIN_SECONDS = 10.0
"""Between two plain lines, at least: enough for a log that people scroll through."""
NOTABLE_WAIT = 0.05
"""Share of the time spent waiting for data from which on it is shown."""


class Console(Sink):
    """A bar with losses, speed and time left, redrawn by a thread of its own; without a terminal, a line now and then.

    Everything goes to standard error, so that standard output stays free for results.
    """

    def __init__(self, step: int, total_steps: int, terminal: Terminal | None = None) -> None:
        """Prepare the bar; it appears with the first step.

        Args:
            step: Steps already done.
            total_steps: Steps in the whole run.
            terminal: Where to write.
        """
        terminal = terminal or Terminal(stderr=True)
        # FORCE_COLOR, which CI services set, makes rich take a file for a terminal.
        self._live = terminal.is_interactive and terminal.file.isatty()
        self._bar = Progress(
            BarColumn(bar_width=8, table_column=_column(8)),
            TaskProgressColumn(table_column=_column(4)),
            MofNCompleteColumn(table_column=_column(2 * len(str(total_steps)) + 1)),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=_column(7)),
            TextColumn("{task.fields[figures]}", markup=False, table_column=_column(1)),
            console=terminal,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", completed=step, total=total_steps, figures="")
        self._pending = ""
        self._printed_at = -PLAIN_SECONDS

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Show losses, speed and, if notable, the time spent waiting for data."""
        summary = _summary(figures)
        self._bar.update(self._task, completed=step, figures=summary)
        if not self._live:
            self._pending = self._plain_line(summary)
            if time.monotonic() - self._printed_at >= PLAIN_SECONDS:
                self._print_pending()

    def progress(self, step: int) -> None:
        """Move the bar."""
        if self._live and not self._bar.live.is_started:
            self._bar.start()
        self._bar.update(self._task, completed=step)

    def message(self, text: str) -> None:
        """Print a sentence, above the bar or after the figures that came before it."""
        self._print_pending()
        self._print(text)

    def rewind(self, step: int) -> None:
        """Set the bar back."""
        self._print_pending()
        self._bar.update(self._task, completed=step)

    def close(self, outcome: Outcome) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._bar.stop()
        self._print_pending()

    def _plain_line(self, summary: str) -> str:
        task = self._bar.tasks[0]
        line = f"step {task.completed:,.0f}/{task.total:,.0f} ({task.percentage:.0f}%): {summary}"
        if task.time_remaining:
            minutes, seconds = divmod(round(task.time_remaining), 60)
            line += f", {minutes // 60}:{minutes % 60:02}:{seconds:02} left"
        return line

    def _print_pending(self) -> None:
        if self._pending:
            self._print(self._pending)
            self._pending, self._printed_at = "", time.monotonic()

    def _print(self, text: str) -> None:
        self._bar.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _column(least: int) -> Column:
    """On a narrow terminal the figures, which come last, are cut first."""
    return Column(no_wrap=True, min_width=least)


def _summary(figures: Mapping[str, float]) -> str:
    parts = [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in figures.items() if name.startswith("loss/")]
    if "time/images_per_second" in figures:
        parts.append(f"{figures['time/images_per_second']:,.0f} images/s")
    if figures.get("time/data_wait", 0.0) >= NOTABLE_WAIT:
        parts.append(f"waits for data {figures['time/data_wait']:.0%}")
    return ", ".join(parts)
