from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distgan.launch.submit import pack_project
from distgan.training.complete import complete

LOGIN = {"WANDB_BASE_URL": "https://wandb.example.org", "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567"}


@pytest.mark.parametrize(
    ("packed", "own", "expected"),
    [
        (LOGIN, {}, LOGIN),
        (LOGIN, {"WANDB_API_KEY": "mine"}, {"WANDB_API_KEY": "mine"}),  # not to the server of the other key
        ({"WANDB_BASE_URL": LOGIN["WANDB_BASE_URL"]}, {"WANDB_API_KEY": "mine"}, {**LOGIN, "WANDB_API_KEY": "mine"}),
        ({}, {}, {}),
    ],
)
def test_a_worker_finds_the_packed_login_unless_it_has_one(tiny, tmp_path, packed, own, expected):
    program = (
        "import json, os; from distgan.launch.packed_login import use_packed_login; use_packed_login();"
        "print(json.dumps({name: value for name, value in os.environ.items() if name.startswith('WANDB_')}))"
    )
    pack_project(tmp_path, complete(tiny()), packed)
    if packed:
        assert (tmp_path / "wandb.json").stat().st_mode & 0o077 == 0
    done = run(program, tmp_path, own)
    assert json.loads(done) == expected


def run(program: str, folder: Path, own: dict[str, str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "PYTHONPATH"))}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env={**environment, **own}, capture_output=True, text=True).stdout
