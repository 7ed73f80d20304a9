"""What holds files: a folder, a zip or a tar, plain or compressed, or one within another. Nothing is unpacked to disk.

A layout sees a tree of names and sizes and reads bytes from it, and never learns what they lie in. Names are only ever
looked up, never opened as paths: an archive's "../../etc/passwd" is a name like any other, and left out.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from shards.errors import InputError
from shards.images import ImageError

MAX_FILE_BYTES = 256 * 2**20
"""A larger image file is refused unread."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
JUNK = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems leave among one's files; some hold pictures of their own, none that anybody took."""
OPEN = 8
"""Archives in an archive or a folder that stay open."""
ARCHIVE_HEAD = 262
"""So many bytes of a file tell which archive it is."""

Open = Callable[[], BinaryIO]
"""Opens an archive's bytes; can be pickled."""

_TWICE = "of a name that comes once more"

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


class Tree(Protocol):
    """Files by name.

    Attributes:
        path: Where it lies on this machine, for messages; what lies in an archive has the archive's path before it.
        container: "folder", "zip", "tar", "tar.gz", "tar.bz2" or "tar.xz".
        files: Sizes in bytes by name; names are relative, with "/". The order is the one that is read fastest, and the
            same on every machine.
        left_out: How many entries are no files to look at, by the reason.
        notes: What else should be said of it, in sentences.
    """

    path: Path
    container: str
    files: Mapping[str, int]
    left_out: Counter[str]
    notes: list[str]

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """A file's bytes.

        Raises:
            OSError, ImageError: It cannot be read, is no regular file, or is larger than ``most``.
        """
        ...

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file, ``count`` of them where there are so many. Raises what read does."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in. Raises what read does."""
        ...

    def close(self) -> None:
        """Let go of what is open; reading opens it again."""
        ...


def open_tree(path: Path) -> Tree | None:
    """The folder or the archive at a path, or None where there is another kind of file.

    Raises:
        InputError: An archive that is broken or cut off.
        OSError: It cannot be read.
    """
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        return None
    return open_archive(path, partial(_open_file, path))


def open_archive(path: Path, opening: Open) -> Tree | None:
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


def open_inside(tree: Tree, names: Iterable[str]) -> dict[str, Tree]:
    """Those of some files of a tree that are archives, opened.

    Raises:
        InputError: One is broken or cut off.
        OSError: One cannot be read.
    """
    opened = {}
    for name in names:
        try:
            inner = open_archive(tree.path / name, partial(tree.open, name))
        except ImageError as error:
            raise InputError(f"{tree.path / name} {error}: unpack it, and give the folder") from error
        if inner is not None:
            inner.close()  # there may be more of them than files that a process may have open
            opened[name] = inner
    return opened


def _open_file(path: Path) -> BinaryIO:
    return path.open("rb")


def is_archive_name(name: str) -> bool:
    """Whether a file of this name is taken for an archive among other files."""
    return name.lower().endswith(ARCHIVES)


