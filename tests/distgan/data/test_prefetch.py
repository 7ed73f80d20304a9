from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.data.conditions import label_vectors
from distgan.data.noise import Noise
from distgan.data.order import rank_slots
from distgan.data.prefetch import Batches
from distgan.objectives import Batch
from shards.errors import DamageError
from shards.index import Index
from shards.reader import Reader

CPU = torch.device("cpu")
CONDITION = {"attributes": ["Male", "Smiling"], "classes": True}
STAGES = [
    {"size": 4, "images": 20, "batch_size": 10},
    {"size": 8, "images": 30, "fade_images": 18, "batch_size": 6},
    {"size": 16, "fade_images": 12},
]


def batches(spec, reader, *, rank=0, world_size=1, first_step=0, kept=None, dtype=torch.float32, device=CPU) -> Batches:
    kept = np.arange(50) if kept is None else kept
    labels = label_vectors(spec.model.condition, reader.index, kept)
    return Batches(reader, kept, labels, spec, first_step, rank, world_size, device, dtype)


def take(loader: Batches, count: int) -> list[Batch]:
    with loader:
        return [next(loader) for _ in range(count)]


def take_images(loader: Batches, count: int) -> list[Tensor]:
    return [batch.images for batch in take(loader, count)]


def samples_of(images: Tensor, everything: Tensor) -> list[int]:
    """Which samples these are, mirrored or not: the nearest of all images."""
    distances = torch.stack([torch.cdist(x.flatten(1), everything.flatten(1)) for x in (images, images.flip(-1))])
    nearest, which = distances.amin(0).min(1)
    assert nearest.max() < 1e-2
    return which.tolist()


def all_images(reader: Reader, ids: np.ndarray | None = None) -> Tensor:
    pixels = reader.read(np.arange(50) if ids is None else ids)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() * (2 / 255) - 1


@pytest.fixture
def reader(discs):
    with Reader(Index.load(discs)) as reader:
        yield reader


@pytest.fixture(scope="module")
def labelled_reader(labelled):
    with Reader(Index.load(labelled)) as reader:
        yield reader


def test_every_image_comes_once_an_epoch_for_any_number_of_workers(tiny, discs, reader):
    spec = tiny(training__batch_size=10, data__flip=False)
    everything = all_images(reader)
    for world_size in (1, 2, 5):
        streams = [take_images(batches(spec, reader, rank=r, world_size=world_size), 15) for r in range(world_size)]
        for epoch in range(3):
            seen = torch.cat([batch for stream in streams for batch in stream[5 * epoch : 5 * epoch + 5]])
            assert sorted(samples_of(seen, everything)) == list(range(50))


def test_workers_share_the_batches_of_one_worker_exactly(tiny, reader):
    spec = tiny()
    whole = take(batches(spec, reader), 9)
    for world_size in (2, 4):
        for rank in range(world_size):
            part = take(batches(spec, reader, rank=rank, world_size=world_size), 9)
            for mine, all_of_it in zip(part, whole, strict=True):
                assert torch.equal(mine.images, all_of_it.images[rank::world_size])


def test_starting_later_is_having_skipped(tiny, reader):
    spec = tiny()
    whole = take(batches(spec, reader), 12)
    for first_step in (1, 7):
        rest = take(batches(spec, reader, first_step=first_step), 12 - first_step)
        assert all(torch.equal(a.images, b.images) for a, b in zip(rest, whole[first_step:], strict=True))


def test_images_are_scaled_and_channels_last(tiny, reader):
    batch = take_images(batches(tiny(), reader), 1)[0]
    assert batch.shape == (8, 3, 16, 16)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.min() >= -1
    assert batch.max() <= 1


def test_half_of_the_images_are_mirrored(tiny, reader):
    plain = torch.cat(take_images(batches(tiny(data__flip=False), reader), 60))
    flipped = torch.cat(take_images(batches(tiny(), reader), 60))
    same = torch.tensor([torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)])
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(plain, flipped, strict=True)])
    assert (same | mirrored).all()
    assert 0.35 < mirrored.float().mean() < 0.65


