"""A small packed set and a small run, for everything that trains."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from distgan import cli
from distgan.spec import RunSpec
from shards.images import Transform
from shards.sources.base import Recognised, Sample
from shards.writer import pack


@dataclasses.dataclass
class Discs:
    """Bright discs on dark ground: sample i's place, size, colour and attributes depend on i alone."""

    count: int
    size: int
    channels_: int = 3
    seed: int = 0
    layout: str = "folder"
    attribute_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ("even", "odd")
    split_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        return f"disc{i:04d}"

    def sample(self, i: int) -> Sample:
        random = np.random.Generator(np.random.Philox(key=[self.seed, i]))
        y, x, radius = random.uniform(0.3, 0.7, 3) * self.size
        grid = np.mgrid[: self.size, : self.size]
        disc = ((grid[0] - y) ** 2 + (grid[1] - x) ** 2 < (radius / 2) ** 2)[..., None]
        image = (30 + disc * random.integers(100, 225, self.channels_)).astype(np.uint8)
        attributes = (2 * (random.random(len(self.attribute_names)) < 0.4) - 1).astype(np.int8)
        return Sample(
            self.name(i),
            image if self.channels_ == 3 else image[..., 0],
            i % len(self.class_names) if self.class_names else -1,
            attributes if self.attribute_names else None,
            i // len(self.class_names or "x") % len(self.split_names) if self.split_names else -1,
        )

    def channels(self) -> int:
        return self.channels_

    def identity(self) -> str:
        return repr(self)

    @property
    def recognised(self) -> Recognised:
        return Recognised("arrays", self.layout, samples=self.count)


@pytest.fixture
def distgan(capsys, monkeypatch) -> Callable[..., tuple[int, str]]:
    """Runs the command in this process: (exit status, what it printed)."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["distgan", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return int(ended.value.code or 0), captured.out + captured.err

    return run


@pytest.fixture(scope="session")
def pack_discs(tmp_path_factory) -> Callable[..., Path]:
    """Packs discs into a new folder."""

    def packed(
        count: int = 50,
        size: int = 16,
        channels: int = 3,
        seed: int = 0,
        attributes: tuple[str, ...] = (),
        classes: tuple[str, ...] = ("even", "odd"),
        splits: tuple[str, ...] = (),
        **options: Any,
    ) -> Path:
        out = tmp_path_factory.mktemp("discs") / "shards"
        source = Discs(count, size, channels, seed, attribute_names=attributes, class_names=classes, split_names=splits)
        pack(source, out, Transform(size=size, channels=channels), workers=1, **{"shard_samples": 20, **options})
        return out

    return packed


@pytest.fixture(scope="session")
def discs(pack_discs) -> Path:
    """Fifty colour discs of 16 pixels in three shards. Not to be changed."""
    return pack_discs()


@pytest.fixture(scope="session")
def labelled(pack_discs) -> Path:
    """Such discs with attributes, and with three classes. Not to be changed."""
    return pack_discs(attributes=("Smiling", "Eyeglasses", "Male"), classes=("cat", "dog", "emu"))


@pytest.fixture(scope="session")
def tiny(discs) -> Callable[..., RunSpec]:
    """A run of 12 steps on the discs; arguments replace whole fields, by path with ``__`` for a dot."""

    def spec(**changes: Any) -> RunSpec:
        tree: dict[str, Any] = {
            "name": "tiny",
            "seed": 3,
            "data": {"shards": str(discs), "image_size": 16, "flip": True},
            "model": {"generator": {"width": 2}, "critic": {"width": 2}, "latent_dim": 4},
            "objective": {"kind": "bce"},
            "training": {"batch_size": 8, "images": 96, "checkpoint_every_images": 32, "ema_half_life_images": 50},
            "tracking": {"log_every": 1, "sample_every_images": 48, "sample_count": 4, "wandb": {"mode": "disabled"}},
        }
        for path, value in changes.items():
            *sections, name = path.split("__")
            section = tree
            for each in sections:
                section = section.setdefault(each, {})
            section[name] = value
        return RunSpec.model_validate(tree)

    return spec


@pytest.fixture(scope="session")
def side_by_side() -> Callable[..., list[Any]]:
    """Runs a module's function in several processes of one group; the rank comes first. Returns what each returned."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "distgan.training.loop"])

    def run(function: Callable[..., Any], world_size: int, *arguments: Any, backend: str = "gloo") -> list[Any]:
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(world_size, context) as pool:
            futures = [
                pool.submit(_in_group, backend, f"{folder}/group", world_size, rank, function, arguments)
                for rank in range(world_size)
            ]
            return [future.result(timeout=120) for future in futures]

    return run


def _in_group(
    backend: str,
    meeting: str,
    world_size: int,
    rank: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Any:
    torch.set_num_threads(1)
    dist.init_process_group(backend, f"file://{meeting}", timedelta(seconds=60), rank=rank, world_size=world_size)
    try:
        return function(rank, *arguments)
    finally:
        dist.destroy_process_group()
