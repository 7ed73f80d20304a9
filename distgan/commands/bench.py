"""``distgan bench``: measure this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from distgan.commands.base import (
    CONDITIONS,
    MOST_MINUTES,
    SPEC_HELP,
    WITH_CHANGES,
    AsJson,
    Changes,
    Overrides,
    SpecOrDefault,
    console,
    errors,
    load,
    print_figures,
    print_rows,
    progress_bar,
)
from distgan.commands.generators import DrawnCount, FeaturesOption
from distgan.errors import RunError
from shards.errors import InputError

bench_app = typer.Typer(help="Measure this machine.", no_args_is_help=True)


@bench_app.command("loader", context_settings=WITH_CHANGES)
def bench_loader(
    spec: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help=f"{SPEC_HELP}, whose shards are read; without it, invented ones."),
    ] = None,
    changes: Changes = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Images a second from shards to batches, from one thread with a warm page cache."""
    from distgan.bench.speed import bench_loader as measure

    print_figures(measure(load(spec, changes, overrides) if spec else None), as_json)


@bench_app.command("pack")
def bench_pack(
    source: Annotated[Optional[Path], typer.Argument(help="A folder of images; without it, invented ones.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Images a second from files to shards with one process and two, beside a bare Pillow loop in the same run."""
    from shards.bench import bench_pack as measure

    if source is not None and not source.is_dir():
        raise InputError(f"{source} is not a folder: the bare loop that packing is compared with reads files")
    print_figures(measure(source), as_json)


@bench_app.command("scaling", context_settings=WITH_CHANGES)
def bench_scaling(
    spec: SpecOrDefault = None,
    changes: Changes = None,
    overrides: Overrides = None,
    workers: Annotated[Optional[int], typer.Option(min=1, help="The most; every GPU or core when not given.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Steps of 1, 2, 4, … workers on this machine, split into compute, waiting and communication."""
    from distgan.scaling import as_rows
    from distgan.scaling import bench_scaling as measure

    print_rows(as_rows(measure(load(spec, changes, overrides) if spec else None, workers)), as_json)


@bench_app.command("step", context_settings=WITH_CHANGES)
def bench_step(
    spec: SpecOrDefault = None,
    changes: Changes = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Images a second through a specification's training step, without data, beside a textbook's of the same networks.

    Also its FLOPs a second beside those of a large matrix product and of the networks' heaviest convolution, its
    memory, and where its time goes.
    """
    from distgan.bench.speed import bench_step as measure

    asked = load(spec, changes, overrides) if spec else None
    with progress_bar("rounds") as told:
        figures = measure(asked, progress=told)
    print_figures(figures, as_json)


@bench_app.command("switches", context_settings=WITH_CHANGES)
def bench_switches(
    spec: SpecOrDefault = None,
    changes: Changes = None,
    overrides: Overrides = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--switch",
            metavar="NAME",
            help="Only this one: bfloat16, tfloat32, share_fakes, penalty_every, graphs, compile or accumulate. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=4, help="How long each run trains for its losses.")] = 200,
    seeds: Annotated[int, typer.Option(min=2, help="Runs with each switch and without.")] = 3,
    as_json: AsJson = False,
) -> None:
    """What each switch of training is worth: images a second with it and without, and what becomes of the losses.

    The losses are those of a specification's first steps on its shards, or, where there are none, on invented faces. A
    switch that gains less than 2 % is not worth it; one that moves the losses no further than another seed does has
    changed nothing to be seen.
    """
    from distgan.bench.switches import as_json as document
    from distgan.bench.switches import as_table
    from distgan.bench.switches import bench_switches as measure

    found = measure(load(spec, changes, overrides) if spec else None, only or (), steps, seeds, progress_bar)
    if as_json:
        console.print_json(json.dumps(document(found)))
    else:
        console.print(as_table(found))


@bench_app.command("gpu")
def bench_gpu(
    out: Annotated[Path, typer.Option(help="The folder for gpu.md, gpu.json, log.txt and a grid of images.")] = Path(
        "runs/gpu"
    ),
    minutes: Annotated[
        float, typer.Option(min=0.1, help="It ends after so many, whatever is done; the most valuable comes first.")
    ] = 8.5,
    sections: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--section",
            metavar="NAME",
            help="Only this one: facts, untried, tests, speed, equality, switches, run, memory, processes or profile. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        Literal["gpu", "cpu"],
        typer.Option(help="cpu does little of everything on the CPU: to try this command itself."),
    ] = "gpu",
    as_json: AsJson = False,
) -> None:
    """Everything there is to know of a GPU, in one call: what it is, its tests, the speed of all recipes, and more.

    Whether it computes what the CPU does, a whole run with stop and resume, what too little memory says, NCCL, and
    where a step's time goes. A part that fails takes no other with it. Exit status 1 where something failed or is not
    as it should be.
    """
    import torch

    from distgan.bench.gpu import FIGURES, TABLE
    from distgan.bench.gpu import bench_gpu as measure

    if device == "gpu" and not torch.cuda.is_available():
        raise InputError("there is no GPU here that torch can use (--device cpu tries this command on the CPU)")
    found = measure(out, minutes, sections or [], errors.print, on_cpu=device == "cpu")
    typer.echo((out / (FIGURES if as_json else TABLE)).read_text("utf-8"), nl=False)
    errors.print(f"Look at {out / TABLE} and {out / FIGURES}.")
    if not all(each.good for each in found):
        raise RunError(f"not all is as it should be: {out / TABLE} says what")


@bench_app.command("quality")
def bench_quality(
    shards: Annotated[str, typer.Option(help="The packed set that all learn from.", show_default=False)],
    recipes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="RECIPE[:KEY.PATH=VALUE,...]",
            help="Specifications (files, or names of shipped ones), changed or not: dcgan64 or "
            "dcgan64:training.batch_size=32,data.flip=true. textbook is PyTorch's DCGAN tutorial with its batch of "
            "128, textbook:32 with another; without either of them it takes part with 128, 16, 32 and 64.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.01, max=MOST_MINUTES, help="How long each trains. Its speed is measured first, and gives its images."
        ),
    ] = None,
    images: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="How long each trains, in real images shown; instead of --minutes."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each; three or more where a difference is claimed.")] = 1,
    out: Annotated[Path, typer.Option(help="The folder of all results; the same command goes on there.")] = Path(
        "runs/quality"
    ),
    every: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Images between two evaluations; an eighth of the length when not given."),
    ] = None,
    count: DrawnCount = 2_000,
    metrics: Annotated[
        str,
        typer.Option(help="As evaluate has them. The leaderboard is of the first one."),
    ] = "frechet,kernel,neighbours",
    features: FeaturesOption = None,
    held_out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--held-out", help="A packed set to compare with, where --shards has no split test or val."),
    ] = None,
    where: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--where-real",
            metavar="NAME=VALUE,...",
            help=f"The real images to compare with; the split test, else val, when not given. {CONDITIONS}",
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Which recipe makes the best images in the least time: train several on the same images, score them, compare them.

    Each is trained alone, one after the other, with the same seeds and threads, and scored at fixed counts of images
    against images that none has learnt from. Ctrl-C saves and ends; the same command goes on. OUT/leaderboard.md has
    the results so far.
    """
    import threading

    from distgan.bench.competitors import competitors
    from distgan.bench.quality import Quality, Yardstick
    from distgan.bench.tables import board_json, board_table
    from distgan.launch.signals import stopping
    from shards.names import parse_where

    yardstick = Yardstick(
        shards=shards,
        minutes=minutes,
        images=images,
        every=every,
        seeds=seeds,
        count=count,
        metrics=tuple(metrics.split(",")),
        features=features,
        held_out=held_out,
        where=parse_where(where) if where else None,
        common=tuple(overrides or ()),
    )
    quality, stop = Quality(competitors(recipes or []), yardstick, out), threading.Event()
    with stopping(stop):
        done = quality.run(errors.print, progress_bar, stop)
    board = quality.board()
    if as_json:
        console.print_json(json.dumps(board_json(board) if board else None))
    elif board:
        console.print(board_table(board, quality.distance))
        console.print(f"Look at {out / 'leaderboard.md'}, {out / 'curves.png'} and {out / 'grids.png'}.")
    if not done:
        errors.print("Go on with the same command.")
