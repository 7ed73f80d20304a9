"""What all commands share: how they speak, options that several have, and how long work and tables are shown."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shards.errors import InputError
from shards.progress import Progress as OnProgress

if TYPE_CHECKING:
    from distgan.spec import RunSpec

# Without markup and emoji: a path may hold [brackets] or :colons:.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
SPEAKS = os.environ.get("RANK", "0") == "0"
"""Whether this process speaks: of those that torchrun starts, one does."""


class Weights(str, Enum):
    """Which of the generator's weights."""

    ema = "ema"
    training = "training"


WhichWeights = Annotated[
    Weights, typer.Option("--weights", help="The averaged weights, or those that training goes on with.")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same pictures.")]
# Sets are named by strings: a Path would spoil a URL.
Shards = Annotated[str, typer.Argument(help="The folder of a packed set.", show_default=False)]
Run = Annotated[Path, typer.Argument(help="A run's folder, or one of its checkpoints.", show_default=False)]
Best = Annotated[bool, typer.Option("--best", help="The checkpoint that has scored best (training.keep_best).")]
SPEC_HELP = "The run specification (YAML), or the name of a shipped one (distgan recipes)"
Spec = Annotated[Path, typer.Argument(help=f"{SPEC_HELP}.", show_default=False)]
SpecOrDefault = Annotated[
    Optional[Path],  # noqa: UP045  (typer reads it at run time on Python 3.10)
    typer.Argument(help=f"{SPEC_HELP}; without it, the DCGAN for 64 pixels."),
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field of the specification. Repeatable."),
]


def parse_changes(context: typer.Context, words: Optional[list[str]]) -> list[str]:  # noqa: UP045
    """Overrides that are given as arguments.

    Args:
        context: Of the command.
        words: ``key.path=value``, ``--key.path=value`` or ``--key.path value``, also with spaces around the sign.

    Raises:
        InputError: A word is none of that, such as an option that does not exist.
    """
    from distgan.spec import RunSpec
    from shards.names import near

    changes, rest = [], list(words or [])
    while rest:
        word = rest.pop(0)
        if rest and rest[0].startswith("="):
            word += rest.pop(0)
        lacks_value = word.endswith("=") or (word.startswith("--") and "=" not in word)
        if lacks_value and rest and "=" not in rest[0] and not re.match("--?[A-Za-z]", rest[0]):
            word = f"{word.removesuffix('=')}={rest.pop(0)}"
        path, equals, value = word.removeprefix("--").partition("=")
        if path.startswith("-") or (word.startswith("--") and path.partition(".")[0] not in RunSpec.model_fields):
            options = [name for each in context.command.params for name in each.opts if name.startswith("-")]
            raise InputError(f"there is no option {word.partition('=')[0]}; {near(word, options)}")
        if not equals:
            raise InputError(
                f"{word}: after the specification come changes, key.path=value, such as training.batch_size=64"
            )
        changes.append(f"{path}={'null' if value.strip() == 'None' else value}")  # sweeps write null as Python does
    return changes


Changes = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        metavar="KEY.PATH=VALUE",
        callback=parse_changes,
        help="The same as --set, with or without leading --, as sweeps of Weights & Biases give it.",
        show_default=False,
    ),
]
WITH_CHANGES = {"ignore_unknown_options": True}
"""Of commands that take ``--key.path=value``: what is neither that nor an option, ``parse_changes`` refuses."""
MOST_MINUTES = 1e7
"""Of training; without an end there is no number of images."""
CONDITIONS = (
    "NAME is an attribute, and VALUE 1 or -1 (or true, false), as in Smiling=1,Eyeglasses=-1; or class=NAME. "
    "In double quotes a name may hold commas and =, and two quotes are one: 'class=\"Smith, John\"'. Repeatable; of "
    "several classes any will do."
)
Where = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="NAME=VALUE,...",
        help=f"What the pictures are to show, of what the run was conditioned on; the rest is as the data has it. "
        f"{CONDITIONS}",
    ),
]
Truncation = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        help="Draw latents within plus or minus this of the middle only, such as 2: less variety, and each picture "
        "more typical. Of a generator that does not normalise its latents, pictures lose contrast much below 1.5.",
        show_default=False,
    ),
]
Workers = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="N|MIN-MAX", help="Short for --set cluster.workers=N, or =[MIN, MAX].", show_default=False),
]
Device = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="cpu|cuda[:N]",
        help="Where the generator computes; a GPU where there is one when not given. Another device rounds otherwise.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(
    spec: Path, changes: Sequence[str] | None, overrides: Sequence[str] | None, workers: str | None = None
) -> RunSpec:
    """The specification that a command line asks for.

    Raises:
        InputError: The file, an override or ``--workers`` is wrong.
    """
    from distgan.spec import load_spec

    return load_spec(spec, [*(overrides or []), *(changes or []), *_workers(workers)])


def _workers(text: str | None) -> list[str]:
    """The override that ``--workers`` is short for.

    Raises:
        InputError: It is neither a number nor two.
    """
    if text is None:
        return []
    fewest, most = fewest_and_most(text)
    return [f"cluster.workers=[{fewest}, {most}]" if "-" in text else f"cluster.workers={fewest}"]


def fewest_and_most(text: str) -> tuple[int, int]:
    """The two numbers of ``--workers``; one is both.

    Raises:
        InputError: It is neither a number nor two.
    """
    fewest, dash, most = text.partition("-")
    numbers = [int(number) if number.isdecimal() else 0 for number in (fewest, most if dash else fewest)]
    if min(numbers) < 1:
        raise InputError(f"--workers {text}: write a number, such as 8, or the fewest and the most, such as 1-8")
    return numbers[0], numbers[1]


def fail(message: str, code: int) -> None:
    """Say what went wrong, and exit."""
    if SPEAKS:
        errors.print(f"error: {message}")
    sys.exit(code)


@contextmanager
def progress_bar(what: str) -> Iterator[OnProgress]:
    """A bar on a terminal; nothing where the output goes into a file."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_rows(rows: list[dict[str, object]], as_json: bool) -> None:
    """A table with a row for each measurement or prediction, and a column for each of its figures."""
    if as_json:
        console.print_json(json.dumps(rows))
        return

    def cell(name: str, value: object) -> str:
        if name == "efficiency":
            return f"{value:.0%}"
        return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    table = [[name.replace("_", " ") for name in rows[0]], *([cell(*item) for item in row.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        console.print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def print_figures(figures: dict[str, float | str], as_json: bool) -> None:
    """Figures by name, one a line; a share in percent."""
    if as_json:
        console.print_json(json.dumps(figures))
        return

    def shown(name: str, value: float | str) -> str:
        if isinstance(value, str):
            return value
        return f"{value:.1%}" if name.startswith("share of") else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    width = max(28, 2 + max(map(len, figures)))
    for name, value in figures.items():
        console.print(f"{name:<{width}}{shown(name, value)}")
