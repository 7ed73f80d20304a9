from __future__ import annotations

import torch

from distgan.describe import describe
from tests.small import small


def test_nothing_is_computed_and_no_memory_is_taken():
    spec = small(
        data={"shards": "nowhere", "image_size": 1024},
        model={"generator": {"width": 512}, "critic": {"width": 512}},
        training={"batch_size": 2**20},
    )
    assert describe(spec).memory.total > 2**50, "a pebibyte"
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(2).tolist() == [0.0, 0.0]
