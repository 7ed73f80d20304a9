"""From a source to a packed set: byte-reproducible, on every core, resumable, and never half there under a real name.

One shard is one piece of work: it holds what can be used of the source's items i·k to (i+1)·k-1, whatever became of the
other shards, so neither the number of processes nor an interruption leaves a trace in the bytes. While a set is being
packed it has a folder .pack with plan.json (what is packed, and how) and one note a finished shard; index.json comes
last and makes the set whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import pickle
import re
import shutil
import tarfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from shards import faces, images, pyramid
from shards.cache import local_path
from shards.digests import file_crc32, file_digests
from shards.errors import InputError
from shards.files import write_atomically
from shards.images import ImageError, Transform
from shards.index import (
    COLUMN_TYPES,
    ENCODINGS,
    FORMAT,
    INDEX_JSON,
    INDEX_NPZ,
    UNFINISHED,
    Columns,
    Description,
    Index,
    ShardEntry,
    seal,
    unseal,
    write_index,
)
from shards.processes import follow_parent, usable_cpus, worker_context
from shards.progress import Progress
from shards.sources.base import Sample, Source

T = TypeVar("T")

SHARD_BYTES = 128 << 20
"""A shard's images are at most this and at least half of it, unless the whole set is small."""

HAND_ON = 1 << 20
"""So many bytes of a shard are made before they are handed on to be written: less often than that costs nothing."""
MOST_BEHIND = 8 << 20
"""So many bytes may wait to be written."""

PLAN = 3
"""Goes up with what notes of finished shards hold, so that work begun by another version is not gone on with."""

# webdataset passes over members whose name begins like __this__.
_KEY = re.compile(r"(?!/)(?!__[^/]*__(/|$))[A-Za-z0-9_/-]{1,80}")

# What a file of each format is called in a shard.
_EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "BMP": "bmp",
    "GIF": "gif",
    "WEBP": "webp",
    "TIFF": "tif",
    "PPM": "ppm",
    "JPEG2000": "jp2",
    "AVIF": "avif",
    "HEIF": "heic",
}


@dataclass(frozen=True)
class PackReport:
    """What packing came to.

    Attributes:
        index: Of the finished set.
        skipped: (name, reason) of each image that could not be used, in the source's order.
    """

    index: Index
    skipped: list[tuple[str, str]]


class Record(NamedTuple):
    """One sample as a shard holds it.

    Attributes:
        key: The name of its members, without the extension.
        extension: Of the image member.
        data: The image member's bytes.
        label: Position in class_names, -1 where there is none.
        attributes: Bits as numpy.packbits packs them.
        split: Position in split_names, -1 where there is none.
        pyramid: Of the image; empty where the set has none.
    """

    key: str
    extension: str
    data: bytes
    label: int
    attributes: bytes
    split: int = -1
    pyramid: bytes = b""


