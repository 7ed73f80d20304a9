"""Networks that grow: small images first, then larger ones with more layers (Karras et al. 2018, arXiv:1710.10196).

A network that grows has all its layers from the beginning, so that checkpoints, averages and optimizers hold the same
tensors all the time. Layers of sizes to come, and those that only a smaller size has, are not in use: they ask for no
gradient, and no optimizer moves them.

While a size is new its layers fade in. With f from 0 to 1 the generator's image is (1 − f) · the image of the size
before, each pixel doubled, + f · the new layers' image. The critic's maps are (1 − f) · those of the image at half its
size + f · those of the new layers. At f = 1 the layers that only the size before has are not in use any more. Between
the layers that the sizes share and the image of a smaller size stand layers of that size's own, which a network that
does not grow does not have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from distgan.moving import moving, times
from distgan.networks.layers import Layers, through
from distgan.stages import Timetable


class Growing(nn.Module):
    """The part of a network that depends on the size of the images. It is made for the largest one."""

    sizes: tuple[int, ...]
    """Of images, in pixels, ascending; each is twice the one before."""
    size: int
    """Of the images now."""
    fade: float
    """Share of the layers that are new with this size, in (0, 1]."""

    @property
    def before(self) -> int | None:
        """The size that a fade comes from, if there is a fade now."""
        return self.size // 2 if self.fade < 1 else None

    def moving_fade(self) -> float | Tensor:
        """The fade, while there is one."""
        return moving(lambda: self.fade)

    def in_use(self) -> Iterable[nn.Module]:
        """The layers that an image goes through now, each on its way or beside it, as long as a fade lasts."""
        raise NotImplementedError


def grow(network: nn.Module, timetable: Timetable, step: int) -> None:
    """Give a network, in place, the image size and the fade of a step. One that does not grow stays as it is."""
    for part in _growing(network):
        part.size, part.fade = timetable.stage(step).size, timetable.fade(step)


def train_what_is_in_use(network: nn.Module) -> None:
    """Have the parameters that images go through now, and no others, ask for gradients."""
    for part in _growing(network):
        part.requires_grad_(False)
        for layer in part.in_use():
            layer.requires_grad_(True)


def images_before(network: nn.Module, timetable: Timetable) -> dict[nn.Parameter, int]:
    """After how many images each parameter of what grows comes in use. The network is to be grown again after this."""
    found: dict[nn.Parameter, int] = {}
    for stage in timetable.stages:
        grow(network, timetable, stage.first_step)
        for part in _growing(network):
            for layer in part.in_use():
                for parameter in layer.parameters():
                    found.setdefault(parameter, stage.first_image)
    return found


def _growing(network: nn.Module) -> Iterator[Growing]:
    return (module for module in network.modules() if isinstance(module, Growing))


class GrowingLayers(Growing, Layers):
    """A generator's layers. In evaluation mode, where it is looked at, images of all sizes are shown at the largest.

    Args:
        layers: From the input to an image of the largest size, by name or in order.
        depths: For each smaller size, ascending: how many of the layers come before its own.
        to_image: For each smaller size: its own layers, from there to the image.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module] | Iterable[nn.Module],
        depths: Mapping[int, int],
        to_image: Mapping[int, nn.Sequential],
    ) -> None:
        super().__init__(_named(layers))
        self._depths = {**depths, 2 * max(depths): len(self)}
        self.sizes = tuple(self._depths)
        self.size, self.fade = self.sizes[-1], 1.0
        self.to_image = nn.ModuleDict({str(size): own for size, own in to_image.items()})

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Images (N, C, size, size) of the first layer's input and labels (N, K)."""
        before = self.before
        if before is None:
            images = through([*self._shared(0, self.size), *self._own(self.size)], x, labels)
        else:
            maps = through(self._shared(0, before), x, labels)
            small = through(self._own(before), maps, labels)
            large = through([*self._shared(before, self.size), *self._own(self.size)], maps, labels)
            images = blend(enlarge(small, 2), large, self.moving_fade())
        return images if self.training else enlarge(images, self.sizes[-1] // self.size)

    def in_use(self) -> Iterable[nn.Module]:
        """The layers that an image goes through now."""
        beside = self._own(self.before) if self.before else []
        return [*self._shared(0, self.size), *self._own(self.size), *beside]

    def _shared(self, before: int, size: int) -> list[nn.Module]:
        """The layers that a size shares with larger ones, after those that it shares with a smaller one too."""
        return list(self)[self._depths.get(before, 0) : self._depths[size]]

    def _own(self, size: int) -> list[nn.Module]:
        """The layers that no other size has. The largest one's are counted among the shared ones."""
        return [*self.to_image[str(size)].children()] if size < self.sizes[-1] else []


class GrowingFeatures(Growing, nn.Sequential):
    """A critic's or an encoder's layers, from images to maps that are of the same size whatever that of the images.

    Args:
        layers: From an image of the largest size, by name or in order.
        starts: For each smaller size, ascending: how many of the layers it leaves out.
        from_image: For each smaller size: its own layers, in their place.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module] | Iterable[nn.Module],
        starts: Mapping[int, int],
        from_image: Mapping[int, nn.Sequential],
    ) -> None:
        super().__init__(_named(layers))
        self._end = len(self)
        self._starts = {**starts, 2 * max(starts): 0}
        self.sizes = tuple(self._starts)
        self.size, self.fade = self.sizes[-1], 1.0
        self.from_image = nn.ModuleDict({str(size): own for size, own in from_image.items()})

    def forward(self, images: Tensor) -> Tensor:
        """Maps of images (N, C, size, size)."""
        before = self.before
        if before is None:
            return through([*self._own(self.size), *self._shared(self.size, None)], images)
        large = through([*self._own(self.size), *self._shared(self.size, before)], images)
        small = through(self._own(before), shrink(images, 2))
        return through(self._shared(before, None), blend(small, large, self.moving_fade()))

    def in_use(self) -> Iterable[nn.Module]:
        """The layers that an image goes through now."""
        beside = self._own(self.before) if self.before else []
        return [*self._own(self.size), *self._shared(self.size, None), *beside]

    def _shared(self, size: int, before: int | None) -> list[nn.Module]:
        """The layers that a size shares with larger ones, up to those that it shares with a smaller one too."""
        return list(self)[self._starts[size] : self._end if before is None else self._starts[before]]

    def _own(self, size: int) -> list[nn.Module]:
        """The layers that no other size has. The largest one's are counted among the shared ones."""
        return [*self.from_image[str(size)].children()] if size < self.sizes[-1] else []


def _named(layers: Mapping[str, nn.Module] | Iterable[nn.Module]) -> OrderedDict[str, nn.Module]:
    if isinstance(layers, Mapping):
        return OrderedDict(layers)
    return OrderedDict((str(place), layer) for place, layer in enumerate(layers))


def blend(old: Tensor, new: Tensor, fade: float | Tensor) -> Tensor:
    """(1 − fade) · old + fade · new."""
    return times(old, 1 - fade) + times(new, fade)


def enlarge(images: Tensor, times: int) -> Tensor:
    """Images (N, C, S, S) so many times as high and wide: each pixel is repeated."""
    return images if times == 1 else F.interpolate(images, scale_factor=times, mode="nearest")


def shrink(images: Tensor, times: int) -> Tensor:
    """Images (N, C, S, S) so many times less high and wide: the mean of each times × times pixels.

    Of whole numbers below 256 the means are exact in float32, for ``times`` up to 256: sums are below 2²⁴, and the
    divisor is a power of two.
    """
    return images if times == 1 else F.avg_pool2d(images, times)
