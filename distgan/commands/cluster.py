"""Commands for runs as jobs of a Ray cluster."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.text import Text

from distgan.commands.base import AsJson, Changes, Overrides, Spec, Workers, console, errors, fail, load
from shards.errors import InputError

if TYPE_CHECKING:
    from distgan.launch.submit import Cluster, Line

Job = Annotated[str, typer.Argument(help="A job's id, as distgan submit prints it.", show_default=False)]
Address = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="The cluster's dashboard, such as http://HEAD:8265; RAY_API_SERVER_ADDRESS when not given."),
]


def submit(
    spec: Spec,
    changes: Changes = None,
    address: Address = None,
    overrides: Overrides = None,
    out: Annotated[
        Optional[str],  # noqa: UP045  (not a Path: it is the cluster's)
        typer.Option(help="The run's folder on the cluster's shared storage; cluster.storage/NAME when not given."),
    ] = None,
    workers: Workers = None,
    name: Annotated[Optional[str], typer.Option(help="The job's id; made up when not given.")] = None,  # noqa: UP045
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job's log.")] = False,
    no_key: Annotated[bool, typer.Option("--no-key", help="Do not send the Weights & Biases key along.")] = False,
) -> None:
    """Train on a Ray cluster: send the code and the specification, follow the log, exit as the job does.

    A run that is in the folder already goes on from its newest checkpoint.
    """
    from distgan.launch import run_folder
    from distgan.launch.submit import Cluster, job_address
    from distgan.tracking.commit import note_commit
    from distgan.tracking.weights_and_biases import elsewhere, login, settled

    note_commit(spec)
    run_spec = settled(load(spec, changes, overrides, workers))
    if out is None and run_spec.cluster.storage is None:
        raise InputError(
            "where is the run to lie? Give --out with a folder on storage that every machine of the cluster sees, "
            "or set cluster.storage"
        )
    run = str(run_folder(run_spec, Path(out) if out else None))
    cluster = Cluster(job_address(address))
    variables, note = login(run_spec, send_key=not no_key)
    if note:
        errors.print(f"{note}; unless the cluster has a login, Weights & Biases stays offline.")
    job = cluster.submit(run_spec, run, name=name, login={**elsewhere(run_spec), **variables})
    console.print(f"job {job} trains in {run}")
    if no_wait:
        console.print(f"Follow it with distgan logs {job} --follow --address {cluster.address}")
    else:
        _follow(cluster, job)


def status(job: Job, address: Address = None, as_json: AsJson = False) -> None:
    """Say how a submitted job is doing."""
    from distgan.launch.submit import Cluster, job_address

    known = Cluster(job_address(address)).status(job)
    if as_json:
        console.print_json(json.dumps(known))
        return
    for field, value in known.items():
        console.print(f"{field:<12}{'' if value is None else value}")


def logs(
    job: Job,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends, and exit as it does.")] = False,
) -> None:
    """Print a submitted job's log."""
    from distgan.launch.submit import Cluster, job_address

    cluster = Cluster(job_address(address))
    if follow:
        _follow(cluster, job)
        return
    for line in cluster.logs(job):
        console.print(line.text)


def stop(job: Job, address: Address = None) -> None:
    """Have a submitted job save a checkpoint and end, and wait until it has."""
    from distgan.launch.submit import Cluster, job_address

    console.print(Cluster(job_address(address)).stop(job, console.print).text)


def _follow(cluster: Cluster, job: str) -> None:
    """Show a job's log until it ends, its progress as one line where there is a terminal, and exit as it does."""
    # FORCE_COLOR, which CI services set, makes rich take a file for a terminal.
    live = console.is_interactive and console.file.isatty()
    progress = console.status("waiting for the job to start") if live else None

    def show(line: Line) -> None:
        if progress and line.progress:
            progress.update(Text(line.text))
        else:
            console.print(line.text)

    try:
        with progress or nullcontext():
            end = cluster.follow(job, show)
    except KeyboardInterrupt:
        console.print(
            f"job {job} goes on. See it with distgan logs {job} --follow, end it with distgan stop {job}, both with "
            f"--address {cluster.address}"
        )
        return
    if end.exit_code:
        fail(end.text, end.exit_code)
    console.print(end.text)