class Folder:
    """The files below a folder. A link to a folder is followed where nothing else leads there.

    So a folder has its own name and not that of a link to it, whatever their order; the same for files.

    Args:
        root: The folder.
        flat: Leave the folders in it out.

    Raises:
        InputError: It is a cache of the Hugging Face hub that holds several revisions.
        OSError: A folder in it cannot be read.
    """

    container = "folder"

    def __init__(self, root: Path, *, flat: bool = False) -> None:
        self.path = root
        self._root = str(root)
        self.notes: list[str] = []
        self.left_out: Counter[str] = Counter()
        self.files: Mapping[str, int] = dict(sorted(self._list(flat).items()))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files": {}, "left_out": Counter()}  # other processes only read

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """A file's bytes."""
        data = self._read(name, most + 1)
        return _bounded(data, most)

    def head(self, name: str, count: int) -> bytes:
        """A file's first bytes."""
        return self._read(name, count)

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in."""
        return open(os.path.join(self._root, name), "rb")  # noqa: PTH118, PTH123  (the caller closes it)

    def close(self) -> None:
        """Nothing stays open."""

    def _read(self, name: str, most: int) -> bytes:
        # Opening a pipe would wait for ever without O_NONBLOCK. Plain calls: this is done for every image.
        file = os.open(os.path.join(self._root, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # noqa: PTH118
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            data = os.read(file, min(most, status.st_size + 1))
            while len(data) < min(most, status.st_size):  # a network file system may give less than it was asked for
                more = os.read(file, most - len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(file)

    def _list(self, flat: bool) -> dict[str, int]:
        files: dict[str, int] = {}
        folders, file_links = [("", self._root)], []
        folder_links: list[tuple[str, str]] = []
        seen: set[tuple[int, int]] = set()
        own: set[tuple[int, int]] = set()
        top = os.stat(self._root)  # noqa: PTH116
        above = {_place(os.stat(parent)) for parent in Path(self._root).resolve().parents}  # noqa: PTH116
        seen.add(_place(top))
        while folders or folder_links:
            if not folders:  # links wait until all real folders are known
                prefix, path = folder_links.pop(0)
                place = _place(os.stat(path))  # noqa: PTH116
                if place in seen or place in above:
                    self.left_out[f"link to a folder that is here itself: {prefix[:-1]}"] += 1
                    continue
                seen.add(place)
                folders.append((prefix, path))
            prefix, path = folders.pop()
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            cached = {"blobs", "snapshots"} <= {entry.name for entry in entries} and _is_hub_cache(path)
            for entry in entries:
                name = prefix + entry.name
                if entry.name in JUNK:
                    self.left_out[f"in {entry.name}"] += _count(entry.path)
                elif entry.name.startswith("."):
                    self.left_out["hidden"] += _count(entry.path) if _is_folder(entry) else 1
                elif cached and entry.name == "blobs":
                    continue  # what the links in snapshots lead to
                elif flat and _is_folder(entry):
                    continue
                elif entry.is_symlink():
                    if _is_folder(entry):
                        folder_links.append((name + "/", entry.path))
                    else:
                        file_links.append((name, entry))
                elif entry.is_dir():
                    place = _place(entry.stat())
                    if place not in seen:
                        seen.add(place)
                        folders.append((name + "/", entry.path))
                else:
                    status = entry.stat()
                    own.add(_place(status))
                    files[name] = status.st_size
        for name, entry in file_links:
            try:
                status = entry.stat()
            except OSError:  # a broken link is listed, and fails when it is read
                files[name] = -1
                continue
            if _place(status) in own:
                self.left_out["link to a file that is here itself"] += 1
            else:
                own.add(_place(status))
                files[name] = status.st_size
        self.left_out = +self.left_out  # without the folders that were empty
        return files


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
        return _bounded(self.head(name, most + 1), most)

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
        InputError: It is no whole zip.
    """

    container = "zip"

    def __init__(self, path: Path, opening: Open) -> None:
        super().__init__(path, opening)
        found: dict[str, zipfile.ZipInfo] = {}
        unknown: list[str] = []
        for member in self._open().infolist():
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
        return _decompressed(self.opening(), self._compression)

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


