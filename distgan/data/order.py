"""The order of samples: a pure function of (seed, position), the same for any number of workers.

The training stream is perm(epoch 0) ‖ perm(epoch 1) ‖ …. A global batch is a slice of the stream and a rank's batch a
slice of that (:func:`rank_slots`), so every sample comes exactly once an epoch, ranks are always equal, nothing is
dropped at the tail, and resuming at a position is arithmetic.

Two options serve sets that are larger than a node's disk:

- *Blocks*: instead of the whole set, blocks of neighbouring samples are shuffled, and the samples within each block, so
  that a reader works through few shards at a time.
- *Lanes*: position p belongs to lane p mod L, and lane l permutes only its own contiguous part of the samples. A
  worker whose slots all lie in one lane needs only that part of the shards. Where L does not divide the epoch, the
  parts' bounds move from epoch to epoch by less than L samples, so that each epoch still holds every sample once.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Order:
    """The training stream of ``samples`` samples.

    Args:
        samples: Samples in an epoch, at least 1.
        seed: The run's seed.
        block: Samples in a block; None shuffles the whole lane.
        lanes: Number of lanes.
    """

    def __init__(self, samples: int, seed: int, *, block: int | None = None, lanes: int = 1) -> None:
        assert samples >= 1
        assert lanes >= 1
        assert block is None or block >= 1
        self.samples = samples
        self.seed = seed
        self.block = block
        self.lanes = lanes
        self._permutations: dict[int, dict[int, Ids]] = {}
        """Of each lane in use, those of the two epochs that were asked for last: a batch may straddle them."""

    def __call__(self, positions: Ids) -> Ids:
        """The samples (each in [0, samples)) at positions of the stream, each ≥ 0 and of any size."""
        epochs, lanes = positions // self.samples, positions % self.lanes
        result = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            for lane in np.unique(lanes[epochs == epoch]).tolist():
                here = (epochs == epoch) & (lanes == lane)
                turn = positions[here] // self.lanes - self._before(epoch, lane)
                result[here] = self._permutation(epoch, lane)[turn]
        return result

    def _before(self, epoch: int, lane: int) -> int:
        """How many positions of a lane come before an epoch: those p < epoch·samples with p mod lanes = lane."""
        return (epoch * self.samples - lane + self.lanes - 1) // self.lanes

    def _permutation(self, epoch: int, lane: int) -> Ids:
        """The samples of a lane in an epoch, in their order."""
        known = self._permutations.setdefault(lane, {})
        if epoch in known:
            known[epoch] = known.pop(epoch)  # the newest comes last
            return known[epoch]
        counts = [self._before(epoch + 1, each) - self._before(epoch, each) for each in range(lane + 1)]
        first, count = sum(counts[:-1]), counts[-1]
        digest = hashlib.blake2b(f"{self.seed}/order/{epoch}/{lane}".encode(), digest_size=16).digest()
        # Raw Philox words and a stable sort: unlike Generator.permutation, numpy promises never to change these.
        random = np.random.Philox(key=int.from_bytes(digest, "big"))
        within = random.random_raw(count)
        if self.block is None:
            permutation = np.argsort(within, kind="stable")
        else:
            block = np.arange(count) // self.block
            permutation = np.lexsort((within, random.random_raw(-(-count // self.block))[block]))
        known[epoch] = permutation.astype(np.int64) + first
        if len(known) > 2:
            del known[next(iter(known))]
        return known[epoch]


def rank_slots(batch_size: int, rank: int, world_size: int) -> Ids:
    """The slots of a global batch that a rank holds: every world_size-th, so that lanes stay with their ranks.

    Args:
        batch_size: The global batch, at least ``world_size``; shares differ by one slot where that does not divide it.
        rank: In [0, world_size).
        world_size: Number of ranks.
    """
    assert batch_size >= world_size
    return np.arange(rank, batch_size, world_size, dtype=np.int64)
