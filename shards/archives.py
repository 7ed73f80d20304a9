"""Zips and tars, plain or compressed: which files are in them, and their bytes. Nothing is unpacked to disk.

Names are only ever looked up, never opened as paths: an archive's "../../etc/passwd" is a name like any other, and left
out.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shlex
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from shards.errors import InputError
from shards.images import ImageError

MAX_FILE_BYTES = 256 * 2**20
"""A larger image file is refused unread."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
JUNK = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems leave among one's files; some hold pictures of their own, none that anybody took."""
ARCHIVE_HEAD = 262
"""So many bytes of a file tell which archive it is."""
Open = Callable[[], BinaryIO]
"""Opens an archive's bytes; can be pickled."""
_ZIP_END = 20 + 22 + 0xFFFF
"""The most bytes that what ends a zip may have: two records and a comment."""
_TWICE = "of a name that comes once more"
GOES_ON = (
    "goes on after the end of a tar: it is damaged, or several tars in one file. Fetch it again, or unpack it with "
    "tar --ignore-zeros and give the folder"
)
"""What is wrong with a tar that readers would read but the beginning of."""
# What broken or hostile archives make their readers raise.
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    OverflowError,
    NotImplementedError,
    struct.error,
)


def open_archive(path: Path, opening: Open) -> Zip | Tar | None:
    """The archive that ``opening`` opens, decided by its bytes and not by its name; None where it is none.

    Raises:
        InputError: It is broken or cut off.
        OSError: It cannot be read.
    """
    with opening() as file:
        head = file.read(ARCHIVE_HEAD)
    name = path.name.lower()
    kind = archive_kind(head)
    if kind == "zip" or (kind is None and name.endswith(".zip")):
        return Zip(path, opening)
    if kind is not None or name.endswith(".tar"):
        return _tar(path, opening, (kind or "tar")[len("tar.") :])
    if name.endswith(ARCHIVES):
        raise InputError(f"{path} is not a whole archive (it begins with {head[:4]!r}): fetch it again")
    return None


def archive_kind(head: bytes) -> str | None:
    """The container that a file of this beginning is, as far as ARCHIVE_HEAD bytes tell; None where it is none."""
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    for kind, (magic, _) in _COMPRESSIONS.items():
        if head.startswith(magic):
            return f"tar.{kind}"
    return "tar" if head[257:262] == b"ustar" else None


def is_archive_name(name: str) -> bool:
    """Whether a file of this name is taken for an archive among other files."""
    return name.lower().endswith(ARCHIVES)


