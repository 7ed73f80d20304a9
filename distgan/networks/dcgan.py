"""DCGAN's two networks (Radford, Metz and Chintala 2015, https://arxiv.org/abs/1511.06434), for any size 2^k ≥ 16.

At 64 pixels and width 64 these are the paper's layers: a projection to 4×4×512 and four fractionally strided
convolutions, mirrored by the critic. A larger image adds a layer, twice as wide as the widest while ``max_width``
allows it; a smaller one drops it, and so do the stages of a run that grows.
At 32 pixels they are those of the report that `jobs/dcgan32_gwu.yaml` repeats. The encoder of a variational autoencoder
is the critic up to 4×4, with another end.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import model_validator
from torch import nn

from distgan.networks.base import Critic, Encoder, Generator, GeneratorInput, ImageShape
from distgan.networks.growing import GrowingFeatures, GrowingLayers
from distgan.networks.layers import Layers, LeakyReLU
from distgan.networks.normalisation import Normalisation, normalisation_layer
from distgan.networks.sizes import doublings, require_power
from distgan.networks.spectral import SpectralConv2d, SpectralLinear
from distgan.spec import Options, Width

LEAST = 8
"""Pixels of the smallest image that a run can begin with."""
LEAK = 0.2
"""The negative slope of LeakyReLU."""
PUBLISHED = 64
"""Pixels up to which the layers are the paper's, however wide."""
MAX_WIDTH = 512
"""Channels at which wider layers end beyond that, unless ``max_width`` says otherwise."""


class _WidthOptions(Options):
    """Options that both networks have."""

    width: Width = 64
    """Channels of the layer at the image, the largest feature map; each layer further from it has twice as many."""
    max_width: Width | None = None
    """The most channels that a layer has. Unset there is no limit up to 64 pixels, as in the paper; for larger images
    it is 512, or ``width`` where that is more."""

    @model_validator(mode="after")
    def _wide_enough(self) -> _WidthOptions:
        if self.max_width is not None and self.max_width < self.width:
            raise ValueError(f"max_width is {self.max_width}, less than width = {self.width}")
        return self

    def channels(self, size: int) -> list[int]:
        """Of each strided layer between size×size and 4×4: 64, 128, 256, 512 at 64 pixels.

        Raises:
            InputError: The network cannot have that size.
        """
        count = doublings(size, start=4, least=16, network="dcgan")
        most = self.max_width
        if most is None and size > PUBLISHED:
            most = max(MAX_WIDTH, self.width)
        widths = (self.width * 2**power for power in range(count))
        return [width if most is None else min(width, most) for width in widths]


class GeneratorOptions(_WidthOptions):
    """Options of the ``dcgan`` generator."""

    activation: Literal["relu", "leaky_relu"] = "relu"
    """The paper's ReLU, or LeakyReLU(0.2)."""
    input_batchnorm: bool = True
    """BatchNorm after the projection, as in the paper. Without it the projection has a bias."""


class CriticOptions(_WidthOptions):
    """Options of the ``dcgan`` critic and of the ``dcgan_encoder``."""

    normalisation: Literal[Normalisation, "spectral"] = "batch"
    """After each convolution but the first and the last. A gradient penalty needs ``layer``, ``instance``,
    ``spectral`` or ``none``: BatchNorm mixes the images that it treats one by one. ``spectral`` divides the weights of
    all layers (but the last of an encoder) by their largest singular value (Miyato et al. 2018)."""


class DCGANGenerator(Generator):
    """Transposed convolutions, BatchNorm, tanh."""

    def __init__(self, options: GeneratorOptions, image: ImageShape, given: GeneratorInput) -> None:
        super().__init__(given)
        channels = options.channels(image.size)[::-1]

        def activation() -> nn.Module:
            return nn.ReLU(inplace=True) if options.activation == "relu" else nn.LeakyReLU(LEAK, inplace=True)

        def to_image(before: int) -> list[nn.Module]:
            deconvolution = nn.ConvTranspose2d(before, image.channels, kernel_size=4, stride=2, padding=1, bias=False)
            return [deconvolution, nn.Tanh()]

        layers: list[nn.Module] = [
            nn.Unflatten(1, (given.width, 1, 1)),
            # A linear projection to 4×4, written as the transposed convolution of a 1×1 map that it is.
            nn.ConvTranspose2d(given.width, channels[0], kernel_size=4, bias=not options.input_batchnorm),
            *([given.batch_norm(channels[0])] if options.input_batchnorm else []),
            activation(),
        ]
        depths = [len(layers)]
        for before, after in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1, bias=False),
                given.batch_norm(after),
                activation(),
            ]
            depths.append(len(layers))
        layers += to_image(channels[-1])
        places = _places(image)
        self.layers = (
            GrowingLayers(
                layers,
                {size: depths[place] for size, place in places.items()},
                {size: nn.Sequential(*to_image(channels[place])) for size, place in places.items()},
            )
            if places
            else Layers(*layers)
        )


def dcgan_critic(options: CriticOptions, image: ImageShape, labels: int) -> Critic:
    """Images to logits: strided convolutions, normalisation but on the first, LeakyReLU(0.2)."""
    features, channels = _features(options, image)
    head = _convolution(options)(channels, 1, kernel_size=4, bias=False)  # fully connected: the map is 4×4
    linear = SpectralLinear if options.normalisation == "spectral" else nn.Linear
    return Critic(features, head, channels, labels, linear)


def dcgan_encoder(options: CriticOptions, image: ImageShape, labels: int, latent_dim: int) -> Encoder:
    """Images to the mean and log-variance of latents: the critic up to 4×4, then one fully connected layer."""
    features, channels = _features(options, image)
    return Encoder(features, nn.Conv2d(channels, 2 * latent_dim, kernel_size=4), latent_dim, labels)


def _convolution(options: CriticOptions) -> type[nn.Conv2d]:
    return SpectralConv2d if options.normalisation == "spectral" else nn.Conv2d


def _places(image: ImageShape) -> dict[int, int]:
    """Of each smaller size: how many strided layers lie between the 4×4 maps and those that are next to its image.

    Raises:
        InputError: The networks cannot have it.
    """
    for size in image.smaller[:1]:
        require_power(size, LEAST, "the dcgan networks make the smallest images of 4×4 maps", "training.stages.0.size")
    return {size: (size // LEAST).bit_length() - 1 for size in image.smaller}


def _features(options: CriticOptions, image: ImageShape) -> tuple[nn.Sequential, int]:
    """Images to 4×4 maps, and how many channels these have."""
    channels = options.channels(image.size)
    convolution, normalisation = _convolution(options), options.normalisation

    def from_image(after: int) -> list[nn.Module]:
        first = convolution(image.channels, after, kernel_size=4, stride=2, padding=1, bias=False)
        return [first, LeakyReLU(LEAK, inplace=True)]

    layers = from_image(channels[0])
    starts = [len(layers)]
    for before, after in pairwise(channels):
        layers += [
            convolution(before, after, 4, stride=2, padding=1, bias=normalisation in ("none", "spectral")),
            *([] if normalisation == "spectral" else normalisation_layer(normalisation, after)),
            LeakyReLU(LEAK, inplace=True),
        ]
        starts.append(len(layers))
    places = _places(image)
    if not places:
        return nn.Sequential(*layers), channels[-1]
    return GrowingFeatures(
        layers,
        {size: starts[-1 - place] for size, place in places.items()},
        {size: nn.Sequential(*from_image(channels[-1 - place])) for size, place in places.items()},
    ), channels[-1]