class Skipped(NamedTuple):
    """A sample that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Job:
    """A set to be written; it is pickled once to each process.

    Attributes:
        description: How the set is made.
        samples: Items in all shards, those included that will turn out to be of no use.
        shards: How many shards there are.
        settings: All that decides the set's bytes, by a name for people: what was begun with others is left alone.
        read: From the position of a shard to its items.
    """

    description: Description
    samples: int
    shards: int
    settings: dict[str, Any]
    read: Callable[[int], Iterator[Record | Skipped]]


def pack(
    source: Source,
    out: str | Path,
    transform: Transform,
    *,
    encoding: str = "raw",
    with_pyramid: bool = False,
    shard_samples: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PackReport:
    """Pack a source into a new folder. Interrupted at any time, the same call goes on where it was.

    The bytes depend on the source, the transform, the encoding and shard_samples alone (and, for png and jpeg, on
    Pillow's version). With more than one worker a script needs the usual ``if __name__ == "__main__"``.

    Args:
        source: What to pack.
        out: A folder that is empty, missing, or was left by an interrupted call.
        transform: What to do to each image; with encoding "original" it is done on reading.
        encoding: "raw" (uint8 height × width × channels, row major), "png", "jpeg" (quality 95, 4:4:4), or "original":
            the source's own files, png where it has none.
        with_pyramid: Put smaller images beside each, with encoding "raw".
        shard_samples: Source items a shard; None chooses shards of 64 to 128 MiB, smaller ones for small sets.
        workers: Threads or processes at most, whichever suits the images; None is one a core.
        progress: Called as samples are done.

    Raises:
        InputError: A setting makes no sense or needs a package that is missing, out is in use or cannot be written, or
            no image could be used.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding!r}")
    if with_pyramid and encoding != "raw":
        raise InputError(f"a pyramid is of raw images: give encoding raw, not {encoding}, or no pyramid")
    sizes = pyramid.sizes_of(transform.size) if with_pyramid else ()
    if with_pyramid and not sizes:
        raise InputError(
            f"images of {transform.size} pixels have no pyramid: they have no half, or one below {pyramid.LEAST}; give "
            "another size, or no pyramid"
        )
    if shard_samples is not None and shard_samples < 1:
        raise InputError(f"shard_samples must be at least 1, not {shard_samples}")
    if transform.centre == "face":
        if encoding == "original":
            others = ", ".join(name for name in ENCODINGS if name != "original")
            raise InputError(
                "with encoding original, faces would be searched for each time an image is read: "
                f"to centre on them, give encoding {others}"
            )
        faces.require()
    if not len(source):
        raise InputError("the source holds no images")
    if shard_samples is None:
        shard_samples = _choose_shard_samples(source, transform, encoding, sizes)
    job = Job(
        description=Description(
            layout=source.layout,
            encoding=encoding,
            transform=transform,
            attribute_names=tuple(source.attribute_names),
            class_names=tuple(source.class_names),
            split_names=tuple(source.split_names),
            recognised=source.recognised.to_json(),
            pyramid=sizes,
        ),
        samples=len(source),
        shards=-(-len(source) // shard_samples),
        settings={
            "layout": source.layout,
            "source": source.identity(),
            **transform.to_json(),
            "encoding": encoding,
            "samples a shard": shard_samples,
            **({"pyramid": list(sizes)} if sizes else {}),
        },
        read=partial(_read_source, source, transform, encoding, with_pyramid, shard_samples),
    )
    return write_set(job, out, workers, progress)


def write_set(job: Job, out: str | Path, workers: int | None = None, progress: Progress | None = None) -> PackReport:
    """Write all shards of a job that are not there yet, and then the index. Arguments and errors are pack's."""
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    out = local_path(out)
    try:
        with _claimed(out, job):
            notes = _finished_shards(out, job)
            missing = [shard for shard in range(job.shards) if shard not in notes]
            kept = sum(len(note["rows"]) + len(note["skipped"]) for note in notes.values())

            def report(done: int) -> None:
                if progress is not None:
                    progress(kept + done, job.samples)

            report(0)
            notes |= _write_shards(job, out, missing, workers or usable_cpus(), report)
            return _finish(job, out, [notes[shard] for shard in range(job.shards)])
    except OSError as error:
        raise InputError(
            f"{error.filename or out} cannot be written: {error.strerror or error}. "
            f"Shards that are finished are kept: mend that, and the same command goes on"
        ) from error
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, most likely for want of memory. Shards that are finished are kept: the same "
            "command with fewer workers goes on"
        ) from error


class Writable(Protocol):
    """What a tar file is written to."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""
        ...


def write_tar(file: Writable, records: Iterable[Record], description: Description) -> list[int]:
    """Write samples as a tar file: for each KEY.EXTENSION, then pyramid, KEY.cls and KEY.json where the set has such.

    The one place that decides a shard's bytes; they depend on the arguments alone. webdataset's own writer and tarfile
    make the same ones; the former imports torch, for which each process would pay seconds and hundreds of megabytes,
    and the latter takes as long for a member as it takes to decode a small image.

    Returns:
        Where each sample's image begins.
    """
    offsets = []
    size = 0
    for record in records:
        offsets.append(size + tarfile.BLOCKSIZE)
        for extension, data in _members(record, description):
            block = b"".join(
                (_header(f"{record.key}.{extension}".encode("ascii"), len(data)), data, bytes(-len(data) % 512))
            )
            file.write(block)
            size += len(block)
    file.write(bytes(1024 + -(size + 1024) % tarfile.RECORDSIZE))
    return offsets


_BLANK_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # owned by nobody, of no date
_BLANK_SUM = sum(_BLANK_HEADER[:124]) + sum(_BLANK_HEADER[136:148]) + 8 * ord(" ") + sum(_BLANK_HEADER[156:])


def _header(name: bytes, size: int) -> bytes:
    """A member's header: the blank one with its name, its size and the sum of all its bytes."""
    length = b"%011o\0" % size
    checksum = b"%06o\0 " % (_BLANK_SUM + sum(name) + sum(length))
    return b"".join(
        (
            name.ljust(100, b"\0"),
            _BLANK_HEADER[100:124],
            length,
            _BLANK_HEADER[136:148],
            checksum,
            _BLANK_HEADER[156:],
        )
    )