class _Archive:
    """What zip and tar have in common: one open file a process, and one thread at a time in it.

    Attributes:
        opening: Opens the archive's own bytes.
    """

    def __init__(self, path: Path, opening: Open) -> None:
        self.path = path
        self.opening = opening
        self._opened: Any = None
        self._process = 0
        self._lock = threading.RLock()
        self.left_out: Counter[str] = Counter()
        self.notes: list[str] = []
        self.files: Mapping[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_lock": None, "files": {}, "left_out": Counter()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def _open(self) -> Any:
        """What is read from. Once a process: a forked one would share the file's position with its parent."""
        if self._opened is None or self._process != os.getpid():
            self._opened, self._process = self._begin(), os.getpid()
        return self._opened

    def _begin(self) -> Any:
        raise NotImplementedError

    def _take(self, name: str, count: int) -> bytes:
        raise NotImplementedError

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        return bounded(self.head(name, most + 1), most)

    def head(self, name: str, count: int) -> bytes:
        try:
            with self._lock:
                return self._take(name, count)
        except (OSError, InputError, KeyError, RuntimeError, *_BROKEN) as error:  # RuntimeError: a password is needed
            raise ImageError(f"cannot be read from {self.path.name}: {error}") from error

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def close(self) -> None:
        with self._lock:
            self._opened = None

    def _keep(self, name: str) -> str | None:
        """The name that a member gets here, or None where it is left out."""
        parts = _parts(name)
        junk = next((part for part in parts if part in JUNK), None)
        if junk:
            self.left_out[f"in {junk}"] += 1
        elif ".." in parts:
            self.left_out["with a name that leads out of the archive"] += 1
        elif any(part.startswith(".") for part in parts):
            self.left_out["hidden"] += 1
        else:
            return "/".join(parts)
        return None


class Zip(_Archive):
    """The files of a zip.

    Raises:
        InputError: It is no whole zip, or one piece of it.
    """

    container = "zip"

    def __init__(self, path: Path, opening: Open) -> None:
        super().__init__(path, opening)
        if _is_last_of_several(opening):
            raise InputError(f"{path} is one piece of several: join them ({join_zip(str(path))})")
        found: dict[str, zipfile.ZipInfo] = {}
        unknown: list[str] = []
        members = self._open().infolist()
        if members and min(member.header_offset for member in members) > 0 and _begins_with_a_file(opening):
            raise InputError(
                f"{path} begins with files that the list at its end does not have: it is damaged, or several zips in "
                "one file. Fetch them again, each as a file of its own"
            )
        for member in members:
            mode = member.external_attr >> 16
            if member.is_dir():
                continue
            written, known = _zip_name(member)
            name = self._keep(written)
            if name is None:
                continue
            if stat.S_ISLNK(mode):
                self.left_out["links"] += 1
            elif member.flag_bits & 1:
                self.left_out["encrypted"] += 1
            else:
                self.left_out[_TWICE] += name in found
                found[name] = member
                unknown += [] if known else [name]
        self.left_out = +self.left_out
        if unknown:
            self.notes.append(
                f"{path.name} does not say how {len(unknown):,} of its names are encoded; they are read as DOS's, such "
                f"as {unknown[0]}. Where that is wrong, unpack it (unzip -O GBK, or CP932) and give the folder"
            )
        self.files = {name: found[name].file_size for name in sorted(found)}
        self._members = {name: member.filename for name, member in found.items() if name != member.filename}

    def _begin(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.opening())
        except (*_BROKEN, OSError) as error:
            raise InputError(f"{self.path} is not a whole zip file ({error}): fetch it again") from error

    def _take(self, name: str, count: int) -> bytes:
        with self._open().open(self._members.get(name, name)) as member:
            data: bytes = member.read(count)
            return data

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in."""
        # A handle of its own, as an archive in the archive is read at any place while this one goes on.
        return cast(BinaryIO, self._begin().open(self._members.get(name, name)))


_COMPRESSIONS: dict[str, tuple[bytes, Callable[[BinaryIO], BinaryIO]]] = {
    "gz": (b"\x1f\x8b", lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file))),
    "bz2": (b"BZh", lambda file: cast(BinaryIO, bz2.BZ2File(file))),
    "xz": (b"\xfd7zXZ\0", lambda file: cast(BinaryIO, lzma.LZMAFile(file))),  # noqa: SIM115
}


class Tar(_Archive):
    """The files of a tar. In a compressed one they stay in the order of the archive, as going back costs all before.

    Raises:
        InputError: It is no whole tar.
    """

    def __init__(self, path: Path, opening: Open, compression: str, members: Iterable[tarfile.TarInfo]) -> None:
        super().__init__(path, opening)
        self.container = f"tar.{compression}" if compression else "tar"
        self._compression = compression
        found: dict[str, tuple[int, int]] = {}
        for member in members:
            if member.isdir():
                continue
            name = self._keep(member.name)
            if name is None:
                continue
            target = found.get("/".join(_parts(member.linkname))) if member.islnk() else None
            if member.issym() or (member.islnk() and target is None):
                self.left_out["links"] += 1
            elif target is None and (not member.isfile() or member.issparse()):
                self.left_out["neither files nor folders"] += 1
            else:
                self.left_out[_TWICE] += name in found
                found.pop(name, None)  # a tar may hold a name twice: the last one counts, at its place
                found[name] = target or (member.offset_data, member.size)
        self.left_out = +self.left_out
        names = found if compression else sorted(found)
        self._places = {name: found[name] for name in names}
        self.files = {name: size for name, (_, size) in self._places.items()}

    def _begin(self) -> BinaryIO:
        return decompressed(self.opening(), self._compression)

    def _take(self, name: str, count: int) -> bytes:
        offset, size = self._places[name]
        file = self._open()
        try:
            file.seek(offset)
            data: bytes = file.read(min(count, size))
        except BaseException:
            self._opened = None  # a decompressor that failed does not go on
            raise
        if len(data) < min(count, size):
            raise EOFError("it ends too early")
        return data

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in."""
        if self._compression:  # going back there costs all before
            return super().open(name)
        return cast(BinaryIO, io.BufferedReader(_Window(self.opening(), *self._places[name])))


class _Window(io.RawIOBase):
    """Some of a file's bytes, as a file: from ``start`` on, ``size`` of them."""

    def __init__(self, file: Any, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        count: int = self._file.readinto(memoryview(buffer)[: max(self._size - self._at, 0)])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def without_suffix(name: str) -> str:
    """An archive's name without what says that it is one: "pets" for "pets.tar.gz"."""
    if not is_archive_name(name):
        return name
    ending = max((ending for ending in ARCHIVES if name.lower().endswith(ending)), key=len)
    return name[: len(name) - len(ending)]


def join_zip(name: str) -> str:
    """The command that joins the pieces of a zip, x.z01 and so on, of which the last one is called x.zip."""
    return f"zip -s 0 {shlex.quote(name)} --out whole.zip"


def _is_last_of_several(opening: Open) -> bool:
    """Whether the record that ends a zip, or the one before it of a large zip, counts several pieces."""
    with opening() as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - _ZIP_END, 0))
        tail = file.read(_ZIP_END)
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        return False
    number, large = int.from_bytes(tail[end + 4 : end + 6], "little"), tail[max(end - 20, 0) : end]
    return 0 < number < 0xFFFF or (large[:4] == b"PK\6\7" and int.from_bytes(large[16:], "little") > 1)


