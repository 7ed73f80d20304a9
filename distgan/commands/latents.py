"""Commands that look into what a generator has learnt: ways between pictures, pictures over time, their likeness."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from distgan.commands.base import (
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
    print_rows,
    progress_bar,
)
from shards.errors import InputError

Film = Annotated[
    Path, typer.Option("--out", help="A .png for a strip, or a .gif or .mp4 for a film.", show_default=False)
]
FramesPerSecond = Annotated[float, typer.Option("--fps", min=0.1, max=50, help="Frames a second of a film.")]


def interpolate(
    run: Run,
    out: Film,
    pairs: Annotated[int, typer.Option(help="Ways, each from one picture to another.")] = 4,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Pictures of a way, its ends among them; 9 in a strip and 36 in a film when not given."),
    ] = None,
    seed: Seed = 0,
    truncation: Truncation = None,
    weights: WhichWeights = Weights.ema,
    device: Device = None,
    best: Best = False,
    where: Where = None,
    frames_per_second: FramesPerSecond = 12,
) -> None:
    """Draw the ways from one picture to another: spherical ones, of latents that are normal.

    Way 1 goes from the first picture of distgan sample --seed S to its second, way 2 from the third to the fourth.
    """
    from distgan.checkpoint import find_checkpoint
    from distgan.sampling.interpolation import interpolate as draw
    from shards.names import parse_where

    asked = parse_where(where or [])
    checkpoint = find_checkpoint(run, best=best)
    draw(
        checkpoint,
        out,
        pairs=pairs,
        steps=steps,
        seed=seed,
        ema=weights is Weights.ema,
        device=device,
        where=asked,
        truncation=truncation,
        frames_per_second=frames_per_second,
    )
    console.print(f"{pairs} ways of step {checkpoint.state.step:,} in {out}")


def arithmetic(
    run: Run,
    expression: Annotated[
        str,
        typer.Argument(
            help="Attributes or classes with + and -, as in 'Smiling - Male + Eyeglasses'.", show_default=False
        ),
    ],
    out: Film,
    classifier: Annotated[
        Path,
        typer.Option(help="What distgan classifier train has written for the run's shards.", show_default=False),
    ],
    strength: Annotated[
        str,
        typer.Option(
            metavar="FROM..TO", help="How far to go; 1 is from pictures that do not show it to those that do."
        ),
    ] = "-2..2",
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Strengths from the least to the most; 9 in a strip and 25 in a film when not given."),
    ] = None,
    rows: Annotated[int, typer.Option(help="Pictures that are shown.")] = 4,
    count: Annotated[int, typer.Option(help="Pictures to draw, from whose latents the directions come.")] = 4_000,
    tried: Annotated[int, typer.Option(help="Other pictures, in which the classifier looks for it.")] = 200,
    seed: Seed = 0,
    weights: WhichWeights = Weights.ema,
    device: Device = None,
    best: Best = False,
    frames_per_second: FramesPerSecond = 12,
    as_json: AsJson = False,
) -> None:
    """Make pictures show something, or no longer: directions of the latent space that a classifier finds.

    The direction of an attribute is the mean latent of pictures that show it less that of pictures that do not
    (Radford et al. 2015).
    """
    from distgan.checkpoint import find_checkpoint
    from distgan.sampling.directions import arithmetic as go

    checkpoint = find_checkpoint(run, best=best)
    with progress_bar("drawing") as progress:
        found = go(
            checkpoint,
            expression,
            out,
            classifier=classifier,
            strength=_from_to(strength),
            steps=steps,
            rows=rows,
            count=count,
            tried=tried,
            seed=seed,
            ema=weights is Weights.ema,
            device=device,
            frames_per_second=frames_per_second,
            progress=progress,
        )
    if as_json:
        console.print_json(json.dumps(asdict(found)))
        return
    print_rows(
        [
            {"strength": each, **{name: f"{shares[place]:.0%}" for name, shares in found.agrees.items()}}
            for place, each in enumerate(found.strengths)
        ],
        False,
    )
    console.print(
        f"of {found.tried} pictures, the share in which the classifier sees what is asked; it finds "
        + ", ".join(f"{name} in {shown:,}" for name, shown in found.assigned.items())
        + f" of the {found.drawn:,} that the directions come from, and is right about "
        + ", ".join(f"{name} {share:.0%}" for name, share in found.accuracy.items())
        + " of held-out photographs"
    )
    console.print(str(out))


def _from_to(text: str) -> tuple[float, float]:
    """The two numbers of ``--strength``.

    Raises:
        InputError: It is something else.
    """
    try:
        low, high = (float(number) for number in text.split(".."))
    except ValueError:
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"--strength {text}: write the least and the most, such as -2..2")
    return low, high


def invert(
    run: Run,
    photograph: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A .png file.", show_default=False)],
    crop: Annotated[bool, typer.Option("--crop", help="Cut the middle square out of one that is none.")] = False,
    steps: Annotated[int, typer.Option(help="Of the descent.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the latents that it begins with.")] = 0,
    weights: WhichWeights = Weights.ema,
    device: Device = None,
    best: Best = False,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Find the latent that draws what is nearest to a photograph, by gradient descent.

    The picture shows both: the photograph, at the size that the run draws, and what is nearest. --json has the latent.
    """
    from distgan.checkpoint import find_checkpoint
    from distgan.sampling.inversion import invert as descend
    from shards.names import parse_where

    asked = parse_where(where or [])
    checkpoint = find_checkpoint(run, best=best)
    with progress_bar("descending") as progress:
        found = descend(
            checkpoint,
            photograph,
            out,
            crop=crop,
            steps=steps,
            seed=seed,
            ema=weights is Weights.ema,
            device=device,
            where=asked,
            progress=progress,
        )
    if as_json:
        console.print_json(json.dumps(asdict(found)))
        return
    console.print(
        f"{found.rmse:.3g} levels of 255 from the photograph (root of the mean square; {found.psnr:.1f} dB), from "
        f"{found.begun_with:.3g} where it began: {out}"
    )