def _members(record: Record, description: Description) -> Iterator[tuple[str, bytes]]:
    yield record.extension, record.data
    if description.pyramid:
        yield pyramid.EXTENSION, record.pyramid
    if description.class_names:
        yield "cls", str(record.label).encode()
    if names := description.attribute_names:
        bits = np.unpackbits(np.frombuffer(record.attributes, np.uint8), count=len(names)).tolist()
        yield "json", json.dumps({name: 1 if bit else -1 for name, bit in zip(names, bits, strict=True)}).encode()


class _Row(NamedTuple):
    """A sample in the note of its shard: the columns of the index but for the shard."""

    key: str
    extension: str
    offset: int
    size: int
    crc32: int
    label: int
    split: int
    attributes: str  # hex
    pyramid_crc32: list[int]


Note = dict[str, Any]
"""What is known of a finished shard: "entry" (ShardEntry as a dict), "rows" (of _Row) and "skipped"."""


class _Behind:
    """A thread that does one thing after the other, while whoever hands them to it goes on."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._unseen: deque[tuple[Future[Any], int]] = deque()
        self._held = 0

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()  # what was handed to it is done first

    def do(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Hand work to the thread."""
        future = self._thread.submit(work, *arguments)
        self._unseen.append((future, 0))
        return future

    def take(self, work: Callable[[bytes], None], data: bytes) -> Future[None]:
        """Hand bytes to the thread, and wait until it has little enough to do: a slow disk must not fill the memory.

        Raises:
            What earlier work has raised.
        """
        future = self._thread.submit(work, data)
        self._unseen.append((future, len(data)))
        self._held += len(data)
        while self._held > MOST_BEHIND:
            oldest, size = self._unseen.popleft()
            self._held -= size
            oldest.result()
        return future


class _ShardFile:
    """A shard's file while it is written, by a thread behind the one that makes the bytes.

    That thread does what is no Python: it writes, hashes, reads back and waits for the disk. Where the block is left on
    an error, nothing remains of the file.

    Args:
        path: The shard's.
        behind: The thread.
    """

    def __init__(self, path: Path, behind: _Behind) -> None:
        self._path = path
        self._behind = behind
        self._blocks: list[bytes] = []
        self._held = 0
        self._size = 0
        self._crc32 = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._closing = ExitStack()
        self._doing = [behind.do(self._open)]

    def __enter__(self) -> _ShardFile:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._behind.do(self._closing.__exit__, *error).result()

    def write(self, block: bytes) -> None:
        """Take the next bytes. Raises OSError where this shard or one before could not be written."""
        self._blocks.append(block)
        self._held += len(block)
        if self._held >= HAND_ON:
            self._hand_on()

    def finish(self, conclude: Callable[[_Stored], Note]) -> Future[Note]:
        """See that the file reads back as what was written, give it its name, and then have the thread conclude."""
        self._hand_on()
        return self._behind.do(lambda: conclude(self._close()))

    def _hand_on(self) -> None:
        data = b"".join(self._blocks)
        self._blocks.clear()
        self._held = 0
        self._doing.append(self._behind.take(self._store, data))

    def _open(self) -> None:
        self._file = self._closing.enter_context(write_atomically(self._path))

    def _store(self, data: bytes) -> None:
        self._file.write(data)
        self._size += len(data)
        self._crc32 = zlib.crc32(data, self._crc32)
        self._md5.update(data)
        self._sha256.update(data)

    def _close(self) -> _Stored:
        with self._closing:
            for done in self._doing:
                done.result()
            self._file.flush()
            if file_crc32(Path(self._file.name)) != self._crc32:
                raise OSError(errno.EIO, "what was written reads back as something else")
        return _Stored(self._size, self._md5.hexdigest(), self._sha256.hexdigest())


