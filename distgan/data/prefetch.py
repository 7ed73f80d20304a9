"""From positions to device batches: one thread reads ahead, the device normalises."""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType

import torch
from torch import Tensor

from distgan.data.conditions import Vectors
from distgan.data.noise import Noise
from distgan.data.order import Ids, Order
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
        slots: int64 (n,): the slots of each global batch that this rank holds.
        spec: The run: its seed, batch size and ``data`` section.
        first_update: The critic update to start from; the stream's position is ``first_update * batch_size``.
        device: Where batches are wanted.
        dtype: Floating point type of images and labels.
    """

    def __init__(
        self,
        reader: Reader,
        kept: Ids,
        labels: Vectors,
        slots: Tensor,
        spec: RunSpec,
        first_update: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._reader = reader
        self._kept = kept
        self._labels = labels
        self._order = Order(len(kept), spec.seed, block=spec.data.block_samples, lanes=spec.data.lanes)
        self._slots = slots
        self._spec = spec
        self._update = first_update
        self._device = device
        self._dtype = dtype
        self._device_slots = slots.to(device)
        self._ready: queue.Queue[tuple[Tensor, Tensor] | BaseException] = queue.Queue(
            maxsize=spec.data.prefetch_batches
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, args=(first_update,), name="prefetch", daemon=True)
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

        Raises:
            DamageError: A sample is not what was packed.
        """
        began = time.perf_counter()
        item = self._ready.get()
        self.seconds_waited += time.perf_counter() - began
        if isinstance(item, BaseException):
            raise item
        pixels, labels = (tensor.to(self._device, non_blocking=True) for tensor in item)
        images = pixels.permute(0, 3, 1, 2)
        images = images.to(self._dtype).mul_(2.0 / 255.0).sub_(1.0)
        if self._spec.data.flip:
            draw = Noise(self._spec.seed, self._device_slots, f"critic/{self._update}").uniform("flip")
            images = torch.where(draw[:, None, None, None] < 0.5, images.flip(-1), images)
        self._update += 1
        return Batch(images, labels.to(self._dtype))

    def _read_ahead(self, update: int) -> None:
        try:
            slots = self._slots.numpy()
            while not self._stop.is_set():
                chosen = self._order(update * self._spec.training.batch_size + slots)
                # torch's pool of page-locked memory hands a block out again only when the copies of it are done.
                pin = self._device.type == "cuda"
                images = torch.empty((len(chosen), *self._reader.shape), dtype=torch.uint8, pin_memory=pin)
                labels = torch.empty((len(chosen), self._labels.shape[1]), dtype=torch.int8, pin_memory=pin)
                self._reader.read(self._kept[chosen], out=images.numpy())
                labels.numpy()[:] = self._labels[chosen]
                self._ready.put((images, labels))
                update += 1
        except BaseException as error:  # handed to the loop, which raises it
            self._ready.put(error)
