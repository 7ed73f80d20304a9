"""Commands that begin a run, say what it would be, and show it."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from distgan.commands.base import (
    MOST_MINUTES,
    SPEAKS,
    SPEC_HELP,
    AsJson,
    Changes,
    Overrides,
    Spec,
    Workers,
    console,
    fewest_and_most,
    load,
    print_rows,
    progress_bar,
)
from shards.errors import InputError

if TYPE_CHECKING:
    from distgan.training.loop import Outcome


def recipes(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Print this one; suggest writes one for --shards and --minutes.", show_default=False),
    ] = None,
    shards: Annotated[Optional[str], typer.Option(help="suggest: the packed set to learn from.")] = None,  # noqa: UP045
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.1, max=MOST_MINUTES, help="suggest: how long the run may take."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="suggest: machines or GPUs that train together, each as fast as this one.")
    ] = 1,
) -> None:
    """List the specifications that distgan ships, which other commands take by name; or print one, to start one's own.

    distgan recipes dcgan64 > mine.yaml

    distgan recipes suggest --shards DIR --minutes 30 > mine.yaml measures this machine, and writes a specification for
    these images and that time, with a reason for each choice.
    """
    from jobs import SWEEP, read
    from jobs import recipes as shipped
    from shards.names import near

    if name == "suggest":
        if shards is None or minutes is None:
            raise InputError("recipes suggest needs --shards DIR and --minutes M")
        from distgan.bench.speed import training_speed
        from distgan.suggest import facts_of, suggest

        facts, channels = facts_of(shards)
        typer.echo(suggest(facts, minutes, workers, partial(training_speed, channels=channels)), nl=False)
        return
    if shards is not None or minutes is not None or workers != 1:
        raise InputError("--shards, --minutes and --workers belong to recipes suggest")
    known = {**shipped(), SWEEP: "No run but a sweep of Weights & Biases over one: wandb sweep FILE"}
    if name is None:
        width = max(map(len, known))
        for each, line in known.items():
            console.print(f"{each:<{width}}  {line}")
    elif name in known:
        typer.echo(read(name), nl=False)
    else:
        raise InputError(f"distgan ships no recipe {name!r}; {near(name, known)}")


def train(
    spec: Spec,
    changes: Changes = None,
    overrides: Overrides = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="The run's folder; NAME in cluster.storage, or in runs, when not given. In a sweep, the folder of the "
            "trials' folders."
        ),
    ] = None,
    workers: Workers = None,
    address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A Ray cluster; auto in a Ray job. Without it, several workers run on this machine."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
) -> None:
    """Train what a specification says. Ctrl-C or SIGTERM saves and ends; --resume goes on as if it never had.

    Several workers are Ray's, on this machine or on the cluster at --address; or torchrun's, when it starts this.
    """
    from distgan.launch import launch, run_folder
    from distgan.tracking.commit import note_commit

    run_spec = load(spec, changes, overrides, workers)
    note_commit(spec)
    run = run_folder(run_spec, out)
    outcome = launch(run_spec, run, resume=resume, address=address)
    if SPEAKS:
        _print_outcome(outcome, run, "the same command and --resume")


def describe(
    spec: Annotated[Optional[Path], typer.Argument(help=f"{SPEC_HELP}.", show_default=False)] = None,  # noqa: UP045
    changes: Changes = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    options: Annotated[bool, typer.Option("--options", help="Every field, its value and what it means.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON schema of specifications, for editors; needs no SPEC.")
    ] = False,
    workers: Workers = None,
    bandwidth: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=1e-3, help="GB/s between workers: predict steps of up to --workers from it and --speed."),
    ] = None,
    speed: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=1e-3, help="Images/s of one worker, as distgan bench step says."),
    ] = None,
    latency: Annotated[float, typer.Option(min=0.0, help="Microseconds for a word between workers.")] = 20.0,
) -> None:
    """Say what a specification asks for: layers, parameters, FLOPs, memory, steps. Trains nothing, reads no images.

    With --bandwidth and --speed, predict step time and efficiency of 1, 2, 4, … up to --workers instead.
    """
    from distgan.describe import describe
    from distgan.describe.text import description_text
    from distgan.options import every_option, json_schema, options_text

    if schema:
        console.print_json(json.dumps(json_schema()))
        return
    if spec is None:
        raise InputError("describe needs a SPEC; only --schema does without one")
    if bandwidth is not None or speed is not None:
        if bandwidth is None or speed is None:
            raise InputError("a prediction needs both --bandwidth and --speed (distgan bench step measures the latter)")
        from distgan.scaling import as_rows, predict

        run_spec = load(spec, changes, overrides).full_size()
        # Not a field of the run here: a cluster may be planned that is too large for this global batch.
        count = fewest_and_most(workers)[1] if workers else run_spec.cluster.most_workers
        described, batch_size = describe(run_spec), run_spec.training.batch_size
        print_rows(as_rows(predict(described, batch_size, count, speed, bandwidth * 1e9, latency * 1e-6)), as_json)
        return
    run_spec = load(spec, changes, overrides, workers)
    answer: object
    if options:
        found = every_option(run_spec)
        answer, text = [asdict(option) for option in found], options_text(found)
    else:
        described = describe(run_spec)
        answer, text = asdict(described), description_text(described)
    if as_json:
        console.print_json(json.dumps(answer))
    else:
        console.print(text)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the page goes; RUN/report.html when not given, of several runs report.html here."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Write it anew until the runs have ended, or Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two looks with --watch.")] = 15.0,
) -> None:
    """Write a page that shows what a run learnt, or several side by side: one file that opens without a network.

    Of one run: grids over time beside real images, ways between pictures, scores and curves with what happened on the
    way, differences to the shipped recipe. Of several: their grids and curves together, scores, settings that differ.
    With --watch the open page loads itself anew, too.
    """
    from distgan.tracking.report import watch_report, write_report
    from distgan.training.complete import complete

    distinct: dict[Path, Path] = {}
    for run in runs:
        if distinct.setdefault(run.resolve(), run) is not run:
            console.print(f"{run} is named more than once, and shown once")
    shown = [*distinct.values()]
    if watch:
        page = watch_report(shown, out, every=every, complete=complete, say=console.print)
    else:
        page = write_report(shown, out, complete=complete)
    console.print(str(page))


def dashboard(
    project: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The project; WANDB_PROJECT, else distgan, when not given.", show_default=False),
    ] = None,
    entity: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The team or user that owns it; the account's default when not given.", show_default=False),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write its layout into this file (Markdown) instead, and send nothing.", show_default=False),
    ] = None,
) -> None:
    """Make a workspace in Weights & Biases with what matters of a GAN's runs, and print its address.

    It is a new view of the project's runs, beside those that are there. It needs a login; --out needs none.
    """
    from distgan.tracking.dashboard import make_dashboard, write_layout

    if out is None:
        console.print(make_dashboard(project, entity))
    else:
        write_layout(out)
        console.print(str(out))


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Invented faces → shards → training → report, on a CPU in minutes, with no network and no account."""
    from distgan.launch.demo import demo as run_demo

    _print_outcome(run_demo(out, overrides or [], console.print, progress_bar), out / "run", "the same command")


def _print_outcome(outcome: Outcome, run: Path, go_on: str) -> None:
    from distgan.checkpoint import best_of

    console.print(f"{outcome.ended} at step {outcome.step:,} ({outcome.images:,} images): {run}")
    if (run / "report.html").exists():
        console.print(f"Look at {run / 'report.html'}")
    if best := best_of(run):
        console.print(f"Best: step {best.step:,}, {best.metric} {best.value:.4g}; distgan sample --best draws from it")
    if outcome.ended == "interrupted":
        console.print(f"Go on with {go_on}.")
