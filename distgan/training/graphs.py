"""Updates that the host does not spell out each time: gradients are computed by a CUDA graph that was captured once.

Launching a small network's kernels one by one takes the host longer than they take a GPU. So after a few updates that
are done as they are written, one is captured: what is launched, with all addresses, but without Python. From then on
its inputs are copied to where they were then, the numbers that move are written (:mod:`distgan.moving`), and all of it
is launched at once.

Updates of one side may differ in what they compute: a penalty is not of each. Each kind has a graph of its own.

Captured is all from random numbers to clipped gradients, with what processes say to each other. Optimizers and averages
stay outside: each is one launch or two, whose numbers (learning rates, decay rates, weights) are its arguments.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NamedTuple, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from distgan.moving import Numbers
from distgan.objectives import Batch, Loss, Side
from distgan.spec import RunSpec
from distgan.training.workers import Workers
from shards.errors import InputError

T = TypeVar("T")

WARM_UP = 3
"""Updates of each kind before one is captured: torch and its libraries choose and allocate in the first ones."""
WARM_UP_OF_SEVERAL = 11
"""Likewise among several processes: as many as DistributedDataParallel wants."""


class Descent(NamedTuple):
    """What an update leaves beside the gradients themselves."""

    loss: Loss
    norms: dict[str, Tensor]
    """Of each network's gradient."""