def _begins_with_a_file(opening: Open) -> bool:
    """Whether a zip begins with one of its files, and not with a program that unpacks it."""
    with opening() as file:
        return file.read(4) == b"PK\3\4"


def _tar(path: Path, opening: Open, compression: str) -> Tar | None:
    """The tar, or None where a compressed file holds something else."""
    try:
        with decompressed(opening(), compression) as file:
            try:
                archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
            except tarfile.ReadError as error:
                file.seek(0)
                if compression and not is_archive_name(path.name) and file.read(512)[257:262] != b"ustar":
                    return None
                raise InputError(f"{path} is not a whole tar file ({error}): fetch it again") from error
            with archive:
                members = archive.getmembers()
                # A cut or damaged tar ends its listing early without any error; a whole one with zeros to its end,
                # where a decompressor compares checksums.
                file.seek(archive.offset)
                if file.read(512) != bytes(512):
                    raise EOFError(f"it breaks off after {len(members):,} entries")
                if not only_zeros(file):
                    raise InputError(f"{path} {GOES_ON}")
    except InputError:
        raise
    except (OSError, *_BROKEN) as error:
        kind = f"tar.{compression}" if compression else "tar"
        raise InputError(f"{path} is not a whole {kind} file ({error}): fetch it again") from error
    return Tar(path, opening, compression, members)


def decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    """What a file holds that is compressed: "gz", "bz2", "xz", or "" where it is not."""
    return _COMPRESSIONS[compression][1](file) if compression else file


def only_zeros(file: BinaryIO) -> bool:
    """Whether all the rest of a file is zeros; it is read to its end, or to the first other byte."""
    while data := file.read(1 << 20):
        if data.strip(b"\0"):
            return False
    return True


def _zip_name(member: zipfile.ZipInfo) -> tuple[str, bool]:
    """A member's name, and whether its letters are known.

    zipfile reads what is not marked as UTF-8 as DOS's letters; macOS writes UTF-8 unmarked, and others their own.
    """
    if member.flag_bits & 0x800 or member.filename.isascii():
        return member.filename, True
    try:
        return member.filename.encode("cp437").decode("utf-8"), True
    except UnicodeError:
        return member.filename, False


def _parts(name: str) -> list[str]:
    """The folders and the file that a member's name speaks of; Windows divides them by a backslash."""
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def bounded(data: bytes, most: int) -> bytes:
    """The bytes of a file, where there are not too many.

    Raises:
        ImageError: There are.
    """
    if len(data) > most:
        raise ImageError(f"larger than {most // 2**20} MiB")
    return data
