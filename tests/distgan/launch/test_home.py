"""What trains must train where a user has next to nothing: no name, no home, no terminal, little shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distgan.checkpoint import find_checkpoint
from distgan.spec import dump_spec

BARE = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
READING = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # to read the interpreter
IN_A_CONTAINER = ["unshare", "--mount", "sh", "-c"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not (shutil.which("setpriv") and shutil.which("unshare")),
        reason="needs root, setpriv and unshare",
    ),
]


def environment(**changes: str) -> dict[str, str]:
    gone = ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TERM", "USER", "LOGNAME")
    kept = {name: value for name, value in os.environ.items() if name not in gone and not name.startswith("WANDB_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[3]), **changes}


def train(tiny, folder: Path, prefix: list[str], variables: dict[str, str], *arguments: str) -> str:
    folder.chmod(0o777)
    (folder / "spec.yaml").write_text(dump_spec(tiny(tracking__wandb={"mode": "offline"})))
    shutil.copytree(Path(tiny().data.shards), folder / "shards")
    command = [sys.executable, "-m", "distgan", "train", "spec.yaml", "data.shards=shards", "--out", "run", *arguments]
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, env=variables, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert find_checkpoint(folder / "run").state.step == 12
    assert "finished at step 12" in done.stdout
    assert list((folder / "run").glob("wandb/offline-run-*"))
    assert {path.name for path in folder.iterdir()} <= {"spec.yaml", "shards", "run", "home"}  # and no litter
    return done.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user reaches, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.parametrize(
    ("workers", "variables"),
    [
        ("1", {}),
        ("2", {}),
        ("1", {"HOME": ""}),
        ("1", {"HOME": "/nonexistent"}),
        ("1", {"XDG_CACHE_HOME": "/dev/null"}),
    ],
)
def test_a_bare_user_id(tiny, folder, workers, variables):
    with tempfile.TemporaryDirectory() as temporary:  # its own, for others may have left there what is to be gone here
        Path(temporary).chmod(0o777)
        variables = environment(TMPDIR=temporary, **variables)
        said = train(tiny, folder, [*BARE, *READING], variables, "--workers", workers)
        assert not list(Path(temporary).glob("distgan-home-*"))
    assert "INFO" not in said
    assert "atplotlib" not in said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_home_that_cannot_be_written_and_little_shared_memory(tiny, folder, workers):
    (folder / "home").mkdir()
    mounts = f"mount -t tmpfs -o ro none {folder}/home && mount -t tmpfs -o size=64m none /dev/shm"
    prefix = [*IN_A_CONTAINER, f'{mounts} && exec "$@"', "sh"]
    said = train(tiny, folder, prefix, environment(HOME=f"{folder}/home"), "--workers", workers)
    assert "atplotlib" not in said
