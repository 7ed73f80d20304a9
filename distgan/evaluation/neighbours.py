"""Where generated images lie among real ones in feature space, by nearest neighbours: quality and variety apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shards.errors import InputError

ROWS = 1024
"""So many rows of a distance matrix are in memory at a time."""


class Neighbourhood(NamedTuple):
    """What neighbours tell.

    Attributes:
        precision: The share of generated images that lie within the real ones: quality.
        recall: The share of real images that lie within the generated ones: variety.
        density: In how many real neighbourhoods a generated image lies, over how many are to be expected: quality that
            outliers among the real images do not flatter; 1 for equal distributions, and it may be above.
        coverage: The share of real images with a generated one in their neighbourhood: variety that outliers among the
            generated images do not flatter.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood(real: Tensor, generated: Tensor, *, nearest: int = 3, nearest_of_density: int = 5) -> Neighbourhood:
    """Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020).

    An image's neighbourhood is the ball around it that reaches to its k-th nearest neighbour of its own set. All four
    grow with the number of images: compare equal numbers only.

    Args:
        real: Vectors (n, d).
        generated: Vectors (m, d).
        nearest: k of precision and recall.
        nearest_of_density: k of density and coverage (arXiv:2002.09797).

    Raises:
        InputError: Fewer images than a neighbourhood needs.
    """
    most = max(nearest, nearest_of_density)
    if min(len(real), len(generated)) <= most:
        raise InputError(f"precision, recall, density and coverage need more than {most} images on each side")
    real_radii = _radii(real, [nearest, nearest_of_density])
    generated_radii = _radii(generated, [nearest])
    precise = recalled = covered = inside = 0
    for start in range(0, len(real), ROWS):
        rows = slice(start, start + ROWS)
        apart = torch.cdist(real[rows], generated)
        recalled += int((apart <= generated_radii[0]).any(1).sum())
        within = apart <= real_radii[1][rows, None]
        covered += int(within.any(1).sum())
        inside += int(within.sum())
    for start in range(0, len(generated), ROWS):
        apart = torch.cdist(generated[start : start + ROWS], real)
        precise += int((apart <= real_radii[0]).any(1).sum())
    return Neighbourhood(
        precision=precise / len(generated),
        recall=recalled / len(real),
        density=inside / (nearest_of_density * len(generated)),
        coverage=covered / len(real),
    )


def _radii(vectors: Tensor, nearest: list[int]) -> list[Tensor]:
    """The distance (n,) of each vector to its k-th nearest other one, for some k."""
    found = []
    for start in range(0, len(vectors), ROWS):
        apart = torch.cdist(vectors[start : start + ROWS], vectors)
        found.append(apart.topk(max(nearest) + 1, largest=False).values)  # the nearest is the vector itself
    return [torch.cat(found)[:, k] for k in nearest]
