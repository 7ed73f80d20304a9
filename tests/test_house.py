"""The house stays as it was drawn: who may import whom."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = [
    "errors",
    "memory",
    "threads",
    "devices",
    "products",
    "stages",
    "moving",
    "spec",
    "networks",
    "objectives",
    "data",
    "checkpoint",
    "evaluation",
    "sampling",
    "tracking",
    "export",
    "training",
    "options",
    "costs",
    "describe",
    "launch",
    "bench",
    "scaling",
    "suggest",
    "explore",
    "commands",
    "cli",
    "__main__",
]
"""From the ground up: a room imports only from rooms before it."""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "distgan").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources("distgan"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_the_rooms_before_it(path):
    if path == ROOT / "distgan" / "__init__.py":
        return
    here = room(path)
    for name in imports(path):
        if name.startswith("distgan."):
            there = name.split(".")[1]
            assert there == here or ROOMS.index(there) < ROOMS.index(here), f"{path} imports {name}"


def test_the_data_set_knows_nothing_of_training():
    for path in sources("shards"):
        for name in imports(path):
            assert name.split(".")[0] not in {"distgan", "torch", "torchvision", "jobs"}, f"{path} imports {name}"


def test_ray_and_wandb_stay_in_their_rooms():
    for path in [*sources("distgan"), *sources("shards")]:
        for name in imports(path):
            package = name.split(".")[0]
            if package == "ray":
                assert path.is_relative_to(ROOT / "distgan" / "launch"), path
            if package in ("wandb", "wandb_workspaces"):
                assert path.is_relative_to(ROOT / "distgan" / "tracking"), path


def test_tests_mirror_the_tree():
    for folder in ("shards", "distgan"):
        for path in (ROOT / "tests" / folder).rglob("test_*.py"):
            inside = path.relative_to(ROOT / "tests")
            module = ROOT / inside.parent / path.name.removeprefix("test_")
            package = ROOT / inside.parent  # tests/distgan/sampling/test_sampling.py tests the package itself
            assert module.exists() or package.name == path.stem.removeprefix("test_"), path


def test_tests_for_gpus_run_where_little_is_installed():
    """A GPU is at hand for minutes, on a machine that has torch and a few packages more: see distgan.bench.gpu."""
    there = {"distgan", "jobs", "shards", "tests", "numpy", "PIL", "pytest", "torch", *sys.stdlib_module_names}
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark." + "gpu" in path.read_text("utf-8")]
    assert len(files) >= 3
    for path in [*files, ROOT / "tests" / "distgan" / "conftest.py"]:
        assert not {name.split(".")[0] for name in imports(path)} - there, path
