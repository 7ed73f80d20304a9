"""What to train on one's own images in so many minutes: a specification, with a reason for each choice.

It begins as ``jobs/faces64.yaml`` or ``jobs/faces128.yaml``; here is what follows from the set and the time there is.
The thresholds are what published recipes and short runs on a processor say; ``distgan bench quality`` can try others.
"""

from __future__ import annotations

import copy
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from distgan.data.selection import select_samples
from distgan.evaluation import held_out
from distgan.spec import DataSpec, RunSpec, dump_value, make_spec, parse_spec
from jobs import read
from shards.errors import InputError
from shards.index import Index
from shards.sources.base import displayed

LARGE = 64
"""Pixels beyond which the recipe is that for 128."""
WITHOUT_MIRRORS = ("mnist",)
"""Layouts of letters and digits."""
WIDTHS = (64, 32)
"""Of both networks, the wider ones first; for images below 64 pixels twice as much, as their networks have a layer less
and so end with half the channels. On CIFAR-10 a width of 32 stood still at a Fréchet distance of 740 from 80,000 images
on to 400,000, where 64 had 590 after 100,000, and the tutorial's loop 690 after 60,000 (one seed each)."""
FULL_WIDTH_IMAGES = 300_000
"""Narrow networks are better than wide ones that are shown fewer images than this."""
LEAST_IMAGES = 10_000
"""Fewer are no run."""
BATCHES = {0: 16, 2_000_000: 64, 10_000_000: 128, 40_000_000: 256}
"""The global batch of a run of so many images or more."""
WORTH_DOUBLING = 1.4
"""Times the images/s from which on twice the batch is better: a GPU has room for it, a processor has not."""
RATES = {0: 4e-4, 50_000: 8e-4, 2_000_000: 4e-4}
"""The learning rate that a run of so many images or more begins with. The middle one was best in batches of 16; it has
not been tried in the larger ones of long runs."""
SMALL_RATE = 4e-4
"""The most of images below 64 pixels: on CIFAR-10, 100,000 images at a width of 64 came to 735 with twice that, and on
the way to 200,000 with this to 587 (one seed each)."""
FALLING_IMAGES = 50_000
"""From which on the rate falls to 0. Runs of 20,000 came to rest too soon: a Fréchet distance of 142 and, at half the
rate, 201, where a constant one has 104."""
EACH = 4
"""Images of a batch that each worker has at least."""
HALF_LIFE = 10_000, 500_000
"""The shortest and the longest of the EMA."""
KNOWN_BY_HEART = 50
"""Epochs after which a critic may know its images by heart."""
TOGETHER = 0.8
"""Of the speed of several machines, what is counted on: they also talk to each other."""
LINE = 110
"""Characters of a reason's line at most."""

Number = TypeVar("Number", int, float)
Tree = dict[str, Any]
Reasons = dict[str, str]
"""Why a field is what it is, by its dotted path."""


@dataclass(frozen=True)
class Facts:
    """What is known of the images.

    Attributes:
        shards: The packed set.
        size: Of an image, in pixels.
        images: Trained on.
        mirrored: Whether a mirror image is still of their kind: letters and digits are not.
        held_out: The split to compare with; None where the set has none.
        classes: Several of them, or none.
    """

    shards: str
    size: int
    images: int
    mirrored: bool = True
    held_out: str | None = None
    classes: tuple[str, ...] = ()


def facts_of(shards: str) -> tuple[Facts, int]:
    """What the index of a packed set says; and the colour channels of its images.

    Raises:
        InputError: There is none, or nothing to train on.
    """
    index = Index.load(shards)
    data = DataSpec(shards=shards, image_size=index.transform.size)
    _, kept = select_samples(RunSpec(name="suggested", data=data).with_training(batch_size=1))
    symbols = bool(index.class_names) and all(re.fullmatch(r"\w", name) for name in index.class_names)
    split = held_out(index, {}).where.get("split")
    facts = Facts(
        shards=shards,
        size=index.transform.size,
        images=len(kept),
        mirrored=index.layout not in WITHOUT_MIRRORS and not symbols,
        held_out=None if split is None else str(split),
        classes=index.class_names if len(index.class_names) > 1 else (),
    )
    return facts, index.transform.channels


