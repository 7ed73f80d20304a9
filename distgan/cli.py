"""The command line: parses, calls one function per command, and says what came of it.

What a command needs is imported inside it, so that ``distgan --help`` does not wait for torch.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from distgan.errors import RunError
from distgan.launch.home import ensure_home
from shards.errors import DamageError, InputError
from shards.progress import Progress as OnProgress

if TYPE_CHECKING:
    from distgan.checkpoint import Checkpoint
    from distgan.evaluation import Evaluated
    from distgan.launch.submit import Cluster, Line
    from distgan.spec import RunSpec
    from distgan.training.loop import Outcome

app = typer.Typer(
    help="Train face GANs on as many machines as you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
shards_app = typer.Typer(
    help="Pack images into shards once; look at them, check them, mend them.", no_args_is_help=True
)
bench_app = typer.Typer(help="Measure this machine.", no_args_is_help=True)
app.add_typer(shards_app, name="shards")
app.add_typer(bench_app, name="bench")

# Without markup and emoji: a path may hold [brackets] or :colons:.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
_FIRST = os.environ.get("RANK", "0") == "0"
"""Whether this process speaks: of those that torchrun starts, one does."""

errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


_SHOWN_OF_A_REASON = 20
"""Images that are left out for the same reason and named one by one."""


class Encoding(str, Enum):
    """What the shards hold."""

    raw = "raw"
    png = "png"
    jpeg = "jpeg"
    original = "original"


class Fit(str, Enum):
    """How an image becomes square."""

    crop = "crop"
    pad = "pad"


class Weights(str, Enum):
    """Which of the generator's weights."""

    ema = "ema"
    training = "training"


# Sets are named by strings: a Path would spoil a URL.
Shards = Annotated[str, typer.Argument(help="The folder of a packed set.", show_default=False)]
Run = Annotated[Path, typer.Argument(help="A run's folder, or one of its checkpoints.", show_default=False)]
Best = Annotated[bool, typer.Option("--best", help="The checkpoint that has scored best (training.keep_best).")]
_SPEC = "The run specification (YAML), or the name of a shipped one (distgan recipes)"
Spec = Annotated[Path, typer.Argument(help=f"{_SPEC}.", show_default=False)]
SpecOrDefault = Annotated[
    Optional[Path],  # noqa: UP045  (typer reads it at run time on Python 3.10)
    typer.Argument(help=f"{_SPEC}; without it, the DCGAN for 64 pixels."),
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field of the specification. Repeatable."),
]


def _changes(context: typer.Context, words: Optional[list[str]]) -> list[str]:  # noqa: UP045
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
        callback=_changes,
        help="The same as --set, with or without leading --, as sweeps of Weights & Biases give it.",
        show_default=False,
    ),
]
_WITH_CHANGES = {"ignore_unknown_options": True}
"""Of commands that take ``--key.path=value``: what is neither that nor an option, ``_changes`` refuses."""
_CONDITIONS = (
    "NAME is an attribute, and VALUE 1 or -1 (or true, false), as in Smiling=1,Eyeglasses=-1; or class=NAME. "
    "In double quotes a name may hold commas and =, and two quotes are one: 'class=\"Smith, John\"'. Repeatable; of "
    "several classes any will do."
)
Where = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="NAME=VALUE,...",
        help=f"What the pictures are to show, of what the run was conditioned on; the rest is as the data has it. "
        f"{_CONDITIONS}",
    ),
]
Workers = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="N|MIN-MAX", help="Short for --set cluster.workers=N, or =[MIN, MAX].", show_default=False),
]
Job = Annotated[str, typer.Argument(help="A job's id, as distgan submit prints it.", show_default=False)]
Address = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="The cluster's dashboard, such as http://HEAD:8265; RAY_API_SERVER_ADDRESS when not given."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@shards_app.command("synth")
def shards_synth(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    count: Annotated[int, typer.Option(help="How many faces.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Face i depends on the seed and on i alone.")] = 0,
) -> None:
    """Draw invented faces in CelebA's exact layout: 178×218 JPEG, 40 attributes, partitions, landmarks."""
    from shards.synth import synthesize

    with _progress("drawing") as progress:
        synthesize(out, count, seed, progress=progress)
    console.print(f"{count} faces in {out}. Next: distgan shards pack {out} SHARDS --size 64")


