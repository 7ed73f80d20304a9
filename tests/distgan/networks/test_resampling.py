from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from distgan.networks.resampling import Double, Filter, Halve
from tests.distgan.networks.conftest import noise

sizes = st.integers(1, 5)


@given(st.integers(1, 3), st.integers(1, 3), sizes, sizes)
def test_a_box_is_four_pixels(count, channels, height, width):
    x = noise(count, channels, height, width)
    doubled = Double("box")(x)
    np.testing.assert_array_equal(doubled, np.kron(x, np.ones((1, 1, 2, 2))))
    torch.testing.assert_close(Halve("box")(doubled), x, rtol=1e-15, atol=0)


@given(st.integers(1, 3), st.integers(1, 3), sizes, sizes)
def test_a_tent_is_the_box_s_result_blurred_by_1_2_1(count, channels, height, width):
    """R3GAN's filter is [1, 2, 1] beside the box; beyond the border there are zeros."""
    x = noise(count, channels, height, width).numpy()
    blur = np.array([1.0, 2.0, 1.0]) / 4

    def along(maps, axis):
        return np.apply_along_axis(lambda line: np.convolve(line, [1.0, 1.0], "full"), axis, maps)

    def blurred(maps, axis):
        return np.apply_along_axis(lambda line: np.convolve(line, blur, "full"), axis, maps)

    spread = np.zeros((count, channels, 2 * height, 2 * width))
    spread[:, :, ::2, ::2] = x
    doubled = blurred(blurred(along(along(spread, 2), 3), 2), 3)[:, :, 1 : 1 + 2 * height, 1 : 1 + 2 * width]
    np.testing.assert_allclose(Double("bilinear")(torch.from_numpy(x)), doubled, rtol=1e-13, atol=1e-13)
    wide = np.kron(x, np.ones((2, 2))) + spread
    halved = blurred(blurred(along(along(wide, 2), 3), 2), 3)[:, :, 2:-1:2, 2:-1:2] / 4
    np.testing.assert_allclose(Halve("bilinear")(torch.from_numpy(wide)), halved, rtol=1e-13, atol=1e-13)


def test_inside_a_map_doubling_is_bilinear_interpolation():
    x = noise(2, 3, 6, 7)
    theirs = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Double("bilinear")(x)[:, :, 1:-1, 1:-1], theirs[:, :, 1:-1, 1:-1])


@pytest.mark.parametrize("by", ["box", "bilinear"])
@pytest.mark.parametrize("change", [Double, Halve])
def test_derivatives_of_both_orders(change, by: Filter):
    x = noise(2, 2, 4, 4).requires_grad_()
    resample = change(by)
    assert torch.autograd.gradcheck(resample, x)
    assert torch.autograd.gradgradcheck(lambda maps: resample(maps).square(), x)


@pytest.mark.parametrize("by", ["box", "bilinear"])
@pytest.mark.parametrize("change", [Double, Halve])
def test_a_linear_map_s_second_derivative_sends_nothing_back(change, by):
    x = noise(1, 2, 4, 4).requires_grad_()
    maps = change(by)(x)
    weights = torch.ones_like(maps, requires_grad=True)
    (slopes,) = torch.autograd.grad(maps, x, weights, create_graph=True)
    slopes.square().sum().backward()
    assert x.grad is None
    assert weights.grad is not None


@pytest.mark.parametrize("by", ["box", "bilinear"])
@pytest.mark.parametrize("change", [Double, Halve])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_type_and_layout_are_kept(change, by, dtype):
    x = noise(2, 3, 4, 4).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    maps = change(by)(x)
    assert maps.dtype == dtype
    assert maps.is_contiguous(memory_format=torch.channels_last)
    maps.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
