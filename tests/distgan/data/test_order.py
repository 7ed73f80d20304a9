from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.data.order import Order, rank_slots

orders = st.builds(
    Order,
    st.integers(1, 200),
    st.integers(0, 5),
    block=st.none() | st.integers(1, 50),
    lanes=st.integers(1, 9),
)


@given(orders, st.integers(0, 10**9))
def test_every_sample_comes_once_an_epoch(order, epoch):
    start = epoch * order.samples
    ids = order(np.arange(start, start + order.samples))
    assert sorted(ids.tolist()) == list(range(order.samples))


@given(orders, st.lists(st.integers(0, 10**6), max_size=50))
def test_it_is_a_pure_function_of_the_position(order, positions):
    positions = np.array(positions, np.int64)
    fresh = Order(order.samples, order.seed, block=order.block, lanes=order.lanes)
    one_by_one = [int(fresh(np.array([position]))[0]) for position in positions]
    assert order(positions).tolist() == one_by_one


@pytest.mark.parametrize("block", [None, 5])
def test_two_permutations_of_each_lane_in_use_are_kept(block):
    """A rank that has one lane of eight keeps two eighths of an epoch, however long it runs."""
    order, whole = (Order(101, 0, block=block, lanes=8) for _ in range(2))
    for update in range(200):
        order(np.arange(16 * update, 16 * update + 16)[3::8])
        whole(np.arange(16 * update, 16 * update + 16))
    assert sum(len(kept) for kept in order._permutations.values()) == 2
    assert [len(kept) for kept in whole._permutations.values()] == [2] * 8


def test_epochs_and_seeds_differ():
    samples = np.arange(1000)
    streams = [Order(1000, seed)(samples + 1000 * epoch) for seed in (0, 1) for epoch in (0, 1)]
    streams.append(samples)
    for i, one in enumerate(streams):
        for other in streams[:i]:
            assert (one == other).mean() < 0.02


def test_it_is_uniform():
    """Each sample comes at each place equally often: chi-squared over 2,000 epochs of 8 samples."""
    counts = np.zeros((8, 8))
    ids = Order(8, 3)(np.arange(8 * 2000)).reshape(2000, 8)
    for place in range(8):
        counts[place] = np.bincount(ids[:, place], minlength=8)
    statistic = ((counts - 250.0) ** 2 / 250.0).sum()
    assert statistic < 49 + 6 * (2 * 49) ** 0.5  # 49 degrees of freedom, six standard deviations


def test_the_order_never_changes():
    """A run of an older version must go on with the same samples: these numbers are part of the format."""
    assert Order(10, 0)(np.arange(12)).tolist() == [9, 5, 6, 0, 8, 4, 7, 2, 1, 3, 2, 1]
    assert Order(10, 0, block=3, lanes=2)(np.arange(12)).tolist() == [0, 8, 2, 9, 1, 7, 4, 6, 3, 5, 2, 6]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 4))
def test_blocks_are_read_one_after_the_other(samples, block, epoch):
    ids = Order(samples, 0, block=block)(np.arange(samples) + epoch * samples)
    blocks = ids // block
    assert len(np.flatnonzero(np.diff(blocks))) == -(-samples // block) - 1


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 500), st.integers(0, 50))
def test_a_rank_whose_slots_are_in_its_lanes_reads_only_their_part(world_size, times, samples, step):
    lanes = world_size * times
    batch_size = lanes * 3
    order = Order(samples, 0, lanes=lanes)
    for rank in range(world_size):
        positions = step * batch_size + rank_slots(batch_size, rank, world_size)
        mine = {(p % lanes) for p in positions.tolist()}
        assert mine == {lane for lane in range(lanes) if lane % world_size == rank}
        for position, sample in zip(positions.tolist(), order(positions).tolist(), strict=True):
            centre = (position % lanes + 0.5) * samples / lanes
            assert abs(sample + 0.5 - centre) <= samples / lanes / 2 + lanes + 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_ranks_share_a_batch_without_overlap(world_size):
    slots = np.concatenate([rank_slots(12, rank, world_size) for rank in range(world_size)])
    assert sorted(slots.tolist()) == list(range(12))
    assert len({len(rank_slots(12, rank, world_size)) for rank in range(world_size)}) == 1