@shards_app.command("pack")
def shards_pack(
    source: Annotated[
        str,
        typer.Argument(
            help="Where the images are: a folder, a zip, a tar, or tars that others made for WebDataset "
            "(pool/{00000..00031}.tar, a URL).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="A new folder, or one that an interrupted pack left.", show_default=False),
    ] = None,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
    layout: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="celeba, mnist, cifar10, cifar100, cifar100-coarse, stylegan, webdataset or folder; recognised when "
            "not given."
        ),
    ] = None,
    sub: Annotated[
        str, typer.Option(help="Only what is in this folder of SOURCE, or whose name begins so.", show_default=False)
    ] = "",
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only train, val or test; all of them, marked in the index, when not given."),
    ] = None,
    classes: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--classes/--no-classes", help="Whether folders are classes; found out when not given."),
    ] = None,
    inner_classes: Annotated[
        bool, typer.Option("--inner-classes", help="Of folders in folders, the inner ones are the classes.")
    ] = False,
    exclude: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="PATTERN", help="Leave out folders or files of this name, or path in SOURCE; may be repeated."
        ),
    ] = None,
    encoding: Annotated[
        Encoding, typer.Option(help="raw trains fastest; original keeps the files' own bytes.")
    ] = Encoding.raw,
    crop: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="N|face",
            help="Cut the centred N×N square, or one around the face that is found (pip install 'distgan\\[faces]'); "
            "the largest one when not given.",
        ),
    ] = None,
    crop_top: Annotated[int | None, typer.Option(help="Row where that square starts, instead of the centre.")] = None,
    fit: Annotated[Optional[Fit], typer.Option(help="crop and resize, or pad with black (mnist).")] = None,  # noqa: UP045
    channels: Annotated[int | None, typer.Option(help="1 grey or 3 colour; as the images are when not given.")] = None,
    white: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="N", help="The value of 16-bit pictures that is white, such as 4095; else 65535."),
    ] = None,
    workers: Annotated[Optional[int], typer.Option(help="Processes; every core when not given.")] = None,  # noqa: UP045
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is recognised and what would be left out; write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Pack images into shards. Interrupted, the same command goes on; the result is the same to the byte.

    Says what it recognises first: what holds the images, how they lie, classes, splits, and what is left out.
    """
    from shards.files import refuse_inside
    from shards.images import Transform
    from shards.sources import open_source
    from shards.sources.base import recognised_text
    from shards.writer import pack

    if out is None and not dry_run:
        raise InputError("where are the shards to go? Give a folder after the source, or --dry-run")
    if out is not None:
        refuse_inside(out, source)
    if crop is not None and crop != "face" and not crop.isdecimal():
        raise InputError(f"--crop is a number of pixels, or face, not {crop!r}")
    if inner_classes and classes is not None:
        raise InputError(
            "--inner-classes says by itself that folders are classes: leave --classes and --no-classes away"
        )
    images = open_source(
        source, layout, sub=sub, split=split, classes=classes, inner=inner_classes, exclude=exclude or ()
    )
    transform = Transform(
        size=size,
        channels=images.channels() if channels is None else channels,
        crop=int(crop) if crop is not None and crop != "face" else None,
        crop_top=crop_top,
        fit=fit.value if fit else ("pad" if images.layout == "mnist" else "crop"),
        white=white,
        centre="face" if crop == "face" else "middle",
    )
    recognised = images.recognised
    if not as_json:
        console.print(recognised_text(recognised, transform.channels))
    if out is None or dry_run:
        if as_json:
            console.print_json(json.dumps({"recognised": recognised.to_json(), "transform": transform.to_json()}))
        return
    with _progress("packing") as progress:
        report = pack(images, out, transform, encoding=encoding.value, workers=workers, progress=progress)
    for line in skipped_text(report.skipped):
        errors.print(line)
    if as_json:
        summary = {**report.index.summary(), "left_out": [list(each) for each in report.skipped]}
        console.print_json(json.dumps({"recognised": recognised.to_json(), "packed": summary}))
        return
    console.print(
        f"{len(report.index)} samples in {len(report.index.shards)} shard(s) in {out}; {len(report.skipped)} left out"
    )


@shards_app.command("info")
def shards_info(root: Shards, as_json: AsJson = False) -> None:
    """Say what a packed set holds."""
    from shards.index import Index

    summary = Index.load(root).summary()
    if as_json:
        console.print_json(json.dumps(summary))
        return
    for name, value in summary.items():
        if isinstance(value, dict):
            if value:
                console.print(f"{name}:")
            for key, count in value.items():
                console.print(f"  {key:<24}{count}")
        else:
            console.print(f"{name:<14}{value}")


@shards_app.command("show")
def shards_show(
    root: Shards,
    out: Annotated[Path, typer.Option(help="The .png to write.", show_default=False)],
    count: Annotated[int, typer.Option(help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed shows the same images.")] = 0,
    columns: Annotated[Optional[int], typer.Option(help="Images in a row of the grid.")] = None,  # noqa: UP045
    where: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAME=VALUE,...",
            help=f"Only what matches all of this. {_CONDITIONS} split=train chooses among splits.",
        ),
    ] = None,
) -> None:
    """Write a grid of random images of a packed set, as training sees them."""
    from distgan.sampling.real import show
    from shards.names import parse_where

    asked = parse_where(where or [])
    shown = show(root, out, count=count, seed=seed, columns=columns, where=asked)
    matching = f"{shown.matching:,} that match, of {shown.samples:,}" if asked else f"{shown.samples:,}"
    classes = [f"{name} {number}" for name, number in shown.classes.items()]
    more = f" and {len(classes) - 10} classes more" if len(classes) > 10 else ""
    console.print(
        f"{shown.count:,} images of {matching}"
        + (f" ({', '.join(classes[:10])}{more})" if classes else "")
        + f": {out}"
    )


@shards_app.command("verify")
def shards_verify(root: Shards) -> None:
    """Read every byte of a packed set and name what is damaged. Exits with 1 when something is."""
    from shards.verify import verify

    with _progress("verifying") as progress:
        damages = verify(root, progress=progress)
    for damage in damages:
        errors.print(str(damage))
    if damages:
        raise DamageError(f"{root} is damaged. distgan shards repair {root} OUT writes a set of what is sound.")
    console.print(f"{root} is sound")


@shards_app.command("repair")
def shards_repair(
    root: Shards,
    out: Annotated[Path, typer.Argument(help="A new folder for the repaired set.", show_default=False)],
) -> None:
    """Write a new set without the damaged samples, and say which they were."""
    from shards.verify import repair

    with _progress("repairing") as progress:
        report = repair(root, out, progress=progress)
    for damage in report.lost:
        errors.print(str(damage))
    console.print(f"{len(report.index)} samples in {out}")


@app.command()
def recipes(
    name: Annotated[Optional[str], typer.Argument(help="Print this one.", show_default=False)] = None,  # noqa: UP045
) -> None:
    """List the specifications that distgan ships, which other commands take by name; or print one, to start one's own.

    distgan recipes dcgan64 > mine.yaml
    """
    from jobs import SWEEP, read
    from jobs import recipes as shipped
    from shards.names import near

    known = {**shipped(), SWEEP: "No run but a sweep of Weights & Biases over one: wandb sweep FILE"}
    if name is None:
        width = max(map(len, known))
        for each, line in known.items():
            console.print(f"{each:<{width}}  {line}")
    elif name in known:
        typer.echo(read(name), nl=False)
    else:
        raise InputError(f"distgan ships no recipe {name!r}; {near(name, known)}")


@app.command(context_settings=_WITH_CHANGES)
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

    run_spec = _load(spec, changes, overrides, workers)
    run = run_folder(run_spec, out)
    outcome = launch(run_spec, run, resume=resume, address=address)
    if _FIRST:
        _print_outcome(outcome, run, "the same command and --resume")


@app.command(context_settings=_WITH_CHANGES)
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
    from distgan.tracking.weights_and_biases import elsewhere, login, settled

    run_spec = settled(_load(spec, changes, overrides, workers))
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


@app.command()
def status(job: Job, address: Address = None, as_json: AsJson = False) -> None:
    """Say how a submitted job is doing."""
    from distgan.launch.submit import Cluster, job_address

    known = Cluster(job_address(address)).status(job)
    if as_json:
        console.print_json(json.dumps(known))
        return
    for field, value in known.items():
        console.print(f"{field:<12}{'' if value is None else value}")


@app.command()
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


@app.command()
def stop(job: Job, address: Address = None) -> None:
    """Have a submitted job save a checkpoint and end, and wait until it has."""
    from distgan.launch.submit import Cluster, job_address

    console.print(Cluster(job_address(address)).stop(job, console.print).text)


@app.command(context_settings=_WITH_CHANGES)
def describe(
    spec: Annotated[Optional[Path], typer.Argument(help=f"{_SPEC}.", show_default=False)] = None,  # noqa: UP045
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
    from distgan import describe as describer

    if schema:
        console.print_json(json.dumps(describer.schema()))
        return
    if spec is None:
        raise InputError("describe needs a SPEC; only --schema does without one")
    if bandwidth is not None or speed is not None:
        if bandwidth is None or speed is None:
            raise InputError("a prediction needs both --bandwidth and --speed (distgan bench step measures the latter)")
        from distgan.scaling import as_rows, predict

        run_spec = _load(spec, changes, overrides)
        # Not a field of the run here: a cluster may be planned that is too large for this global batch.
        count = _fewest_and_most(workers)[1] if workers else run_spec.cluster.most_workers
        described, batch_size = describer.describe(run_spec), run_spec.training.batch_size
        _print_rows(as_rows(predict(described, batch_size, count, speed, bandwidth * 1e9, latency * 1e-6)), as_json)
        return
    run_spec = _load(spec, changes, overrides, workers)
    if options:
        found = describer.options(run_spec)
        text = describer.to_json(found) if as_json else describer.options_text(found)
    else:
        described = describer.describe(run_spec)
        text = describer.to_json(described) if as_json else describer.description_text(described)
    if as_json:
        console.print_json(text)
    else:
        console.print(text)


@app.command()
def sample(
    run: Run,
    out: Annotated[
        Path, typer.Option(help="A .png for one grid, or a folder for one PNG an image.", show_default=False)
    ],
    count: Annotated[int, typer.Option(help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures.")] = 0,
    columns: Annotated[Optional[int], typer.Option(help="Images in a row of the grid.")] = None,  # noqa: UP045
    weights: Annotated[
        Weights, typer.Option(help="The averaged weights, or those that training goes on with.")
    ] = Weights.ema,
    best: Best = False,
    where: Where = None,
) -> None:
    """Draw images with a trained generator."""
    from distgan.checkpoint import find_checkpoint
    from distgan.sampling import sample as draw
    from shards.names import parse_where

    asked = parse_where(where or [])
    checkpoint = find_checkpoint(run, best=best)
    draw(checkpoint, out, count=count, seed=seed, columns=columns, ema=weights is Weights.ema, where=asked)
    console.print(f"{count} images of step {checkpoint.state.step} in {out}")


ComparedWith = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--shards", help="The packed set to compare with; the run's own when not given."),
]
DrawnCount = Annotated[
    int, typer.Option("--count", help="How many images to draw, and at most as many real ones to compare with.")
]
Metrics = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="frechet,kernel,neighbours,inception,wasserstein,ms_ssim or some of them; all that can be had when not "
        "given. c2st, too: it trains networks to tell what is drawn from real images, for minutes, and leaves them for "
        "distgan detect."
    ),
]
FeaturesOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--features",
        metavar="NAME|FILE",
        help="inception, lite0, inception:FILE, lite0:SIZE, a file (of distgan classifier train, TorchScript, "
        "torch.export), or none. When not given: Inception where its weights are at hand, else lite0 where it is "
        "installed, else none.",
    ),
]
LatentSeed = Annotated[int, typer.Option("--seed", help="Of the latents.")]
RealWhere = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--where",
        metavar="NAME=VALUE,...",
        help=f"The real images to compare with; those that the run was trained on when not given. {_CONDITIONS}"
        "the split test, else val, is taken where none is named.",
    ),
]


@app.command()
def evaluate(
    run: Run,
    shards: ComparedWith = None,
    count: DrawnCount = 10_000,
    metrics: Metrics = None,
    features: FeaturesOption = None,
    seed: LatentSeed = 0,
    weights: Annotated[
        Weights, typer.Option(help="The averaged weights, or those that training goes on with.")
    ] = Weights.ema,
    where: RealWhere = None,
    best: Best = False,
    as_json: AsJson = False,
) -> None:
    """Score a generator against real images that it has not learnt from."""
    from distgan.checkpoint import find_checkpoint

    checkpoint = find_checkpoint(run, best=best)
    ema = weights is Weights.ema
    found = _scored(checkpoint, shards, count, metrics, features, seed, where, ema=ema, learnt_in=run)
    if as_json:
        console.print_json(json.dumps(found.to_json()))
    else:
        _print_scores(found)


@app.command()
def average(
    run: Run,
    half_lives: Annotated[
        list[int],
        typer.Option(
            "--half-life", min=1, metavar="IMAGES", help="Images by which a step's weight has halved. Repeatable."
        ),
    ],
    score: Annotated[bool, typer.Option("--score/--no-score", help="Score each of them, as evaluate does.")] = True,
    shards: ComparedWith = None,
    count: DrawnCount = 10_000,
    metrics: Metrics = None,
    features: FeaturesOption = None,
    seed: LatentSeed = 0,
    where: RealWhere = None,
    best: Best = False,
    as_json: AsJson = False,
) -> None:
    """Average a run's generator over another length of training, in RUN/averages/, its score beside it.

    The run needs training.keep_traces_every_images.
    """
    from distgan.checkpoint import find_checkpoint
    from distgan.sampling.averaging import average as make
    from distgan.sampling.scored import write_scores

    checkpoint = find_checkpoint(run, best=best)
    made = [make(checkpoint, half_life) for half_life in half_lives]  # all, before the first is scored
    rows: list[dict[str, object]] = []
    for half_life, generator in zip(half_lives, made, strict=True):
        rows.append({"half_life": half_life, "path": str(generator.path)})
        if not as_json:
            console.print(f"half-life {half_life:,} images, at step {checkpoint.state.step:,}: {generator.path}")
        if score:
            found = _scored(generator, shards, count, metrics, features, seed, where, learnt_in=generator.path)
            write_scores(generator.path, found)
            rows[-1] |= found.to_json()
            if not as_json:
                _print_scores(found)
    if as_json:
        console.print_json(json.dumps(rows))


def _scored(
    checkpoint: Checkpoint,
    shards: str | None,
    count: int,
    metrics: str | None,
    features: str | None,
    seed: int,
    where: list[str] | None,
    *,
    ema: bool = True,
    learnt_in: Path,
) -> Evaluated:
    """Score a checkpoint as the options say; what a test has learnt goes into a folder."""
    from distgan.evaluation.detector import DETECTOR
    from distgan.evaluation.metrics import METRICS
    from distgan.sampling.scored import evaluate as score
    from shards.names import parse_where

    with _progress("scoring") as progress:
        return score(
            checkpoint,
            shards,
            count=count,
            seed=seed,
            metrics=metrics.split(",") if metrics is not None else tuple(METRICS),
            features=features,
            where=parse_where(where) if where else None,
            ema=ema,
            detector=learnt_in / DETECTOR,
            progress=progress,
        )


def _print_scores(found: Evaluated) -> None:
    from distgan.evaluation.metrics import names_of_scores

    for line in names_of_scores(found.scores, str(found.facts.get("distance", ""))):
        console.print(line)
    described = f"features {found.facts['features']}" if "features" in found.facts else "no features"
    console.print(
        f"step {found.facts['step']:,}: {found.facts['count']:,} generated and {found.facts['real_count']:,} real "
        f"images, {described}"
    )
    for note in found.notes:
        console.print(f"note: {note}")


@app.command()
def detect(
    detector: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FILE",
            help="A run or checkpoint that distgan evaluate --metrics c2st has tested, or a detector's file.",
            show_default=False,
        ),
    ],
    pictures: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES...", help="Image files, folders, zips or tars.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """Say of pictures how likely a run's generator has drawn them."""
    from distgan.evaluation.detector import detect as judge
    from distgan.evaluation.detector import read

    known = read(detector)
    verdicts = []
    for verdict in judge(known, pictures):
        verdicts.append(verdict)
        if not as_json:
            console.print(
                f"{verdict.reason:>10}  {verdict.name}"
                if verdict.generated is None
                else f"{verdict.generated:>10.3f}  {verdict.name}"
            )
    judged = [verdict.generated for verdict in verdicts if verdict.generated is not None]
    flagged = sum(chance > 0.5 for chance in judged)
    if as_json:
        rows = [verdict._asdict() for verdict in verdicts]
        console.print_json(json.dumps({"facts": known.facts, "pictures": rows}))
    else:
        console.print(
            f"{flagged} of {len(judged)} look generated; on held-out images the detector is right in "
            f"{known.facts['c2st']:.1%}"
        )