class _Stored(NamedTuple):
    """A file on disk: its size in bytes, and its checksums in hex."""

    filesize: int
    md5sum: str
    sha256: str


def _write_one_by_one(job: Job, out: Path, shards: Iterable[int], tick: Callable[[], None]) -> dict[int, Note]:
    """Write shards in this process.

    Args:
        job: What is written.
        out: The set's folder.
        shards: Which.
        tick: Called after each item; what it raises ends the work.

    Returns:
        Their notes.
    """
    with _Behind() as behind:
        notes = {shard: _write_shard(job, out, shard, behind, tick) for shard in shards}
        return {shard: note.result() for shard, note in notes.items()}


def _write_shard(job: Job, out: Path, shard: int, behind: _Behind, tick: Callable[[], None]) -> Future[Note]:
    """Make the bytes of one shard; when the future is done they are on disk, and then so is the note."""
    kept: list[tuple[Record, int, int, list[int]]] = []
    skipped: list[Skipped] = []
    sizes, channels = job.description.pyramid, job.description.transform.channels

    def records() -> Iterator[Record]:
        for item in job.read(shard):
            tick()
            if isinstance(item, Skipped):
                skipped.append(item)
            else:
                smaller = pyramid.checksums(item.pyramid, sizes, channels)
                kept.append((item._replace(data=b"", pyramid=b""), len(item.data), zlib.crc32(item.data), smaller))
                yield item

    path = out / _shard_name(shard)
    with _ShardFile(path, behind) as file:
        offsets = write_tar(file, records(), job.description)

        def conclude(stored: _Stored) -> Note:
            rows = [
                _Row(
                    each.key,
                    each.extension,
                    offset,
                    size,
                    crc32,
                    each.label,
                    each.split,
                    each.attributes.hex(),
                    smaller,
                )
                for (each, size, crc32, smaller), offset in zip(kept, offsets, strict=True)
            ]
            note = {"entry": asdict(ShardEntry(path.name, len(rows), *stored)), "rows": rows, "skipped": skipped}
            # Not lasting: a note says a shard's checksum, and whoever goes on with the work compares it. One that a
            # power cut has taken costs the making of its shard, and one that it has spoilt is no note.
            with write_atomically(_note_path(out, shard), lasting=False) as beside:
                beside.write(seal(note))
            return note

        return file.finish(conclude)


def _read_source(
    source: Source, transform: Transform, encoding: str, with_pyramid: bool, shard_samples: int, shard: int
) -> Iterator[Record | Skipped]:
    """The items of one shard of a source."""
    start = shard * shard_samples
    for i in range(start, min(start + shard_samples, len(source))):
        try:
            record = _encode(source.sample(i), transform, encoding, with_pyramid)
        except (ImageError, OSError) as error:
            yield Skipped(source.name(i), getattr(error, "strerror", None) or str(error))
        else:
            yield record


def _encode(sample: Sample, transform: Transform, encoding: str, with_pyramid: bool = False) -> Record:
    """Make what is stored out of what was found."""
    if not _KEY.fullmatch(sample.key):
        raise ImageError(f"readers of tar files would pass over a sample called {sample.key!r}: rename it")
    image = images.decode(sample.image, transform.white) if isinstance(sample.image, bytes) else sample.image
    fitted = images.fit(image, transform)  # for originals too: what is packed can be read
    if encoding == "raw":
        extension, data = "raw", fitted.tobytes()
    elif encoding == "jpeg":
        extension, data = "jpg", _save(np.asarray(fitted), "JPEG", quality=95, subsampling="4:4:4")
    elif encoding == "png":
        extension, data = "png", _save(np.asarray(fitted), "PNG")
    elif isinstance(sample.image, bytes):
        extension, data = _EXTENSIONS[images.sniff(sample.image[: images.HEAD]) or "PPM"], sample.image
    else:
        extension, data = "png", _save(sample.image, "PNG")
    attributes = b"" if sample.attributes is None else np.packbits(sample.attributes > 0).tobytes()
    smaller = pyramid.build(np.asarray(fitted)) if with_pyramid else b""
    return Record(sample.key, extension, data, sample.label, attributes, sample.split, smaller)


