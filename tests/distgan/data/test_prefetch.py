from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from distgan.data.order import rank_slots
from distgan.data.prefetch import Batches
from shards.errors import DamageError
from shards.index import Index
from shards.reader import Reader

CPU = torch.device("cpu")


def batches(spec, reader, *, rank=0, world_size=1, first_update=0, kept=None) -> Batches:
    slots = torch.from_numpy(rank_slots(spec.training.batch_size, rank, world_size))
    kept = np.arange(50) if kept is None else kept
    return Batches(reader, kept, slots, spec, first_update, CPU)


def take(loader: Batches, count: int) -> list[torch.Tensor]:
    with loader:
        return [next(loader) for _ in range(count)]


@pytest.fixture
def reader(discs):
    with Reader(Index.load(discs)) as reader:
        yield reader


def test_every_image_comes_once_an_epoch_for_any_number_of_workers(tiny, discs, reader):
    spec = tiny(training__batch_size=10, data__flip=False)
    everything = torch.from_numpy(reader.read(np.arange(50))).permute(0, 3, 1, 2).float() * (2 / 255) - 1
    for world_size in (1, 2, 5):
        streams = [take(batches(spec, reader, rank=r, world_size=world_size), 15) for r in range(world_size)]
        for epoch in range(3):
            seen = torch.cat([batch for stream in streams for batch in stream[5 * epoch : 5 * epoch + 5]])
            distances = torch.cdist(seen.flatten(1), everything.flatten(1))
            assert sorted(distances.argmin(1).tolist()) == list(range(50))
            assert distances.min(1).values.max() < 1e-2


def test_workers_share_the_batches_of_one_worker_exactly(tiny, reader):
    spec = tiny()
    whole = take(batches(spec, reader), 9)
    for world_size in (2, 4):
        for rank in range(world_size):
            part = take(batches(spec, reader, rank=rank, world_size=world_size), 9)
            for mine, all_of_it in zip(part, whole, strict=True):
                assert torch.equal(mine, all_of_it[rank::world_size])


def test_starting_later_is_having_skipped(tiny, reader):
    spec = tiny()
    whole = take(batches(spec, reader), 12)
    for first_update in (1, 7):
        rest = take(batches(spec, reader, first_update=first_update), 12 - first_update)
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[first_update:], strict=True))


def test_images_are_scaled_and_channels_last(tiny, reader):
    batch = take(batches(tiny(), reader), 1)[0]
    assert batch.shape == (8, 3, 16, 16)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.min() >= -1
    assert batch.max() <= 1


def test_half_of_the_images_are_mirrored(tiny, reader):
    plain = torch.cat(take(batches(tiny(data__flip=False), reader), 60))
    flipped = torch.cat(take(batches(tiny(), reader), 60))
    same = torch.tensor([torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)])
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(plain, flipped, strict=True)])
    assert (same | mirrored).all()
    assert 0.35 < mirrored.float().mean() < 0.65


def test_a_filter_limits_the_stream(tiny, discs, reader):
    index = Index.load(discs)
    odd = index.select({"class": "odd"})
    spec = tiny(training__batch_size=5, data__flip=False)
    seen = torch.cat(take(batches(spec, reader, kept=odd), 5))
    expected = torch.from_numpy(reader.read(odd)).permute(0, 3, 1, 2).float() * (2 / 255) - 1
    assert sorted(torch.cdist(seen.flatten(1), expected.flatten(1)).argmin(1).tolist()) == list(range(25))


def test_damage_reaches_the_loop_by_name(tiny, pack_discs):
    shards = pack_discs()
    index = Index.load(shards)
    path = shards / "shard-000001.tar"
    content = bytearray(path.read_bytes())
    sample = int(np.flatnonzero(index.shard == 1)[4])
    content[int(index.offset[sample]) + 5] ^= 16
    path.write_bytes(content)
    with Reader(index) as reader, pytest.raises(DamageError) as caught:
        take(batches(tiny(), reader), 50)
    assert "shard-000001.tar" in str(caught.value)
    assert index.key[sample].decode() in str(caught.value)


def test_the_thread_ends_with_the_block(tiny, reader):
    with batches(tiny(), reader) as loader:
        next(loader)
        assert any(thread.name == "prefetch" for thread in threading.enumerate())
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_the_thread_ends_when_the_loop_fails(tiny, reader):
    with pytest.raises(ZeroDivisionError), batches(tiny(), reader):
        raise ZeroDivisionError
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
