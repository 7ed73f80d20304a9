from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from distgan.networks.same import SameConv2d, SameConvTranspose2d, same_padding

sizes, kernels, strides = st.integers(1, 9), st.integers(1, 6), st.integers(1, 4)


def plain_convolution(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """``tf.nn.convolution`` with "SAME" padding as its documentation defines it; x (C, H, W), weight (out, C, k, k)."""
    kernel = weight.shape[-1]
    before, rows = [], []
    for size in x.shape[1:]:
        total = max((ceil(size / stride) - 1) * stride + kernel - size, 0)
        before.append(total // 2)
        rows.append(ceil(size / stride))
    out = np.zeros((len(weight), *rows))
    for o, i, j in np.ndindex(*out.shape):
        for c, p, q in np.ndindex(*weight.shape[1:]):
            y, z = i * stride + p - before[0], j * stride + q - before[1]
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                out[o, i, j] += weight[o, c, p, q] * x[c, y, z]
    return out


def array(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape)


@settings(max_examples=40)
@given(sizes, sizes, kernels, strides, st.integers(0, 2**32))
@example(8, 8, 5, 2, 0)  # the critic of dcgan_keras: one pixel before, two after
@example(6, 9, 3, 2, 0)  # even in one direction only
def test_a_convolution_is_tensorflow_s(height, width, kernel, stride, seed):
    random = np.random.default_rng(seed)
    x, weight, bias = array(random, 2, height, width), array(random, 3, 2, kernel, kernel), array(random, 3)
    layer = SameConv2d(2, 3, kernel, stride).double()
    layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    expected = plain_convolution(x, weight, stride) + bias[:, None, None]
    np.testing.assert_allclose(layer(torch.from_numpy(x)[None])[0].detach(), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 3), kernels, strides, st.integers(0, 2**32))
@example(3, 3, 3, 2, 0)  # dcgan_keras
@example(3, 3, 4, 2, 0)  # gan_rmsprop
@example(2, 3, 1, 4, 0)  # a kernel that leaves pixels out
def test_a_transposed_convolution_is_the_adjoint_of_the_convolution(height, width, kernel, stride, seed):
    """⟨conv(x), y⟩ = ⟨x, convT(y)⟩ for every x: the unit vectors, one after the other, and so for all."""
    random = np.random.default_rng(seed)
    y, weight, bias = array(random, 2, height, width), array(random, 2, 1, kernel, kernel), array(random, 1)
    layer = SameConvTranspose2d(2, 1, kernel, stride).double()
    layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    expected = np.zeros((1, height * stride, width * stride))
    for place in np.ndindex(*expected.shape):
        unit = np.zeros_like(expected)
        unit[place] = 1
        expected[place] = (plain_convolution(unit, weight, stride) * y).sum() + bias[0]
    np.testing.assert_allclose(layer(torch.from_numpy(y)[None])[0].detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "crop"), [(3, slice(0, 2)), (4, slice(1, 3)), (5, slice(1, 3))])
def test_a_transposed_convolution_of_one_pixel_is_its_kernel_cropped(kernel, crop):
    layer = SameConvTranspose2d(1, 1, kernel).double()
    nn.init.zeros_(layer.bias)
    assert torch.equal(layer(torch.ones(1, 1, 1, 1).double())[0, 0], layer.weight[0, 0, crop, crop])


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 6))
def test_padding_after_is_that_before_or_one_more(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    assert before >= 0
    assert after - before in (0, 1)
    assert (size + before + after - kernel) // stride + 1 == ceil(size / stride)


def test_what_counts_layers_sees_convolutions():
    assert isinstance(SameConv2d(1, 1, 3), nn.Conv2d)
    assert isinstance(SameConvTranspose2d(1, 1, 3), nn.ConvTranspose2d)