classifier_app = typer.Typer(
    no_args_is_help=True, help="A small network for the attributes or classes of a packed set."
)
app.add_typer(classifier_app, name="classifier")


@classifier_app.command("train")
def classifier_train(
    shards: Annotated[str, typer.Option(help="The packed set to learn from.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A .safetensors file.", show_default=False)],
    images: Annotated[int, typer.Option(min=1, help="How many images it is shown.")] = 60_000,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and order.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Learn to tell a set's attributes and classes: features for distgan evaluate, with their accuracy."""
    from dataclasses import asdict

    from distgan.evaluation.features import classifier
    from shards.index import Index

    with _progress("training") as progress:
        known = classifier.train(Index.load(shards), out, images=images, seed=seed, progress=progress)
    if as_json:
        console.print_json(json.dumps(asdict(known)))
        return
    width = max(map(len, known.accuracy))
    console.print(f"{'':<{width}}  accuracy  always the most frequent   (on {known.held_out:,} held-out images)")
    for name, share in known.accuracy.items():
        console.print(f"{name:<{width}}  {share:>8.3f}  {known.chance[name]:>24.3f}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)]) -> None:
    """Write RUN/report.html: curves, grids over time, the specification; one file that opens without a network."""
    from distgan.tracking import write_report

    console.print(str(write_report(run)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Invented faces → shards → training → report, on a CPU in minutes, with no network and no account."""
    from distgan.launch.demo import demo as run_demo

    _print_outcome(run_demo(out, overrides or [], console.print, _progress), out / "run", "the same command")


@bench_app.command("loader", context_settings=_WITH_CHANGES)
def bench_loader(
    spec: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help=f"{_SPEC}, whose shards are read; without it, invented ones."),
    ] = None,
    changes: Changes = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Images a second from shards to batches, from one thread with a warm page cache."""
    from distgan.bench import bench_loader as measure

    _print_figures(measure(_load(spec, changes, overrides) if spec else None), as_json)


@bench_app.command("pack")
def bench_pack(
    source: Annotated[Optional[Path], typer.Argument(help="A folder of images; without it, invented ones.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Images a second from files to shards with one process and two, beside a bare Pillow loop in the same run."""
    from shards.bench import bench_pack as measure

    if source is not None and not source.is_dir():
        raise InputError(f"{source} is not a folder: the bare loop that packing is compared with reads files")
    _print_figures(measure(source), as_json)


@bench_app.command("scaling", context_settings=_WITH_CHANGES)
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

    _print_rows(as_rows(measure(_load(spec, changes, overrides) if spec else None, workers)), as_json)


@bench_app.command("step", context_settings=_WITH_CHANGES)
def bench_step(
    spec: SpecOrDefault = None,
    changes: Changes = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Images a second through a specification's training step, without data."""
    from distgan.bench import bench_step as measure

    _print_figures(measure(_load(spec, changes, overrides) if spec else None), as_json)


def main() -> None:
    """The ``distgan`` command. Exits with 0 when done, 2 when the user's input is wrong, 1 when the work failed."""
    ensure_home()
    try:
        app()
    except InputError as error:
        _fail(str(error), 2)
    except (RunError, DamageError) as error:
        _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except RuntimeError as error:  # torch says so in its own words, on each device in others
        if not any(words in str(error) for words in ("out of memory", "allocate memory", "not enough memory")):
            raise
        _fail(f"out of memory: lower training.batch_size or the networks' width ({str(error).splitlines()[0]})", 1)
    except MemoryError:
        _fail("out of memory", 1)


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
        _fail(end.text, end.exit_code)
    console.print(end.text)


def _load(
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
    fewest, most = _fewest_and_most(text)
    return [f"cluster.workers=[{fewest}, {most}]" if "-" in text else f"cluster.workers={fewest}"]


def _fewest_and_most(text: str) -> tuple[int, int]:
    fewest, dash, most = text.partition("-")
    numbers = [int(number) if number.isdecimal() else 0 for number in (fewest, most if dash else fewest)]
    if min(numbers) < 1:
        raise InputError(f"--workers {text}: write a number, such as 8, or the fewest and the most, such as 1-8")
    return numbers[0], numbers[1]


def _print_outcome(outcome: Outcome, run: Path, go_on: str) -> None:
    console.print(f"{outcome.ended} at step {outcome.step:,} ({outcome.images:,} images): {run}")
    if (run / "report.html").exists():
        console.print(f"Look at {run / 'report.html'}")
    if outcome.ended == "interrupted":
        console.print(f"Go on with {go_on}.")


def skipped_text(skipped: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Lines on the images that could not be used: some by name, all by number."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped:
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        for name in names[:_SHOWN_OF_A_REASON]:
            yield f"left out {name}: {reason}"
        if len(names) > _SHOWN_OF_A_REASON:
            yield f"left out {len(names) - _SHOWN_OF_A_REASON:,} more: {reason}"


def _fail(message: str, code: int) -> None:
    if _FIRST:
        errors.print(f"error: {message}")
    sys.exit(code)


@contextmanager
def _progress(what: str) -> Iterator[OnProgress]:
    """A bar on a terminal; nothing where the output goes into a file."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_rows(rows: list[dict[str, object]], as_json: bool) -> None:
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


def _print_figures(figures: dict[str, float | str], as_json: bool) -> None:
    if as_json:
        console.print_json(json.dumps(figures))
        return
    width = max(28, 2 + max(map(len, figures)))
    for name, value in figures.items():
        shown = value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        console.print(f"{name:<{width}}{shown}")