class Mounted:
    """A tree in which some archives are folders.

    Args:
        tree: The tree.
        archives: Archives in it, by their names.
        shut: Archives in it that are left out, and the reason.

    Raises:
        InputError: Two archives would become the same folder.
    """

    def __init__(self, tree: Tree, archives: Mapping[str, Tree], *, shut: Mapping[str, str] | None = None) -> None:
        self.path = tree.path
        self.container = tree.container
        self.notes = [*tree.notes, *(note for inner in archives.values() for note in inner.notes)]
        self._tree = tree
        self._inner: dict[str, Tree] = {}
        self._recent: list[Tree] = []
        shut = shut or {}
        self.left_out = tree.left_out + Counter(shut.values())
        files = {name: size for name, size in tree.files.items() if name not in archives and name not in shut}
        for name, inner in archives.items():
            place = without_suffix(name) + "/"
            if place in self._inner:
                raise InputError(f"{tree.path} holds several archives called {place[:-1]}: move all but one away")
            self._inner[place] = inner
            self.left_out += inner.left_out
            files |= {place + path: size for path, size in inner.files.items()}
            if inner.container not in self.container:
                self.container += f" with {inner.container}"
        self.files: Mapping[str, int] = files

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files": {}, "left_out": Counter(), "_recent": []}

    def _find(self, name: str) -> tuple[Tree, str]:
        end = name.find("/") + 1
        while end:
            if inner := self._inner.get(name[:end]):
                return self._used(inner), name[end:]
            end = name.find("/", end) + 1
        return self._tree, name

    def _used(self, inner: Tree) -> Tree:
        """An archive, of which only the last few stay open."""
        if inner not in self._recent:
            self._recent.append(inner)
            if len(self._recent) > OPEN:
                self._recent.pop(0).close()
        return inner

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """A file's bytes."""
        tree, name = self._find(name)
        return tree.read(name, most)

    def head(self, name: str, count: int) -> bytes:
        """A file's first bytes."""
        tree, name = self._find(name)
        return tree.head(name, count)

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in."""
        tree, name = self._find(name)
        return tree.open(name)

    def close(self) -> None:
        """Let go of what is open."""
        while self._recent:
            self._recent.pop().close()
        self._tree.close()


class Excluding:
    """A tree without some of its files, which are counted as excluded.

    Args:
        tree: The tree.
        patterns: As a shell's, with * ? and [ ]; without "/" they are of a folder or a file anywhere, else of a path
            from the top, also with a "/" before it. A folder stands for all in it.

    Attributes:
        matched: The patterns of something that is there.
    """

    def __init__(self, tree: Tree, patterns: Sequence[str]) -> None:
        self._tree = tree
        self.path, self.container, self.notes = tree.path, tree.container, tree.notes
        self.matched: set[str] = set()
        files: dict[str, int] = {}
        for name, size in tree.files.items():
            path = name.split("/")
            found = {pattern for pattern in patterns if _excludes(pattern, path)}
            self.matched |= found
            if not found:
                files[name] = size
        self.files: Mapping[str, int] = files
        self.left_out = tree.left_out + Counter(excluded=len(tree.files) - len(files))

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """A file's bytes, as Tree has it."""
        return self._tree.read(name, most)

    def head(self, name: str, count: int) -> bytes:
        """A file's first bytes, as Tree has it."""
        return self._tree.head(name, count)

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in, as Tree has it."""
        return self._tree.open(name)

    def close(self) -> None:
        """Let go of what is open."""
        self._tree.close()


def _excludes(pattern: str, path: Sequence[str]) -> bool:
    """Whether a pattern excludes what has this path, or a folder on the way to it."""
    parts = pattern.strip("/").split("/")
    if "/" not in pattern.rstrip("/"):
        return any(_is_called(part, parts[0]) for part in path)
    return len(path) >= len(parts) and all(map(_is_called, path, parts))


def _is_called(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def without_suffix(name: str) -> str:
    """An archive's name without what says that it is one: "pets" for "pets.tar.gz"."""
    ending = max((ending for ending in ARCHIVES if name.lower().endswith(ending)), key=len, default="")
    return name[: len(name) - len(ending)]


def _tar(path: Path, opening: Open, compression: str) -> Tar | None:
    """The tar, or None where a compressed file holds something else."""
    try:
        with _decompressed(opening(), compression) as file:
            try:
                archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
            except tarfile.ReadError as error:
                file.seek(0)
                if compression and not is_archive_name(path.name) and file.read(512)[257:262] != b"ustar":
                    return None
                raise InputError(f"{path} is not a whole tar file ({error}): fetch it again") from error
            with archive:
                members = archive.getmembers()
                # A cut or damaged tar ends its listing early without any error; a whole one with a block of zeros.
                file.seek(archive.offset)
                if file.read(512) != bytes(512):
                    raise EOFError(f"it breaks off after {len(members):,} entries")
                while compression and file.read(1 << 20):
                    pass  # at its end a decompressor compares checksums
    except InputError:
        raise
    except (OSError, *_BROKEN) as error:
        kind = f"tar.{compression}" if compression else "tar"
        raise InputError(f"{path} is not a whole {kind} file ({error}): fetch it again") from error
    return Tar(path, opening, compression, members)


def _decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    return _COMPRESSIONS[compression][1](file) if compression else file


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


def _bounded(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise ImageError(f"larger than {most // 2**20} MiB")
    return data


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: listed like a broken one
        return False


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_hub_cache(path: str) -> bool:
    """Whether a folder is a data set in the Hugging Face hub's cache: revisions that are made of links into blobs.

    Raises:
        InputError: It is, and holds several revisions, of which most pictures are the same.
    """
    snapshots = Path(path, "snapshots")
    revisions = sorted(each.name for each in snapshots.iterdir()) if snapshots.is_dir() else []
    if not revisions or not all(re.fullmatch(r"[0-9a-f]{40}", name) for name in revisions):
        return False
    if len(revisions) > 1:
        listed = "".join(f"\n  {snapshots / name}" for name in revisions)
        raise InputError(f"{path} holds {len(revisions)} revisions of a data set: give the folder of one{listed}")
    return True


def _count(path: str) -> int:
    """Files below a folder."""
    return sum(len(files) for _, _, files in os.walk(path))
