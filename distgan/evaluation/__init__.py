"""How good a generator's pictures are: scores against real images that it has not learnt from, and what they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distgan.data.order import Ids, Order
from distgan.evaluation.detector import C2ST, Detector, count_of, two_sample_test
from distgan.evaluation.features import Features, load_features
from distgan.evaluation.kept import KeptVectors, default_folder
from distgan.evaluation.metrics import METRICS, Metric, build_metrics
from distgan.evaluation.scoring import Adder, Images, Progress, gather, setting_of
from distgan.spec import RunSpec
from shards.errors import InputError
from shards.index import Index
from shards.names import near
from shards.reader import Reader

BIASED_BELOW = 10_000
"""Fréchet distances of fewer images are too large, by an amount that depends on the images."""


@dataclass(frozen=True)
class HeldOut:
    """Real images to compare with.

    Attributes:
        index: The set that they are of.
        ids: The samples that match.
        where: What they match, the split among it.
        note: What was decided about splits, in a sentence; "" where it was asked for.
    """

    index: Index
    ids: Ids
    where: dict[str, object]
    note: str


@dataclass(frozen=True)
class Evaluated:
    """Scores, and all that they depend on.

    Attributes:
        scores: By name. "frechet" is called ``facts["distance"]``.
        facts: Counts, split, filter, crop, resize filter, features and the sha256 of their weights, EMA or not.
        notes: What should be known of them, in sentences.
    """

    scores: dict[str, float]
    facts: dict[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it, as ``--json`` prints it."""
        return {"scores": self.scores, "facts": self.facts, "notes": list(self.notes)}


class Alone:
    """The one process that scores, where no others do."""

    rank, world_size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def sum(self, values: Tensor) -> Tensor:
        """The values."""
        return values


def held_out(index: Index, where: Mapping[str, object]) -> HeldOut:
    """The real images of a set that a generator is compared with.

    Those of the split test, else val, if the set has one and ``where`` names none.

    Raises:
        InputError: No sample matches, or the set knows nothing of what is asked.
    """
    wanted, note = dict(where), ""
    if "split" not in wanted:
        for split in ("test", "val"):
            if split in index.split_names and bool((index.split == index.split_names.index(split)).any()):
                wanted["split"], note = split, f"compared with the split {split}"
                break
        else:
            note = "the shards have no split test or val: these images may have been learnt from"
    return HeldOut(index, index.select(wanted), wanted, note)


def check_metrics(names: Sequence[str]) -> None:
    """See that all scores are known.

    Raises:
        InputError: One is not, or is none of those that are sums over images.
    """
    for name in names:
        if name == C2ST:
            raise InputError(f"metrics: {C2ST} trains networks of its own: distgan evaluate RUN --metrics {C2ST}")
        if name not in METRICS:
            raise InputError(f"metrics: there is no {name!r}; {near(name, [*METRICS, C2ST])}")


def check_fits(held: HeldOut, channels: int, size: int, whose: str) -> None:
    """See that generated images can be compared with real ones.

    Raises:
        InputError: They have another size or another number of channels.
    """
    transform = held.index.transform
    if (transform.size, transform.channels) != (size, channels):
        raise InputError(
            f"{whose} draws images of {size} pixels and {channels} channel(s), but the shards in {held.index.root} "
            f"hold {transform.size} pixels and {transform.channels}: pack the images again with --size {size} "
            f"--channels {channels}"
        )


@contextmanager
def real_images(held: HeldOut, device: torch.device) -> Iterator[Images]:
    """The real images by position, in an order that depends on the set alone."""
    order = Order(len(held.ids), 0)
    with Reader(held.index) as reader:

        def images(first: int, count: int) -> Tensor:
            ids = held.ids[order(np.arange(first, first + count))]
            return torch.from_numpy(reader.read(ids)).permute(0, 3, 1, 2).to(device)

        yield images


