"""Which bytes of a packed set are not those that were packed, and a new set of what is sound.

Everything in a tar file but the images follows from the index, so a damaged shard is compared with the one that the
writer would make: that finds every byte, and tells an image from what stands around it.
"""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards import pyramid
from shards.cache import file_size, is_remote, local_path, read_bytes
from shards.digests import file_digests
from shards.errors import InputError
from shards.files import refuse_inside
from shards.index import (
    INDEX_JSON,
    INDEX_NPZ,
    Index,
    ShardEntry,
    parse_columns,
    parse_document,
    parse_shards,
    refuse_foreign,
)
from shards.progress import Progress
from shards.writer import Job, Record, Skipped, write_set, write_tar


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with a packed set; str() is a line for people.

    Attributes:
        file: The file's name.
        keys: Keys of the samples it hits, or beside which it lies; empty where it is none in particular.
        reason: What is wrong.
    """

    file: str
    keys: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        if not self.keys:
            return f"{self.file}: {self.reason}"
        more = f" and {len(self.keys) - 5} more" if len(self.keys) > 5 else ""
        return f"{self.file}: {self.reason}; sample {', '.join(self.keys[:5])}{more}"


@dataclass(frozen=True)
class RepairReport:
    """What repairing came to.

    Attributes:
        index: Of the new set.
        lost: What is not in it: keys, by shard and reason.
    """

    index: Index
    lost: list[Damage]


def verify(root: str | Path, progress: Progress | None = None) -> list[Damage]:
    """Read every byte of a packed set.

    Args:
        root: The set's folder.
        progress: Called as shards are done.

    Returns:
        All damage, the index first and then shard by shard; empty where the set is exactly what was packed.

    Raises:
        InputError: There is no packed set, or it is shards that others have made.
    """
    if is_remote(str(root)):
        refuse_foreign(root)
    folder = local_path(root)
    tars = {path.name for path in folder.glob("*.tar")}
    if not tars and not (folder / INDEX_JSON).exists():
        Index.load(folder)  # says what is there instead
    try:
        document = parse_document(read_bytes(str(folder), INDEX_JSON))
    except (OSError, ValueError) as error:
        refuse_foreign(folder)
        reason = f"{_reason(error)}; without it nothing else can be checked"
        return [Damage(INDEX_JSON, (), reason)]
    damages = []
    index = None
    try:
        parse_columns(read_bytes(str(folder), INDEX_NPZ), document)
        index = Index.load(folder)
    except (OSError, ValueError) as error:
        damages.append(Damage(INDEX_NPZ, (), _reason(error)))
    entries = parse_shards(document)
    whose = {entry.sha256: entry.url for entry in entries}
    done = 0
    with ThreadPoolExecutor() as pool:
        checks = pool.map(lambda shard: _check_shard(folder, index, entries[shard], shard, whose), range(len(entries)))
        for entry, found in zip(entries, checks, strict=True):
            damages += found
            done += entry.nsamples
            if progress is not None:
                progress(done, document["nsamples"])
    extra = sorted(tars - {entry.url for entry in entries})
    return damages + [Damage(name, (), "is not part of this set: move it away") for name in extra]


def repair(
    root: str | Path, out: str | Path, progress: Progress | None = None, *, workers: int | None = None
) -> RepairReport:
    """Write a new set of all samples whose image is sound; labels and attributes are made anew from the index.

    The result is, to the byte, what packing gives where the lost images cannot be used; pyramids are made anew.
    Interrupted, the same call goes on where it was.

    Args:
        root: The damaged set's folder; it is left as it is.
        out: A folder for the new set.
        progress: Called as samples are done.
        workers: Processes; None is one a core.

    Raises:
        InputError: The index itself is damaged, no image is sound, or out is in use or cannot be written.
    """
    folder = local_path(root)
    try:
        index = Index.load(folder)
    except InputError as error:
        if not (folder / INDEX_JSON).exists():
            raise
        raise InputError(f"{error}. Nothing can be repaired without the index") from error
    refuse_inside(out, folder)
    job = Job(
        description=index,
        samples=len(index),
        shards=len(index.shards),
        settings={"repair of": index.fingerprint},
        read=partial(_read_sound, index),
    )
    report = write_set(job, out, workers, progress)
    lost: dict[tuple[str, str], list[str]] = defaultdict(list)
    shard_of = dict(zip(index.key.tolist(), index.shard.tolist(), strict=True))
    for key, reason in report.skipped:
        lost[index.shards[shard_of[key.encode()]].url, reason].append(key)
    return RepairReport(report.index, [Damage(file, tuple(keys), reason) for (file, reason), keys in lost.items()])


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return getattr(error, "strerror", None) or str(error)


def _check_shard(
    folder: Path, index: Index | None, entry: ShardEntry, shard: int, whose: dict[str, str]
) -> list[Damage]:
    """All damage of one shard."""
    path = folder / entry.url
    try:
        size = file_size(str(folder), entry.url)
        found = file_digests(path, "sha256")[0]
        if found == entry.sha256:
            return []
        with path.open("rb") as file:
            data = file.read(entry.filesize)  # and not what follows, which may be any amount
    except OSError as error:
        keys = () if index is None else _keys(index, _ids(index, shard))
        return [Damage(entry.url, keys, _reason(error))]
    if found in whose:
        return [Damage(entry.url, (), f"holds the bytes of {whose[found]}: swapped? Give them their names back")]
    damages = [] if index is None else _locate(index, shard, data, size)
    return damages or [Damage(entry.url, (), "its bytes are not those that were packed (sha256)")]


def _locate(index: Index, shard: int, data: bytes, size: int) -> list[Damage]:
    """Where the bytes of a shard, of a file of some size, differ from what they should be."""
    entry = index.shards[shard]
    ids = _ids(index, shard)
    missing = ids[index.offset[ids] + index.size[ids] > len(data)]
    padded = data.ljust(entry.filesize, b"\0")
    records, bad, bad_smaller = [], [], []
    sizes, channels = index.pyramid, index.transform.channels
    for i in ids:
        image = padded[index.offset[i] : index.offset[i] + index.size[i]]
        smaller = b""
        if sizes:
            begins = int(index.offset[i]) + index.place_of(sizes[0])[0]
            smaller = padded[begins : begins + pyramid.starts(sizes, channels)[-1]]
        records.append(_record(index, i, image, smaller))
        if zlib.crc32(image) != index.crc32[i]:
            bad.append(i)
        if pyramid.checksums(smaller, sizes, channels) != index.pyramid_crc32[i].tolist():
            bad_smaller.append(i)
    expected = io.BytesIO()
    write_tar(expected, records, index)
    # The images are in both, so what differs here is around them.
    differs = np.flatnonzero(
        np.frombuffer(padded, np.uint8, entry.filesize) != np.frombuffer(expected.getvalue(), np.uint8)
    )
    starts = index.offset[ids] - 512  # a member's header is one tar block
    near = ids[np.unique(np.maximum(np.searchsorted(starts, differs, side="right") - 1, 0))] if len(ids) else ids
    damages = []
    if size != entry.filesize:
        damages.append(Damage(entry.url, _keys(index, missing), f"has {size} bytes instead of {entry.filesize}"))
    if bad:
        damages.append(Damage(entry.url, _keys(index, bad), "image bytes are not those that were packed (crc32)"))
    if bad_smaller:
        reason = "bytes of its pyramid are not those that were packed (crc32)"
        damages.append(Damage(entry.url, _keys(index, bad_smaller), reason))
    if len(differs):
        reason = f"header, label, attributes or padding differ from byte {differs[0]} on; beside the images"
        damages.append(Damage(entry.url, _keys(index, near), reason))
    return damages


def _ids(index: Index, shard: int) -> np.ndarray:
    return np.arange(*np.searchsorted(index.shard, (shard, shard + 1)))


def _keys(index: Index, ids: Any) -> tuple[str, ...]:
    return tuple(index.key[i].decode() for i in ids)


def _record(index: Index, i: int, image: bytes, smaller: bytes) -> Record:
    return Record(
        key=index.key[i].decode(),
        extension=index.extension[i].decode(),
        data=image,
        label=int(index.label[i]),
        attributes=index.attributes[i].tobytes(),
        split=int(index.split[i]),
        pyramid=smaller,
    )


def _read_sound(index: Index, shard: int) -> Iterator[Record | Skipped]:
    """The samples of one shard, those with a damaged image as skipped."""
    ids = _ids(index, shard)
    try:
        file_size(index.root, index.shards[shard].url)  # which a pipe or a device has not
        file = (Path(index.root) / index.shards[shard].url).open("rb")
    except OSError as error:
        yield from (Skipped(key, _reason(error)) for key in _keys(index, ids))
        return
    with file:
        for i in ids:
            try:
                file.seek(index.offset[i])
                image = file.read(index.size[i])
            except OSError as error:
                yield Skipped(index.key[i].decode(), _reason(error))
                continue
            if zlib.crc32(image) == index.crc32[i]:
                smaller = b""
                if index.pyramid:
                    shape = (index.transform.size, index.transform.size, index.transform.channels)
                    smaller = pyramid.build(np.frombuffer(image, np.uint8).reshape(shape))
                yield _record(index, i, image, smaller)
            else:
                yield Skipped(index.key[i].decode(), "image bytes are not those that were packed (crc32)")
