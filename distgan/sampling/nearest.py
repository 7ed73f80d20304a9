"""Has a generator learnt its images by heart? The training images that are most like what it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distgan.checkpoint import Checkpoint
from distgan.data.order import Ids, Order
from distgan.data.selection import select_samples
from distgan.evaluation import check_fits, held_out
from distgan.evaluation.features import Features, load_features
from distgan.evaluation.kept import KeptVectors, default_folder
from distgan.evaluation.scoring import BATCH, Progress
from distgan.sampling import Bytes, check_numbers, check_png, save_grid_or_say, thumbnails
from distgan.sampling.generator import Generator
from distgan.sampling.scored import index_of
from distgan.spec import RunSpec
from shards.errors import InputError
from shards.files import ready_or_say
from shards.index import Index
from shards.reader import Reader

BLOCK = 1024
"""Real images whose features are in memory, and in a file of the cache, at a time."""
NEAR = 0.05
"""A picture is near if so few of the held-out images, or fewer, lie as near to a training image."""

Describe = Callable[[Tensor], Tensor]
"""From uint8 pictures (n, c, s, s) to vectors (n, d)."""


@dataclass(frozen=True)
class Nearest:
    """How near what a generator draws lies to what it has learnt from, beside images that it has not learnt from.

    Attributes:
        drawn: Median distance of a generated image to its nearest training image, in feature space.
        held_out: The same of held-out images.
        near: The share of generated images that are nearer to one than all but a twentieth of the held-out images; a
            twentieth by chance. None where nothing is held out.
        count: Generated images.
        trained_on: Training images they are compared with.
        held_out_count: Held-out images.
        features: What distances are of.
    """

    drawn: float
    held_out: float | None
    near: float | None
    count: int
    trained_on: int
    held_out_count: int
    features: str


def nearest(
    checkpoint: Checkpoint,
    out: Path,
    *,
    shards: str | None = None,
    count: int = 1_000,
    rows: int = 8,
    columns: int = 5,
    seed: int = 0,
    ema: bool = True,
    features: str | None = None,
    cache: Path | None = None,
    device: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Nearest:
    """Find the training images nearest to what a generator draws, and show the generated images that are nearest.

    Where the run mirrors its images, an image's distance is that of it or of its mirror image, whichever is less.

    Args:
        checkpoint: The trained state.
        out: A ``.png``: a row each, the generated image and the training images nearest to it.
        shards: The set that the run was trained on; None for where it lay then.
        count: Images to draw, and held-out ones to compare with at most.
        rows: Of the picture: of all drawn, those that are nearest to a training image.
        columns: Training images in a row.
        seed: Of the latents.
        ema: The averaged weights, else those that training goes on with.
        features: As :func:`distgan.evaluation.features.load_features` takes it; without any, thumbnails of 16×16
            pixels are compared.
        cache: Where features of training images are kept; None for the user's cache folder.
        device: By name; None for a GPU where there is one. Another device rounds differently.
        progress: Told how many images of all have been described.

    Raises:
        InputError: The set is not the run's, a number is out of range, or something cannot be written.
        DamageError: An image is not what was packed.
    """
    check_numbers(count, seed, columns)
    if not 1 <= rows <= count:
        raise InputError(f"--rows is from 1 to --count, {count}")
    check_png(out)
    spec = checkpoint.state.spec
    index, trained_on = _trained_on(spec, index_of(shards, spec.data.shards), checkpoint)
    if columns > len(trained_on):
        raise InputError(f"--columns is at most {len(trained_on)}, the images that the run was trained on")
    ready_or_say(out)
    described = load_features(features)
    apart = _held_out(index, trained_on, spec, count)
    sides = 2 if spec.data.flip else 1
    total = len(trained_on) + sides * (count + len(apart))
    done = 0

    def tick(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    def describe(pictures: Tensor) -> Tensor:
        vectors = thumbnails(pictures) if described is None else described(pictures).vectors.float()
        tick(len(pictures))
        return vectors

    drawn = list(Generator(checkpoint, ema=ema, device=device).images(count, seed=seed))
    with Reader(index) as reader:
        of_drawn = _sides(np.stack(drawn), describe, sides)
        of_apart = _sides(reader.read(apart), describe, sides) if len(apart) else of_drawn[:, :0]
        found = _Nearest(torch.cat([of_drawn, of_apart], 1), columns)
        kept = _kept(index, trained_on, described, cache)
        for first, vectors in _blocks(reader, trained_on, describe, kept, tick):
            found.add(first, vectors)
        closest = found.distances[:, 0]
        shown = closest[:count].argsort()[:rows]
        pictures: list[Bytes] = []
        for place in shown.tolist():
            pictures += [drawn[place], *reader.read(trained_on[found.places[place].numpy()])]
    save_grid_or_say(pictures, out, columns=columns + 1)
    ours, theirs = closest[:count], closest[count:]
    return Nearest(
        drawn=float(ours.median()),
        held_out=float(theirs.median()) if len(theirs) else None,
        near=float((ours < theirs.quantile(NEAR)).float().mean()) if len(theirs) else None,
        count=count,
        trained_on=len(trained_on),
        held_out_count=len(theirs),
        features=described.name if described else "thumbnails of 16 pixels",
    )


class _Nearest:
    """The nearest of all vectors that come by.

    Args:
        vectors: (sides, n, d): what is looked for, in each of its forms.
        most: How many to find for each.
    """

    def __init__(self, vectors: Tensor, most: int) -> None:
        self._vectors = vectors
        self._most = most
        self.distances = torch.full((vectors.shape[1], 0), torch.inf)
        """(n, most) ascending, of all that have come by."""
        self.places = torch.zeros((vectors.shape[1], 0), dtype=torch.int64)
        """(n, most): which these were."""

    def add(self, first: int, vectors: Tensor) -> None:
        """Look at vectors (m, d), of which the first has this number."""
        apart = torch.cdist(self._vectors, vectors.expand(len(self._vectors), -1, -1)).amin(0)
        numbers = torch.arange(first, first + len(vectors)).expand(len(apart), -1)
        distances, places = torch.cat([self.distances, apart], 1), torch.cat([self.places, numbers], 1)
        self.distances, chosen = distances.topk(min(self._most, distances.shape[1]), largest=False)
        self.places = places.gather(1, chosen)


def _trained_on(spec: RunSpec, index: Index, checkpoint: Checkpoint) -> tuple[Index, Ids]:
    """The images that a run was trained on.

    Raises:
        InputError: The set is another one.
    """
    state = checkpoint.state
    if index.fingerprint != state.fingerprint:
        raise InputError(f"{index.root} is not the set that {checkpoint.path} was trained on: give that with --shards")
    here = spec.model_copy(update={"data": spec.data.model_copy(update={"shards": str(index.root)})})
    return select_samples(here)


def _held_out(index: Index, trained_on: Ids, spec: RunSpec, most: int) -> Ids:
    """Images to compare with that the run has not seen: those that ``evaluate`` takes; none where there are none."""
    where = {name: value for name, value in spec.data.where.items() if name != "split"}
    held = held_out(index, where)
    check_fits(held, index.transform.channels, spec.data.image_size, "the run")
    apart = np.setdiff1d(held.ids, trained_on)
    return apart[Order(len(apart), 0)(np.arange(min(most, len(apart))))] if len(apart) else apart


def _kept(index: Index, trained_on: Ids, features: Features | None, cache: Path | None) -> KeptVectors | None:
    """Where the features of these training images are kept: they take long where there are many."""
    if features is None:
        return None
    key = {
        "shards": index.fingerprint,
        "images": len(trained_on),
        "first_and_last": [int(trained_on[0]), int(trained_on[-1])],
        "sum": int(trained_on.sum()),
        "features": features.name,
        "features_sha256": features.sha256,
        **{f"features_{name}": value for name, value in features.facts.items()},
    }
    return KeptVectors(cache or default_folder(), key)


def _blocks(
    reader: Reader, ids: Ids, describe: Describe, kept: KeptVectors | None, tick: Callable[[int], None]
) -> Iterator[tuple[int, Tensor]]:
    """The place of the first image of each block, and the vectors of all. Ticks for those that are kept."""
    for first in range(0, len(ids), BLOCK):
        block = ids[first : first + BLOCK]
        vectors = kept.get(first // BLOCK) if kept else None
        if vectors is None or len(vectors) != len(block):
            parts = np.array_split(block, -(-len(block) // BATCH))
            vectors = torch.cat([describe(_as_tensor(reader.read(part))) for part in parts])
            if kept:
                kept.put(first // BLOCK, vectors)
        else:
            tick(len(block))
        yield first, vectors


def _sides(pictures: Bytes, describe: Describe, sides: int) -> Tensor:
    """Vectors (sides, n, d) of pictures uint8 (n, H, W, C), and of their mirror images where there are two sides."""
    described = [
        torch.cat([describe(part if side == 0 else part.flip(-1)) for part in torch.split(_as_tensor(pictures), BATCH)])
        for side in range(sides)
    ]
    return torch.stack(described)


def _as_tensor(pictures: Bytes) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)
