"""How far two sets of feature vectors are from each other, from sums alone: Fréchet and kernel distance, entropy.

Sums travel between workers, vectors do not. All of them are float64, so that neither the number of workers nor the
order of the sums can be seen in a score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shards.errors import InputError


@dataclass
class Moments:
    """What a Gaussian is fitted from.

    Attributes:
        count: float64 (): vectors.
        total: float64 (d,): their sum.
        products: float64 (d, d): the sum of their outer products.
    """

    count: Tensor
    total: Tensor
    products: Tensor

    @classmethod
    def zero(cls, width: int, device: torch.device | str = "cpu") -> Moments:
        """Of no vectors of so many entries."""
        count, total, products = (
            torch.zeros(shape, dtype=torch.float64, device=device) for shape in ((), (width,), (width, width))
        )
        return cls(count, total, products)

    @property
    def sums(self) -> list[Tensor]:
        """All three."""
        return [self.count, self.total, self.products]

    def add(self, vectors: Tensor) -> None:
        """Count vectors (n, d) in."""
        vectors = vectors.double()
        self.count += len(vectors)
        self.total += vectors.sum(0)
        self.products += vectors.mT @ vectors

    @property
    def mean(self) -> Tensor:
        """(d,)."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """(d, d), unbiased: of at least two vectors."""
        return (self.products - torch.outer(self.total, self.total) / self.count) / (self.count - 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """The squared Fréchet (2-Wasserstein) distance of the Gaussians with these moments.

    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) (Heusel et al. 2017, arXiv:1706.08500; Dowson and Landau 1982). The trace of
    the root is the sum of the roots of the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric. torchmetrics takes those of
    Σ₁ Σ₂, which is not: with fewer vectors than entries those that should be zero are noise, whose roots are not small
    (up to 8e-5 of a small distance). Here what is noise counts as zero.

    Raises:
        InputError: Fewer than two vectors, or vectors with entries that are not finite.
    """
    if min(float(one.count), float(other.count)) < 2:
        raise InputError("a Fréchet distance needs at least two images on each side")
    first, second = one.covariance, other.covariance
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise InputError("the features of some images are not finite numbers")
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * _without_noise(values).sqrt()) @ vectors.mT
    cross = _without_noise(torch.linalg.eigvalsh(root @ second @ root)).sqrt().sum()
    apart = (one.mean - other.mean).square().sum()
    return max(0.0, float(apart + first.trace() + second.trace() - 2 * cross))


def _without_noise(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues of a positive semidefinite matrix, ascending, with those that rounding has made set to zero."""
    noise = eigenvalues[-1] * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return torch.where(eigenvalues > noise, eigenvalues, 0.0)


@dataclass
class KernelDistance:
    """The kernel distance, as the mean over blocks of images.

    Each block gives an unbiased estimate from its own images alone, so the mean is unbiased whatever their number, and
    the spread of the blocks says how sure it is (Bińkowski et al. 2018, arXiv:1801.01401, who draw overlapping blocks;
    these do not overlap, so that their errors are independent).

    Attributes:
        sums: float64 (3,): blocks, the sum of their estimates, and of these squared.
    """

    sums: Tensor

    @classmethod
    def zero(cls) -> KernelDistance:
        """Of no blocks."""
        return cls(torch.zeros(3, dtype=torch.float64))

    def add(self, real: Tensor, generated: Tensor) -> None:
        """Count a block in: vectors (m, d) of real and (m, d) of generated images, m ≥ 2.

        The squared maximum mean discrepancy with the kernel (x·y/d + 1)³.
        """
        from torchmetrics.image.kid import poly_mmd  # here: it takes seconds, and few scores need it

        estimate = float(poly_mmd(real.double(), generated.double()))
        self.sums += torch.tensor([1.0, estimate, estimate**2], dtype=torch.float64)

    @property
    def value(self) -> float:
        """The mean of the estimates. It may be below zero: it is unbiased."""
        return float(self.sums[1] / self.sums[0])

    @property
    def standard_error(self) -> float:
        """Of the mean; not a number where there is but one block."""
        blocks, total, squares = self.sums.tolist()
        if blocks < 2:
            return math.nan
        return math.sqrt(max(0.0, squares - total**2 / blocks) / (blocks - 1) / blocks)


@dataclass
class Entropy:
    """The inception score: how sure a classifier is of each image, and how many kinds it sees (Salimans et al. 2016).

    exp(E KL(p(y|x) ‖ p(y))) over all images at once; the mean over ten parts of them, which is often given, is smaller.

    Attributes:
        sums: float64 (1 + c + 1,): images, the sum of their probabilities, and of Σ p log p.
    """

    sums: Tensor

    @classmethod
    def zero(cls, classes: int) -> Entropy:
        """Of no images."""
        return cls(torch.zeros(classes + 2, dtype=torch.float64))

    def add(self, logits: Tensor) -> None:
        """Count images in, by the classifier's logits (n, c)."""
        log = logits.double().log_softmax(1).cpu()
        inner = (log.exp() * log).sum()
        self.sums += torch.cat([torch.tensor([float(len(log))]).double(), log.exp().sum(0), inner[None]])

    @property
    def value(self) -> float:
        """From 1 to the number of classes."""
        count, inner = self.sums[0], self.sums[-1]
        marginal = self.sums[1:-1] / count
        return float((inner / count - torch.special.xlogy(marginal, marginal).sum()).exp())
