"""A GAN written in Keras for 128 pixels (a tutorial of 2020), for any size 2^k ≥ 64 here. No normalisation anywhere."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from distgan.networks.base import Critic, Generator, GeneratorInput, ImageShape
from distgan.networks.convolutions import Conv2d
from distgan.networks.layers import Dropout, Layers, LeakyReLU
from distgan.networks.same import SameConv2d, SameConvTranspose2d
from distgan.networks.sizes import require_power
from distgan.spec import Fraction, Options, Width


class GeneratorOptions(Options):
    """Options of the ``gan_rmsprop`` generator."""

    width: Annotated[int, Field(ge=2, le=65_536, multiple_of=2)] = 256
    """Channels of the middle layers; the first has half as many, the last hidden ones twice."""
    leak: Fraction = 0.3
    """The negative slope of LeakyReLU; Keras's default."""


class CriticOptions(Options):
    """Options of the ``gan_rmsprop`` critic."""

    width: Width = 256
    """Channels of every convolution."""
    leak: Fraction = 0.3
    """The negative slope of LeakyReLU; Keras's default."""
    dropout: Fraction = 0.4
    """Probability that a feature is left out before the last layer."""


class RMSpropGenerator(Generator):
    """Dense to an eighth of the image, a convolution, three doublings, two convolutions, and one to the image."""

    def __init__(self, options: GeneratorOptions, image: ImageShape, given: GeneratorInput) -> None:
        super().__init__(given)
        require_power(
            image.size, 32, "the gan_rmsprop generator doubles an eighth of it three times, and needs 32 pixels"
        )
        side, width, first, last = image.size // 8, options.width, options.width // 2, options.width * 2
        layers = [
            *_leaky(nn.Linear(given.width, first * side * side), options.leak),
            nn.Unflatten(1, (first, side, side)),
            *_leaky(SameConv2d(first, width, kernel_size=5), options.leak),
        ]
        for _ in range(3):
            layers += _leaky(SameConvTranspose2d(width, width, kernel_size=4), options.leak)
        layers += [
            *_leaky(SameConv2d(width, last, kernel_size=5), options.leak),
            *_leaky(SameConv2d(last, last, kernel_size=5), options.leak),
            SameConv2d(last, image.channels, kernel_size=7),
            nn.Tanh(),
        ]
        self.layers = Layers(*layers)


def rmsprop_critic(options: CriticOptions, image: ImageShape, labels: int) -> Critic:
    """A convolution and four strided ones without padding, dropout, and one dense layer to a logit."""
    require_power(
        image.size, 64, "the gan_rmsprop critic's convolutions, without padding, leave nothing of less than 64 pixels"
    )
    layers = _leaky(Conv2d(image.channels, options.width, kernel_size=3), options.leak)
    size = image.size - 2
    for _ in range(4):
        layers += _leaky(Conv2d(options.width, options.width, kernel_size=4, stride=2), options.leak)
        size = (size - 4) // 2 + 1  # 126 → 62 → 30 → 14 → 6 at 128 pixels
    head = nn.Sequential(nn.Flatten(), Dropout(options.dropout), nn.Linear(options.width * size * size, 1))
    return Critic(nn.Sequential(*layers), head, options.width, labels)


def _leaky(layer: nn.Module, leak: float) -> list[nn.Module]:
    return [layer, LeakyReLU(leak, inplace=True)]
