"""From an optimizer's specification to the optimizer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from distgan.spec import AdamSpec


def build_optimizer(spec: AdamSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of one side."""
    return torch.optim.Adam(parameters, lr=spec.lr, betas=spec.betas, eps=spec.eps)
