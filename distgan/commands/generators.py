"""Commands for what a run has learnt: pictures and how good they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from distgan.commands.base import (
    CONDITIONS,
    AsJson,
    Best,
    Device,
    Run,
    Seed,
    Truncation,
    Weights,
    Where,
    WhichWeights,
    console,
    progress_bar,
)
from shards.errors import InputError

if TYPE_CHECKING:
    from distgan.checkpoint import Checkpoint
    from distgan.evaluation import Evaluated


def sample(
    run: Run,
    out: Annotated[
        Path, typer.Option(help="A .png for one grid, or a folder for one PNG an image.", show_default=False)
    ],
    count: Annotated[int, typer.Option(help="How many images.")] = 64,
    seed: Seed = 0,
    columns: Annotated[Optional[int], typer.Option(help="Images in a row of the grid.")] = None,  # noqa: UP045
    weights: WhichWeights = Weights.ema,
    device: Device = None,
    best: Best = False,
    where: Where = None,
    truncation: Truncation = None,
) -> None:
    """Draw images with a trained generator."""
    from distgan.checkpoint import find_checkpoint
    from distgan.sampling import sample as draw
    from shards.names import parse_where

    asked = parse_where(where or [])
    checkpoint = find_checkpoint(run, best=best)
    with progress_bar("drawing") as progress:
        draw(
            checkpoint,
            out,
            count=count,
            seed=seed,
            columns=columns,
            ema=weights is Weights.ema,
            where=asked,
            truncation=truncation,
            device=device,
            progress=progress,
        )
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
        help=f"The real images to compare with; those that the run was trained on when not given. {CONDITIONS}"
        "the split test, else val, is taken where none is named.",
    ),
]


def evaluate(
    run: Run,
    shards: ComparedWith = None,
    count: DrawnCount = 10_000,
    metrics: Metrics = None,
    features: FeaturesOption = None,
    seed: LatentSeed = 0,
    weights: WhichWeights = Weights.ema,
    device: Device = None,
    where: RealWhere = None,
    best: Best = False,
    as_json: AsJson = False,
) -> None:
    """Score a generator against real images that it has not learnt from."""
    from distgan.checkpoint import find_checkpoint

    checkpoint = find_checkpoint(run, best=best)
    ema = weights is Weights.ema
    options = _options(count, metrics, features, where)
    found = _scored(checkpoint, shards, seed, options, ema=ema, device=device, learnt_in=run)
    if as_json:
        console.print_json(json.dumps(found.to_json()))
    else:
        _print_scores(found)


def average(
    run: Run,
    half_lives: Annotated[
        list[int],
        typer.Option(
            "--half-life",
            min=1,
            max=10**15,
            metavar="IMAGES",
            help="Images by which a step's weight has halved. Repeatable.",
        ),
    ],
    score: Annotated[bool, typer.Option("--score/--no-score", help="Score each of them, as evaluate does.")] = True,
    shards: ComparedWith = None,
    count: DrawnCount = 10_000,
    metrics: Metrics = None,
    features: FeaturesOption = None,
    seed: LatentSeed = 0,
    where: RealWhere = None,
    device: Device = None,
    best: Best = False,
    as_json: AsJson = False,
) -> None:
    """Average a run's generator over another length of training, in RUN/averages/, its score beside it.

    The run needs training.keep_traces_every_images.
    """
    import torch

    from distgan.checkpoint import find_checkpoint
    from distgan.evaluation import Alone
    from distgan.sampling.averaging import average as make
    from distgan.sampling.scored import compare, write_scores

    checkpoint = find_checkpoint(run, best=best)
    options = _options(count, metrics, features, where)
    if score:  # what is wrong with these is said before anything is made
        compare(checkpoint, shards, **options, workers=Alone(torch.device("cpu")))
    made = [make(checkpoint, half_life) for half_life in half_lives]
    rows: list[dict[str, object]] = []
    for half_life, generator in zip(half_lives, made, strict=True):
        rows.append({"half_life": half_life, "path": str(generator.path)})
        if not as_json:
            console.print(f"half-life {half_life:,} images, at step {checkpoint.state.step:,}: {generator.path}")
        if score:
            found = _scored(generator, shards, seed, options, device=device, learnt_in=generator.path)
            rows[-1] |= found.to_json()
            if not as_json:
                _print_scores(found)
            write_scores(generator.path, found)
    if as_json:
        console.print_json(json.dumps(rows))


def _options(count: int, metrics: str | None, features: str | None, where: list[str] | None) -> dict[str, Any]:
    """What a score is to be of, as options say it."""
    from distgan.evaluation.metrics import METRICS
    from shards.names import parse_where

    return {
        "count": count,
        "metrics": metrics.split(",") if metrics is not None else tuple(METRICS),
        "features": features,
        "where": parse_where(where) if where else None,
    }


def _scored(
    checkpoint: Checkpoint,
    shards: str | None,
    seed: int,
    options: dict[str, Any],
    *,
    ema: bool = True,
    device: str | None,
    learnt_in: Path,
) -> Evaluated:
    """Score a checkpoint as the options say; what a test has learnt goes into a folder."""
    from distgan.evaluation.detector import DETECTOR
    from distgan.sampling.scored import evaluate as score

    with progress_bar("scoring") as progress:
        return score(
            checkpoint,
            shards,
            **options,
            seed=seed,
            ema=ema,
            device=device,
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
    elif judged:
        weights = "averaged" if known.facts["ema"] else "training"
        console.print(
            f"{flagged} of {len(judged)} look generated; the detector, of step {known.facts['step']:,} ({weights} "
            f"weights), is right about {known.facts['c2st']:.1%} of held-out images"
        )
    if not judged:
        raise InputError("none of these could be judged")


classifier_app = typer.Typer(
    no_args_is_help=True, help="A small network for the attributes or classes of a packed set."
)


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

    with progress_bar("training") as progress:
        known = classifier.train(Index.load(shards), out, images=images, seed=seed, progress=progress)
    if as_json:
        console.print_json(json.dumps(asdict(known)))
        return
    width = max(map(len, known.accuracy))
    console.print(f"{'':<{width}}  accuracy  always the most frequent   (on {known.held_out:,} held-out images)")
    for name, share in known.accuracy.items():
        console.print(f"{name:<{width}}  {share:>8.3f}  {known.chance[name]:>24.3f}")
