"""Class folders (CLASS/…/image.jpg), or one flat folder of images."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.errors import InputError
from shards.images import ImageError, header_channels
from shards.sources import (
    LayoutError,
    Sample,
    displayed,
    file_size,
    is_image_name,
    listing_identity,
    read_image_file,
    sample_keys,
)

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
HEADERS_AT_ONCE = 1024


class FolderSource:
    """Images below a folder; the first-level folder an image is in is its class.

    Where the folder holds nothing but one folder of folders (dataset/train/CLASS/…), that one is taken instead. Links
    to folders are followed, each folder once.

    Raises:
        LayoutError: No image is there.
        InputError: Images both with and without a class, or several splits (train, test), of which one has to be named.
    """

    layout: str = "folder"

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise LayoutError(f"folder: {path} is not a folder of images")
        self.root = _descend(path)
        self.names = _list_images(self.root)
        if not self.names:
            raise LayoutError(f"folder: no image in {path} or the folders below it")
        loose = [name for name in self.names if "/" not in name]
        if loose and len(loose) < len(self.names):
            raise InputError(
                f"{self.root} holds class folders and also images that are in none, such as {displayed(loose[0])}: "
                "move those into a class folder or away"
            )
        folders = [] if loose else [name.split("/", 1)[0] for name in self.names]
        classes = sorted(set(folders))
        if len(classes) > 1 and SPLITS.issuperset(name.lower() for name in classes):
            example = next((name for name in classes if name.lower().startswith("train")), classes[0])
            raise InputError(f"{self.root} holds several sets ({', '.join(classes)}): give one, {self.root / example}")
        index = {name: i for i, name in enumerate(classes)}
        self.attribute_names: tuple[str, ...] = ()
        self.class_names = tuple(displayed(name) for name in classes)
        self.labels = [index[name] for name in folders] or [-1] * len(self.names)
        self.keys = sample_keys(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The image's path relative to the folder of classes."""
        return displayed(self.names[i])

    def sample(self, i: int) -> Sample:
        """Read sample i: the file's bytes.

        Raises:
            OSError, ImageError: The file cannot be read.
        """
        return Sample(self.keys[i], read_image_file(self.root / self.names[i]), self.labels[i], None)

    def channels(self) -> int:
        """1 where every image whose header can be read is grey, else 3."""
        found: set[int | None] = set()
        with ThreadPoolExecutor() as pool:
            # In portions, as one colour image settles it: usually the first.
            for start in range(0, len(self.names), HEADERS_AT_ONCE):
                found.update(pool.map(self._channels, self.names[start : start + HEADERS_AT_ONCE]))
                if 3 in found:
                    return 3
        return 1 if 1 in found else 3

    def _channels(self, name: str) -> int | None:
        try:
            return header_channels(self.root / name)
        except (OSError, ImageError):
            return None

    def identity(self) -> str:
        """A sha256 (hex) over the files' names and sizes; the classes are in the names."""
        return listing_identity(self.layout, ((name, file_size(self.root / name)) for name in self.names), ())


def _descend(path: Path) -> Path:
    """The folder of classes: path, or the one it is only a wrapping of."""
    while True:
        folders, images = _contents(path)
        if images or len(folders) != 1 or folders[0].is_symlink():
            return path
        inner_folders, inner_images = _contents(folders[0])
        if inner_images or not inner_folders:
            return path
        path = folders[0]


def _contents(path: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the images directly in path."""
    entries = list(path.iterdir())
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return folders, [entry for entry in entries if is_image_name(entry.name) and not entry.is_dir()]


def _list_images(root: Path) -> list[str]:
    """Paths of all images below root, relative to it, with "/", in the order of their characters."""

    def fail(error: OSError) -> None:
        raise error  # else os.walk leaves an unreadable folder out in silence

    names = []
    seen = set()
    for folder, subfolders, files in os.walk(root, onerror=fail, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back to where we were, or to a folder listed already
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        names += [prefix + name for name in files if is_image_name(name)]
    return sorted(names)
