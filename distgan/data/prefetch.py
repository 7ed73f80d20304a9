"""From positions to device batches: one thread reads ahead, the device normalises."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from itertools import count
from types import TracebackType

import torch
from torch import Tensor

from distgan.data.conditions import Vectors
from distgan.data.noise import Noise
from distgan.data.order import Ids, Order, rank_slots
from distgan.networks.growing import blend, enlarge, shrink
from distgan.objectives import Batch
from distgan.spec import RunSpec
from shards.reader import Reader


class Batches:
    """This rank's part of each global batch, from a critic update onwards, without end.

    A thread reads uint8 images into (on CUDA: page-locked) memory ahead of the loop. They cross to the device as uint8
    and are scaled there. The thread is started by ``with`` and ended by leaving it.

    Args:
        reader: Where samples come from. Used by the thread alone.
        kept: int64 (m,): the sample ids that the run trains on.
        labels: int8 (m, K): their label vectors.
        spec: The run: its seed, stages and ``data`` section.
        first_step: The step to start from.
        rank: Of this process, in [0, world_size).
        world_size: How many processes share each global batch.
        device: Where batches are wanted.
        dtype: Floating point type of images and labels.
    """

    def __init__(
        self,
        reader: Reader,
        kept: Ids,
        labels: Vectors,
        spec: RunSpec,
        first_step: int,
        rank: int,
        world_size: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._reader = reader
        self._kept = kept
        self._labels = labels
        self._order = Order(len(kept), spec.seed, block=spec.data.block_samples, lanes=spec.data.lanes)
        self._rank, self._world_size = rank, world_size
        self._spec = spec
        self._timetable = spec.timetable
        self._update = first_step * spec.objective.n_critic
        self._device = device
        self._dtype = dtype
        self._ready: queue.Queue[list[Tensor] | BaseException] = queue.Queue(maxsize=spec.data.prefetch_batches)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, args=(first_step,), name="prefetch", daemon=True)
        self.samples = len(kept)
        """Samples in an epoch."""
        self.seconds_waited = 0.0
        """Time the loop has spent waiting for data."""

    def __enter__(self) -> Batches:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:  # room for a thread that waits to hand over
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        """The next update's real images, (slots, C, S, S) in [-1, 1], channels last in memory, with their labels.

        In a stage of smaller images each of their pixels is the mean of a block of the data set's, not rounded; while
        the stage fades in, images are blended with those of half the size as the generator's are.

        Raises:
            DamageError: A sample is not what was packed.
        """
        began = time.perf_counter()
        item = self._ready.get()
        self.seconds_waited += time.perf_counter() - began
        if isinstance(item, BaseException):
            raise item
        pixels, labels, *flipped = (tensor.to(self._device, non_blocking=True) for tensor in item)
        images = pixels.permute(0, 3, 1, 2)
        step = self._update // self._spec.objective.n_critic
        stage, fade = self._timetable.stage(step), self._timetable.fade(step)
        # Of whole numbers the means are exact; of what they become below they would not be.
        images = shrink(images.to(self._dtype), images.shape[-1] // stage.size)
        if fade < 1:
            images = blend(enlarge(shrink(images, 2), 2), images, fade)
        images = images.mul_(2.0 / 255.0).sub_(1.0)
        if flipped:
            images = torch.where(flipped[0][:, None, None, None], images.flip(-1), images)
        self._update += 1
        return Batch(images, labels.to(self._dtype))

    def _wanted(self, step: int) -> Iterator[tuple[Ids, Ids, int]]:
        """Of each update from a step on, without end: this rank's slots, their places in the stream, the size read."""
        for each in count(step):
            stage = self._timetable.stage(each)
            slots = rank_slots(stage.batch_size, self._rank, self._world_size)
            sizes = [self._reader.shape[0], *(self._reader.index.pyramid if self._spec.data.pyramid else ())]
            size = min(size for size in sizes if size >= stage.size)
            for repeat in range(stage.n_critic):
                yield slots, self._timetable.images(each, repeat) + slots, size

    def _read_ahead(self, step: int) -> None:
        try:
            for update, (slots, positions, size) in enumerate(self._wanted(step), step * self._spec.objective.n_critic):
                if self._stop.is_set():
                    return
                chosen = self._order(positions)
                # torch's pool of page-locked memory hands a block out again only when the copies of it are done.
                pin = self._device.type == "cuda"
                shape = (len(chosen), size, size, self._reader.shape[2])
                images = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
                labels = torch.empty((len(chosen), self._labels.shape[1]), dtype=torch.int8, pin_memory=pin)
                self._reader.read(self._kept[chosen], out=images.numpy(), size=size)
                labels.numpy()[:] = self._labels[chosen]
                item = [images, labels]
                if self._spec.data.flip:  # drawn here: on a GPU it would be some thirty kernels, each for a few numbers
                    draw = Noise(self._spec.seed, torch.from_numpy(slots), f"critic/{update}").uniform("flip") < 0.5
                    item.append(draw.pin_memory() if pin else draw)
                self._ready.put(item)
        except BaseException as error:  # handed to the loop, which raises it
            self._ready.put(error)
