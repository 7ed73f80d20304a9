"""Training in the processes that torchrun has started: ``torchrun --nproc-per-node N -m distgan train SPEC``."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from distgan.launch.signals import stopping
from distgan.spec import RunSpec
from distgan.training.loop import Outcome, train
from distgan.training.workers import Workers

GROUP = "cpu:gloo,cuda:nccl"
"""Tensors on GPUs go through NCCL; the few words that processes have for each other go through gloo."""


def under_torchrun() -> bool:
    """Whether torchrun (torch.distributed.run) has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def train_under_torchrun(spec: RunSpec, run: Path, *, resume: bool = False, console: bool = True) -> Outcome:
    """Train together with torchrun's other processes; each calls this.

    torchrun's number of processes counts, not ``cluster.workers``. When torchrun starts the processes again after a
    failure, they go on from the newest checkpoint. Arguments and errors are those of
    :func:`distgan.training.loop.train`.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    timeout = timedelta(seconds=spec.cluster.collective_timeout_s)
    dist.init_process_group(GROUP if on_gpu else "gloo", timeout=timeout)
    try:
        workers = Workers(dist.get_rank(), dist.get_world_size(), device)
        stop = threading.Event()
        with stopping(stop):
            return train(spec, run, workers, resume=resume or again, stop=stop, console=console)
    finally:
        dist.destroy_process_group()
