"""The command line: which commands there are, and what a failure says and exits with.

What a command needs is imported inside it, so that ``distgan --help`` does not wait for torch.
"""

from __future__ import annotations

import io
import sys

import typer

from distgan.commands.base import WITH_CHANGES, fail
from distgan.commands.bench import bench_app
from distgan.commands.cluster import logs, status, stop, submit
from distgan.commands.explore import explore
from distgan.commands.generators import average, classifier_app, detect, evaluate, sample
from distgan.commands.latents import arithmetic, export, interpolate, invert, neighbours, timeline
from distgan.commands.runs import dashboard, demo, describe, recipes, report, train
from distgan.commands.shards import shards_app
from distgan.errors import RunError
from distgan.launch.home import ensure_home
from shards.errors import DamageError, InputError

app = typer.Typer(
    help="Train face GANs on as many machines as you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(shards_app, name="shards")
app.add_typer(bench_app, name="bench")
app.add_typer(classifier_app, name="classifier")

app.command()(recipes)
app.command(context_settings=WITH_CHANGES)(train)
app.command(context_settings=WITH_CHANGES)(submit)
app.command()(status)
app.command()(logs)
app.command()(stop)
app.command(context_settings=WITH_CHANGES)(describe)
app.command()(sample)
app.command()(interpolate)
app.command()(arithmetic)
app.command()(invert)
app.command()(explore)
app.command()(timeline)
app.command()(export)
app.command()(neighbours)
app.command()(evaluate)
app.command()(average)
app.command()(detect)
app.command()(report)
app.command()(dashboard)
app.command()(demo)


def main() -> None:
    """The ``distgan`` command. Exits with 0 when done, 2 when the user's input is wrong, 1 when the work failed."""
    ensure_home()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what a terminal's encoding has no letter for
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except InputError as error:
        fail(str(error), 2)
    except (RunError, DamageError) as error:
        fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}", 1)
    except RuntimeError as error:  # torch says so in its own words, on each device in others
        if not any(words in str(error) for words in ("out of memory", "allocate memory", "not enough memory")):
            raise
        fail(
            "out of memory: lower training.batch_size or the networks' width, or raise training.accumulate "
            f"({str(error).splitlines()[0]})",
            1,
        )
    except MemoryError:
        fail("out of memory", 1)