def suggest(facts: Facts, minutes: float, workers: int, speed: Callable[[RunSpec], float]) -> str:
    """A specification as YAML, with the reasons of its choices in it.

    Args:
        facts: What is known of the images.
        minutes: How long the run may take.
        workers: Machines or GPUs that train together, each as fast as this one.
        speed: Images/s that one of them trains of a run.

    Raises:
        InputError: There is no recipe for images of this size, too few of them for the workers, or too little time to
            train anything.
    """
    if workers > (most := _largest_batch(facts)):
        raise InputError(
            f"{facts.images:,} images make batches of {most:,} at most, too few for {workers:,} workers: each needs an "
            f"image. Give --workers {most:,} or fewer"
        )
    base = _base(facts)
    tree: Tree = parse_spec(read(base), base).model_dump(mode="json", exclude_unset=True)
    tree |= {"name": "suggested", "data": {"shards": facts.shards, "image_size": facts.size, "flip": facts.mirrored}}
    reasons = {
        "data.flip": _of_mirrors(facts),
        "model.critic": "without image_bias it cannot see contrast, and that of what is drawn fades",
    }
    together = workers * TOGETHER if workers > 1 else 1.0
    widths = [width * (2 if facts.size < LARGE else 1) for width in WIDTHS]
    for width in widths:
        for network in ("generator", "critic"):
            tree["model"][network]["width"] = width
        rate, measured = _fastest(tree, speed)
        rate *= together
        images = _rounded(60 * minutes * rate)
        if images >= FULL_WIDTH_IMAGES:
            break
    if images < LEAST_IMAGES:
        least = math.ceil(LEAST_IMAGES / rate / 6) / 10  # minutes
        raise InputError(
            f"{images:,} images can be shown in {minutes:g} minutes ({rate:,.3g} a second), and {LEAST_IMAGES:,} are "
            f"the least that anything is learnt from: give it {least:,g} minutes or more"
        )
    epochs = images / facts.images
    said = f"{minutes:g} minutes at {rate:,.3g} images/s"
    said += (
        f", {TOGETHER:.0%} of what {workers} machines as fast as this one do" if workers > 1 else ", as measured here"
    )
    reasons["training.images"] = f"{said}: {epochs:,.1f} epochs of {facts.images:,}"
    batch_size, reasons["training.batch_size"] = _batch(facts, images, workers, measured)
    for optimizer in tree["optimizer"].values():
        learning_rate = _of_so_many(RATES, images)
        optimizer["lr"] = min(learning_rate, SMALL_RATE) if facts.size < LARGE else learning_rate
        if images < FALLING_IMAGES:
            del optimizer["schedule"]
    reasons["optimizer.generator"] = "a rate above the paper's learns faster at first" + (
        ", and so short a run has no time for one that falls"
        if images < FALLING_IMAGES
        else ", and falls until the run ends, so that the game comes to rest"
    )
    half_life = min(max(_rounded(images / 20), HALF_LIFE[0]), HALF_LIFE[1])
    reasons["training.ema_half_life_images"] = "a twentieth of the run, but {:,} to {:,}".format(*HALF_LIFE)
    every = _rounded(images / 10)
    reasons["training.checkpoint_every_images"] = "ten of them, of which the newest two are kept"
    tree["training"] |= {
        "images": images,
        "batch_size": batch_size,
        "ema_half_life_images": half_life,
        "checkpoint_every_images": every,
    }
    tree["tracking"]["sample_every_images"] = every
    if width < widths[0]:
        wide = f"a width of {widths[0]} learns more per image, but needs some {FULL_WIDTH_IMAGES:,} of them"
        reasons["model.generator"] = wide
    if epochs > KNOWN_BY_HEART:
        tree["augmentation"] = {"colour": True, "translation": 0.125, "cutout": 0.5, "target": 0.6}
        reasons["augmentation.target"] = (
            f"in {epochs:,.0f} epochs the critic may learn {facts.images:,} images by heart: what it sees is changed "
            "at random, the more often the surer it is of real images"
        )
    if workers > 1:
        tree["cluster"] = {"workers": workers}
    _run(tree)  # what does not fit together is said here
    return _written(tree, reasons, _head(facts, minutes, workers))