class Backend(Protocol):
    """What captures work on a device."""

    def beside(self) -> AbstractContextManager[None]:
        """The context in which work is done that is to be captured later."""

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Note down what some work does, without doing it.

        Returns:
            What it returned: tensors that hold nothing yet. And what does it, any number of times.

        Raises:
            Exception: It cannot be captured.
        """


class CUDAGraphs:
    """CUDA graphs, which share memory for what none of them needs after it has run.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """The stream that is captured: nodes of autograd, such as those that DDP holds, remember where they began."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """A graph of some work. Other threads, such as the one that fetches images, go on meanwhile."""
        gc.collect()  # graphs that nobody has any more are not to be destroyed in the middle of a capture
        if not self._graphs:  # torch takes no handle again whose graphs are all gone, while there are tensors of theirs
            self._pool = torch.cuda.graph_pool_handle()
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        why: Exception | None = None
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                try:
                    done = work()
                except Exception as error:
                    why = error
                    raise
        except Exception as error:
            self._leave(here)
            raise why or error from None  # to end a capture that has failed fails as well, and says nothing
        self._graphs.add(graph)
        return done, graph.replay

    def _leave(self, stream: torch.cuda.Stream) -> None:
        """Make up for what torch leaves undone after a capture that has failed, before 2.12."""
        torch.cuda.set_stream(stream)
        with suppress(AttributeError, RuntimeError):  # where torch has done it itself
            # Else no memory could be given back any more: https://github.com/pytorch/pytorch/pull/180395
            torch._C._cuda_endAllocateToPool(stream.device_index, self._pool)


BACKENDS: dict[str, Callable[[torch.device], Backend]] = {"cuda": CUDAGraphs}
"""By type of device. On a processor there is nothing to gain: what launches a kernel there computes it too."""


class Graphs:
    """A learner's updates, captured where ``training.graphs`` and the device have it so.

    Args:
        spec: The run.
        workers: This process and the others, which all come here at the same updates.

    Attributes:
        news: What the person watching should hear; whoever says it clears it.

    Raises:
        InputError: ``training.graphs`` is on, and there can be none.
    """

    def __init__(self, spec: RunSpec, workers: Workers) -> None:
        self.news: list[str] = []
        self._must, self._workers = spec.training.graphs == "on", workers
        self._warm_up = WARM_UP if workers.world_size == 1 else WARM_UP_OF_SEVERAL
        self._seen: Counter[Hashable] = Counter()
        self._captured: dict[Hashable, _Captured] = {}
        check_graphs(spec, workers.device)
        wanted = spec.training.graphs != "off" and not _cannot_capture(spec, workers.device)
        self._backend = BACKENDS[workers.device.type](workers.device) if wanted else None

    def beside(self) -> AbstractContextManager[None]:
        """The context in which modules are made that remember where they began."""
        return self._backend.beside() if self._backend else nullcontext()

    def forget(self) -> None:
        """Begin anew: weights, moments, image sizes or seeds are not those that were captured."""
        self._seen.clear()
        self._captured.clear()

    def stop(self) -> None:
        """Do updates as they are written from here on."""
        self._backend = None
        self.forget()

    def __call__(self, side: Side, descend: Callable[[Batch], Descent], real: Batch) -> Descent:
        """Compute gradients.

        Args:
            side: Whose update this is; it has been told how far the run is.
            descend: Computes them from a batch of this process.
            real: That batch.

        Returns:
            What was computed. Images may be where those of the next update of this kind will be.

        Raises:
            InputError: Updates cannot be captured, and ``training.graphs`` is on.
        """
        if self._backend is None:
            return descend(real)
        kind = side.trains, side.kind, real.images.shape
        if kind not in self._captured:
            self._seen[kind] += 1
            if self._seen[kind] <= self._warm_up:
                with self._backend.beside():
                    return descend(real)
            if not self._capture(self._backend, kind, side, descend, real):
                return descend(real)
        return self._captured[kind].replay(real)

    def _capture(
        self, backend: Backend, kind: Hashable, side: Side, descend: Callable[[Batch], Descent], real: Batch
    ) -> bool:
        """Capture an update; whether that has worked, in all processes. If not, there are no graphs from here on."""
        why = ""
        try:
            self._captured[kind] = _Captured(backend, side, descend, real)
        except Exception as error:  # of any library: the update as it is written may still be right
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
        if not self._workers.most([float(bool(why))])[0]:
            return True
        why = f"the step could not be captured as a CUDA graph: {why or 'another worker says why'}"
        if self._must:
            raise InputError(f"training.graphs is on, but {why}: set it to auto or off")
        self.news.append(f"{why}. Going on without; training.graphs=off does not try")
        self.stop()
        return False


def check_graphs(spec: RunSpec, device: torch.device) -> None:
    """Find out whether a run can have CUDA graphs on a device where ``training.graphs`` is on.

    Raises:
        InputError: It can have none, whatever is tried.
    """
    if spec.training.graphs == "on" and (reason := _cannot_capture(spec, device)):
        raise InputError(reason)


def _cannot_capture(spec: RunSpec, device: torch.device) -> str | None:
    """Why a run has no CUDA graphs on a device whatever is tried, and what to do about it; None where it may."""
    if device.type not in BACKENDS:
        on = f"this run is on the {device.type}"
        return f"training.graphs is on, which needs a CUDA device, and {on}: set it to auto or off"
    if spec.objective.rest.get("share_fakes"):
        return (
            "training.graphs is on, but objective.share_fakes has the generator's update go back through what the "
            "critic's has computed, and each is a graph of its own: set it to false, or training.graphs to auto or off"
        )
    return None


class _Captured:
    """An update that was captured."""

    def __init__(self, backend: Backend, side: Side, descend: Callable[[Batch], Descent], real: Batch) -> None:
        self._real = Batch(*(tensor.clone() for tensor in real))
        self._numbers = Numbers(real.images.device)

        def work() -> tuple[Descent, Tensor]:
            done = descend(self._real)
            return done, torch.stack([done.loss.value, *done.loss.figures.values(), *done.norms.values()])

        with self._numbers.collected():
            (self._done, self._scalars), self._replay = backend.capture(work)
        # Held, so that their memory is nobody else's, even where another kind's have taken their place.
        self._gradients = [(parameter, parameter.grad) for parameter in side.parameters()]

    def replay(self, real: Batch) -> Descent:
        """Do it again, with other images and with the numbers that there are now."""
        for mine, theirs in zip(self._real, real, strict=True):
            mine.copy_(theirs)
        self._numbers.write()
        self._replay()
        for parameter, gradient in self._gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient
        # Copies: the loop keeps scalars until later updates are done, the guard until the next log step.
        scalars = iter(self._scalars.clone().unbind())
        loss, norms = self._done
        value, figures = next(scalars), {name: next(scalars) for name in loss.figures}
        return Descent(Loss(value, figures, loss.fake), {name: next(scalars) for name in norms})
