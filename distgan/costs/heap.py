"""What the C library's heap grows to on a CPU: a simulation."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from distgan.memory import LARGEST_MMAP_THRESHOLD

_HEADER, _SMALLEST_BLOCK = 16, 32  # bytes, of glibc on 64-bit machines
_ALIGNMENT = 64  # of torch's tensors


class Block(NamedTuple):
    """A part of a heap; one that the system was asked for has no address there: -1."""

    address: int
    size: int


class Heap:
    """What glibc's heap grows to, in bytes, where tensors are made and freed as a run on a CPU does it.

    It follows glibc 2.36 with :func:`~distgan.memory.keep_freed_memory` (mallopt(3); ``_int_malloc``, ``_int_memalign``
    and ``_int_free`` in malloc.c): of the free blocks the smallest that will do is taken, and cut; free neighbours
    become one; nothing goes back to the system but what is so large that it came from there by itself. Tensors lie at
    multiples of 64, for which glibc looks for a block that is larger than what it then hands out. So holes are left,
    and the heap grows to up to twice what is alive. Small objects, which move into such holes for good, are left out:
    heaps were larger still.
    """

    def __init__(self) -> None:
        self.peak = 0
        """The most bytes that it has held so far."""
        self._mapped = 0
        self._end = self._extent = 0  # of what is in use or between that, now; and the farthest it has been
        self._free: list[tuple[int, int]] = []  # sorted: bytes and address of each block
        self._sizes: dict[int, int] = {}  # of free blocks, by address
        self._ends: dict[int, int] = {}  # addresses of free blocks, by where they end

    def take(self, size: int) -> Block:
        """A block for a tensor of so many bytes."""
        if size >= LARGEST_MMAP_THRESHOLD:
            block = Block(-1, size)
            self._mapped += size
        else:
            whole = -(-(size + _HEADER) // 16) * 16
            wanted = whole + _ALIGNMENT + _SMALLEST_BLOCK
            place = bisect_left(self._free, (wanted, 0))
            if place < len(self._free):
                found, begin = self._free[place]
                self._remove(begin)
            else:
                found, begin = wanted, self._end
                self._end += wanted
                self._extent = max(self._extent, self._end)
            before = -(begin + _HEADER) % _ALIGNMENT
            if 0 < before < _SMALLEST_BLOCK:
                before += _ALIGNMENT
            behind = found - before - whole
            if behind < _SMALLEST_BLOCK:
                whole, behind = whole + behind, 0
            block = Block(begin + before, whole)
            self._add(begin, before)
            self._add(begin + before + whole, behind)
        self.peak = max(self.peak, self._extent + self._mapped)
        return block

    def give_back(self, block: Block) -> None:
        """Free a block."""
        if block.address < 0:
            self._mapped -= block.size
        else:
            self._add(*block)

    def _add(self, address: int, size: int) -> None:
        if not size:
            return
        if address in self._ends:
            before = self._ends[address]
            size += self._remove(before)
            address = before
        if address + size in self._sizes:
            size += self._remove(address + size)
        if address + size == self._end:
            self._end = address
            return
        insort(self._free, (size, address))
        self._sizes[address] = size
        self._ends[address + size] = address

    def _remove(self, address: int) -> int:
        size = self._sizes.pop(address)
        del self._ends[address + size]
        del self._free[bisect_left(self._free, (size, address))]
        return size
