"""How many bytes tensors take, at any moment of some work."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from distgan.costs.heap import Heap


class Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of tensors from their making until nobody holds them any more.

    Args:
        known: What is there already.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        """Bytes of what was made since and is alive, and the most that it was."""
        self.heap = Heap()
        """Where they all lie."""
        self._storages: dict[int, Any] = {}
        for tensor in known:
            self._meet(tensor)
        self.known, self.now, self.peak = self.now, 0, 0
        """Bytes of what was there already."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # which fake tensors are asked more often than anything else
            return out
        for each in tree_iter(out):
            if isinstance(each, Tensor):
                self._meet(each)
        copies: list[Tensor] = []  # of weights, and of their gradient, in the layout that the convolution wants
        if func._overloadpacket is torch.ops.aten.convolution:
            copies = [args[1]]
        elif func._overloadpacket is torch.ops.aten.convolution_backward:
            copies = [args[2]] + ([out[1]] if out[1] is not None else [])
        for block in [self.heap.take(copy.nbytes) for copy in copies]:
            self.heap.give_back(block)
        return out

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or not size:
            return
        block = self.heap.take(size)

        def gone(_: object) -> None:
            del self._storages[key]
            self.heap.give_back(block)
            self.now -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
