"""Residual networks, for any size 2^k ≥ 16: SNGAN's and R3GAN's, and smaller ones for processors.

With ``block: plain`` they are those of Miyato et al. 2018 (https://arxiv.org/abs/1802.05957). A dense layer begins at
4×4, a block doubles or halves the map as it goes, and the critic ends with a sum over all places and a dense layer.
``{width: 64, max_width: 1024, activation: relu, image_stride: 1}`` with ``normalisation: batch`` in the generator and
``normalisation: spectral, final_size: 2`` in the critic are the networks of the authors' code for 64 pixels; at 128,
with ``final_size: 4``, those of the paper's table.

With ``block: bottleneck`` they are those of Huang et al. 2024 (R3GAN, https://arxiv.org/abs/2501.05441). The generator
begins with a learned 4×4 map for each channel, which a linear map of the latent scales, and the critic ends likewise;
between two sizes there are a filter and, where the channels change, a 1×1 convolution; no layer is normalised.
``{width: 384, max_width: 768, blocks: 2, group_width: 16, resampling: bilinear, image_stride: 1}`` with ``output:
linear`` in the generator are the paper's at 64 pixels.

Both papers' networks do most of their work at the image's own size. With ``image_stride: 2``, the default, the largest
map is half as large: the image is a 3×3 convolution of it, doubled, and the critic begins as DCGAN's, with 4×4 weights
and stride 2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from distgan.networks.base import Critic, Generator, GeneratorInput, ImageShape
from distgan.networks.blocks import Basis, Blocks, ToMaps
from distgan.networks.gain import KINDS, Change, LayerGain, check_layer_gain
from distgan.networks.growing import GrowingFeatures, GrowingLayers
from distgan.networks.layers import Layers, SumPooling
from distgan.networks.normalisation import MinibatchStddev, Normalisation, PixelNorm, normalisation_layer
from distgan.networks.resampling import Filter
from distgan.networks.sizes import check_widths, doublings, require_smallest
from distgan.spec import Options, Width

LEAST = 8
"""Pixels of the smallest image that a run can begin with."""
EXPANSION = 2
"""R3GAN's, where ``expansion`` is unset."""


