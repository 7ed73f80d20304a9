"""Training in the processes that torchrun has started: ``torchrun --nproc-per-node N -m distgan train SPEC``."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from distgan.launch.signals import stopping
from distgan.spec import RunSpec
from distgan.training.loop import Outcome, train
from distgan.training.workers import Workers
from shards.errors import InputError

GROUP = "cpu:gloo,cuda:nccl"
"""Tensors on GPUs go through NCCL; the few words that processes have for each other go through gloo."""


def train_under_torchrun(spec: RunSpec, run: Path, *, resume: bool = False, console: bool = True) -> Outcome:
    """Train together with torchrun's other processes; each calls this.

    torchrun's number of processes counts, not ``cluster.workers``. When torchrun starts the processes again after a
    failure, they go on from the newest checkpoint. Arguments and errors are those of
    :func:`distgan.training.loop.train`.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    again = int(os.environ["TORCHELASTIC_RESTART_COUNT"]) > 0
    _connect(GROUP if on_gpu else "gloo", timedelta(seconds=spec.cluster.collective_timeout_s))
    try:
        workers = Workers(dist.get_rank(), dist.get_world_size(), device)
        stop = threading.Event()
        with stopping(stop):
            return train(spec, run, workers, resume=resume or again, stop=stop, console=console)
    finally:
        dist.destroy_process_group()


def _connect(backend: str, timeout: timedelta) -> None:
    """Make torchrun's processes one group.

    torchrun keeps its store over restarts, and in it the addresses of processes that are gone, which their successors
    would try to reach (https://github.com/pytorch/pytorch/issues/135712). So each start gets keys of its own; which
    start it is, only the processes of one machine are told alike.

    Raises:
        InputError: Several machines are to restart with such a store.
    """
    one_machine = os.environ["GROUP_WORLD_SIZE"] == "1"
    keeps_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if keeps_store and not one_machine and os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0":
        raise InputError(
            "torchrun on several machines would have restarted processes look for those that are gone: set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 beside --rdzv-backend=c10d on each machine, or --max-restarts=0"
        )
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    if one_machine:
        attempt = f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}"
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
