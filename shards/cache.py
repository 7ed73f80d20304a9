"""Sets that lie behind a URL: fsspec reads the index; each shard is copied once, whole, and then read from here.

fsspec is imported where a URL is read: it takes longer to import than all the rest that a worker process needs of ours,
and most sets lie in a folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.digests import file_digests
from shards.errors import DamageError, InputError
from shards.files import write_atomically


def is_remote(root: str) -> bool:
    """Whether a set's root is a URL (``s3://bucket/faces``) and no folder."""
    return "://" in root


def local_path(path: str | Path) -> Path:
    """A path on this machine.

    Raises:
        InputError: It is a URL.
    """
    if is_remote(str(path)):
        raise InputError(f"{path} is not on this machine: give a folder that is, and copy from or to it")
    return Path(path)


def default_cache(fingerprint: str) -> Path:
    """Where copies of the shards of a set go unless told otherwise: ``~/.cache/distgan/FINGERPRINT``.

    Where there is no home, as for a container's bare user id, it is in the folder for temporary files.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        base = Path(tempfile.gettempdir(), f"cache-{os.getuid()}")
    return base / "distgan" / fingerprint


def read_bytes(root: str, name: str) -> bytes:
    """A small file of a set, whole.

    Args:
        root: A folder or a URL.
        name: A file's name in it.

    Raises:
        OSError: It cannot be read; FileNotFoundError where it is not there.
    """
    if not is_remote(root):
        _refuse_devices(Path(root) / name)
        return (Path(root) / name).read_bytes()
    with _remote(root, name) as (filesystem, path):
        data: bytes = filesystem.cat_file(path)
        return data


def file_size(root: str, name: str) -> int:
    """The size in bytes of a file of a set, without reading it.

    Raises:
        OSError: It cannot be asked; FileNotFoundError where it is not there.
    """
    if not is_remote(root):
        _refuse_devices(Path(root) / name)
        return (Path(root) / name).stat().st_size
    with _remote(root, name) as (filesystem, path):
        return int(filesystem.size(path))


def _refuse_devices(path: Path) -> None:
    """See that a path is no pipe and no device, which may never end, or wait for ever.

    Raises:
        OSError: It is, or is not there.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def local_copy(root: str, name: str, sha256: str, cache: Path) -> Path:
    """A shard of a remote set as a local file.

    It is copied the first time, whole, by one process at a time; the copy gets its name once its sha256 is right.
    Copies stay until somebody deletes them.

    Args:
        root: The set's URL.
        name: The shard's name in it.
        sha256: What the index says of the shard, hex.
        cache: Folder for the copies of this one set; made where it is missing.

    Raises:
        DamageError: The shard is missing, or what lies at the URL is not the shard of the index.
        InputError: It cannot be fetched, or the cache cannot be written.
    """
    copy = cache / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a machine's processes share a cache: the first copies, the rest wait
            if not copy.exists():
                with write_atomically(copy) as file:
                    with _remote(root, name) as (filesystem, path), filesystem.open(path, "rb") as source:
                        shutil.copyfileobj(source, file, length=1 << 20)
                    file.flush()
                    if file_digests(Path(file.name), "sha256") != [sha256]:
                        raise DamageError(f"{root}/{name}: its bytes are not those that were packed (sha256)")
    except FileNotFoundError as error:
        raise DamageError(f"{root}/{name} is missing") from error
    except OSError as error:
        raise InputError(
            f"{root}/{name} cannot be copied to {cache}: {error.strerror or error}; data.cache names another folder"
        ) from error
    return copy


@contextmanager
def _remote(root: str, name: str) -> Iterator[tuple[Any, str]]:
    """The file system behind a URL and a path in it. Every kind raises errors of its own: here they become OSError."""
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(f"{root.rstrip('/')}/{name}")
        yield filesystem, path
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{root}: {error}") from error