class _ResNetOptions(Options):
    """Options that both networks have."""

    width: Width = 40
    """Channels of the largest map; each map of half the size has twice as many."""
    max_width: Width = 512
    """The most channels that a map has."""
    block: Literal["plain", "bottleneck"] = "plain"
    """``plain``: two 3×3 convolutions (SNGAN); ``bottleneck``: 1×1 to more channels, 3×3, 1×1 back (R3GAN)."""
    blocks: Annotated[int, Field(ge=1, le=64)] = 1
    """Blocks at each size; R3GAN has 2."""
    expansion: Annotated[int, Field(ge=1, le=16)] | None = None
    """``bottleneck``: how many times as many channels the 3×3 convolution has; unset it is 2, as in R3GAN."""
    group_width: Width | None = None
    """``bottleneck``: channels of each group of the 3×3 convolution; R3GAN has 16. Unset, it is all one group."""
    activation: Literal["relu", "leaky_relu"] = "leaky_relu"
    """ReLU, as in SNGAN, or LeakyReLU(0.2), as in R3GAN."""
    resampling: Filter = "box"
    """``box`` doubles a map by repeating its pixels and halves it by the mean of four (SNGAN); ``bilinear`` does both
    with the filter [1, 3, 3, 1] (R3GAN)."""
    image_stride: Literal[1, 2] = 2
    """1: there are blocks at the image's own size, as in both papers. 2: the largest map is half as large, for a
    fraction of the work."""
    layer_gain: LayerGain = "plain"
    """``equalised`` layers hold weights N(0, 1) and multiply them by what they should be whenever they are used (Karras
    et al. 2018), so that Adam moves all layers equally fast; they want learning rates near 1e-3."""

    @model_validator(mode="after")
    def _fitting(self) -> _ResNetOptions:
        check_widths(self.width, self.max_width)
        if self.block == "plain" and (self.expansion or self.group_width):
            raise ValueError("expansion and group_width belong to block: bottleneck; leave them out or set that")
        return self

    def channels(self, largest: int) -> dict[int, int]:
        """Of the maps by their size, from 2 pixels to twice the largest map with ``width`` channels."""
        sizes = [2**power for power in range(1, largest.bit_length() + 1)]
        return {size: min(self.width * max(largest // size, 1), self.max_width) for size in sizes}


class GeneratorOptions(_ResNetOptions):
    """Options of the ``resnet`` generator."""

    normalisation: Literal["none", "batch", "pixel"] = "none"
    """Before each activation: nothing (R3GAN), BatchNorm (SNGAN), or pixel norm (Karras et al. 2018)."""
    output: Literal["tanh", "linear"] = "tanh"
    """``linear`` is R3GAN's: the image is what the last convolution says. The critic sees it so; where it becomes a
    picture, or is scored, values beyond [-1, 1] are cut off."""


class CriticOptions(_ResNetOptions):
    """Options of the ``resnet`` critic."""

    normalisation: Normalisation | Literal["spectral"] = "none"
    """``spectral`` divides the weights of all layers by their largest singular value (Miyato et al. 2018); the others
    come before each activation of the blocks. A gradient penalty needs another than ``batch``, which mixes the images
    that it treats one by one."""
    minibatch_stddev: bool = False
    """Tell the critic, at 4×4, how much the images of a batch differ (Karras et al. 2018): of all workers' images. The
    slope of a gradient penalty is then that of the sum of all outputs in each image."""
    final_size: Literal[2, 4] = 4
    """Pixels of the last map. ``plain`` blocks may halve it once more, to 2, as SNGAN's do at 64 pixels."""

    @model_validator(mode="after")
    def _possible(self) -> CriticOptions:
        check_layer_gain(self.layer_gain, self.normalisation)
        if self.block == "bottleneck" and self.final_size != 4:
            raise ValueError("final_size: 2 belongs to block: plain; bottlenecks end at 4")
        return self


class ResNetGenerator(Generator):
    """``layers`` are the start, a stage for each size of map by its name ("8", "16", …), and the image."""

    def __init__(self, options: GeneratorOptions, image: ImageShape, given: GeneratorInput) -> None:
        super().__init__(given)
        parts = _GeneratorParts(options, image, given)
        stages = {str(size): parts.stage(size) for size in parts.sizes}
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            start=parts.start(), **stages, image=parts.to_image(parts.sizes[-1])
        )
        maps = {size: size // options.image_stride for size in image.smaller}
        depths = {size: 1 + sum(each <= maps[size] for each in parts.sizes) for size in maps}
        to_image = {size: parts.to_image(maps[size]) for size in maps}
        self.layers = GrowingLayers(layers, depths, to_image) if maps else Layers(layers)


class _GeneratorParts:
    """Makes what a generator is put together from.

    Attributes:
        sizes: Of the maps that have a stage, ascending.
    """

    def __init__(self, options: GeneratorOptions, image: ImageShape, given: GeneratorInput) -> None:
        self.options, self.image, self.given = options, image, given
        _check_sizes(image)
        largest = image.size // options.image_stride
        self.channels = options.channels(largest)
        self.sizes = [size for size in self.channels if (8 if options.block == "plain" else 4) <= size <= largest]
        self.blocks = _blocks(options, "generator", self._norm, len(self.sizes))

    def start(self) -> nn.Module:
        """Latents (and labels) to 4×4 maps."""
        channels, blocks = self.channels[4], self.blocks
        if self.options.block == "bottleneck":
            return Basis(blocks.linear(self.given.width, channels, bias=False))
        return Layers(blocks.linear(self.given.width, channels * 4 * 4), ToMaps(channels))

    def stage(self, size: int) -> Layers:
        """Maps of half a size (for 4, those of the start) to maps of that size."""
        options, blocks, before, channels = self.options, self.blocks, self.channels[size // 2], self.channels[size]
        if options.block == "bottleneck":
            doubled = blocks.transition(before, channels, "double") if size > 4 else []
            return Layers(*doubled, *_bottlenecks(options, blocks, channels))
        first = blocks.plain(before, channels, channels, "double")
        return Layers(first, *(blocks.plain(channels, channels, channels) for _ in range(options.blocks - 1)))

    def to_image(self, size: int) -> Layers:
        """Maps of a size to images, of twice that size with ``image_stride: 2``."""
        options, blocks, channels, colours = self.options, self.blocks, self.channels[size], self.image.channels
        plain = options.block == "plain"
        last: list[nn.Module] = [blocks.conv(channels, colours, 3 if plain else 1, bias=plain)]
        if options.image_stride == 2:
            # Not DCGAN's free 4×4 weights, which begin as, and long leave, a pattern of every second pixel (Odena et
            # al. 2016, https://distill.pub/2016/deconv-checkerboard).
            last = blocks.doubled(channels, colours, bias=plain)
        before = blocks.activated(channels) if plain else []  # in a fade, the next stage takes the same maps
        return Layers(*before, *last, *([nn.Tanh()] if options.output == "tanh" else []))

    def _norm(self, channels: int) -> list[nn.Module]:
        if self.options.normalisation == "batch":
            return [self.given.batch_norm(channels)]
        return [PixelNorm()] if self.options.normalisation == "pixel" else []


def resnet_critic(options: CriticOptions, image: ImageShape, labels: int) -> Critic:
    """``features`` are what is made of the image, and a stage for each size of map by its name ("32", "16", …)."""
    parts = _CriticParts(options, image)
    stages = {str(size): parts.stage(size) for size in parts.sizes}
    layers: OrderedDict[str, nn.Module] = OrderedDict(image=parts.from_image(image.size), **stages)
    starts = {size: 1 + sum(each > parts.after_image(size) for each in parts.sizes) for size in image.smaller}
    from_image = {size: parts.from_image(size) for size in starts}
    features = GrowingFeatures(layers, starts, from_image) if starts else Layers(layers)
    return Critic(features, parts.head(), parts.channels[options.final_size], labels, parts.blocks.kind.linear)


class _CriticParts:
    """Makes what a critic is put together from.

    Attributes:
        sizes: Of the maps that have a stage, descending.
    """

    def __init__(self, options: CriticOptions, image: ImageShape) -> None:
        self.options, self.image = options, image
        _check_sizes(image)
        largest = self.after_image(image.size)
        self.channels = options.channels(largest)
        self.sizes = [size for size in reversed(self.channels) if 4 <= size <= largest]
        stages = len(self.sizes) + int(options.block == "plain" and options.image_stride == 1)
        self.blocks = _blocks(options, "critic", self._norm, stages)

    def after_image(self, size: int) -> int:
        """The size of the maps that are made of an image: plain blocks at its own size leave half of it."""
        return size if self.options.block == "bottleneck" and self.options.image_stride == 1 else size // 2

    def from_image(self, size: int) -> Layers:
        """Images of a size to maps."""
        options, blocks, colours = self.options, self.blocks, self.image.channels
        after = self.channels[self.after_image(size)]
        if options.image_stride == 2:
            return Layers(blocks.conv(colours, after, 4, change="halve", bias=options.block == "plain"))
        if options.block == "plain":
            return self._plain(colours, self.channels[size], after, "halve", of_image=True)
        return Layers(blocks.conv(colours, after, 1, bias=False))

    def stage(self, size: int) -> Layers:
        """Maps of a size to maps of half that size; for 4, to what the head takes."""
        options, blocks, channels, after = self.options, self.blocks, self.channels[size], self.channels[size // 2]
        told = [MinibatchStddev()] if options.minibatch_stddev and size == 4 else []
        if options.block == "bottleneck":
            fit = [blocks.conv(channels + 1, channels, 1, bias=False)] if told else []
            halved = blocks.transition(channels, after, "halve") if size > 4 else []
            return Layers(*told, *fit, *_bottlenecks(options, blocks, channels), *halved)
        halves = size > options.final_size
        after = after if halves else channels
        stage = self._plain(channels + len(told), channels, after, "halve" if halves else None)
        return Layers(*told, *stage, *(blocks.activated(after, fresh=True) if size == 4 else []))

    def head(self) -> nn.Module:
        """What the last stage leaves to (N, 1)."""
        blocks, channels = self.blocks, self.channels[self.options.final_size]
        if self.options.block == "bottleneck":
            basis = blocks.conv(channels, channels, 4, groups=channels, bias=False)
            return nn.Sequential(basis, nn.Flatten(), blocks.linear(channels, 1, bias=False))
        return nn.Sequential(SumPooling(), blocks.linear(channels, 1))

    def _plain(self, given: int, channels: int, after: int, change: Change | None, *, of_image: bool = False) -> Layers:
        """Blocks that are given maps or images of some channels, and of which the last may change the size."""
        widths = [given, *[channels] * (self.options.blocks - 1), after]
        return Layers(
            *(
                self.blocks.plain(
                    before,
                    width,
                    hidden=channels,
                    change=change if place == self.options.blocks else None,
                    activated=not of_image or place > 1,
                )
                for place, (before, width) in enumerate(pairwise(widths), start=1)
            )
        )

    def _norm(self, channels: int) -> list[nn.Module]:
        name = self.options.normalisation
        return [] if name == "spectral" else normalisation_layer(name, channels)


def _check_sizes(image: ImageShape) -> None:
    """See that the networks can have such images.

    Raises:
        InputError: They cannot.
    """
    doublings(image.size, start=4, least=16, network="resnet")
    require_smallest(image.smaller, LEAST, "resnet")


def _blocks(
    options: GeneratorOptions | CriticOptions, role: str, norm: Callable[[int], list[nn.Module]], stages: int
) -> Blocks:
    name = options.normalisation
    return Blocks(
        role,
        KINDS["spectral" if name == "spectral" else options.layer_gain],
        norm,
        options.activation,
        options.resampling,
        unnormalised=options.blocks * stages if name == "none" else None,
    )


def _bottlenecks(options: _ResNetOptions, blocks: Blocks, channels: int) -> list[nn.Module]:
    expansion = options.expansion or EXPANSION
    return [blocks.bottleneck(channels, expansion, options.group_width) for _ in range(options.blocks)]
