"""Tars whose files are samples: those in a row that share a key, read through the webdataset library."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from shards.archives import ARCHIVE_HEAD, GOES_ON, archive_kind, decompressed, only_zeros
from shards.cache import is_remote
from shards.errors import InputError
from shards.sources.pictures import SUFFIXES

# A long number is no part of a field: dr.smith0000001.jpg is the sample dr.smith0000001.
_FIELD = re.compile(r"[A-Za-z_](?:[A-Za-z_]|[0-9]{1,2}(?![0-9]))*")
_IMAGES = frozenset({ending[1:] for ending in SUFFIXES} | {"img", "image"})


class Tarred(NamedTuple):
    """A tar.

    Attributes:
        url: Where it is, for messages.
        short: The end of that which tells it from the others.
        open: Opens its bytes; can be pickled.
    """

    url: str
    short: str
    open: Callable[[], BinaryIO]


def at_urls(urls: Iterable[str]) -> list[Tarred]:
    """Tars at paths or URLs."""
    places = list(urls)
    folders = [url.rpartition("/")[0].split("/") for url in places]
    common = 0
    while all(common < len(folder) and folder[common] == folders[0][common] for folder in folders):
        common += 1
    return [Tarred(url, "/".join(url.split("/")[common:]), partial(_open, url)) for url in places]


def _open(url: str) -> BinaryIO:
    if not is_remote(url):
        return Path(url).open("rb")
    import fsspec  # here, as shards.cache says why

    return cast(BinaryIO, fsspec.open(url, "rb").open())


def split_key(name: str) -> tuple[str, str]:
    """A member's key and its field: what ends its name, beginning with the first part after which all are words.

    webdataset's own rule splits at the first dot, which takes photo.0001.jpg for a field 0001.jpg of photo.
    """
    folder, slash, last = name.rpartition("/")
    parts = last.split(".")
    start = len(parts)
    while start > 1 and _FIELD.fullmatch(parts[start - 1]):
        start -= 1
    return folder + slash + ".".join(parts[:start]), ".".join(parts[start:]).lower()


def ending(field: str) -> str:
    """What a field holds: "jpg" for seg.jpg."""
    return field.rpartition(".")[2]


def is_image(field: str) -> bool:
    """Whether a field holds an image."""
    return ending(field) in _IMAGES


def read_tar(tar: Tarred) -> Iterator[dict[str, Any]]:
    """The samples of a tar: fields to bytes, and __key__.

    Raises:
        InputError: It cannot be read, is damaged, or ends too early.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander  # imports torch, which takes seconds

    try:
        with _Watched(tar) as stream:
            yield from group_by_keys(tar_file_expander([{"url": tar.url, "stream": stream}]), keys=split_key)
            stream.check_end()
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # each file system and decompressor has errors of its own
        reason = str(getattr(error, "strerror", None) or (error.args[0] if error.args else error))
        if reason in tar.url:  # all that fsspec says of a server that does not answer
            reason = "it is not there, or its server does not answer"
        reason = re.sub(r" (@ <|in tar file ).*", "", reason)  # what webdataset adds, which is of this program's inside
        raise InputError(f"{tar.url} cannot be read: {reason}") from error


def with_image(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those of some samples that have an image."""
    return (sample for sample in samples if any(is_image(name) for name in sample))


class _Watched:
    """A tar's bytes without their compression, and whether it has ended as tars do.

    A damaged one ends early without any error for who reads it, and so does one that others follow in the same file,
    whether before or after compression.
    """

    def __init__(self, tar: Tarred) -> None:
        self._tar = tar
        self._tail = b""

    def __enter__(self) -> _Watched:
        self._file = self._tar.open()
        head = self._file.read(ARCHIVE_HEAD)
        compression = (archive_kind(head) or "tar")[len("tar.") :]
        self._bytes = decompressed(cast(BinaryIO, _Begun(head, self._file)), compression)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, count: int = -1) -> bytes:
        """As files do."""
        data = self._bytes.read(count)
        self._tail = (self._tail + data)[-1024:]
        return data

    def check_end(self) -> None:
        """See that nothing but zeros follows.

        Raises:
            InputError: More does, or the zeros that end a tar are missing.
        """
        ended = self._tail
        if not only_zeros(cast(BinaryIO, self)):
            raise InputError(f"{self._tar.url} {GOES_ON}")
        if (ended + self._tail)[-512:].strip(b"\0") or len(self._tail) < 512:
            raise InputError(f"{self._tar.url} is cut off: the zeros that end a tar are missing. Fetch it again")


class _Begun:
    """A file of which the first bytes have been read, from its beginning: not every remote one can go back."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = head, file

    def read(self, count: int = -1) -> bytes:
        """As files do."""
        data = self._head if count < 0 else self._head[:count]
        self._head = self._head[len(data) :]
        return data + self._file.read(count if count < 0 else count - len(data))