def _save(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()  # from bare pixels: a picture found somewhere would take its profile and its notes with it
    Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(
        file, kind, **options
    )
    return file.getvalue()


def _choose_shard_samples(source: Source, transform: Transform, encoding: str, smaller: Sequence[int] = ()) -> int:
    """A power of two from the source alone, so that every machine cuts a source into the same shards."""
    sizes = [pyramid.starts((transform.size, *smaller), transform.channels)[-1]]  # all of them are, if raw
    for i in sorted({part * len(source) // 16 for part in range(16)}) if encoding != "raw" else ():
        with suppress(ImageError, OSError):
            sizes.append(len(_encode(source.sample(i), transform, encoding).data))
    fit = SHARD_BYTES * len(sizes) // sum(sizes)
    enough = max(64, len(source) // 32)  # a small set is still cut into pieces, so that all processes end together
    return 1 << (max(1, min(fit, enough)).bit_length() - 1)


@contextmanager
def _claimed(out: Path, job: Job) -> Iterator[None]:
    """Make out ours for the time being, or say why it cannot be."""
    work = out / UNFINISHED
    if out.is_file():
        raise InputError(f"{out} is a file: choose a new folder")
    out.mkdir(parents=True, exist_ok=True)
    found = {path.name for path in out.iterdir()}
    if UNFINISHED not in found and INDEX_JSON in found:
        raise InputError(f"{out} already holds a packed set: choose another folder, or delete it first")
    ours = {UNFINISHED, INDEX_JSON, INDEX_NPZ, *(_shard_name(shard) for shard in range(job.shards))}
    ours |= {f".{name}.partial" for name in ours}
    foreign = sorted(found - ours if UNFINISHED in found else found)
    if foreign:
        raise InputError(f"{out} is not empty, it holds {foreign[0]}: choose a new folder")
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is packing into {out}: wait for it or choose another folder") from None
        _check_plan(out, work / "plan.json", {"format": FORMAT, "plan": PLAN, **job.settings})
        yield


def _check_plan(out: Path, path: Path, settings: dict[str, Any]) -> None:
    """Write the plan down, or see that work begun in out was begun with the same."""
    if not path.exists():
        with write_atomically(path) as file:
            file.write(seal(settings))
        return
    try:
        begun = unseal(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): delete {out} and pack again") from error
    del begun["fingerprint"]
    for name in (*settings, *begun):  # either may lack what the other has: a transform's defaults are left out
        if begun.get(name) != settings.get(name):
            what = f"{name} {begun.get(name, 'as always')}, not {settings.get(name, 'as always')}"
            if name == "source":
                what = "another source, or the source has changed since"
            raise InputError(f"{out} was begun with {what}: go on as it was begun, or delete it and pack again")


def _finished_shards(out: Path, job: Job) -> dict[int, Note]:
    """The notes of the shards that are whole."""

    def check(shard: int) -> Note | None:
        with suppress(OSError, ValueError):
            note, path = _read_note(out, shard), out / _shard_name(shard)
            if file_digests(path, "sha256") == [note["entry"]["sha256"]]:
                return note
        return None

    noted = [shard for shard in range(job.shards) if _note_path(out, shard).exists()]
    with ThreadPoolExecutor() as pool:
        return {shard: note for shard, note in zip(noted, pool.map(check, noted), strict=True) if note is not None}


def _finish(job: Job, out: Path, notes: Sequence[Note]) -> PackReport:
    """Write the index over the finished shards and tidy up."""
    skipped = [(name, reason) for note in notes for name, reason in note["skipped"]]
    if len(skipped) == job.samples:
        for shard in range(job.shards):
            (out / _shard_name(shard)).unlink()
        shutil.rmtree(out / UNFINISHED)
        raise InputError(f"none of the {job.samples} images could be used. The first: {': '.join(skipped[0])}")
    parts = [_columns(shard, note["rows"], job.description) for shard, note in enumerate(notes)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in COLUMN_TYPES}
    write_index(out, job.description, [ShardEntry(**note["entry"]) for note in notes], columns)
    shutil.rmtree(out / UNFINISHED)
    return PackReport(Index.load(out), skipped)


def _columns(shard: int, rows: Sequence[Sequence[Any]], description: Description) -> Columns:
    """The rows of one shard as columns."""
    values: dict[str, Any] = {name: [row[i] for row in rows] for i, name in enumerate(_Row._fields)}
    values["shard"] = [shard] * len(rows)
    columns = {name: np.array(values[name], kind) for name, kind in COLUMN_TYPES.items() if name != "attributes"}
    packed = np.frombuffer(bytes.fromhex("".join(values["attributes"])), np.uint8)
    return columns | {
        "attributes": packed.reshape(len(rows), (len(description.attribute_names) + 7) // 8),
        "pyramid_crc32": columns["pyramid_crc32"].reshape(len(rows), len(description.pyramid)),
    }


def _write_shards(
    job: Job, out: Path, shards: Sequence[int], workers: int, report: Callable[[int], None]
) -> dict[int, Note]:
    """Write some shards here and, where there is enough to share out, in other threads or processes as well.

    Args:
        job: What is written.
        out: The set's folder.
        shards: Which.
        workers: Threads or processes at most, this one among them.
        report: Called in this thread with the number of items done.

    Returns:
        Their notes.
    """
    with _Team(job, out, shards, min(workers, len(shards)) - 1, report) as team:
        ticker = _Ticker(team.hear)
        notes = _write_one_by_one(job, out, team.take(), ticker.tick)
        ticker.tell()
        return notes | team.gather()


WORTH_STARTING_S = 1.0
"""Seconds of work for one process, from which on others are started; that takes a third of a second each."""
HEAVY_S = 2e-4
"""Seconds for an item, from which on nearly all are spent in decoders: less work than is worth a process is then shared
among threads, which cost nothing to start, but wait for each other in what is Python."""
MOST_THREADS = 4
"""More hinder each other in what is Python."""
LOOK_EVERY_S = 0.05
"""How often a process tells the others how far it is, and hears whether to stop."""


class _Ticker:
    """Counts items, and tells of them now and then: to tell costs more than a small image.

    Args:
        tell: Called with how many items are done that it was not told of; what it raises ends the work.
    """

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._untold = 0
        self._next = time.monotonic() + LOOK_EVERY_S

    def tick(self) -> None:
        """Count one item."""
        self._untold += 1
        if time.monotonic() >= self._next:
            self.tell()

    def tell(self) -> None:
        """Tell of what is untold."""
        untold, self._untold = self._untold, 0
        self._tell(untold)
        self._next = time.monotonic() + LOOK_EVERY_S


class _Team:
    """This thread, and the threads or processes that it starts as soon as it sees that they are worth it.

    Leaving the block ends them.

    Args:
        job: What is written.
        out: The set's folder.
        shards: Which.
        others: How many others at most.
        report: Called in this thread with the number of items done.
    """

    def __init__(self, job: Job, out: Path, shards: Sequence[int], others: int, report: Callable[[int], None]) -> None:
        self._job, self._out, self._shards, self._others, self._report = job, out, shards, others, report
        self._items = job.samples * len(shards) / job.shards
        self._began = time.monotonic()
        self._done = 0  # items, in this process
        self._taken = 0  # shards, while it is alone
        self._shared: _Shared | None = None
        self._starting: Future[list[Future[dict[int, Note]]]] | None = None
        self._ending = ExitStack()

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None and self._shared is not None:
            self._shared.stop.set()
        self._ending.close()

    def take(self) -> Iterator[int]:
        """Shards for this process, as long as nobody has begun with all of them."""
        while self._shared is None:
            if self._taken == len(self._shards):
                return
            self._taken += 1
            yield self._shards[self._taken - 1]
        yield from self._shared.take(self._shards)

    def hear(self, done: int) -> None:
        """Count items that are done in this process, and look how far the others are.

        Raises:
            What ended the work of another process.
        """
        self._done += done
        everywhere = self._done + (self._shared.done.value if self._shared else 0)
        self._report(everywhere)
        if self._starting is not None:
            for future in self._starting.result() if self._starting.done() else ():
                if future.done():
                    future.result()
        elif self._others > 0 and self._taken < len(self._shards):
            elapsed = time.monotonic() - self._began
            if (self._items - everywhere) * elapsed > WORTH_STARTING_S * everywhere:
                self._start_processes()
            elif elapsed >= HEAVY_S * everywhere and self._others < MOST_THREADS:
                self._start_threads()

    def gather(self) -> dict[int, Note]:
        """Wait for the other processes. Returns the notes of their shards; raises what ended one of them."""
        if self._starting is None:
            return {}
        running = self._starting.result()
        while wait(running, timeout=LOOK_EVERY_S, return_when=FIRST_EXCEPTION).not_done:
            self.hear(0)
        self.hear(0)
        return {shard: note for future in running for shard, note in future.result().items()}

    def _start_threads(self) -> None:
        shared = self._shared = _Shared(_Number(self._taken), _Number(0), threading.Event())
        pool = self._ending.enter_context(ThreadPoolExecutor(self._others))
        # A job of its own for each, as processes have: sources keep files open, and know where they are in them.
        jobs = [pickle.loads(pickle.dumps(self._job)) for _ in range(self._others)]  # noqa: S301  (made here)
        work = partial(_take_part, out=self._out, shards=self._shards, shared=shared)
        self._starting = Future()
        self._starting.set_result([pool.submit(work, job) for job in jobs])

    def _start_processes(self) -> None:
        context = worker_context()
        self._shared = _Shared(context.Value("q", self._taken), context.Value("q", 0), context.Event())
        pool = self._ending.enter_context(
            ProcessPoolExecutor(
                self._others, context, _Worker.start, (self._job, self._out, self._shards, self._shared)
            )
        )
        # Whoever starts a process waits until it is there: a thread does, while this one goes on.
        starter = self._ending.enter_context(ThreadPoolExecutor(1))
        self._starting = starter.submit(lambda: [pool.submit(_Worker.run) for _ in range(self._others)])


class _Number:
    """A number that threads have in common, as multiprocessing's Value is one of processes."""

    def __init__(self, value: int) -> None:
        self.value = value
        self._lock = threading.Lock()

    def get_lock(self) -> threading.Lock:
        """To be held while the number is changed."""
        return self._lock


@dataclass(frozen=True)
class _Shared:
    """What threads or processes that write shards of one set have in common.

    Attributes:
        taken: How many shards somebody has begun with.
        done: Items done by those that were started.
        stop: Set when all should stop.
    """

    taken: Any
    done: Any
    stop: Any

    def take(self, shards: Sequence[int]) -> Iterator[int]:
        """Shards that nobody else takes, as long as there are any."""
        while True:
            with self.taken.get_lock():
                place = self.taken.value
                self.taken.value += 1
            if place >= len(shards):
                return
            yield shards[place]

    def tell(self, done: int) -> None:
        """Add items that are done.

        Raises:
            InterruptedError: All should stop.
        """
        if self.stop.is_set():
            raise InterruptedError("packing was stopped")
        with self.done.get_lock():
            self.done.value += done


class _Worker:
    """What a process of the pool keeps: the job comes once, before the work."""

    job: ClassVar[Job]
    out: ClassVar[Path]
    shards: ClassVar[Sequence[int]]
    shared: ClassVar[_Shared]

    @classmethod
    def start(cls, job: Job, out: Path, shards: Sequence[int], shared: _Shared) -> None:
        cls.job, cls.out, cls.shards, cls.shared = job, out, shards, shared
        follow_parent()

    @classmethod
    def run(cls) -> dict[int, Note]:
        return _take_part(cls.job, cls.out, cls.shards, cls.shared)


def _take_part(job: Job, out: Path, shards: Sequence[int], shared: _Shared) -> dict[int, Note]:
    """Write shards that nobody else has taken. Returns their notes."""
    ticker = _Ticker(shared.tell)
    notes = _write_one_by_one(job, out, shared.take(shards), ticker.tick)
    ticker.tell()
    return notes


def _shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def _note_path(out: Path, shard: int) -> Path:
    return out / UNFINISHED / f"shard-{shard:06d}.json"


def _read_note(out: Path, shard: int) -> Note:
    return unseal(_note_path(out, shard).read_bytes())
