from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from distgan.costs.heap import Heap


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2**26), st.integers(0, 10)), min_size=1, max_size=60))
def test_a_heaps_blocks_do_not_overlap_and_come_together_again(made):
    """Each size is taken, and before it so many of the blocks in use, oldest first, are freed."""
    heap, used, alive, most = Heap(), [], 0, 0
    for size, freed in made:
        for _ in range(min(freed, len(used))):
            block, its = used.pop(0)
            heap.give_back(block)
            alive -= its
        used.append((heap.take(size), size))
        alive += size
        most = max(most, alive)
        assert heap.peak >= most
        inside = sorted(block for block, _ in used if block.address >= 0)
        assert all(block.size >= its and (block.address + 16) % 64 == 0 for block, its in used if block.address >= 0)
        assert all(a.address + a.size <= b.address for a, b in pairwise(inside))
    for block, _ in used:
        heap.give_back(block)
    peak = heap.peak
    assert heap.take(1).address in (-16 % 64,), "one free heap again, from its beginning"
    assert heap.peak == peak


def test_a_block_that_was_cut_is_too_small_for_another_of_its_size():
    heap = Heap()
    first, between = heap.take(2**20), heap.take(2**10)
    heap.give_back(first)
    half = heap.take(2**19)
    assert half.address == first.address
    assert heap.take(2**20).address > between.address
    heap.give_back(half)
    assert heap.take(2**20) == first
    mapped = Heap()
    for _ in range(3):  # from the system and back
        mapped.give_back(mapped.take(2**26))
    assert mapped.peak == 2**26
