from __future__ import annotations

import torch

from distgan.costs.storages import Storages


def test_storages_are_followed_from_their_making_to_their_end():
    weight = torch.zeros(8, 4, requires_grad=True)
    with Storages([weight]) as storages:
        x = torch.zeros(16, 8)  # 512 bytes
        y = x @ weight  # 256
        assert (storages.known, storages.now, storages.peak) == (128, 768, 768)
        z = y.view(-1)[3:]  # nothing new
        z = y.exp()  # 256, which its gradient needs, as that of the product needs x
        del x, y
        assert (storages.now, storages.peak) == (768, 1024)
        z.sum().backward()  # and at once: the sum, its gradient, the exponential's and the weight's
        assert storages.now == 256 + 128
        del z
        weight.grad = None
        assert storages.now == 0
    assert 1024 <= storages.peak <= 512 + 256 + 256 + 128 + 8
    assert storages.heap.peak >= 128 + 1024