def test_which_are_mirrored_depends_on_the_update_and_the_slot(tiny, reader):
    """For any rank, and wherever a run goes on: the numbers are a contract with its first part."""
    changes = {"training__batch_size": 10, "objective": {"kind": "hinge", "n_critic": 2}}
    where = {"rank": 1, "world_size": 3, "first_step": 3}
    plain = take_images(batches(tiny(data__flip=False, **changes), reader, **where), 4)
    shown = take_images(batches(tiny(**changes), reader, **where), 4)
    slots = torch.from_numpy(rank_slots(10, 1, 3))
    for update, (one, other) in enumerate(zip(plain, shown, strict=True), start=6):
        draw = Noise(tiny().seed, slots, f"critic/{update}").uniform("flip")
        assert torch.equal(other, torch.where(draw[:, None, None, None] < 0.5, one.flip(-1), one))


class Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(function)
        return function(*args, **(kwargs or {}))


def test_the_loop_has_little_to_do_for_a_batch(tiny, reader):
    """On a GPU each operation is a launch or two, between updates that are one launch each."""
    with batches(tiny(), reader) as loader, Counted() as counted:
        next(loader)
    assert len(counted.operations) < 20


def test_a_filter_limits_the_stream(tiny, discs, reader):
    index = Index.load(discs)
    odd = index.select({"class": "odd"})
    spec = tiny(training__batch_size=5, data__flip=False)
    seen = torch.cat(take_images(batches(spec, reader, kept=odd), 5))
    assert sorted(samples_of(seen, all_images(reader, odd))) == list(range(25))


