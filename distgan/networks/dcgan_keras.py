"""A DCGAN written in Keras (a report of 2019), for 128 pixels there and for any size 2^k ≥ 32 here.

"Same" padding, biases everywhere. At 128 pixels and width 64 these are the source's own tables, in which BatchNorm and
LeakyReLU change places half-way through the generator: 4,743,555 and 4,340,865 parameters, BatchNorm's statistics
included.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import nn

from distgan.networks.base import Critic, Generator, GeneratorInput, ImageShape
from distgan.networks.layers import Layers
from distgan.networks.normalisation import Normalisation, normalisation_layer
from distgan.networks.same import SameConv2d, SameConvTranspose2d
from distgan.networks.sizes import doublings
from distgan.spec import Fraction, Options, Width

KERAS_BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}
"""Keras's defaults: its momentum 0.99 is what torch calls 0.01."""


class GeneratorOptions(Options):
    """Options of the ``dcgan_keras`` generator."""

    width: Width = 64
    """Channels of the last hidden layer; each layer before it has twice as many, up to eight times."""
    leak: Fraction = 0.3
    """The negative slope of LeakyReLU; Keras's default."""
    order: Literal["published", "regular"] = "published"
    """What follows the transposed convolutions: ``published`` is LeakyReLU · BatchNorm after the first, LeakyReLU ·
    BatchNorm · LeakyReLU after the second and BatchNorm · LeakyReLU after later ones, as in the source's table;
    ``regular`` is LeakyReLU · BatchNorm after each, as distgan had it before it followed the table."""


class CriticOptions(Options):
    """Options of the ``dcgan_keras`` critic."""

    width: Width = 64
    """Channels of the first layer; each layer after it has twice as many, up to eight times."""
    leak: Fraction = 0.3
    """The negative slope of LeakyReLU; Keras's default."""
    normalisation: Normalisation = "batch"
    """After each convolution but the first and the last. A gradient penalty needs ``layer``, ``instance`` or
    ``none``."""


class KerasGenerator(Generator):
    """Dense, BatchNorm, transposed convolutions (3×3) with BatchNorm and LeakyReLU between them, and tanh."""

    def __init__(self, options: GeneratorOptions, image: ImageShape, given: GeneratorInput) -> None:
        super().__init__(given)
        count = doublings(image.size, start=4, least=32, network="dcgan_keras")
        channels = [options.width * 2 ** min(power, 3) for power in reversed(range(count))]  # 512, 512, 256, 128, 64
        layers: list[nn.Module] = [
            nn.Linear(given.width, channels[0] * 4 * 4),
            nn.Unflatten(1, (channels[0], 4, 4)),
            given.batch_norm(channels[0], **KERAS_BATCH_NORM),
        ]
        for number, (before, after) in enumerate(pairwise(channels), start=1):
            layers.append(SameConvTranspose2d(before, after, kernel_size=3))
            if number <= 2 or options.order == "regular":
                # Not in place: what comes in is a view of what the padding is cut from.
                layers.append(nn.LeakyReLU(options.leak))
            layers.append(given.batch_norm(after, **KERAS_BATCH_NORM))
            if number >= 2 and options.order == "published":
                layers.append(nn.LeakyReLU(options.leak, inplace=True))
        layers += [SameConvTranspose2d(channels[-1], image.channels, kernel_size=3), nn.Tanh()]
        self.layers = Layers(*layers)


def keras_critic(options: CriticOptions, image: ImageShape, labels: int) -> Critic:
    """Strided convolutions (5×5) to 8×8, normalised but the first and the last, and one dense layer to a logit."""
    count = doublings(image.size, start=8, least=32, network="dcgan_keras")
    channels = [options.width * 2 ** min(power, 3) for power in range(count)]  # 64, 128, 256, 512 at 128 pixels
    layers: list[nn.Module] = [SameConv2d(image.channels, channels[0], kernel_size=5, stride=2)]
    for position, (before, after) in enumerate(pairwise(channels)):
        if position > 0:  # the first convolution is not normalised
            layers += normalisation_layer(options.normalisation, before, **KERAS_BATCH_NORM)
        layers += [nn.LeakyReLU(options.leak, inplace=True), SameConv2d(before, after, kernel_size=5, stride=2)]
    head = nn.Sequential(nn.Flatten(), nn.Linear(channels[-1] * 8 * 8, 1))
    return Critic(nn.Sequential(*layers), head, channels[-1], labels)
