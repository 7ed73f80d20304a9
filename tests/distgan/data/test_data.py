"""Everything that becomes a batch is the same on a GPU as on the CPU.

In a file without hypothesis, which a machine with a GPU may lack: these tests run there alone (``make gpu``).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distgan.data.conditions import LabelDistribution, label_vectors
from distgan.data.noise import Noise
from distgan.data.prefetch import Batches
from distgan.objectives import Batch
from shards.index import Index
from shards.reader import Reader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONDITION = {"attributes": ["Male", "Smiling"], "classes": True}
STAGES = [
    {"size": 4, "images": 20, "batch_size": 10},
    {"size": 8, "images": 30, "fade_images": 18, "batch_size": 6},
    {"size": 16, "fade_images": 12},
]


def test_noise():
    slots = torch.arange(1000)
    for draw in ("normal", "uniform"):
        cpu = getattr(Noise(0, slots, "u"), draw)("latent", (100,))
        gpu = getattr(Noise(0, slots.cuda(), "u"), draw)("latent", (100,)).cpu()
        assert torch.allclose(cpu, gpu, rtol=0, atol=1e-6)
        assert (cpu != gpu).float().mean() < 1e-3


def test_labels():
    vectors = np.where(np.random.default_rng(0).random((1000, 8)) < 0.3, 1, -1).astype(np.int8)
    distribution = LabelDistribution.of(tuple("abcdefgh"), vectors).given({"c": 1})
    for numbers in (1, 8):
        noise = torch.rand(500, numbers, generator=torch.Generator().manual_seed(0))
        assert torch.equal(distribution.draw(noise.cuda()).cpu(), distribution.draw(noise))


@pytest.mark.parametrize("condition", [None, CONDITION])
@pytest.mark.parametrize("stages", [None, STAGES], ids=["one size", "growing"])
def test_batches(tiny, labelled, condition, stages):
    spec = tiny(model__condition=condition, training__stages=stages)
    with Reader(Index.load(labelled)) as reader:
        vectors = label_vectors(spec.model.condition, reader.index, np.arange(50))

        def first(device: str) -> list[Batch]:
            with Batches(reader, np.arange(50), vectors, spec, 0, 0, 1, torch.device(device)) as batches:
                return [next(batches) for _ in range(12)]

        for one, other in zip(first("cpu"), first("cuda"), strict=True):
            assert torch.equal(one.labels, other.labels.cpu())
            assert torch.allclose(one.images, other.images.cpu(), atol=1e-6)
