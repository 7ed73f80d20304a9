"""Scores of pictures themselves, which need no network: sliced Wasserstein distance and MS-SSIM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad, unfold

from distgan.data.noise import Noise

PATCH = 7
PATCHES = 32_768
"""Of each level of the pyramid, over all images."""
DIRECTIONS = 512
SMALLEST_LEVEL = 16
WINDOW = 11
"""Of SSIM, in pixels."""
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of MS-SSIM's scales, the finest first (Wang et al. 2003)."""


# ---- sliced Wasserstein distance ----


def pyramid(images: Tensor) -> list[Tensor]:
    """The Laplacian pyramid of images (n, c, s, s): s, s/2, … down to 16 pixels, the last as it is.

    Burt and Adelson 1983, with their binomial filter of 5 pixels, as Karras et al. 2018 use it.
    """
    levels = []
    current = images
    for _ in level_sizes(images.shape[-1])[1:]:
        smaller = _blurred(current)[..., ::2, ::2]
        grown = torch.zeros_like(current)
        grown[..., ::2, ::2] = smaller
        levels.append(current - 4 * _blurred(grown))
        current = smaller
    return [*levels, current]


def _blurred(images: Tensor) -> Tensor:
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype, device=images.device) / 16
    channels = images.shape[1]
    kernel = torch.outer(line, line).expand(channels, 1, 5, 5)
    return conv2d(pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)


def level_sizes(size: int) -> list[int]:
    """The sizes of the levels of a pyramid of images of so many pixels."""
    sizes = [size]
    while sizes[-1] > SMALLEST_LEVEL and sizes[-1] % 2 == 0:
        sizes.append(sizes[-1] // 2)
    return sizes


def patches(images: Tensor, first: int, each: int) -> list[Tensor]:
    """Patches of 7×7 pixels at random places of each level of images' pyramid.

    Args:
        images: (n, c, s, s), s ≥ 16: the images first, first + 1, … of a set.
        first: The position of the first of them in its set, on which the places depend.
        each: Patches of an image and level.

    Returns:
        For each level (n · each, c · 49).
    """
    noise = Noise(0, torch.arange(first, first + len(images), device=images.device), "evaluation")
    found = []
    for number, level in enumerate(pyramid(images.float())):
        columns = unfold(level, PATCH)  # (n, c·49, places)
        places = (noise.uniform(f"places/{number}", (each,)) * columns.shape[2]).long()
        chosen = columns.gather(2, places[:, None].expand(-1, columns.shape[1], -1))
        found.append(chosen.mT.reshape(-1, columns.shape[1]))
    return found


def sliced_wasserstein(real: Tensor, generated: Tensor, channels: int) -> float:
    """The sliced Wasserstein distance of two sets of patches of one level, times a thousand.

    Each set is normalised to mean 0 and deviation 1 in each channel; the mean over random directions of the mean
    distance of the sorted projections (Rabin et al. 2011; Karras et al. 2018, arXiv:1710.10196, section 5).

    Args:
        real: (p, c · 49).
        generated: (p, c · 49), as many.
        channels: c.
    """
    assert real.shape == generated.shape
    first, second = (_normalised(each, channels) for each in (real, generated))
    directions = Noise(0, torch.arange(DIRECTIONS), "evaluation").normal("directions", (real.shape[1],)).to(real)
    directions = directions / directions.norm(dim=1, keepdim=True)
    total = 0.0
    for direction in directions.split(32):
        projected = [(each @ direction.mT).sort(0).values for each in (first, second)]
        total += float((projected[0] - projected[1]).abs().mean(0).double().sum())
    return 1000 * total / DIRECTIONS


def _normalised(rows: Tensor, channels: int) -> Tensor:
    parts = rows.reshape(len(rows), channels, -1)
    deviation, mean = torch.std_mean(parts.double(), dim=(0, 2), keepdim=True)
    return ((parts - mean) / deviation.clamp_min(1e-12)).to(rows.dtype).reshape(len(rows), -1)


# ---- diversity ----


def scales(size: int) -> int:
    """On how many scales images of so many pixels can be compared; 5 are usual, and need 176 pixels."""
    return sum(size >> scale >= WINDOW for scale in range(len(SCALE_WEIGHTS)))


def likeness(images: Tensor) -> Tensor:
    """How alike images are that follow each other: MS-SSIM of the 1st and 2nd, the 3rd and 4th, ….

    The lower its mean, the more varied is a set (Odena et al. 2017, arXiv:1610.09585); compare it with that of real
    images. Where images are too small for five scales the finest are taken, their weights again of sum 1.

    Args:
        images: uint8 (2n, c, s, s).

    Returns:
        float32 (n,), at most 1.
    """
    # here, as distgan.evaluation.distances says why
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as multiscale_ssim

    weights = torch.tensor(SCALE_WEIGHTS[: scales(images.shape[-1])])
    ones, others = images[0::2].float(), images[1::2].float()
    return multiscale_ssim(
        ones,
        others,
        kernel_size=WINDOW,
        data_range=255.0,
        betas=tuple((weights / weights.sum()).tolist()),
        reduction="none",
        normalize="relu",
    ).reshape(-1)


def enlarged(images: Tensor, size: int) -> Tensor:
    """Images float (n, c, h, w) in another size: bilinear, with antialiasing where they shrink."""
    if images.shape[-1] == size:
        return images
    return interpolate(images, (size, size), mode="bilinear", antialias=images.shape[-1] > size, align_corners=False)
