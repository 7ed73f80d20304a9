"""Folders of images: a folder a class, or a split, or no more than a bundle of files; or one flat folder.

What folders mean is decided in this order: what only wraps the rest, masks, editions of the same pictures, splits,
bundles, classes. What cannot be decided is refused, with the choices.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from shards import images
from shards.errors import InputError
from shards.images import ImageError
from shards.names import canonical_split
from shards.sources.base import SPLITS, Found, Listed, Wish, displayed
from shards.sources.pictures import PictureFiles, Pictures, evenly, look_at, stem
from shards.trees import Tree

LOOKS_FOR = "images in folders, or in one folder"
FEW = 6
"""So many pictures of a folder are decoded to see whether they are masks, or the same as others."""
PAIRED = 0.9
"""Two folders hold the same things twice where this share of the smaller one's files have a namesake in the other."""
MOST_COMPARED = 50
"""Of more folders side by side nobody keeps editions of the same pictures."""
FLAT = 0.9
"""A picture of which a few colours cover this share is no photograph."""
FLAT_COLOURS = 24

_SAYS_NOTHING = re.compile(
    r"(the[_ -]?)?(images?|imgs?|pics?|pictures?|photos?|jpe?gs?|pngs?|data|dataset|all|files)\d*", re.I
)
"""A folder of this name that stands alone is no class."""
_EDITION = re.compile(
    r"\d+ ?x ?\d+|\d+ ?px|thumb|resiz|small|large|low|high|orig|raw|align|crop|full|wild|hq|^[hl]r$|"
    r"^(images?|imgs?|pics?|pictures?|photos?|jpe?gs?|pngs?|webp)\d*$|^(32|64|128|256|512|1024|2048)$",
    re.I,
)
"""Names of folders that hold pictures in some size or format."""
_MASK = re.compile(r"mask|trimap|segment|annot|(^|[^a-z])(anno|seg|gt|labels?|parsing|ground.?truth)($|[^a-z])", re.I)
"""Names of folders that hold pictures about pictures."""

_MASK_FILE = re.compile(r"(.+)([-_ .](?:mask|seg|segmentation|trimap|labels?|gt|parsing|matte|alpha))", re.I)
"""Names of pictures about the picture that has the rest of the name."""


def find(tree: Tree, pictures: Pictures, wish: Wish, *, beside: bool = False) -> list[Found]:
    """The images of a tree as one data set, if there are any.

    Args:
        tree: The tree.
        pictures: The images in it to speak of.
        wish: What the user said.
        beside: Whether there is another data set in the tree, so that these may be no more than masks of its images.

    Raises:
        InputError: What the folders mean cannot be decided; the message has the choices.
    """
    arranged = Arrangement(tree, pictures.names)
    if pictures.names:
        arranged.decide(wish.classes, beside=beside)
    if not arranged.names:
        return []
    classes = arranged.class_names
    what = f"{len(arranged.names):,} images" + (f" in {len(classes)} classes" if classes else "")
    build = partial(_build, tree, arranged, pictures)
    return [Found("folder", arranged.place or wish.sub, what, frozenset(arranged.names), build)]


def _build(tree: Tree, arranged: Arrangement, pictures: Pictures, left_out: Mapping[str, int]) -> Listed:
    index = {name: i for i, name in enumerate(arranged.class_names)}
    return PictureFiles(
        tree,
        "folder",
        arranged.names,
        place=arranged.place,
        labels=[index[path[0]] if path else -1 for path in arranged.folders],
        splits=[-1 if split is None else SPLITS.index(split) for split in arranged.splits],
        class_names=arranged.class_names,
        left_out=Counter(left_out) + pictures.left_out + arranged.left_out,
        notes=arranged.notes,
    )


