"""``distgan shards``: pack images once; look at them, check them, mend them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from distgan.commands.base import CONDITIONS, AsJson, Shards, console, errors, progress_bar
from shards.errors import DamageError, InputError

shards_app = typer.Typer(
    help="Pack images into shards once; look at them, check them, mend them.", no_args_is_help=True
)
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


@shards_app.command("synth")
def shards_synth(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    count: Annotated[int, typer.Option(help="How many faces.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Face i depends on the seed and on i alone.")] = 0,
) -> None:
    """Draw invented faces in CelebA's exact layout: 178×218 JPEG, 40 attributes, partitions, landmarks."""
    from shards.synth import synthesize

    with progress_bar("drawing") as progress:
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
    pyramid: Annotated[
        bool,
        typer.Option(
            "--pyramid",
            help="Smaller images beside each, down to 8 pixels, for runs that grow (data.pyramid): a third more disk. "
            "Of raw images alone.",
        ),
    ] = False,
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
    with progress_bar("packing") as progress:
        report = pack(
            images,
            out,
            transform,
            encoding=encoding.value,
            with_pyramid=pyramid,
            workers=workers,
            progress=progress,
        )
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
    from shards.sources.base import displayed

    summary = Index.load(root).summary()
    if as_json:
        console.print_json(json.dumps(summary))
        return
    for name, value in summary.items():
        if isinstance(value, dict):
            if value:
                console.print(f"{name}:")
            for key, count in value.items():
                console.print(f"  {displayed(key):<24}{count}")
        else:
            console.print(f"{name:<14}{displayed(str(value))}")


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
            help=f"Only what matches all of this. {CONDITIONS} split=train chooses among splits.",
        ),
    ] = None,
) -> None:
    """Write a grid of random images of a packed set, as training sees them."""
    from distgan.sampling.real import show
    from shards.names import parse_where
    from shards.sources.base import displayed

    asked = parse_where(where or [])
    shown = show(root, out, count=count, seed=seed, columns=columns, where=asked)
    matching = f"{shown.matching:,} that match, of {shown.samples:,}" if asked else f"{shown.samples:,}"
    classes = [f"{displayed(name)} {number}" for name, number in shown.classes.items()]
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

    with progress_bar("verifying") as progress:
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

    with progress_bar("repairing") as progress:
        report = repair(root, out, progress=progress)
    for damage in report.lost:
        errors.print(str(damage))
    console.print(f"{len(report.index)} samples in {out}")


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
