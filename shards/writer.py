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
import itertools
import json
import re
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from shards import faces, images
from shards.cache import local_path
from shards.digests import file_digests
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

SHARD_BYTES = 128 << 20
"""A shard's images are at most this and at least half of it, unless the whole set is small."""

PLAN = 2
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


@dataclass(frozen=True)
class Record:
    """One sample as a shard holds it.

    Attributes:
        key: The name of its members, without the extension.
        extension: Of the image member.
        data: The image member's bytes.
        label: Position in class_names, -1 where there is none.
        attributes: Bits as numpy.packbits packs them.
        split: Position in split_names, -1 where there is none.
    """

    key: str
    extension: str
    data: bytes
    label: int
    attributes: bytes
    split: int = -1


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
        shard_samples: Source items a shard; None chooses shards of 64 to 128 MiB, smaller ones for small sets.
        workers: Processes; None is one a core.
        progress: Called as samples are done.

    Raises:
        InputError: A setting makes no sense or needs a package that is missing, out is in use or cannot be written, or
            no image could be used.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding!r}")
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
        shard_samples = _choose_shard_samples(source, transform, encoding)
    job = Job(
        description=Description(
            layout=source.layout,
            encoding=encoding,
            transform=transform,
            attribute_names=tuple(source.attribute_names),
            class_names=tuple(source.class_names),
            split_names=tuple(source.split_names),
            recognised=source.recognised.to_json(),
        ),
        samples=len(source),
        shards=-(-len(source) // shard_samples),
        settings={
            "layout": source.layout,
            "source": source.identity(),
            **transform.to_json(),
            "encoding": encoding,
            "samples a shard": shard_samples,
        },
        read=partial(_read_source, source, transform, encoding, shard_samples),
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
            kept = sum(note["entry"]["nsamples"] + len(note["skipped"]) for note in notes.values())

            def report(done: int) -> None:
                if progress is not None:
                    progress(kept + done, job.samples)

            report(0)
            _write_shards(job, out, missing, workers or usable_cpus(), report)
            notes |= {shard: _read_note(out, shard) for shard in missing}
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


def write_tar(file: BinaryIO, records: Iterable[Record], description: Description) -> None:
    """Write samples as a tar file: for each KEY.EXTENSION, then KEY.cls and KEY.json where the set has such.

    The one place that decides a shard's bytes; they depend on the arguments alone. webdataset's own writer and tarfile
    make the same ones; the former imports torch, for which each process would pay seconds and hundreds of megabytes,
    and the latter takes as long for a member as it takes to decode a small image.
    """
    size = 0
    for record in records:
        for extension, data in _members(record, description):
            block = b"".join(
                (_header(f"{record.key}.{extension}".encode("ascii"), len(data)), data, bytes(-len(data) % 512))
            )
            file.write(block)
            size += len(block)
    file.write(bytes(1024 + -(size + 1024) % tarfile.RECORDSIZE))


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


class _Filled(NamedTuple):
    """A shard with all its bytes written, but not yet under its name."""

    shard: int
    file: BinaryIO
    written: list[Record]  # without their data
    checksums: list[tuple[int, int]]  # size and crc32 of each image
    skipped: list[Skipped]
    closing: ExitStack  # gives it its name


def _fill_shard(job: Job, out: Path, shard: int, tick: Callable[[], None]) -> _Filled:
    """Write the bytes of one shard.

    Args:
        job: What is written.
        out: The set's folder.
        shard: Which one.
        tick: Called after each item; what it raises ends the work.
    """
    written: list[Record] = []
    skipped: list[Skipped] = []
    checksums: list[tuple[int, int]] = []

    def records() -> Iterator[Record]:
        for item in job.read(shard):
            tick()
            if isinstance(item, Skipped):
                skipped.append(item)
            else:
                checksums.append((len(item.data), zlib.crc32(item.data)))
                written.append(Record(item.key, item.extension, b"", item.label, item.attributes, item.split))
                yield item

    with ExitStack() as stack:
        file = stack.enter_context(write_atomically(out / _shard_name(shard)))
        write_tar(file, records(), job.description)
        file.flush()
        return _Filled(shard, file, written, checksums, skipped, stack.pop_all())


def _finish_shard(out: Path, filled: _Filled) -> None:
    """See that a shard reads back as what was written, give it its name, and then write its note."""
    path = out / _shard_name(filled.shard)
    with filled.closing:
        found = _read_back(Path(filled.file.name))
        if found.checksums != filled.checksums:
            raise OSError(errno.EIO, "what was written reads back as something else")
        entry = ShardEntry(path.name, len(filled.written), found.filesize, found.md5, found.sha256)
    rows = [
        _Row(record.key, record.extension, offset, *checksum, record.label, record.split, record.attributes.hex())
        for record, offset, checksum in zip(filled.written, found.offsets, filled.checksums, strict=True)
    ]
    with write_atomically(_note_path(out, filled.shard)) as file:
        file.write(seal({"entry": asdict(entry), "rows": rows, "skipped": filled.skipped}))


class _ReadBack(NamedTuple):
    """What a reader of tar files finds in a shard: of each image where it is, and its size and crc32."""

    offsets: list[int]
    checksums: list[tuple[int, int]]
    filesize: int
    md5: str
    sha256: str


def _read_back(path: Path) -> _ReadBack:
    data = path.read_bytes()
    view = memoryview(data)
    offsets, checksums = [], []
    at = 0
    while data[at : at + 1] not in (b"\0", b""):
        name, size = data[at : at + 100].rstrip(b"\0"), int(data[at + 124 : at + 135], 8)
        if data[at : at + 512] != _header(name, size):
            raise OSError(errno.EIO, "what was written reads back as something else")
        at += 512
        if not name.endswith((b".cls", b".json")):
            offsets.append(at)
            checksums.append((size, zlib.crc32(view[at : at + size])))
        at += size + -size % 512
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return _ReadBack(offsets, checksums, len(data), md5, hashlib.sha256(data).hexdigest())


def _read_source(
    source: Source, transform: Transform, encoding: str, shard_samples: int, shard: int
) -> Iterator[Record | Skipped]:
    """The items of one shard of a source."""
    start = shard * shard_samples
    for i in range(start, min(start + shard_samples, len(source))):
        try:
            record = _encode(source.sample(i), transform, encoding)
        except (ImageError, OSError) as error:
            yield Skipped(source.name(i), getattr(error, "strerror", None) or str(error))
        else:
            yield record


def _encode(sample: Sample, transform: Transform, encoding: str) -> Record:
    """Make what is stored out of what was found."""
    if not _KEY.fullmatch(sample.key):
        raise ImageError(f"readers of tar files would pass over a sample called {sample.key!r}: rename it")
    image = images.decode(sample.image, transform.white) if isinstance(sample.image, bytes) else sample.image
    pixels = images.apply(image, transform)  # for originals too: what is packed can be read
    if encoding == "raw":
        extension, data = "raw", pixels.tobytes()
    elif encoding == "jpeg":
        extension, data = "jpg", _save(pixels, "JPEG", quality=95, subsampling="4:4:4")
    elif encoding == "png":
        extension, data = "png", _save(pixels, "PNG")
    elif isinstance(sample.image, bytes):
        extension, data = _EXTENSIONS[images.sniff(sample.image[: images.HEAD]) or "PPM"], sample.image
    else:
        extension, data = "png", _save(sample.image, "PNG")
    attributes = b"" if sample.attributes is None else np.packbits(sample.attributes > 0).tobytes()
    return Record(sample.key, extension, data, sample.label, attributes, sample.split)


def _save(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(
        file, kind, **options
    )
    return file.getvalue()


def _choose_shard_samples(source: Source, transform: Transform, encoding: str) -> int:
    """A power of two from the source alone, so that every machine cuts a source into the same shards."""
    sizes = [transform.size**2 * transform.channels]
    for i in sorted({part * len(source) // 16 for part in range(16)}):
        with suppress(ImageError, OSError):
            sizes.append(len(_encode(source.sample(i), transform, encoding).data))
    fit = SHARD_BYTES * len(sizes) // sum(sizes)
    enough = max(256, len(source) // 16)  # a small set is still cut into pieces for many processes
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


def _finished_shards(out: Path, job: Job) -> dict[int, dict[str, Any]]:
    """The notes of the shards that are whole."""

    def check(shard: int) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            note, path = _read_note(out, shard), out / _shard_name(shard)
            if file_digests(path, "sha256") == [note["entry"]["sha256"]]:
                return note
        return None

    with ThreadPoolExecutor() as pool:
        found = pool.map(check, range(job.shards))
        return {shard: note for shard, note in enumerate(found) if note is not None}


def _finish(job: Job, out: Path, notes: Sequence[dict[str, Any]]) -> PackReport:
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
    return columns | {"attributes": packed.reshape(len(rows), (len(description.attribute_names) + 7) // 8)}


def _write_shards(job: Job, out: Path, shards: Sequence[int], workers: int, report: Callable[[int], None]) -> None:
    """Write some shards here and, where there are more to share out, in other processes as well.

    Args:
        job: What is written.
        out: The set's folder.
        shards: Which.
        workers: Processes at most, this one among them.
        report: Called in this thread with the number of items done.
    """
    others = min(workers, len(shards)) - 1
    if others < 1:
        done = itertools.count(1)
        _write_one_by_one(job, out, shards, lambda: report(next(done)))
        return
    context = worker_context()
    shared = _Shared(context.Value("q", 0), context.Value("q", 0), context.Event())
    began = time.monotonic()
    running: list[Future[None]] = []

    def look() -> None:
        for future in running:
            if future.done():
                future.result()
        done = shared.done.value
        report(done)
        remaining = job.samples * len(shards) / job.shards - done
        if not running and remaining * (time.monotonic() - began) >= WORTH_STARTING_S * done:
            running.extend(pool.submit(_Worker.run) for _ in range(others))

    with ProcessPoolExecutor(others, context, _Worker.start, (job, out, shards, shared)) as pool:
        try:
            # This process begins, and sees whether the others are worth it; while they start it goes on.
            ticker = _Ticker(shared, look)
            _write_one_by_one(job, out, shared.take(shards), ticker.tick)
            ticker.tell()
            while not all(future.done() for future in running):
                wait(running, timeout=LOOK_EVERY_S, return_when=FIRST_EXCEPTION)
                look()
        except BaseException:
            shared.stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _write_one_by_one(job: Job, out: Path, shards: Iterable[int], tick: Callable[[], None]) -> None:
    """Write shards in this process. While one is read back, hashed and brought to disk the next is being filled."""
    with ThreadPoolExecutor(1) as background:
        finishing: Future[None] | None = None
        for shard in shards:
            filled = _fill_shard(job, out, shard, tick)
            try:
                if finishing is not None:
                    finishing.result()
            except BaseException:
                filled.closing.__exit__(*sys.exc_info())
                raise
            finishing = background.submit(_finish_shard, out, filled)
        if finishing is not None:
            finishing.result()


WORTH_STARTING_S = 2.0
"""Seconds of work for one process, from which on others are started; that takes most of a second each."""
LOOK_EVERY_S = 0.1
"""How often a process tells the others how far it is, and hears whether to stop."""


@dataclass(frozen=True)
class _Shared:
    """What processes that write shards of one set have in common.

    Attributes:
        taken: How many shards somebody has begun with.
        done: Items done.
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


class _Ticker:
    """Counts items, and tells of them now and then: what processes share costs more than a small image.

    Args:
        shared: Where it is told.
        look: Called when it is.
    """

    def __init__(self, shared: _Shared, look: Callable[[], None] | None = None) -> None:
        self._shared, self._look = shared, look
        self._untold = 0
        self._next = time.monotonic() + LOOK_EVERY_S

    def tick(self) -> None:
        """Count one item.

        Raises:
            InterruptedError: All should stop.
        """
        self._untold += 1
        if time.monotonic() >= self._next:
            self.tell()

    def tell(self) -> None:
        """Tell of what is untold. Raises what tick does."""
        if self._shared.stop.is_set():
            raise InterruptedError("packing was stopped")
        with self._shared.done.get_lock():
            self._shared.done.value += self._untold
        self._untold = 0
        self._next = time.monotonic() + LOOK_EVERY_S
        if self._look is not None:
            self._look()


class _Worker:
    """What a process of the pool keeps: the job comes once, not with every shard."""

    job: ClassVar[Job]
    out: ClassVar[Path]
    shards: ClassVar[Sequence[int]]
    shared: ClassVar[_Shared]

    @classmethod
    def start(cls, job: Job, out: Path, shards: Sequence[int], shared: _Shared) -> None:
        cls.job, cls.out, cls.shards, cls.shared = job, out, shards, shared
        follow_parent()

    @classmethod
    def run(cls) -> None:
        ticker = _Ticker(cls.shared)
        _write_one_by_one(cls.job, cls.out, cls.shared.take(cls.shards), ticker.tick)
        ticker.tell()


def _shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def _note_path(out: Path, shard: int) -> Path:
    return out / UNFINISHED / f"shard-{shard:06d}.json"


def _read_note(out: Path, shard: int) -> dict[str, Any]:
    return unseal(_note_path(out, shard).read_bytes())
