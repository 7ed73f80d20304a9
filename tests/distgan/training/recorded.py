"""What CUDA graphs do, on a processor: operations are noted down as they are dispatched, and done again without Python.

All tensors stay where they were, and arguments that are no tensors are those of the recording. So whatever Python has
done beside, and each number that moves and was taken for one that does not, shows in what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

T = TypeVar("T")

WAITS = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal}
"""Operations that read the device's numbers: a graph cannot be captured around them."""


class Operation(NamedTuple):
    """An operation, and where its results go: (place among them, tensor) of those that have memory of their own.

    What is a view of an argument, or was changed in place, is there already.
    """

    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: list[tuple[int, Tensor]]


class Recording(TorchDispatchMode):
    """Notes down what is done within the block, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function.overloadpacket in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}\nand more of it")
        found = function(*args, **options)
        given = {memory_of(each) for each in tensors_of((args, options))}
        results = [(i, each.detach()) for i, each in enumerate(tensors_of(found)) if memory_of(each) not in given]
        if torch.Tag.inplace_view not in function.tags and (results or function._schema.is_mutable):
            # As they are now: some operations change a tensor's shape in place later.
            args, options = tree_map_only(Tensor, Tensor.detach, (args, options))
            self.operations.append(Operation(function, args, options, results))
        return found


class Recorded:
    """A backend of :mod:`distgan.training.graphs`. To be noted down, work is done here: that is its first replay."""

    def __init__(self, device: torch.device) -> None:
        self.replays = 0

    def beside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        with Recording() as recording:
            done = work()
        fresh = [True]

        @torch.no_grad()
        def replay() -> None:
            if fresh:
                fresh.clear()
                return
            self.replays += 1
            for function, arguments, options, results in recording.operations:
                found = tensors_of(function(*arguments, **options))
                for place, result in results:
                    result.copy_(found[place])

        return done, replay


def tensors_of(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
