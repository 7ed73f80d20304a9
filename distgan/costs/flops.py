"""How many FLOPs some work takes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FLOPs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, of backward passes too; torch's own FlopCounterMode cannot within a gradient of a gradient."""

    total = 0
    """So far, of all that is done within this context."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            return out
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            # torch takes the weights' gradient for that of one group, where each of them has its own channels alone.
            *shape, groups, (of_input, of_weights, of_bias) = args
            self.total += formula(*shape, groups, [of_input, False, of_bias], out_val=out)
            self.total += formula(*shape, groups, [False, of_weights, of_bias], out_val=out) // groups
        else:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out
