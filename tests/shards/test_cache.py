from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from shards.cache import default_cache, local_copy
from shards.errors import DamageError, InputError

DATA = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def memory() -> Any:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/cache-test/shard.tar", DATA)
    return filesystem


def test_copied_once(memory: Any, tmp_path: Path) -> None:
    cache = tmp_path / "deep/cache"
    copy = local_copy("memory://cache-test/", "shard.tar", SHA256, cache)
    assert copy.read_bytes() == DATA
    memory.rm("/cache-test/shard.tar")
    assert local_copy("memory://cache-test", "shard.tar", SHA256, cache) == copy


def test_many_at_once_get_one_whole_copy(memory: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        copies = pool.map(
            lambda _: local_copy("memory://cache-test", "shard.tar", SHA256, tmp_path).read_bytes(), range(8)
        )
    assert set(copies) == {DATA}


def test_what_is_not_the_shard_is_not_kept(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/cache-test/shard.tar", DATA[:-1])
    with pytest.raises(DamageError, match=r"shard\.tar: its bytes"):
        local_copy("memory://cache-test", "shard.tar", SHA256, tmp_path)
    memory.rm("/cache-test/shard.tar")
    with pytest.raises(DamageError, match=r"shard\.tar is missing"):
        local_copy("memory://cache-test", "shard.tar", SHA256, tmp_path)
    assert not (tmp_path / "shard.tar").exists()


def test_a_cache_that_cannot_be_written_is_named(memory: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be copied to .*file: File exists"):
        local_copy("memory://cache-test", "shard.tar", SHA256, tmp_path / "file")


def test_caches_of_two_sets_are_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache("a") == tmp_path / "distgan/a" != default_cache("b")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache("a") == tmp_path / ".cache/distgan/a"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_a_bare_user_id_without_a_home_has_a_cache_too() -> None:
    program = "from shards.cache import default_cache; print(default_cache('a'))"
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    bare = ["setpriv", "--reuid=54321", "--clear-groups", "--inh-caps=+dac_read_search"]
    command = [*bare, "--ambient-caps=+dac_read_search", sys.executable, "-c", program]  # to read the interpreter
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == f"{tempfile.gettempdir()}/cache-54321/distgan/a", done.stderr
