"""DCGAN's two networks (Radford, Metz and Chintala 2015, https://arxiv.org/abs/1511.06434), for any size 2^k ≥ 16.

At 64 pixels and width 64 these are the paper's layers: a projection to 4×4×512 and four fractionally strided
convolutions, mirrored by the critic. A larger image adds a layer and doubles the widest one; a smaller one drops it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from distgan.networks.image import ImageShape
from distgan.spec import Options, Width
from shards.errors import InputError

LEAK = 0.2
"""The negative slope of LeakyReLU."""


class GeneratorOptions(Options):
    """Options of the ``dcgan`` generator."""

    width: Width = 64
    """Channels of the last hidden layer (the largest feature map); each layer before it has twice as many."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """The paper's ReLU, or LeakyReLU(0.2)."""


class CriticOptions(Options):
    """Options of the ``dcgan`` critic."""

    width: Width = 64
    """Channels of the first layer (the largest feature map); each layer after it has twice as many."""


class DCGANGenerator(nn.Module):
    """Latents (N, latent_dim) to images (N, C, S, S) in [-1, 1]: transposed convolutions, BatchNorm, tanh."""

    def __init__(self, options: GeneratorOptions, image: ImageShape, latent_dim: int) -> None:
        super().__init__()
        channels = [options.width * 2**power for power in reversed(range(_doublings(image.size)))]  # 512, …, 64 at 64

        def activation() -> nn.Module:
            return nn.ReLU(inplace=True) if options.activation == "relu" else nn.LeakyReLU(LEAK, inplace=True)

        layers: list[nn.Module] = [
            # A linear projection to 4×4, written as the transposed convolution of a 1×1 map that it is.
            nn.ConvTranspose2d(latent_dim, channels[0], kernel_size=4, bias=False),
            nn.BatchNorm2d(channels[0]),
            activation(),
        ]
        for before, after in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                activation(),
            ]
        layers += [
            nn.ConvTranspose2d(channels[-1], image.channels, kernel_size=4, stride=2, padding=1, bias=False),
            nn.Tanh(),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """Images (N, C, S, S) in [-1, 1] of latents (N, latent_dim)."""
        images: Tensor = self.layers(latents[:, :, None, None])
        return images


class DCGANCritic(nn.Module):
    """Images (N, C, S, S) to logits (N,): strided convolutions, BatchNorm but on the first, LeakyReLU(0.2)."""

    def __init__(self, options: CriticOptions, image: ImageShape) -> None:
        super().__init__()
        channels = [options.width * 2**power for power in range(_doublings(image.size))]  # 64, …, 512 at 64 pixels
        layers: list[nn.Module] = [
            nn.Conv2d(image.channels, channels[0], kernel_size=4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(LEAK, inplace=True),
        ]
        for before, after in pairwise(channels):
            layers += [
                nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(LEAK, inplace=True),
            ]
        layers += [nn.Conv2d(channels[-1], 1, kernel_size=4, bias=False)]  # fully connected: the map is 4×4
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,) of images (N, C, S, S) in [-1, 1]."""
        logits: Tensor = self.layers(images)
        return logits.flatten()


def _doublings(size: int) -> int:
    """Strided layers between 4×4 and size×size.

    Raises:
        InputError: The size is none that doubling 4 reaches.
    """
    if size < 16 or size & (size - 1):
        raise InputError(
            f"data.image_size is {size}: the dcgan networks double 4×4 up to the image: use 16, 32, 64, 128, …"
        )
    return size.bit_length() - 3
