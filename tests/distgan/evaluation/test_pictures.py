import numpy as np
import pytest
import torch
from torch import Tensor

from distgan.evaluation.pictures import (
    PATCH,
    enlarged,
    level_sizes,
    likeness,
    patches,
    pyramid,
    scales,
    sliced_wasserstein,
)


def images(count: int, size: int, seed: int = 0, channels: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 8, 8, generator=random)
    return (enlarged(coarse, size) * 255).round().to(torch.uint8)


def test_the_pyramid_is_burt_and_adelsons():
    picture = images(1, 64).double()
    levels = pyramid(picture)
    assert [level.shape[-1] for level in levels] == level_sizes(64) == [64, 32, 16]

    def blurred(pixels: np.ndarray) -> np.ndarray:
        around = np.pad(pixels, 2, mode="reflect")
        weights = np.array([1, 4, 6, 4, 1]) / 16
        size = len(pixels)
        return sum(weights[y] * weights[x] * around[y : y + size, x : x + size] for y in range(5) for x in range(5))

    grown = np.zeros((64, 64))
    grown[::2, ::2] = blurred(picture[0, 0].numpy())[::2, ::2]
    expected = picture[0, 0].numpy() - 4 * blurred(grown)
    np.testing.assert_allclose(levels[0][0, 0].numpy(), expected, atol=1e-9)


def test_patches_are_where_they_are_said_to_be():
    pictures = images(4, 32)
    whole = patches(pictures, 10, 3)
    assert [level.shape for level in whole] == [(12, 3 * PATCH**2)] * 2
    alone = patches(pictures[2:3], 12, 3)  # they depend on the position alone
    for level, one, full in zip(whole, alone, pyramid(pictures.float()), strict=True):
        torch.testing.assert_close(level[6:9], one)
        windows = full[2].unfold(1, PATCH, 1).unfold(2, PATCH, 1).reshape(3, -1, PATCH**2).transpose(0, 1).flatten(1)
        assert all((windows == row).all(1).any() for row in one)


def test_the_distance_of_sorted_projections():
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 3 * PATCH**2, generator=random)
    same = sliced_wasserstein(rows, rows[torch.randperm(500, generator=random)], 3)
    assert same == pytest.approx(0, abs=1e-3)
    brighter = sliced_wasserstein(rows, 3 * rows + 7, 3)  # which normalising undoes
    assert brighter == pytest.approx(0, abs=1e-2)
    other = torch.rand(500, 3 * PATCH**2, generator=random).pow(4)
    assert sliced_wasserstein(rows, other, 3) > 50 * 1e-2


def test_scales_of_likeness():
    assert [scales(size) for size in (8, 16, 32, 64, 128, 256)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("channels", [1, 3])
def test_likeness_is_of_pairs(channels):
    pictures = images(6, 64, channels=channels)
    pictures[1] = pictures[0]
    found = likeness(pictures)
    assert found.shape == (3,)
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert (found[1:] < 0.9).all()
    torch.testing.assert_close(found[1:], likeness(pictures[2:]))
