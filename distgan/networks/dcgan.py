"""DCGAN's two networks (Radford, Metz and Chintala 2015, https://arxiv.org/abs/1511.06434), for any size 2^k ≥ 16.

At 64 pixels and width 64 these are the paper's layers: a projection to 4×4×512 and four fractionally strided
convolutions, mirrored by the critic. A larger image adds a layer, twice as wide as the widest while ``max_width``
allows it; a smaller one drops it, and so do the stages of a run that grows.
At 32 pixels they are those of the report that `jobs/dcgan32_gwu.yaml` repeats. The encoder of a variational autoencoder
is the critic up to 4×4, with another end.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator
from torch import nn

from distgan.networks.base import Critic, Encoder, Generator, GeneratorInput, ImageShape
from distgan.networks.blocks import ToMaps
from distgan.networks.convolutions import Conv2d, ConvTranspose2d
from distgan.networks.gain import GAINS, LEAK, EqualisedConv2d, EqualisedLinear, LayerGain, check_layer_gain
from distgan.networks.growing import GrowingFeatures, GrowingLayers
from distgan.networks.layers import Layers, LeakyReLU
from distgan.networks.normalisation import MinibatchStddev, Normalisation, PixelNorm, normalisation_layer
from distgan.networks.sizes import check_widths, doublings, require_smallest
from distgan.networks.spectral import SpectralConv2d, SpectralLinear
from distgan.spec import Options, Share, Width

LEAST = 8
"""Pixels of the smallest image that a run can begin with."""
PUBLISHED = 64
"""Pixels up to which the layers are the paper's, however wide."""
MAX_WIDTH = 512
"""Channels at which wider layers end beyond that, unless ``max_width`` says otherwise."""


def _of_answer(value: Any) -> Any:
    """1 for yes and 0 for no, as specifications had it before a bias could be slow."""
    return float(value) if isinstance(value, bool) else value


BiasRate = Annotated[Share, BeforeValidator(_of_answer)]


class _WidthOptions(Options):
    """Options that both networks have."""

    width: Width = 64
    """Channels of the layer at the image, the largest feature map; each layer further from it has twice as many."""
    max_width: Width | None = None
    """The most channels that a layer has. Unset there is no limit up to 64 pixels, as in the paper; for larger images
    it is 512, or ``width`` where that is more."""
    layer_gain: LayerGain = "plain"
    """``equalised`` layers hold weights N(0, 1) and multiply them by what they should be whenever they are used (Karras
    et al. 2018), so that Adam moves all layers equally fast; they want learning rates near 1e-3."""

    @model_validator(mode="after")
    def _wide_enough(self) -> _WidthOptions:
        check_widths(self.width, self.max_width)
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
    normalisation: Literal["batch", "pixel", "none"] = "batch"
    """BatchNorm before each activation, as in the paper, pixel norm after each (Karras et al. 2018), or nothing."""
    input_batchnorm: bool = True
    """Whether BatchNorm, where it is the normalisation, comes after the projection too, as in the paper. Layers without
    it have a bias, but for the last."""


class CriticOptions(_WidthOptions):
    """Options of the ``dcgan`` critic and of the ``dcgan_encoder``."""

    normalisation: Literal[Normalisation, "spectral"] = "batch"
    """After each convolution but the first and the last. A gradient penalty needs ``layer``, ``instance``,
    ``spectral`` or ``none``: BatchNorm mixes the images that it treats one by one. ``spectral`` divides the weights of
    all layers (but the last of an encoder) by their largest singular value (Miyato et al. 2018)."""
    image_bias: BiasRate = 0.0
    """The rate at which a bias of the first convolution moves, as a share of its learning rate; at 0, as in PyTorch's
    tutorial, it has none. Without one it and LeakyReLU only scale what comes in, and BatchNorm takes that off again: a
    critic that cannot see how strong the contrast of a whole batch is. That of generated images then drifts: at 32
    pixels, in batches of 16, it fell to a third; at 64, while rates fell, to three quarters with faces in colour. With
    a bias it stays within a tenth of the real ones', at 0.1 as at 1 (or ``true``), where faces were learnt more
    slowly."""
    minibatch_stddev: bool = False
    """Tell the last strided convolution how much the images of a batch differ (Karras et al. 2018): of all workers'
    images. The slope of a gradient penalty is then that of the sum of all outputs in each image."""

    @property
    def blind_to_contrast(self) -> bool:
        """Whether what it says of images stays the same when all of them have another contrast."""
        return self.image_bias == 0.0 and self.normalisation in ("batch", "layer", "instance")

    @model_validator(mode="after")
    def _possible(self) -> CriticOptions:
        check_layer_gain(self.layer_gain, self.normalisation)
        return self


