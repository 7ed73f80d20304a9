"""``distgan bench``: measure this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from distgan.commands.base import (
    SPEC_HELP,
    WITH_CHANGES,
    AsJson,
    Changes,
    Overrides,
    SpecOrDefault,
    load,
    print_figures,
    print_rows,
)
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
    """Images a second through a specification's training step, without data."""
    from distgan.bench.speed import bench_step as measure

    print_figures(measure(load(spec, changes, overrides) if spec else None), as_json)
