"""What holds files: a folder, an archive, or one within another.

A layout sees a tree of names and sizes and reads bytes from it, and never learns what they lie in.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from shards.archives import JUNK, MAX_FILE_BYTES, bounded, open_archive, without_suffix
from shards.errors import InputError
from shards.images import ImageError

OPEN = 8
"""Archives in an archive or a folder that stay open."""


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


def open_inside(tree: Tree, names: Iterable[str]) -> dict[str, Tree]:
    """Those of some files of a tree that are archives, opened.

    Raises:
        InputError: One is broken or cut off.
        OSError: One cannot be read.
    """
    opened: dict[str, Tree] = {}
    for name in names:
        try:
            inner = open_archive(tree.path / name, partial(tree.open, name))
        except ImageError as error:
            raise InputError(f"{tree.path / name} {error}: unpack it, and give the folder") from error
        if inner is not None:
            inner.close()  # there may be more of them than files that a process may have open
            opened[name] = inner
    return opened


def folders_of(names: Iterable[str]) -> set[str]:
    """The folders that some files are in, and those that these are in."""
    found: set[str] = set()
    for name in names:
        folder = name.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def below(names: Sequence[str], sub: str) -> list[str]:
    """Those of some files that are in a folder or an archive called so, or are it; else those whose names begin so."""
    inside = [name for name in names if name.startswith(f"{sub}/") or sub in (name, without_suffix(name))]
    return inside or [name for name in names if name.startswith(sub)]


def _open_file(path: Path) -> BinaryIO:
    return path.open("rb")


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
        return bounded(data, most)

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
