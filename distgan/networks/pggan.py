"""The networks of progressive growing (Karras et al. 2018, https://arxiv.org/abs/1710.10196), for any size 2^k ≥ 16.

At 128 pixels these are the layers of the paper's Table 2 up to there; at 1024, with ``width: 16``, all of them: two 3×3
convolutions at each size, LeakyReLU(0.2), maps doubled by repeating pixels and halved by the mean of four, equalised
layers throughout. In the generator every convolution is followed by pixel norm, the latent is normalised likewise, and
the image is what a linear 1×1 convolution says: where it becomes a picture, or is scored, values beyond [-1, 1] are cut
off. The critic is told how much the images of a batch differ.
"""

from __future__ import annotations

from collections import OrderedDict
from math import sqrt

from pydantic import model_validator
from torch import nn

from distgan.networks.base import Critic, Generator, GeneratorInput, ImageShape
from distgan.networks.blocks import ToMaps
from distgan.networks.gain import LEAK, EqualisedConv2d, EqualisedLinear
from distgan.networks.growing import GrowingFeatures, GrowingLayers
from distgan.networks.layers import Layers, LeakyReLU
from distgan.networks.normalisation import MinibatchStddev, PixelNorm
from distgan.networks.resampling import Halve
from distgan.networks.sizes import check_widths, doublings, require_smallest
from distgan.spec import Options, Width

GAIN = sqrt(2)
"""Of the layers that an activation follows, as in the authors' code."""


class _PGGANOptions(Options):
    """Options that both networks have."""

    width: Width = 128
    """Channels at the image's size; maps of half the size have twice as many. The paper has 16,384 divided by the
    image's size: 128 at 128 pixels, 16 at 1024."""
    max_width: Width = 512
    """The most channels that a map has."""

    @model_validator(mode="after")
    def _wide_enough(self) -> _PGGANOptions:
        check_widths(self.width, self.max_width)
        return self

    def channels(self, image: ImageShape) -> dict[int, int]:
        """By the size of a map, from 4 to the image's: 512, 512, 512, 512, 256, 128 at 128 pixels.

        Raises:
            InputError: The networks cannot have images of a size.
        """
        count = doublings(image.size, start=4, least=16, network="pggan")
        require_smallest(image.smaller, 4, "pggan")
        return {4 * 2**k: min(self.width * 2 ** (count - k), self.max_width) for k in range(count + 1)}


class GeneratorOptions(_PGGANOptions):
    """Options of the ``pggan`` generator."""


class CriticOptions(_PGGANOptions):
    """Options of the ``pggan`` critic."""

    minibatch_stddev: bool = True
    """Tell the critic, at 4×4, how much the images of a batch differ: of all workers' images. The slope of a gradient
    penalty is then that of the sum of all outputs in each image."""


class PGGANGenerator(Generator):
    """``layers`` are a stage for each size of map by its name ("4", "8", …), and the image."""

    def __init__(self, options: GeneratorOptions, image: ImageShape, given: GeneratorInput) -> None:
        super().__init__(given)
        channels = options.channels(image)
        stages = {str(size): _generator_stage(size, channels, given) for size in channels}
        layers: OrderedDict[str, nn.Module] = OrderedDict(**stages, image=_to_image(channels[image.size], image))
        depths = {size: 1 + place for place, size in enumerate(channels) if size in image.smaller}
        to_image = {size: _to_image(channels[size], image) for size in depths}
        self.layers = GrowingLayers(layers, depths, to_image) if depths else Layers(layers)


def _generator_stage(size: int, channels: dict[int, int], given: GeneratorInput) -> Layers:
    """Maps of half a size (latents, for 4) to maps of that size."""
    width = channels[size]
    if size == 4:
        first: list[nn.Module] = [
            PixelNorm(),
            EqualisedLinear(given.width, width * 4 * 4, gain=GAIN / 4),  # the gain of the authors' code
            ToMaps(width),
        ]
    else:
        first = [EqualisedConv2d(channels[size // 2], width, 3, change="double", gain=GAIN)]
    return Layers(
        *first,
        *(_leaky(), PixelNorm()),
        *(EqualisedConv2d(width, width, 3, gain=GAIN), _leaky(), PixelNorm()),
    )


def _to_image(channels: int, image: ImageShape) -> Layers:
    return Layers(EqualisedConv2d(channels, image.channels, 1))


def pggan_critic(options: CriticOptions, image: ImageShape, labels: int) -> Critic:
    """``features`` are what is made of the image, and a stage for each size of map by its name ("128", "64", …)."""
    channels = options.channels(image)
    stages = {str(size): _critic_stage(size, channels, options) for size in reversed(channels)}
    layers: OrderedDict[str, nn.Module] = OrderedDict(image=_from_image(image, channels[image.size]), **stages)
    starts = {size: 1 + sum(each > size for each in channels) for size in image.smaller}
    from_image = {size: _from_image(image, channels[size]) for size in starts}
    features = GrowingFeatures(layers, starts, from_image) if starts else Layers(layers)
    head = nn.Sequential(nn.Flatten(), EqualisedLinear(channels[4], 1))
    return Critic(features, head, channels[4], labels, EqualisedLinear)


def _from_image(image: ImageShape, channels: int) -> Layers:
    return Layers(EqualisedConv2d(image.channels, channels, 1, gain=GAIN), _leaky())


def _critic_stage(size: int, channels: dict[int, int], options: CriticOptions) -> Layers:
    """Maps of a size to maps of half that size; for 4, to 1×1."""
    width = channels[size]
    if size == 4:
        told = [MinibatchStddev()] if options.minibatch_stddev else []
        return Layers(
            *told,
            *(EqualisedConv2d(width + len(told), width, 3, gain=GAIN), _leaky()),
            *(EqualisedConv2d(width, width, 4, gain=GAIN), _leaky()),  # fully connected: the map is 4×4
        )
    return Layers(
        *(EqualisedConv2d(width, width, 3, gain=GAIN), _leaky()),
        *(EqualisedConv2d(width, channels[size // 2], 3, gain=GAIN), _leaky(), Halve("box")),
    )


def _leaky() -> nn.Module:
    return LeakyReLU(LEAK, inplace=True)
