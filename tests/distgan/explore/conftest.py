"""Runs to look around in: what they draw is noise, but bright noise that each latent has its own of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgan.checkpoint import CHECKPOINTS, Checkpoint, State, save_checkpoint
from distgan.data.conditions import LabelDistribution
from distgan.evaluation.features import classifier
from distgan.explore.pictures import Explorer
from distgan.explore.server import Server, listen
from distgan.networks import ImageShape, build_networks
from distgan.spec import RunSpec
from shards.index import Index
from tests.distgan.sampling.test_sampling import NAMES, ROWS


def keep(
    run: Path,
    step: int = 10,
    *,
    kind: str = CHECKPOINTS,
    seed: int = 0,
    shards: Path | None = None,
    condition: bool = False,
    **model: Any,
) -> Checkpoint:
    """Write a checkpoint of a run; another seed is another generator."""
    asked = {"attributes": ["Smiling", "Male"], "classes": True} if condition else None
    spec = RunSpec.model_validate(
        {
            "name": "tiny",
            "data": {"shards": str(shards or "x"), "image_size": 16},
            "model": {"generator": {"width": 4}, "critic": {"width": 1}, "latent_dim": 6, "condition": asked, **model},
            "training": {"batch_size": 8},
        }
    )
    names = NAMES if condition else ()
    files = {}
    for name, apart in (("generator", 100), ("generator_ema", 0)):
        network, _ = build_networks(spec.model, ImageShape(3, 16), step + seed + apart, len(names))
        for weights in network.parameters():
            if weights.ndim > 1:
                weights.data.mul_(12)
        files[name] = network.state_dict()
    if condition:
        vectors = np.array([row for row, count in ROWS.items() for _ in range(count)], np.int8)
        files["labels"] = LabelDistribution.of(names, vectors).tensors()
    fingerprint = Index.load(str(shards)).fingerprint if shards else "f"
    state = State(
        step=step,
        images=8 * step,
        position=8 * step,
        spec=spec,
        seeds={"noise": 0},
        label_names=names,
        channels=3,
        fingerprint=fingerprint,
    )
    return save_checkpoint(run, state, files, {} if kind == CHECKPOINTS else None, kind=kind)


@pytest.fixture(scope="package")
def shards(pack_discs) -> Path:
    return pack_discs(count=60, size=16, attributes=("Smiling", "Male"), classes=("even", "odd"))


@pytest.fixture(scope="package")
def known(shards, tmp_path_factory) -> Path:
    """A classifier of these shards."""
    out = tmp_path_factory.mktemp("classifier") / "c.safetensors"
    classifier.train(Index.load(str(shards)), out, images=64)
    return out


@pytest.fixture
def run(shards, tmp_path) -> Path:
    """A run with checkpoints of steps 10 and 20."""
    for step in (10, 20):
        keep(tmp_path / "run", step, shards=shards)
    return tmp_path / "run"


@contextmanager
def serving(explorer: Explorer, token: str) -> Iterator[int]:
    """Serve a run that has begun; the port."""
    with listen("127.0.0.1", None) as bound:
        server = Server(explorer, token)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
