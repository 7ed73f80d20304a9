"""Scores by name: what each gathers from a block of images, and what it makes of the sums of all workers.

To add one: a class like these, and a line in the registry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override  # typing's from Python 3.12 on

from distgan.evaluation import pictures
from distgan.evaluation.distances import Entropy, KernelDistance, Moments, frechet_distance
from distgan.evaluation.features import Described
from distgan.evaluation.neighbours import Neighbourhood, neighbourhood

NEIGHBOURS_OF = 5_000
"""Precision, recall, density and coverage are of so many images of each side: their cost grows with the square."""

ALIKE_OF = 1_000
"""MS-SSIM is of so many images of each side: it costs as much as large features, and its error is small by then."""


class Setting(NamedTuple):
    """What a score is of.

    Attributes:
        drawn: Generated images.
        real: Real ones, at most as many.
        block: Images in a block.
        channels: Of the images.
        size: Of the images, in pixels.
        width: Entries of a feature vector; 0 without features.
        classes: That the features know.
    """

    drawn: int
    real: int
    block: int
    channels: int
    size: int
    width: int = 0
    classes: int = 0


class Part:
    """The images of a block on one side, made only where a score wants them.

    Args:
        first: The position of the first of them.
        load: Gives them: uint8 (n, c, s, s) on the device, in some batches.
        describe: Gives their features from them, or from where they are kept.
    """

    def __init__(self, first: int, load: Callable[[], list[Tensor]], describe: Callable[[Part], Described]) -> None:
        self.first = first
        self._load = load
        self._describe = describe

    @cached_property
    def batches(self) -> list[Tensor]:
        """uint8 (n, c, s, s) each, on the device."""
        return self._load()

    @cached_property
    def described(self) -> Described:
        """Vectors float32 (n, d) and logits (n, c) of all of them, on the CPU."""
        return self._describe(self)


@dataclass
class Block:
    """Images of one block.

    Attributes:
        generated: Those that were drawn.
        real: Those that they are compared with, or None where there are no more of them.
        whole: Whether both sides have as many images as a block has.
    """

    generated: Part
    real: Part | None
    whole: bool

    @property
    def sides(self) -> list[Part]:
        """Real images, then generated ones; those that there are."""
        return [self.generated] if self.real is None else [self.real, self.generated]


class Metric:
    """One score, or several of one making.

    Attributes:
        names: Of its scores.
        of_features: Whether it needs features.
        sums: What of it is added up over the workers: float tensors of the same shapes on all of them.
    """

    names: tuple[str, ...]
    of_features = True

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.sums: list[Tensor] = []

    def can(self) -> bool:
        """Whether it can be had for such images and features."""
        return bool(self.setting.width) or not self.of_features

    def add(self, block: Block) -> None:
        """Count a block in."""
        raise NotImplementedError

    def scores(self) -> dict[str, float]:
        """By name, from the sums of all workers.

        Raises:
            InputError: There were too few images for it.
        """
        raise NotImplementedError


class Frechet(Metric):
    """The Fréchet distance of features."""

    names = ("frechet",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._real, self._generated = Moments.zero(setting.width), Moments.zero(setting.width)
        self.sums = [*self._real.sums, *self._generated.sums]

    @override
    def add(self, block: Block) -> None:
        if block.real:
            self._real.add(block.real.described.vectors)
        self._generated.add(block.generated.described.vectors)

    @override
    def scores(self) -> dict[str, float]:
        return {"frechet": frechet_distance(self._real, self._generated)}


class Kernel(Metric):
    """The kernel distance of features, with the standard error of the mean over blocks."""

    names = ("kernel", "kernel_error")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._distance = KernelDistance.zero()
        self.sums = [self._distance.sums]

    @override
    def can(self) -> bool:
        return super().can() and self.setting.real >= self.setting.block

    @override
    def add(self, block: Block) -> None:
        if block.real and block.whole:
            self._distance.add(block.real.described.vectors, block.generated.described.vectors)

    @override
    def scores(self) -> dict[str, float]:
        return {"kernel": self._distance.value, "kernel_error": self._distance.standard_error}


class Neighbours(Metric):
    """Precision, recall, density and coverage of features, of the first images of each side."""

    names = Neighbourhood._fields

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._of = min(NEIGHBOURS_OF, setting.real)
        self.sums = [torch.zeros(self._of, setting.width) for _ in range(2)]

    @override
    def add(self, block: Block) -> None:
        for whole, part in zip(self.sums, (block.real, block.generated), strict=True):
            if part and part.first < self._of:
                vectors = part.described.vectors[: self._of - part.first]
                whole[part.first : part.first + len(vectors)] = vectors

    @override
    def scores(self) -> dict[str, float]:
        return neighbourhood(*self.sums)._asdict()


class Inception(Metric):
    """The inception score of the features' classes, of generated images and, to compare with, of real ones."""

    names = ("inception",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._entropy = Entropy.zero(setting.classes)
        self.sums = [self._entropy.sums]

    @override
    def can(self) -> bool:
        return self.setting.classes > 1

    @override
    def add(self, block: Block) -> None:
        logits = block.generated.described.logits
        assert logits is not None
        self._entropy.add(logits)

    @override
    def scores(self) -> dict[str, float]:
        return {"inception": self._entropy.value}


class Wasserstein(Metric):
    """The sliced Wasserstein distance of patches, by level of the pyramid, and its mean."""

    names = ("wasserstein",)
    of_features = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._of = setting.real
        self._each = max(1, pictures.PATCHES // self._of)
        levels = len(pictures.level_sizes(setting.size))
        rows, width = self._each * self._of, setting.channels * pictures.PATCH**2
        self.sums = [torch.zeros(rows, width) for _ in range(2 * levels)]

    @override
    def can(self) -> bool:
        return self.setting.size >= pictures.SMALLEST_LEVEL

    @override
    def add(self, block: Block) -> None:
        levels = len(self.sums) // 2
        for whole, part in ((self.sums[:levels], block.real), (self.sums[levels:], block.generated)):
            first = part.first if part else self._of
            for batch in part.batches if part else ():
                some = batch[: max(0, self._of - first)]
                if len(some):
                    for rows, level in zip(pictures.patches(some, first, self._each), whole, strict=True):
                        level[self._each * first : self._each * (first + len(some))] = rows.cpu()
                first += len(batch)

    @override
    def scores(self) -> dict[str, float]:
        levels = len(self.sums) // 2
        sizes = pictures.level_sizes(self.setting.size)
        found = {
            f"wasserstein_{size}": pictures.sliced_wasserstein(real, generated, self.setting.channels)
            for size, real, generated in zip(sizes, self.sums[:levels], self.sums[levels:], strict=True)
        }
        return {"wasserstein": sum(found.values()) / len(found), **found}


class Likeness(Metric):
    """The mean MS-SSIM of pairs of images of one side: of generated ones, and of real ones to compare with."""

    names = ("ms_ssim", "ms_ssim_of_real")
    of_features = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.sums = [torch.zeros(2, dtype=torch.float64) for _ in range(2)]  # pairs, and the sum over them

    @override
    def can(self) -> bool:
        return pictures.scales(self.setting.size) > 0

    @override
    def add(self, block: Block) -> None:
        for sums, part in zip(self.sums, (block.real, block.generated), strict=True):
            for batch in part.batches if part and part.first < ALIKE_OF else ():
                if len(batch) > 1:
                    values = pictures.likeness(batch[: len(batch) // 2 * 2]).double()
                    sums += torch.stack([values.new_tensor(float(len(values))), values.sum()]).cpu()

    @override
    def scores(self) -> dict[str, float]:
        real, generated = (float(total / pairs) if pairs else math.nan for pairs, total in self.sums)
        return {"ms_ssim": generated, "ms_ssim_of_real": real}


METRICS: dict[str, type[Metric]] = {
    "frechet": Frechet,
    "kernel": Kernel,
    "neighbours": Neighbours,
    "inception": Inception,
    "wasserstein": Wasserstein,
    "ms_ssim": Likeness,
}


BETTER_LOWER = frozenset({"frechet", "kernel", "wasserstein"})
BETTER_HIGHER = frozenset({"precision", "recall", "density", "coverage", "inception"})
"""Scores by which one generator can be called better than another."""


def build_metrics(names: Sequence[str], setting: Setting) -> list[Metric]:
    """Those of some metrics that can be had."""
    return [made for name in METRICS if name in names and (made := METRICS[name](setting)).can()]


_SAYS = {
    "kernel": "kernel distance × 1000, KID if the features are Inception's",
    "kernel_error": "its standard error × 1000",
    "precision": "precision: generated images that lie within the real ones",
    "recall": "recall: real images that lie within the generated ones",
    "density": "density: as precision, over what is to be expected",
    "coverage": "coverage: real images with a generated one near them",
    "inception": "inception score of the features' classes",
    "wasserstein": "sliced Wasserstein distance of patches × 1000",
    "ms_ssim": "MS-SSIM of pairs: the lower, the more varied",
    "ms_ssim_of_real": "the same of real images",
    "c2st": "c2st: held-out images told right by a network trained to; 0.5 is chance",
    "c2st_error": "its standard error",
}


def as_shown(name: str, value: float) -> float:
    """A score as people are shown it: the kernel distance times a thousand, all others as they are."""
    return value * 1000 if name in ("kernel", "kernel_error") else value


def names_of_scores(scores: Mapping[str, float], distance: str) -> list[str]:
    """Lines for people. Of few images the kernel distance comes first, as it is not biased.

    Args:
        scores: By name.
        distance: What the Fréchet distance of the features is called.
    """
    known = {"frechet": f"{distance}: Fréchet distance of features", **_SAYS}
    known |= {name: f"of these at {name.rpartition('_')[2]} pixels" for name in scores if name not in known}
    order = ["kernel", "kernel_error", "frechet"]
    names = [*(name for name in order if name in scores), *(name for name in scores if name not in order)]
    return [f"{as_shown(name, scores[name]):>10.4g}  {known[name]}" for name in names]
