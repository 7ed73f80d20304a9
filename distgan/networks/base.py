"""What a network is to the rest of distgan: a generator, a critic or an encoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distgan.networks.layers import ConditionalBatchNorm2d, Layers
from distgan.networks.normalisation import BatchNorm2d
from distgan.spec import RunSpec


class ImageShape(NamedTuple):
    """``size`` × ``size`` pixels of ``channels`` values in [-1, 1]; for a run that grows, the smaller sizes too."""

    channels: int
    size: int
    smaller: tuple[int, ...] = ()
    """Ascending, each half of the next; the last is half of ``size``."""

    @classmethod
    def of(cls, spec: RunSpec, channels: int) -> ImageShape:
        """What a run's images are, if they have so many colour channels."""
        *smaller, size = (stage.size for stage in spec.timetable.stages)
        return cls(channels, size, tuple(smaller))


class GeneratorInput(NamedTuple):
    """What a generator is given: latents (N, latent_dim) and labels (N, labels); 0 labels where there is no condition.

    With ``by_batchnorm`` the labels scale and shift the BatchNorm layers, else they are appended to the latents.
    """

    latent_dim: int
    labels: int = 0
    by_batchnorm: bool = False

    @property
    def width(self) -> int:
        """Numbers that the first layer takes."""
        return self.latent_dim + (0 if self.by_batchnorm else self.labels)

    def batch_norm(self, channels: int, **options: Any) -> nn.Module:
        """The BatchNorm layer of such a generator; options are those of :class:`BatchNorm2d`."""
        if self.by_batchnorm and self.labels:
            return ConditionalBatchNorm2d(channels, self.labels, **options)
        return BatchNorm2d(channels, **options)


class Generator(nn.Module):
    """Latents (N, latent_dim) and labels (N, K) to images (N, C, S, S) in [-1, 1].

    A subclass sets ``layers``: from (N, given.width) to images.
    """

    layers: Layers

    def __init__(self, given: GeneratorInput) -> None:
        super().__init__()
        self.given = given

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, S, S) of latents (N, latent_dim) and, where there is a condition, labels (N, K)."""
        labels = latents.new_empty(latents.shape[0], 0) if labels is None else labels
        x = latents if self.given.by_batchnorm else torch.cat([latents, labels], dim=1)
        images: Tensor = self.layers(x, labels)
        return images


class Critic(nn.Module):
    """Images (N, C, S, S) in [-1, 1] and labels (N, K) to one number each, (N,): logits or scores.

    Where there is a condition, the labels' projection onto the features, summed over their places, is added (Miyato
    and Koyama 2018, arXiv:1802.05637).

    Args:
        features: Images to maps (N, channels, H, W).
        head: Those maps to (N, 1), in any shape.
        channels: Of the maps.
        labels: Length of the label vector.
        linear: The kind of layer that projects it.
    """

    def __init__(
        self, features: nn.Module, head: nn.Module, channels: int, labels: int, linear: type[nn.Linear] = nn.Linear
    ) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.projection = linear(labels, channels, bias=False) if labels else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits or scores (N,) of images (N, C, S, S) and, where there is a condition, labels (N, K)."""
        maps = self.features(images)
        scores: Tensor = self.head(maps).flatten()
        if self.projection is not None:
            scores = scores + (maps.sum((2, 3)) * self.projection(labels)).sum(1)
        return scores


class Encoder(nn.Module):
    """Images (N, C, S, S) in [-1, 1] and labels (N, K) to a normal distribution of latents.

    Args:
        features: Images to maps.
        head: Those maps to (N, 2 · latent_dim), in any shape.
        latent_dim: Length of a latent.
        labels: Length of the label vector; it is added linearly to what the head says.
    """

    def __init__(self, features: nn.Module, head: nn.Module, latent_dim: int, labels: int) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.projection = nn.Linear(labels, 2 * latent_dim, bias=False) if labels else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, (N, latent_dim) each."""
        posterior: Tensor = self.head(self.features(images)).flatten(1)
        if self.projection is not None:
            posterior = posterior + self.projection(labels)
        mean, log_variance = posterior.chunk(2, dim=1)
        return mean, log_variance
