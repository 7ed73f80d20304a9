"""What steps cost, before any is taken: FLOPs and memory.

They are run on torch's fake tensors, which have shapes and types but no numbers, so that those of any size are counted
in seconds and without their memory.

FLOPs are those of convolutions and matrix products, a multiplication and an addition being two; what else a network
does is little beside them. Memory is what tensors take at the fullest moment of a step, each followed from its making
to its end. On a GPU the driver's context and the libraries' workspaces come on top of it; on a CPU, what the C
library's heap holds between tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_tensors(dtype: torch.dtype) -> Iterator[None]:
    """Have new tensors be fake, and new networks and floating point tensors of a type: no fake network is converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_default_dtype(before)
