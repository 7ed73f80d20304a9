from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from distgan.networks.normalisation import normalisation_layer
from tests.distgan.networks.conftest import enlarged, noise


@pytest.mark.parametrize(("name", "axes"), [("layer", (0, 1, 2)), ("instance", (1, 2))])
def test_single_images_are_normalised(name, axes):
    (layer,) = normalisation_layer(name, 3, eps=0.01)
    enlarged(layer)
    x = noise(4, 3, 2, 5) * 2 + 1
    scale, shift = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    for image, actual in zip(x.numpy(), layer(x).detach().numpy(), strict=True):
        mean, variance = image.mean(axes, keepdims=True), image.var(axes, keepdims=True)
        normalised = (image - mean) / np.sqrt(variance + 0.01)
        np.testing.assert_allclose(actual, normalised * scale[:, None, None] + shift[:, None, None], rtol=1e-12)


@pytest.mark.parametrize("name", ["layer", "instance"])
def test_an_image_does_not_depend_on_its_batch(name):
    (layer,) = normalisation_layer(name, 3)
    x = noise(4, 3, 2, 5)
    torch.testing.assert_close(layer.double()(x)[1:2], layer(x[1:2]), rtol=1e-12, atol=1e-12)


def test_batch_is_torch_s_and_none_is_none():
    (layer,) = normalisation_layer("batch", 3, eps=0.25, momentum=0.125)
    assert isinstance(layer, nn.BatchNorm2d)
    assert (layer.num_features, layer.eps, layer.momentum) == (3, 0.25, 0.125)
    assert normalisation_layer("none", 3) == []
