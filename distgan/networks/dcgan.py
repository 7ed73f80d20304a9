"""DCGAN's two networks (Radford, Metz and Chintala 2015, https://arxiv.org/abs/1511.06434), for any size 2^k ≥ 16.

At 64 pixels and width 64 these are the paper's layers: a projection to 4×4×512 and four fractionally strided
convolutions, mirrored by the critic. A larger image adds a layer and doubles the widest one; a smaller one drops it.
At 32 pixels they are those of the report that `jobs/dcgan32_gwu.yaml` repeats. The encoder of a variational autoencoder
is the critic up to 4×4, with another end.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import nn

from distgan.networks.base import Critic, Encoder, Generator, GeneratorInput, ImageShape
from distgan.networks.layers import Layers
from distgan.networks.normalisation import Normalisation, normalisation_layer
from distgan.networks.sizes import doublings
from distgan.spec import Options, Width

LEAK = 0.2
"""The negative slope of LeakyReLU."""


class GeneratorOptions(Options):
    """Options of the ``dcgan`` generator."""

    width: Width = 64
    """Channels of the last hidden layer (the largest feature map); each layer before it has twice as many."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """The paper's ReLU, or LeakyReLU(0.2)."""


class CriticOptions(Options):
    """Options of the ``dcgan`` critic and of the ``dcgan_encoder``."""

    width: Width = 64
    """Channels of the first layer (the largest feature map); each layer after it has twice as many."""
    normalisation: Normalisation = "batch"
    """After each convolution but the first and the last. A gradient penalty needs ``layer``, ``instance`` or
    ``none``: BatchNorm mixes the images that it treats one by one."""


class DCGANGenerator(Generator):
    """Transposed convolutions, BatchNorm, tanh."""

    def __init__(self, options: GeneratorOptions, image: ImageShape, given: GeneratorInput) -> None:
        super().__init__(given)
        channels = [options.width * 2**power for power in reversed(range(_layers(image.size)))]  # 512, …, 64 at 64

        def activation() -> nn.Module:
            return nn.ReLU(inplace=True) if options.activation == "relu" else nn.LeakyReLU(LEAK, inplace=True)

        layers: list[nn.Module] = [
            nn.Unflatten(1, (given.width, 1, 1)),
            # A linear projection to 4×4, written as the transposed convolution of a 1×1 map that it is.
            nn.ConvTranspose2d(given.width, channels[0], kernel_size=4, bias=False),
            given.batch_norm(channels[0]),
            activation(),
        ]
        for before, after in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1, bias=False),
                given.batch_norm(after),
                activation(),
            ]
        layers += [
            nn.ConvTranspose2d(channels[-1], image.channels, kernel_size=4, stride=2, padding=1, bias=False),
            nn.Tanh(),
        ]
        self.layers = Layers(*layers)


def dcgan_critic(options: CriticOptions, image: ImageShape, labels: int) -> Critic:
    """Images to logits: strided convolutions, normalisation but on the first, LeakyReLU(0.2)."""
    features, channels = _features(options, image)
    head = nn.Conv2d(channels, 1, kernel_size=4, bias=False)  # fully connected: the map is 4×4
    return Critic(features, head, channels, labels)


def dcgan_encoder(options: CriticOptions, image: ImageShape, labels: int, latent_dim: int) -> Encoder:
    """Images to the mean and log-variance of latents: the critic up to 4×4, then one fully connected layer."""
    features, channels = _features(options, image)
    return Encoder(features, nn.Conv2d(channels, 2 * latent_dim, kernel_size=4), latent_dim, labels)


def _features(options: CriticOptions, image: ImageShape) -> tuple[nn.Sequential, int]:
    """Images to 4×4 maps, and how many channels these have."""
    channels = [options.width * 2**power for power in range(_layers(image.size))]  # 64, …, 512 at 64 pixels
    layers: list[nn.Module] = [
        nn.Conv2d(image.channels, channels[0], kernel_size=4, stride=2, padding=1, bias=False),
        nn.LeakyReLU(LEAK, inplace=True),
    ]
    for before, after in pairwise(channels):
        layers += [
            nn.Conv2d(before, after, 4, stride=2, padding=1, bias=options.normalisation == "none"),
            *normalisation_layer(options.normalisation, after),
            nn.LeakyReLU(LEAK, inplace=True),
        ]
    return nn.Sequential(*layers), channels[-1]


def _layers(size: int) -> int:
    """Strided layers between 4×4 and size×size."""
    return doublings(size, start=4, least=16, network="dcgan")