def export(
    run: Run,
    onnx: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="An .onnx file, which needs neither distgan nor torch.", show_default=False),
    ] = None,
    safetensors: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A new folder, which distgan reads as it reads a checkpoint.", show_default=False),
    ] = None,
    weights: WhichWeights = Weights.ema,
    best: Best = False,
) -> None:
    """Write a generator for others, with a model card: as ONNX, as safetensors, or both.

    What is written as ONNX is drawn with both ways and compared first, where onnxruntime is installed.
    """
    from distgan.checkpoint import find_checkpoint
    from distgan.export import export_onnx, export_safetensors

    if onnx is None and safetensors is None:
        raise InputError("say what to write: --onnx FILE, --safetensors FOLDER, or both")
    checkpoint = find_checkpoint(run, best=best)
    ema = weights is Weights.ema
    if safetensors is not None:
        export_safetensors(checkpoint, safetensors, ema=ema)
        console.print(f"step {checkpoint.state.step:,} in {safetensors}: distgan sample {safetensors} --out FILE")
    if onnx is not None:
        levels = export_onnx(checkpoint, onnx, ema=ema)
        compared = (
            "not compared with distgan's images, as onnxruntime is not installed"
            if levels is None
            else f"onnxruntime's images differ from distgan's by {levels} of 255 levels at most"
        )
        console.print(f"step {checkpoint.state.step:,} in {onnx}; {compared}")


def timeline(
    run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A .gif or .mp4 file.", show_default=False)],
    frames_per_second: FramesPerSecond = 6,
) -> None:
    """Show a run's sample grids as a film: the same latents, as training draws them over time."""
    from distgan.tracking.timeline import timeline as film

    unreadable = film(run, out, frames_per_second=frames_per_second)
    if unreadable:
        console.print(f"left out, as they are no pictures: {', '.join(unreadable)}")
    console.print(str(out))


def neighbours(
    run: Run,
    out: Annotated[Path, typer.Option(help="A .png file.", show_default=False)],
    shards: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Where the set lies that the run was trained on, if no longer where it was."),
    ] = None,
    count: Annotated[int, typer.Option(help="How many images to draw, and held-out ones to take at most.")] = 1_000,
    rows: Annotated[int, typer.Option(help="Rows of the picture: the drawn images that are nearest to one.")] = 8,
    columns: Annotated[int, typer.Option(help="Training images in a row.")] = 5,
    features: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="NAME|FILE",
            help="What likeness is told by, as distgan evaluate --features has it; thumbnails without any.",
        ),
    ] = None,
    seed: Seed = 0,
    weights: WhichWeights = Weights.ema,
    device: Device = None,
    best: Best = False,
    as_json: AsJson = False,
) -> None:
    """Has it learnt its images by heart? Find the training images that are most like what a generator draws.

    The picture shows those that are nearest to one: left what was drawn, then the training images.
    """
    from distgan.checkpoint import find_checkpoint
    from distgan.sampling.nearest import NEAR, nearest

    checkpoint = find_checkpoint(run, best=best)
    with progress_bar("describing") as progress:
        found = nearest(
            checkpoint,
            out,
            shards=shards,
            count=count,
            rows=rows,
            columns=columns,
            seed=seed,
            ema=weights is Weights.ema,
            device=device,
            features=features,
            progress=progress,
        )
    if as_json:
        console.print_json(json.dumps(asdict(found)))
        return
    console.print(f"{found.drawn:.4g}  distance of a generated image to its nearest training image (median)")
    if found.held_out is None or found.near is None:
        console.print("nothing to compare with: no image is held out (a split test or val of the set would be)")
    else:
        console.print(f"{found.held_out:.4g}  distance of an image that it has not learnt from (median)")
        console.print(
            f"{found.near:.1%}  of the generated images lie nearer to one than all but {NEAR:.0%} of those do; many "
            "more than that mean that it copies"
        )
    console.print(
        f"{found.count:,} generated, {found.held_out_count:,} held-out and {found.trained_on:,} training images, by "
        f"{found.features}; the nearest are in {out}"
    )