@given(
    world_size=st.sampled_from([1, 2, 3]),
    lanes=st.sampled_from([1, 2, 6]),
    block=st.none() | st.integers(1, 30),
    first_step=st.integers(0, 30),
    keep=st.sampled_from([{}, {"Smiling": 1}, {"class": ["cat", "emu"], "Eyeglasses": -1}]),
    flip=st.booleans(),
)
def test_labels_travel_with_their_images(tiny, labelled_reader, world_size, lanes, block, first_step, keep, flip):
    """For any workers, lanes, blocks and filter, and after a restart."""
    spec = tiny(
        model__condition=CONDITION,
        training__batch_size=12,
        data__lanes=lanes,
        data__block_samples=block,
        data__flip=flip,
    )
    index = labelled_reader.index
    everything = all_images(labelled_reader)
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "kept": index.select(keep)}
        for batch in take(batches(spec, labelled_reader, first_step=first_step, **options), 2):
            expected = label_vectors(spec.model.condition, index, np.array(samples_of(batch.images, everything)))
            assert torch.equal(batch.labels, torch.from_numpy(expected).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_are_of_the_type_of_the_images(tiny, labelled_reader, dtype):
    batch = take(batches(tiny(model__condition=CONDITION), labelled_reader, dtype=dtype), 1)[0]
    assert batch.images.dtype == batch.labels.dtype == dtype
    assert batch.labels.shape == (8, 5)


def test_without_a_condition_labels_are_empty(tiny, reader):
    assert take(batches(tiny(), reader), 1)[0].labels.shape == (8, 0)


def updates(spec, count: int) -> list[tuple[int, float]]:
    """Of each of the first updates: the size of its images, and the fade."""
    timetable, n_critic = spec.timetable, spec.objective.n_critic
    return [(timetable.stage(i // n_critic).size, timetable.fade(i // n_critic)) for i in range(count)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("n_critic", [1, 2])
def test_small_images_are_means_of_blocks_and_fade_in(tiny, reader, flip, n_critic):
    """Against numpy, on the samples that a run without stages has at these places of its stream."""
    grown = tiny(training__stages=STAGES, training__batch_size=4, data__flip=flip, objective__n_critic=n_critic)
    stream = torch.cat(take_images(batches(tiny(training__batch_size=1, data__flip=False), reader), 90)).double()
    position = 0
    loader = batches(grown, reader, dtype=torch.float64)
    for images, (size, fade) in zip(take_images(loader, 12), updates(grown, 12), strict=True):
        whole = stream[position : position + len(images)].numpy()
        position += len(images)

        def averaged(to: int, whole: np.ndarray = whole) -> np.ndarray:
            return whole.reshape(len(whole), 3, to, 16 // to, to, 16 // to).mean((3, 5))

        expected = averaged(size)
        if fade < 1:
            expected = (1 - fade) * averaged(size // 2).repeat(2, 2).repeat(2, 3) + fade * expected
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.shape == expected.shape
        for image, its in zip(images.numpy(), expected, strict=True):
            ways = [its, its[:, :, ::-1]] if flip else [its]
            assert min(np.abs(image - way).max() for way in ways) < 1e-6


@pytest.mark.parametrize("n_critic", [1, 3])
def test_every_sample_comes_once_an_epoch_across_stages(tiny, reader, n_critic):
    """Whatever their batch sizes, and on any number of workers; a worker's part is that of the whole batch."""
    spec = tiny(training__stages=STAGES, training__batch_size=4, data__flip=False, objective__n_critic=n_critic)
    fed: list[list[int]] = []
    read = reader.read

    def noted(ids, **rest):
        fed.append(ids.tolist())
        return read(ids, **rest)

    reader.read = noted
    whole = take(batches(spec, reader), 40)
    parts = fed[:40]
    assert sorted({len(part) for part in parts}) == [4, 6, 10]
    stream = [sample for part in parts for sample in part]
    for epoch in range(len(stream) // 50):
        assert sorted(stream[50 * epoch : 50 * epoch + 50]) == list(range(50))
    for world_size in (2, 3):
        for rank in range(world_size):
            mine = take(batches(spec, reader, rank=rank, world_size=world_size), 40)
            for one, all_of_it in zip(mine, whole, strict=True):
                assert torch.equal(one.images, all_of_it.images[rank::world_size])


@pytest.mark.parametrize("n_critic", [1, 2])
def test_starting_in_any_stage_is_having_skipped(tiny, reader, n_critic):
    spec = tiny(training__stages=STAGES, training__batch_size=4, objective__n_critic=n_critic)
    whole = take_images(batches(spec, reader), 12 * n_critic)
    for first_step in range(12):
        rest = take_images(batches(spec, reader, first_step=first_step), n_critic)
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[first_step * n_critic :], strict=False))


def test_small_images_of_a_pyramid_are_read_as_they_are(tiny, pack_discs):
    """Those of 4 pixels, which it does not have, are means of the next larger ones; and so are those to fade from."""
    index = Index.load(pack_discs(size=32, with_pyramid=True))
    stages = [{"size": 4, "images": 10}, {"size": 8, "images": 10}, {"size": 16, "images": 20, "fade_images": 20}]
    spec = tiny(
        data={"shards": index.root, "image_size": 32, "pyramid": True},
        training={"batch_size": 10, "stages": [*stages, {"size": 32}]},
    )
    with Reader(index) as reader:
        read, asked = reader.read, []

        def noted(ids, *, size, **rest):
            asked.append((ids, size))
            return read(ids, size=size, **rest)

        reader.read = noted
        found = take_images(batches(spec, reader, dtype=torch.float64), 5)
        assert [size for _, size in asked[:5]] == [8, 8, 16, 16, 32]
        for images, (ids, size), (to, fade) in zip(found, asked, updates(spec, 5), strict=False):
            pixels = read(ids, size=size).astype(np.float64).transpose(0, 3, 1, 2) * (2 / 255) - 1
            expected = pixels.reshape(10, 3, to, size // to, to, size // to).mean((3, 5))
            if fade < 1:
                halves = expected.reshape(10, 3, to // 2, 2, to // 2, 2).mean((3, 5))
                expected = (1 - fade) * halves.repeat(2, 2).repeat(2, 3) + fade * expected
            assert np.abs(images.numpy() - expected).max() < 1e-6


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
