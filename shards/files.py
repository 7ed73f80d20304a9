"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from shards.errors import InputError


@contextmanager
def write_atomically(path: Path, *, lasting: bool = True, shared: bool = False) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path``, complete and on disk, when the block ends without an error.

    It is written beside, as ``.NAME.partial``; on an error that is removed and whatever ``path`` held stays.

    Args:
        path: Where it appears.
        lasting: Whether to wait for the disk. Without that a power cut may leave anything under ``path``: for files
            that are checked when they are read, and can be made again.
        shared: Whether other processes may write the same file at this moment. Each then writes one of its own beside
            it, and the last one stays; what a kill leaves is not written over later, as it otherwise is.

    Raises:
        OSError: The folder cannot be written or the disk is full.
    """
    own = f".{secrets.token_hex(4)}" if shared else ""
    partial = path.with_name(f".{path.name}{own}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno and not error.filename:  # writing, unlike opening, names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def ready_or_say(path: Path) -> None:
    """Make the folder of a file that is written after long work, and see that it can be.

    Raises:
        InputError: It cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def write_or_say(path: Path, data: bytes) -> None:
    """Write a file that a person has asked for, as :func:`write_atomically` does, and the folder that it is in.

    Raises:
        InputError: The folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path, shared=True) as file:  # a report, at a run's end and by report --watch
            file.write(data)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def refuse_inside(out: str | Path, folder: str | Path) -> None:
    """See that what is written to ``out`` does not end up among what is read from ``folder``.

    Raises:
        InputError: It would.
    """
    if Path(out).resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(f"{out} lies in {folder}, which is left as it is: choose a folder elsewhere")