class Arrangement:
    """Images, and what the folders they are in mean.

    Attributes:
        names: The images.
        folders: Of each image, the folders it is in that have no other meaning; the first is its class.
        splits: Of each image, "train", "val", "test" or None.
        wrappers: Folders around all of them.
        left_out: Images that were taken out, by reason.
        notes: What was decided, in sentences.
    """

    def __init__(self, tree: Tree, names: Sequence[str]) -> None:
        self._tree = tree
        self.names = list(names)
        self.folders = [tuple(name.split("/")[:-1]) for name in names]
        self.splits: list[str | None] = [None] * len(names)
        self.wrappers: list[str] = []
        self.left_out: Counter[str] = Counter()
        self.notes: list[str] = []

    @property
    def place(self) -> str:
        """The folder that all images are in."""
        return "/".join(self.wrappers)

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of their characters."""
        return tuple(sorted({path[0] for path in self.folders if path}))

    def decide(self, classes: bool | None, *, beside: bool = False) -> None:
        """Give the folders their meaning.

        Args:
            classes: Whether folders are classes; None finds out.
            beside: Whether there are other images, of which these may be masks.

        Raises:
            InputError: It cannot be found out.
        """
        self._leave_out_masks(beside)
        self._unwrap()
        if classes is None:
            self._refuse_editions()
            self._unwrap()
        self._take_splits()
        if classes is None:
            self._drop_bundles()
            self._refuse_crossed()
        if classes is False or (classes is None and self._says_nothing()):
            self.folders = [() for _ in self.names]
        self._refuse_loose(leave_out=classes is True)

    def _take_out(self, reasons: Mapping[int, str]) -> None:
        """Leave out some of the images, by their positions, each for a reason."""
        self.left_out += Counter(reasons.values())
        keep = [i for i in range(len(self.names)) if i not in reasons]
        self.names = [self.names[i] for i in keep]
        self.folders = [self.folders[i] for i in keep]
        self.splits = [self.splits[i] for i in keep]

    def _unwrap(self) -> None:
        """Drop what only wraps the rest. A wrapper called train, val or test says so of all that is in it."""
        while wrapper := _wrapper(self.folders):
            if split := canonical_split(wrapper):
                self.splits = [split] * len(self.names)
            self.folders = [path[1:] for path in self.folders]
            self.wrappers.append(wrapper)

    # ---- pictures that are not to be learnt from ----

    def _leave_out_masks(self, beside: bool) -> None:
        """Leave out what lies in a folder whose name speaks of masks and looks like them, unless it is all there is."""
        groups: dict[str, list[int]] = defaultdict(list)
        stems = {os.path.splitext(name)[0] for name in self.names}  # noqa: PTH122  (names)
        for i, path in enumerate(self.folders):
            depth = next((depth for depth, name in enumerate(path, 1) if _MASK.search(name)), None)
            beside_it = _MASK_FILE.fullmatch(os.path.splitext(self.names[i])[0])  # noqa: PTH122
            if depth:
                groups["/".join(path[:depth])].append(i)
            elif beside_it and beside_it[1] in stems:  # 1_mask.png beside 1.jpg
                groups[f"files called …{beside_it[2]}"].append(i)
        if not beside and sum(map(len, groups.values())) == len(self.names):
            return
        reasons = {
            i: f"masks in {place}"
            for place, members in groups.items()
            if _are_flat(self._tree, [self.names[i] for i in members])
            for i in members
        }
        self._take_out(reasons)

    def _refuse_editions(self) -> None:
        """See that no two folders side by side hold the same pictures twice; leave out those that are masks of others.

        Raises:
            InputError: They do.
        """
        groups: dict[str, dict[str, int]] = defaultdict(dict)  # folder: images in it, by path and name without ending
        for i, path in enumerate(self.folders):
            if not path:
                return
            groups[path[0]]["/".join((*path[1:], stem(self.names[i])))] = i
        outer = sorted(groups)
        if not 2 <= len(outer) <= MOST_COMPARED or all(map(canonical_split, outer)):
            return
        masks: set[str] = set()
        twins: set[str] = set()
        for k, one in enumerate(outer):
            for other in outer[k + 1 :]:
                both = groups[one].keys() & groups[other].keys()
                if len(both) < PAIRED * min(len(groups[one]), len(groups[other])):
                    continue
                chosen = evenly(sorted(both), FEW)
                sides = [[self.names[groups[folder][name]] for name in chosen] for folder in (one, other)]
                flat = [_are_flat(self._tree, side) for side in sides]
                if flat[0] != flat[1] and _sizes(self._tree, sides[0]) == _sizes(self._tree, sides[1]):
                    masks.add(one if flat[0] else other)
                elif (_EDITION.search(one) and _EDITION.search(other)) or _show_the_same(self._tree, *sides):
                    twins |= {one, other}
        if twins - masks:
            listed = [
                (f"--sub {quoted('/'.join((*self.wrappers, name)))}", f"{len(groups[name]):,} images, {size}")
                for name in outer
                for size in _sizes(self._tree, [self.names[min(groups[name].values())]])
            ]
            raise InputError(
                f"{' and '.join(map(displayed, sorted(twins - masks)))} hold the same pictures: which are meant?"
                + choices([*listed, ("--classes", "all, each folder as a class")])
            )
        self._take_out(
            {i: f"masks in {'/'.join((*self.wrappers, name))}" for name in sorted(masks) for i in groups[name].values()}
        )

    # ---- splits ----

    def _take_splits(self) -> None:
        """Find the level of folders that are called train, val and test, and take it out.

        Raises:
            InputError: There are such folders and others beside them.
        """
        depth = min((len(path) for path in self.folders), default=0)
        for level in range(depth):
            meaning = {path[level]: canonical_split(path[level]) for path in self.folders}
            if None not in meaning.values():
                break
            if {"train", "test"} <= set(meaning.values()) or {"train", "val"} <= set(meaning.values()):
                others = [displayed(name) for name, split in sorted(meaning.items()) if split is None]
                outer = "/".join(self.wrappers) + "/" if self.wrappers else ""
                raise InputError(
                    f"there are splits of a data set, and {', '.join(others[:5])} beside them: what is meant?"
                    + choices(
                        [(f"--sub {quoted(outer + name)}", split or "") for name, split in sorted(meaning.items())]
                    )
                )
        else:
            return
        self.splits = [meaning[path[level]] for path in self.folders]
        renamed = [f"{displayed(name)} is {split}" for name, split in sorted(meaning.items()) if name != split]
        self.notes.append(f"folders name the splits{': ' if renamed else ''}{', '.join(renamed)}")
        self.folders = [path[:level] + path[level + 1 :] for path in self.folders]
        # What wraps the classes may differ: training_set/training_set/cats beside test_set/test_set/cats.
        for split in SPLITS:
            members = [i for i, each in enumerate(self.splits) if each == split]
            paths = [self.folders[i] for i in members]
            while paths and (_wrapper(paths) or all(path and canonical_split(path[0]) == split for path in paths)):
                paths = [path[1:] for path in paths]
            for i, path in zip(members, paths, strict=True):
                self.folders[i] = path

    # ---- classes ----

    def _drop_bundles(self) -> None:
        while _are_bundles(self.names, self.folders):
            some = sorted({path[0] for path in self.folders})
            self.notes.append(
                f"folders {', '.join(some[:3])}{', …' if len(some) > 3 else ''} bundle files by number: "
                "no classes (--classes takes them for such)"
            )
            self.folders = [path[1:] for path in self.folders]

    def _says_nothing(self) -> bool:
        names = self.class_names
        return len(names) == 1 and bool(_SAYS_NOTHING.fullmatch(names[0]))

    def _refuse_crossed(self) -> None:
        """See that it is the first folders that are classes: not so in 2019/cat, 2019/dog, 2020/cat, 2020/dog.

        Raises:
            InputError: It may be the second.
        """
        inner: dict[str, set[str]] = defaultdict(set)
        for path in self.folders:
            if len(path) > 1:
                inner[path[0]].add(path[1])
        outer = self.class_names
        second = next(iter(inner.values()), set())
        if (
            len(outer) < 2
            or len(second) < 2
            or len(inner) < len(outer)
            or any(each != second for each in inner.values())
        ):
            return
        before = "/".join(self.wrappers) + "/" if self.wrappers else ""
        raise InputError(
            f"each of the folders {_some(outer)} holds folders {_some(sorted(second))}: which are the classes?"
            + choices([("--classes", "the outer folders"), *((f"--sub {quoted(before + name)}", "") for name in outer)])
        )

    def _refuse_loose(self, *, leave_out: bool) -> None:
        """See that in each split all images have a class, or none.

        Raises:
            InputError: It is not so, and they are not to be left out.
        """
        with_classes = {split for split, path in zip(self.splits, self.folders, strict=True) if path}
        loose = [i for i, path in enumerate(self.folders) if not path and self.splits[i] in with_classes]
        if loose and not leave_out:
            raise InputError(
                f"there are class folders ({_some(self.class_names)}), and {len(loose):,} images that are in none, "
                f"such as {displayed(self.names[loose[0]])}: what is meant?"
                + choices([("--classes", "leave those images out"), ("--no-classes", "all images, without classes")])
            )
        self._take_out(dict.fromkeys(loose, "images beside the class folders"))


def choices(options: Sequence[tuple[str, str]]) -> str:
    """Lines that list what can be said, and what it means."""
    width = max(len(option) for option, _ in options)
    return "".join(f"\n  {option:<{width}}  {meaning}".rstrip() for option, meaning in options)


def _wrapper(folders: Sequence[tuple[str, ...]]) -> str | None:
    """The folder that all images are in, where it holds more folders with images."""
    first = next(iter(folders), ())[:1]
    if first and all(path[:1] == first for path in folders) and any(len(path) > 1 for path in folders):
        return first[0]
    return None


def _are_bundles(names: Sequence[str], folders: Sequence[tuple[str, ...]]) -> bool:
    """Whether numbered folders only bundle files by their numbers, a power of ten each.

    A folder's number is that of its first file (00000, 01000, …), or the number of a file without its last digits.
    Folders that are classes restart the numbers of their files, or mix them.
    """
    if not folders or not all(len(path) == 1 and re.fullmatch(r"[0-9]{1,18}", path[0]) for path in folders):
        return False
    pairs = set()
    for name, path in zip(names, folders, strict=True):
        digits = re.fullmatch(r"[^0-9]*([0-9]{1,18})", stem(name))
        if digits is None:
            return False
        pairs.add((path[0], int(digits[1])))
    outer = {name for name, _ in pairs}
    several, padded = len(outer) > 1, min(map(len, outer)) > 3
    for width in (10**power for power in range(1, 9)):
        if (several or padded) and all(number // width * width == int(name) for name, number in pairs):
            return True
        if several and (padded or width >= 100) and all(number // width == int(name) for name, number in pairs):
            return True
    return False


def _are_flat(tree: Tree, names: Sequence[str]) -> bool:
    """Whether pictures have hardly more than a few flat colours each, as masks have."""
    found = False
    for name in evenly(names, FEW):
        try:
            image = images.decode(tree.read(name))
        except (OSError, ImageError):
            continue
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(np.uint32)
        colours = np.unique(pixels[:, 0] << 16 | pixels[:, 1] << 8 | pixels[:, 2], return_counts=True)[1]
        if np.sort(colours)[-FLAT_COLOURS:].sum() < FLAT * len(pixels):
            return False
        found = True
    return found


def _show_the_same(tree: Tree, ones: Sequence[str], others: Sequence[str]) -> bool:
    """Whether namesakes show the same in another size or format.

    Equal files are no sign: they are what two classes may have in common.
    """
    for one, other in zip(ones, others, strict=True):
        try:
            pair = [images.decode(tree.read(name)) for name in (one, other)]
        except (OSError, ImageError):
            return False
        if pair[0].size == pair[1].size and one.rsplit(".", 1)[-1].lower() == other.rsplit(".", 1)[-1].lower():
            return False
        small = [np.asarray(image.convert("L").resize((16, 16)), np.float64) for image in pair]
        if small[0].std() < 8 or np.abs(small[0] - small[1]).mean() > 8:
            return False
    return bool(ones)


def _sizes(tree: Tree, names: Sequence[str]) -> list[str]:
    """Width × height of pictures, in words where one cannot be read."""
    sizes = []
    for name in names:
        try:
            look = look_at(tree, name)
        except (OSError, ImageError):
            sizes.append("unreadable")
        else:
            sizes.append(f"{look.width}×{look.height} pixels")
    return sizes


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(displayed, names[:5])) + (", …" if len(names) > 5 else "")


def quoted(name: str) -> str:
    """A name as a shell takes it."""
    shown = displayed(name)
    return f"'{shown}'" if re.search(r"[^\w./-]", shown) else shown
