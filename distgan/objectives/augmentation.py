"""Differentiable augmentation: a critic that sees every image changed at random does not learn a small set by heart.

Zhao et al. 2020 (https://arxiv.org/abs/2006.10738): real and generated images alike are augmented before they are
judged, and gradients, of any order, go through it. What is done, and in which order, is as in the authors' code.

How often may adapt (Karras et al. 2020, https://arxiv.org/abs/2006.06676, section 3): a critic that holds more real
images to be real than it should, as the sign of its outputs says, has learnt them by heart and is to see more of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distgan.networks.layers import Uniform
from distgan.spec import AugmentationSpec, value_at

_DRAWS = (
    *("colour", "brightness", "saturation", "contrast"),
    *("translation", "down", "right"),
    *("cutout", "row", "column"),
)
"""What is drawn for each image, in this order, which is a contract: a run that is resumed by a newer version must draw
the same numbers. The one that has a kind's name decides whether the image gets it."""

UPDATES = 4
"""A probability that adapts does so after every so many critic updates."""


class Augmentation:
    """What is done to images before they are judged.

    Args:
        spec: Which kinds, how much of each, and how often.
        device: Where the images are.
    """

    def __init__(self, spec: AugmentationSpec, device: torch.device | None = None) -> None:
        self.spec = spec
        self._adapted = torch.zeros((), dtype=torch.float64, device=device)
        # Since then: the signs' sum over the real images, and how many these are. A batch may be larger than the last.
        self._signs, self._images = torch.zeros_like(self._adapted), torch.zeros_like(self._adapted)

    def probability(self, shown: int) -> float | Tensor:
        """That an image is augmented, after so many real images: a scalar on the device where it adapts."""
        return value_at(self.spec.probability, shown) if self.spec.target is None else self._adapted

    @torch.no_grad()
    def adapt(self, signs: Tensor, count: int, updates: int, shown: int) -> None:
        """Take in a critic update; after every :data:`UPDATES` of them the probability moves.

        Args:
            signs: Over the global batch, the real images that were held to be real less those that were not.
            count: Images in it.
            updates: Critic updates done, this one included.
            shown: Real images that the run had shown before it.
        """
        assert self.spec.target is not None
        self._signs += signs
        self._images += count
        if updates % UPDATES == 0:
            way = (self._signs / self._images - self.spec.target).sign()
            self._adapted += way * self._images / self.spec.speed_images
            self._adapted.clamp_(0.0, value_at(self.spec.probability, shown))
            self._signs.zero_()
            self._images.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run must know of a probability that adapts."""
        return {"probability": self._adapted, "signs": self._signs, "images": self._images}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` returned."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def __call__(self, images: Tensor, uniform: Uniform, probability: float | Tensor) -> Tensor:
        """Images (N, C, S, S), each augmented in each kind with some probability.

        They keep their type, also under autocast. One that is not augmented keeps every bit.

        Args:
            images: In [-1, 1].
            uniform: Where random numbers come from, a row for each image.
            probability: A number or, on the device, a scalar.
        """
        spec, size = self.spec, images.shape[-1]
        if not spec.on or (not isinstance(probability, Tensor) and not probability):
            return images
        draws = dict(zip(_DRAWS, uniform("augmentation", (len(_DRAWS),)).unbind(1), strict=True))
        furthest, side = spec.pixels(size)
        with torch.autocast(images.device.type, enabled=False):
            if spec.colour:
                chosen = draws["colour"] < probability
                brightness = torch.where(chosen, draws["brightness"] - 0.5, 0.0)
                saturation = torch.where(chosen, draws["saturation"] * 2.0, 1.0)
                contrast = torch.where(chosen, draws["contrast"] + 0.5, 1.0)
                images = coloured(images, brightness, saturation, contrast)
            if furthest:
                chosen = draws["translation"] < probability
                steps = ((draws[way] * (2 * furthest + 1)).long() - furthest for way in ("down", "right"))
                images = translated(images, *(way * chosen for way in steps))
            if side:
                chosen = draws["cutout"] < probability
                centres = ((draws[way] * (size + 1 - side % 2)).long() for way in ("row", "column"))
                row, column = (_covered(centre - side // 2, side, size) for centre in centres)
                hole = row[:, :, None] & column[:, None, :] & chosen[:, None, None]
                images = images * ~hole[:, None]
        return images


def coloured(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Images (N, C, H, W), changed by three numbers (N,) one after the other.

    - brightness b: x + b;
    - saturation s: each value s times as far from the mean of its pixel's channels; grey images have none;
    - contrast c: each value c times as far from the mean of its image.

    Brightness moves both means, and saturation the image's not at all. So it all is
    c·s·x + c·(1 − s)·(mean of the pixel) + (1 − c)·(mean of the image) + b, which is x itself for b = 0 and s = c = 1.
    """
    b, s, c = (each.to(images.dtype)[:, None, None, None] for each in (brightness, saturation, contrast))
    of_image = (1 - c) * images.mean((1, 2, 3), keepdim=True) + b
    if images.shape[1] == 1:
        return c * images + of_image
    return c * s * images + (c * (1 - s) * images.mean(1, keepdim=True) + of_image)


def translated(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images (N, C, H, W) moved by so many pixels, int64 (N,) each, with 0 where nothing comes from."""
    rows, columns = (_covered(way, size, size) for way, size in zip((down, right), images.shape[2:], strict=True))
    rolled: Tensor = _Rolled.apply(images, down, right)
    return rolled * (rows[:, None, :, None] & columns[:, None, None, :])


class _Rolled(torch.autograd.Function):
    """Each image rolled by its own number of pixels. The gradient is rolled back: no sum, in whichever order."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(down, right)
        count, channels, height, width = images.shape
        rows = (torch.arange(height, device=down.device) - down[:, None]) % height
        columns = (torch.arange(width, device=down.device) - right[:, None]) % width
        numbers = torch.arange(count, device=down.device)[:, None, None]
        sources = (numbers * height + rows[:, :, None]) * width + columns[:, None, :]
        pixels = images.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, sources.flatten())
        return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        down, right = ctx.saved_tensors
        return _Rolled.apply(gradient, -down, -right), None, None


def _covered(first: Tensor, length: int, size: int) -> Tensor:
    """Which of ``size`` places, (N, size), are among so many from the first on, int64 (N,), which may lie outside."""
    places = torch.arange(size, device=first.device) - first[:, None]
    return (places >= 0) & (places < length)
