from __future__ import annotations

import pytest
import torch
from torch import nn

from distgan.bench import ceiling
from distgan.bench.ceiling import Ceiling, heaviest_convolutions, matrix_product
from distgan.costs.flops import FLOPs

CPU = torch.device("cpu")
MAPS = torch.zeros(2, 3, 8, 8)
SMALL, LARGE = nn.Conv2d(3, 5, 4, 2, 1), nn.ConvTranspose2d(5, 4, 4, 2, 1)
AS_LARGE = nn.Conv2d(4, 20, 4, 4, groups=1)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ((SMALL, LARGE), ["5 to 4 channels, 4×4, stride 2, transposed, of maps 4×4"]),
        ((SMALL, nn.Flatten(), nn.Linear(80, 1)), ["3 to 5 channels, 4×4, stride 2, of maps 8×8"]),
        (
            (SMALL, LARGE, AS_LARGE),
            ["5 to 4 channels, 4×4, stride 2, transposed, of maps 4×4", "4 to 20 channels, 4×4, stride 4, of maps 8×8"],
        ),
        (
            (nn.ConvTranspose2d(3, 6, 2, 2, groups=3),),
            ["3 to 6 channels, 2×2, stride 2, transposed, of maps 8×8"],
        ),
    ],
)
def test_the_heaviest_convolutions_are_found_and_their_flops_are_what_they_do(layers, names):
    network = nn.Sequential(*layers)
    found = heaviest_convolutions(lambda: network(MAPS), CPU, torch.bfloat16)
    assert [each.name for each in found] == names
    for each in found:
        gradients, of = each.run(), flops_of(each)
        assert each.flops == of > 0
        assert {gradient.dtype for gradient in gradients} == {torch.bfloat16}
        assert all(gradient.is_contiguous(memory_format=torch.channels_last) for gradient in gradients)


def flops_of(ceiling: Ceiling) -> int:
    with FLOPs() as counted:
        ceiling.run()
    return counted.total


def test_where_there_is_none():
    assert heaviest_convolutions(lambda: nn.Linear(3, 1)(torch.zeros(1, 3)), CPU, torch.float32) == []


def test_a_product_s_flops_are_what_it_does(monkeypatch):
    monkeypatch.setitem(ceiling.SIDES, "cpu", 32)
    found = matrix_product(CPU, torch.float32)
    assert found.flops == flops_of(found) == 2 * 32**3