def _base(facts: Facts) -> str:
    """The recipe to begin with."""
    return "faces64" if facts.size <= LARGE else "faces128"


def _of_mirrors(facts: Facts) -> str:
    if facts.mirrored:
        return "a mirror image is as good as another one, but not of letters and what else has a left and a right"
    return "letters and digits have no mirror images"


def _fastest(tree: Tree, speed: Callable[[RunSpec], float]) -> tuple[float, int]:
    """Images/s of one worker, and the batch with which it reaches them: the least that is not much slower than others.

    The tree's batch is of no account.
    """
    batch_size, largest = min(BATCHES.values()), max(BATCHES.values())
    run = _run(tree)
    rate = speed(run.with_training(batch_size=batch_size))
    while 2 * batch_size <= largest:
        doubled = speed(run.with_training(batch_size=2 * batch_size))
        if doubled < WORTH_DOUBLING * rate:
            break
        rate, batch_size = doubled, 2 * batch_size
    return rate, batch_size


def _batch(facts: Facts, images: int, workers: int, measured: int) -> tuple[int, str]:
    """The global batch of a run of so many images, and why; each worker is fastest with so many as were measured."""
    batch_size = _of_so_many(BATCHES, images)
    reason = f"{images:,} images are time enough for steps that are less noisy, and that more workers can share"
    if batch_size == min(BATCHES.values()):
        reason = "in little time many small steps learn more than few large ones"
    room = min(measured * workers, max(BATCHES.values()))
    if measured > min(BATCHES.values()) and batch_size < room:
        batch_size = room
        reason = f"this machine shows images far faster in batches of {measured} than of half as many"
    if batch_size < EACH * workers:
        batch_size = 1 << (EACH * workers - 1).bit_length()  # the next power of two
        reason = f"so that each of {workers} workers has {EACH} images or more"
    if batch_size > _largest_batch(facts):
        batch_size = _largest_batch(facts)
        reason = f"half of the {facts.images:,} images"
    return batch_size, reason


def _largest_batch(facts: Facts) -> int:
    return max(facts.images // 2, 1)


def _of_so_many(table: Mapping[int, Number], images: int) -> Number:
    """What a table has for a run of so many images: that of its largest number that is not above them."""
    return table[max(least for least in table if images >= least)]


def _head(facts: Facts, minutes: float, workers: int) -> list[str]:
    """What is said of the whole, a paragraph each."""
    together = f" --workers {workers}" if workers > 1 else ""
    said = [
        f"Suggested by distgan recipes suggest --shards {facts.shards} --minutes {minutes:g}{together}, from the "
        f"recipe {_base(facts)}."
    ]
    if facts.classes:
        shown = ", ".join(facts.classes[:3]) + (", …" if len(facts.classes) > 3 else "")
        said.append(f"With --set model.condition='{{classes: true}}' its classes ({shown}) can be drawn at will.")
    if facts.held_out:
        said.append(f"distgan evaluate RUN scores it against the split {facts.held_out}, which is not trained on.")
    return said


def _run(tree: Tree) -> RunSpec:
    """The run that a tree says.

    Raises:
        InputError: It is none.
    """
    return make_spec(copy.deepcopy(tree), (), "the suggestion")


def _rounded(number: float) -> int:
    """To two digits, downwards."""
    whole = int(number)
    step = int(10 ** max(len(str(whole)) - 2, 0))
    return whole // step * step


def _written(tree: Tree, reasons: Reasons, head: Sequence[str]) -> str:
    """YAML in which a reason stands above its field."""
    lines = [line for text in head for line in _comment(text, "")]
    for name, value in tree.items():
        if not isinstance(value, dict):
            lines.append(f"{name}: {dump_value(value)}")
            continue
        lines.append(f"{name}:")
        for field, inner in value.items():
            lines += _comment(reasons.get(f"{name}.{field}", ""), "  ")
            lines.append(f"  {field}: {dump_value(inner)}")
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(displayed(text), LINE, break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in lines]