class Comparison:
    """Held-out images and what describes them: what several generators are compared with.

    Args:
        held: The real images.
        count: How many to draw; as many real ones are taken, if there are.
        metrics: Names in METRICS; none where another test alone is wanted.
        features: What describes images, on the workers' device.
        workers: This process and the others.
        cache: Where features of real images are kept; None for the user's cache folder.

    Attributes:
        facts: What its scores depend on.
        scores: The names of those that can be had.

    Raises:
        InputError: An unknown metric, none that can be had, or fewer than two real images.
    """

    def __init__(
        self,
        held: HeldOut,
        *,
        count: int,
        metrics: Sequence[str],
        features: Features | None,
        workers: Adder,
        cache: Path | None = None,
    ) -> None:
        check_metrics(metrics)
        self._held, self._features, self._workers = held, features, workers
        transform, real_count = held.index.transform, min(count, len(held.ids))
        if real_count < 2:
            raise InputError(
                f"scores need at least 2 real images, and {held.index.root} has {len(held.ids)} that match"
            )
        self._setting = setting_of(count, real_count, transform.channels, transform.size, features)
        self._metrics = list(metrics)
        self.scores = [name for metric in build_metrics(metrics, self._setting) for name in metric.names]
        if metrics and not self.scores:
            raise InputError(
                f"metrics: {', '.join(metrics)} cannot be had of these images"
                + ("" if features else " without features: pip install 'distgan[lite0]', or ask for wasserstein")
            )
        self.facts: dict[str, Any] = {
            "count": count,
            "real_count": self._setting.real,
            "where": held.where,
            "shards": held.index.fingerprint,
            "transform": transform.to_json(),
        }
        self._kept = None
        if features:
            self.facts |= {
                "distance": features.distance,
                "features": features.name,
                "features_sha256": features.sha256,
                **{f"features_{name}": value for name, value in features.facts.items()},
            }
            self._kept = KeptVectors(cache or default_folder(), self.facts)

    @classmethod
    def of_run(
        cls,
        spec: RunSpec,
        channels: int,
        index: Index,
        where: Mapping[str, object] | None,
        *,
        whose: str,
        count: int,
        metrics: Sequence[str],
        features: str | None,
        workers: Adder,
        cache: Path | None = None,
    ) -> Comparison:
        """What a run's generators are compared with.

        Args:
            spec: The run.
            channels: Of its images.
            index: The set to compare with.
            where: The real images, as :meth:`shards.index.Index.select` takes it; None for those that the run is
                trained on, of another split.
            whose: What draws, for messages.
            count: As above.
            metrics: As above.
            features: As :func:`distgan.evaluation.features.load_features` takes it.
            workers: As above.
            cache: As above.

        Raises:
            InputError: The set, the run, the features and the metrics do not fit each other.
        """
        check_metrics(metrics)
        trained_on = {name: value for name, value in spec.data.where.items() if name != "split"}
        held = held_out(index, trained_on if where is None else where)
        check_fits(held, channels, spec.data.image_size, whose)
        described = load_features(features)
        return cls(
            held,
            count=count,
            metrics=metrics,
            features=described.to(workers.device) if described else None,
            workers=workers,
            cache=cache,
        )

    @property
    def where(self) -> dict[str, object]:
        """What the real images match, the split among it."""
        return self._held.where

    @property
    def notes(self) -> list[str]:
        """What should be known of the scores, in sentences."""
        notes = [self._held.note] if self._held.note else []
        if self._features and self._setting.real < BIASED_BELOW:
            notes.append(
                f"a Fréchet distance of {self._setting.real:,} images is too large, by an amount that depends on the "
                "images: compare equal numbers only, and the kernel distance first, which is not"
            )
        return notes

    @property
    def tested(self) -> int:
        """Images of either side that :meth:`test` is of."""
        return count_of(self._setting.real, self._held.index.transform)

    def test(
        self,
        generated: Images,
        facts: Mapping[str, Any],
        *,
        seed: int = 0,
        progress: Progress = lambda done, total: None,
    ) -> tuple[dict[str, float], Detector]:
        """Train networks to tell what is drawn from held-out images, as distgan.evaluation.detector says.

        Args:
            generated: What is drawn.
            facts: Of what draws, beside this comparison's own.
            seed: Of the networks and of the order of images.
            progress: Told how far it is.

        Raises:
            InputError: Too few images.
            DamageError: A real image is not what was packed.
        """
        transform, count = self._held.index.transform, self.tested
        with real_images(self._held, self._workers.device) as real:
            return two_sample_test(
                real, generated, count, transform, {**self.facts, **facts}, seed=seed, progress=progress
            )

    def gather(self, generated: Images, progress: Progress = lambda done, total: None) -> list[Metric]:
        """Draw, read and describe this worker's share: what :func:`distgan.evaluation.scoring.add_up` wants.

        Args:
            generated: What is drawn, as many channels and pixels as the held-out images have.
            progress: Told how far this worker is.

        Raises:
            InputError: Wrong features, or a cache that cannot be written.
            DamageError: A real image is not what was packed.
        """
        with real_images(self._held, self._workers.device) as real:
            return gather(
                generated,
                real,
                self._setting,
                metrics=self._metrics,
                features=self._features,
                workers=self._workers,
                kept=self._kept,
                progress=progress,
            )