class DCGANGenerator(Generator):
    """Transposed convolutions, BatchNorm, tanh."""

    def __init__(self, options: GeneratorOptions, image: ImageShape, given: GeneratorInput) -> None:
        super().__init__(given)
        channels = options.channels(image.size)[::-1]
        by_batch, equalised = options.normalisation == "batch", options.layer_gain == "equalised"

        def activated(width: int, *, by_batch: bool = by_batch) -> list[nn.Module]:
            relu = nn.ReLU(inplace=True) if options.activation == "relu" else nn.LeakyReLU(LEAK, inplace=True)
            norms = [given.batch_norm(width)] if by_batch else []
            return [*norms, relu, *([PixelNorm()] if options.normalisation == "pixel" else [])]

        def doubled(before: int, after: int, *, bias: bool, gain: float = GAINS[options.activation]) -> nn.Module:
            if equalised:
                return EqualisedConv2d(before, after, 4, change="double", bias=bias, gain=gain)
            return ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1, bias=bias)

        def to_image(before: int) -> list[nn.Module]:
            return [doubled(before, image.channels, bias=False, gain=1.0), nn.Tanh()]

        def projection(*, bias: bool) -> list[nn.Module]:
            if equalised:
                linear = EqualisedLinear(given.width, channels[0] * 4 * 4, bias=bias, gain=GAINS[options.activation])
                return [linear, ToMaps(channels[0])]
            # A linear projection to 4×4, written as the transposed convolution of a 1×1 map that it is.
            maps = ConvTranspose2d(given.width, channels[0], kernel_size=4, bias=bias)
            return [nn.Unflatten(1, (given.width, 1, 1)), maps]

        of_input = by_batch and options.input_batchnorm
        layers = [*projection(bias=not of_input), *activated(channels[0], by_batch=of_input)]
        depths = [len(layers)]
        for before, after in pairwise(channels):
            layers += [doubled(before, after, bias=not by_batch), *activated(after)]
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
    # Fully connected: the map is 4×4.
    head: nn.Module
    if options.layer_gain == "equalised":
        head = EqualisedConv2d(channels, 1, 4, bias=False)
        return Critic(features, head, channels, labels, EqualisedLinear)
    if options.normalisation == "spectral":
        head = SpectralConv2d(channels, 1, kernel_size=4, bias=False)
        return Critic(features, head, channels, labels, SpectralLinear)
    return Critic(features, Conv2d(channels, 1, kernel_size=4, bias=False), channels, labels)


def dcgan_encoder(options: CriticOptions, image: ImageShape, labels: int, latent_dim: int) -> Encoder:
    """Images to the mean and log-variance of latents: the critic up to 4×4, then one fully connected layer."""
    features, channels = _features(options, image)
    return Encoder(features, Conv2d(channels, 2 * latent_dim, kernel_size=4), latent_dim, labels)


def _places(image: ImageShape) -> dict[int, int]:
    """Of each smaller size: how many strided layers lie between the 4×4 maps and those that are next to its image.

    Raises:
        InputError: The networks cannot have it.
    """
    require_smallest(image.smaller, LEAST, "dcgan")
    return {size: (size // LEAST).bit_length() - 1 for size in image.smaller}


def _features(options: CriticOptions, image: ImageShape) -> tuple[nn.Sequential, int]:
    """Images to 4×4 maps, and how many channels these have."""
    channels, normalisation = options.channels(image.size), options.normalisation

    def halved(before: int, after: int, *, bias: bool) -> Conv2d:
        if options.layer_gain == "equalised":
            return EqualisedConv2d(before, after, 4, change="halve", bias=bias, gain=GAINS["leaky_relu"])
        kind = SpectralConv2d if normalisation == "spectral" else Conv2d
        return kind(before, after, kernel_size=4, stride=2, padding=1, bias=bias)

    def from_image(after: int) -> list[nn.Module]:
        first = halved(image.channels, after, bias=options.image_bias > 0.0)
        first.bias_rate = options.image_bias
        return [first, LeakyReLU(LEAK, inplace=True)]

    layers = from_image(channels[0])
    starts = [len(layers)]
    for place, (before, after) in enumerate(pairwise(channels), start=2):
        told = [MinibatchStddev()] if options.minibatch_stddev and place == len(channels) else []
        layers += [
            *told,
            halved(before + len(told), after, bias=normalisation in ("none", "spectral")),
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
