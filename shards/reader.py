"""Sample ids to one batch of pixels, straight from the tar files."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from shards import images
from shards.cache import default_cache, is_remote, local_copy
from shards.errors import DamageError
from shards.images import ImageError, Transform
from shards.index import Index
from shards.processes import usable_cpus

MAX_OPEN_FILES = 128
"""More shards than this are opened again when their turn comes: a process may have only so many files open."""


class Reader:
    """Reads batches by sample id and checks every sample's crc32.

    Raw images go from the file into the batch without a copy between; others are decoded by a few threads. Only one
    thread at a time may call read; several readers of one index are fine.

    Attributes:
        index: What is read.
        shape: (size, size, channels) of an image.
    """

    def __init__(self, index: Index, threads: int | None = None, cache: str | Path | None = None):
        """Make a reader; files are opened when they are first needed.

        Args:
            index: What to read.
            threads: Threads that decode; None is one a core. Raw images need none.
            cache: Folder for the copies of shards that lie behind a URL; None is default_cache's.
        """
        transform = index.transform
        self.index = index
        self.shape = (transform.size, transform.size, transform.channels)
        self._cache = Path(cache) if cache is not None else default_cache(index.fingerprint)
        self._files: OrderedDict[int, int] = OrderedDict()  # shard to file descriptor, the one used last at the end
        # The originals still have to be cut and resized; all else was before it was packed.
        self._transform = transform if index.encoding == "original" else Transform(transform.size, transform.channels)
        self._threads = threads or usable_cpus()
        self._pool = None if index.encoding == "raw" else ThreadPoolExecutor(self._threads, "decode")

    def read(self, ids: np.ndarray, out: np.ndarray | None = None, *, size: int | None = None) -> np.ndarray:
        """Read one batch.

        Args:
            ids: Integers (n,) in 0..len(index)-1, in any order, repeats allowed.
            out: Where to put the pixels: uint8 (n, size, size, channels), C-contiguous; None makes a new array.
            size: One of the index's pyramid; None for the images' own.

        Returns:
            uint8 (n, size, size, channels) in 0..255: out where it was given.

        Raises:
            DamageError: A sample's bytes are missing or not those that were packed. What out then holds is undefined.
            IndexError: An id that the index has not.
            ValueError: An out of another kind.
            InputError: A copy of a remote shard cannot be made.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self.index)):
            raise IndexError(f"sample ids are 0 to {len(self.index) - 1}")
        size = size or self.shape[0]
        shape = (len(ids), size, size, self.shape[2])
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous uint8 {shape}")
        if self._pool is None:
            pixels = out.reshape(-1).data
            length = int(np.prod(shape[1:]))
            self._fill(ids, [pixels[start : start + length] for start in range(0, len(pixels), length)], size)
        else:
            encoded = [memoryview(bytearray(size)) for size in self.index.size[ids].tolist()]
            self._fill(ids, encoded, size)
            jobs = np.array_split(np.arange(len(ids)), self._threads)
            list(self._pool.map(lambda positions: self._decode(ids, encoded, out, positions), jobs))
        return out

    def close(self) -> None:
        """Close the files and end the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        while self._files:
            os.close(self._files.popitem()[1])

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self, ids: np.ndarray, slots: list[memoryview], size: int) -> None:
        """Read the bytes of each sample's image of a size into its slot."""
        index = self.index
        begins, checksums = index.place_of(size)
        rows = zip(
            ids.tolist(),
            index.shard[ids].tolist(),
            (index.offset[ids] + begins).tolist(),
            checksums[ids].tolist(),
            slots,
            strict=True,
        )
        for i, shard, offset, crc32, slot in rows:
            try:
                file = self._files.get(shard)
                if file is None:
                    file = self._open(shard)
                else:
                    self._files.move_to_end(shard)
                length = _read_into(file, slot, offset)
            except OSError as error:
                raise self._damage(i, error.strerror or str(error)) from error
            if length != len(slot):
                raise self._damage(i, f"only {length} of {len(slot)} bytes are there")
            if zlib.crc32(slot) != crc32:
                raise self._damage(i, "its bytes are not those that were packed (crc32)")

    def _open(self, shard: int) -> int:
        entry = self.index.shards[shard]
        if is_remote(self.index.root):
            path = local_copy(self.index.root, entry.url, entry.sha256, self._cache)
        else:
            path = Path(self.index.root) / entry.url
        if len(self._files) == MAX_OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
        return self._files[shard]

    def _decode(self, ids: np.ndarray, encoded: list[memoryview], out: np.ndarray, positions: np.ndarray) -> None:
        for position in positions.tolist():
            try:
                image = images.decode(bytes(encoded[position]), self._transform.white)
                out[position] = images.apply(image, self._transform)
            except ImageError as error:
                raise self._damage(int(ids[position]), str(error)) from error

    def _damage(self, i: int, reason: str) -> DamageError:
        shard, key = self.index.shards[self.index.shard[i]].url, self.index.key[i].decode()
        return DamageError(f"{self.index.root}/{shard}, sample {key}: {reason}. distgan shards verify names all damage")


def _read_into(file: int, slot: memoryview, offset: int) -> int:
    """Fill slot from a file's bytes at offset; returns how many there were."""
    length = _pread_into(file, slot, offset)
    while 0 < length < len(slot):  # a network file system may give less than it was asked for
        more = _pread_into(file, slot[length:], offset + length)
        if not more:
            break
        length += more
    return length


if hasattr(os, "preadv"):

    def _pread_into(file: int, slot: memoryview, offset: int) -> int:
        return os.preadv(file, (slot,), offset)

else:  # macOS before 11

    def _pread_into(file: int, slot: memoryview, offset: int) -> int:
        data = os.pread(file, len(slot), offset)
        slot[: len(data)] = data
        return len(data)
