from __future__ import annotations

import pytest
import torch
from torch import nn

from distgan.bench import ceiling
from distgan.bench.ceiling import heaviest_convolution, matrix_product
from distgan.describe import _FLOPs

CPU = torch.device("cpu")
MAPS = torch.zeros(2, 3, 8, 8)
SMALL, LARGE = nn.Conv2d(3, 5, 4, 2, 1), nn.ConvTranspose2d(5, 4, 4, 2, 1)


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        ((SMALL, LARGE), "5 to 4 channels, 4×4, stride 2, transposed, of maps 4×4"),
        ((SMALL, nn.Flatten(), nn.Linear(80, 1)), "3 to 5 channels, 4×4, stride 2, of maps 8×8"),
    ],
)
def test_the_heaviest_convolution_is_found_and_its_flops_are_what_it_does(layers, name):
    network = nn.Sequential(*layers)
    found = heaviest_convolution(lambda: network(MAPS), CPU, torch.bfloat16)
    assert found is not None
    assert found.name == name
    with _FLOPs() as counted:
        gradients = found.run()
    assert found.flops == counted.total > 0
    assert {gradient.dtype for gradient in gradients} == {torch.bfloat16}
    assert all(gradient.is_contiguous(memory_format=torch.channels_last) for gradient in gradients)


def test_where_there_is_none():
    assert heaviest_convolution(lambda: nn.Linear(3, 1)(torch.zeros(1, 3)), CPU, torch.float32) is None


def test_a_product_s_flops_are_what_it_does(monkeypatch):
    monkeypatch.setitem(ceiling.SIDES, "cpu", 32)
    found = matrix_product(CPU, torch.float32)
    with _FLOPs() as counted:
        found.run()
    assert found.flops == counted.total == 2 * 32**3
