"""Folders of images: a folder a class, or a split, or no more than a bundle of files; or one flat folder.

What folders mean is decided in this order: masks and thumbnails beside their pictures, what only wraps the rest,
splits, editions of the same pictures, bundles, classes. What cannot be decided is refused, with the choices.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations, takewhile

from shards.errors import InputError
from shards.names import canonical_split
from shards.sources import alike, words
from shards.sources.base import SPLITS, Found, Listed, Wish, choices, displayed, quoted, some
from shards.sources.pictures import PictureFiles, Pictures, evenly, stem
from shards.trees import Tree

LOOKS_FOR = "images in folders, or in one folder"
PAIRED = 0.9
"""Two folders hold the same things twice where this share of the smaller one's files have a namesake in the other."""
MOST_COMPARED = 50
"""Of more folders side by side nobody keeps editions of the same pictures."""
ENOUGH = 3
"""Fewer namesakes are no sign of anything."""
LOOSE = ""
"""Stands for what lies beside folders, where these are compared."""


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
        arranged.decide(wish, beside=beside)
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
        folders: Of each image, the folders it is in that have no other meaning; in the end the first is its class.
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
        self._called: dict[str, set[str]] = {}  # what is left of folders' names without a split in them: the names

    @property
    def place(self) -> str:
        """The folder that all images are in."""
        return "/".join(self.wrappers)

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of their characters."""
        return tuple(sorted({path[0] for path in self.folders if path}))

    def decide(self, wish: Wish, *, beside: bool = False) -> None:
        """Give the folders their meaning.

        Args:
            wish: What the user said of classes; what is not said is found out.
            beside: Whether there are other images, of which these may be masks.

        Raises:
            InputError: It cannot be found out.
        """
        asked = wish.classes is not None or wish.inner
        self._leave_out_copies()
        self._leave_out_companions()
        self._leave_out_masks(beside, asked=asked)
        self._unwrap()
        self._take_splits(asked=wish.classes is True)
        if not asked:
            for level in (0, 1):
                self._compare_siblings(level)
            self._unwrap()
        if wish.classes is not True:
            self._drop_bundles()
        if wish.classes is False:
            self.folders = [() for _ in self.names]
        elif wish.inner:
            self.folders = [_innermost(path) for path in self.folders]
        elif wish.classes is None:
            self._drop_what_says_nothing()
            self._see_that_the_outer_folders_are_classes()
        self._unite_spellings()
        self._refuse_loose(leave_out=wish.classes is True)
        self._note_classes_of_one_split()

    # ---- helpers ----

    def _take_out(self, reasons: Mapping[int, str]) -> None:
        """Leave out some of the images, by their positions, each for a reason."""
        self.left_out += Counter(reasons.values())
        keep = [i for i in range(len(self.names)) if i not in reasons]
        self.names = [self.names[i] for i in keep]
        self.folders = [self.folders[i] for i in keep]
        self.splits = [self.splits[i] for i in keep]

    def _unwrap(self) -> None:
        """Drop what only wraps all that is in folders. A wrapper called train, val or test says so of what is in it."""
        while wrapper := _wrapper(path for path in self.folders if path):
            inside = [i for i, path in enumerate(self.folders) if path]
            for i in inside:
                self.splits[i] = canonical_split(wrapper) or self.splits[i]
                self.folders[i] = self.folders[i][1:]
            if len(inside) == len(self.names):
                self.wrappers.append(wrapper)

    def _by_folder(self, level: int = 0) -> dict[str, list[int]]:
        """The positions of the images by the folders that are now the first, or by those in them, and so on."""
        groups: dict[str, list[int]] = defaultdict(list)
        for i, path in enumerate(self.folders):
            groups[path[level] if len(path) > level else LOOSE].append(i)
        return groups

    def _place_of(self, folder: str, members: Iterable[int]) -> str | None:
        """What ``--sub`` would say to have these images, which are in a folder of this name; None if nothing does."""
        common = _common(tuple(self.names[i].split("/")[:-1]) for i in members)
        return "/".join(common[: len(common) - common[::-1].index(folder)]) if folder in common else None

    def _keep_one(self, groups: Mapping[str, Collection[int]], folders: Sequence[str]) -> list[tuple[str, str]]:
        """Options that keep one of some folders side by side, each with what it keeps."""
        options = []
        for name in folders:
            members = groups[name]
            size = alike.sizes(self._tree, [self.names[min(members)]])[0]
            place = self._place_of(name, members) if name != LOOSE else None
            others = [other for other in folders if other not in (name, LOOSE)]
            option = f"--sub {quoted(place)}" if place else self._excluding({each: groups[each] for each in others})
            if option:
                options.append((option, f"{len(members):,} images, {size}"))
        return options

    def _excluding(self, groups: Mapping[str, Iterable[int]]) -> str:
        """The options that leave some folders out, given the images in each."""
        patterns = []
        for name, members in groups.items():
            place = self._place_of(name, members)
            if place is None:  # it lies in several folders, or is no folder's whole name
                patterns += sorted(self._called.get(name, {name}))
            elif "/" in place or not any(name in path.split("/")[1:-1] for path in self.names):
                patterns.append(place)
            else:
                patterns.append(f"/{place}")  # and not what is called so elsewhere
        return " ".join(f"--exclude {quoted(pattern)}" for pattern in patterns)

    # ---- pictures that are not to be learnt from ----

    def _leave_out_copies(self) -> None:
        """Leave out folders that hold the same files once more.

        That is all that is beside one (pets/pets/cat in pets, beside pets/cat), or a folder that is called a copy of
        the one beside it: data (1), pets - Copy, Train beside train.
        """
        if not any(self.folders):
            return
        counted: Counter[tuple[str, ...]] = Counter()
        inside: Counter[tuple[str, ...]] = Counter()  # sums of hashes of what is in a folder, named from there …
        around: Counter[tuple[str, ...]] = Counter()  # … and named from the folder around it
        for name, path in zip(self.names, self.folders, strict=True):
            size, rest, digest = self._tree.files[name], name, 0
            for depth in range(len(path) + 1):
                before, digest = digest, hash((rest, size))
                counted[path[:depth]] += 1
                inside[path[:depth]] += digest
                around[path[:depth]] += before
                rest = rest.partition("/")[2]
        copies: dict[tuple[str, ...], tuple[str, ...]] = {}  # of each, where the same is
        beside: dict[object, tuple[str, ...]] = {}
        for place in sorted(counted.keys() - {()}):
            parent = place[:-1]
            if 2 * counted[place] == counted[parent] and inside[parent] - around[place] == inside[place]:
                copies[place] = parent
            same = (parent, inside[place], words.without_copy(place[-1]))
            if beside.setdefault(same, place) != place:
                copies[place] = beside[same]
        if not copies:
            return
        reasons: dict[int, str] = {}
        position = {name: i for i, name in enumerate(self.names)}
        for place, other in copies.items():
            members = [i for i, path in enumerate(self.folders) if path[: len(place)] == place and i not in reasons]
            pairs = [(i, position.get("/".join((*other, *self.names[i].split("/")[len(place) :])))) for i in members]
            if pairs and all(
                k is not None and alike.are_equal(self._tree, self.names[i], self.names[k])
                for i, k in evenly(pairs, alike.FEW)
            ):
                reasons |= dict.fromkeys(members, f"the same once more in {'/'.join(place)}")
        self._take_out(reasons)

    def _leave_out_companions(self) -> None:
        """Leave out masks and thumbnails that lie beside their pictures and are called after them."""
        groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, (picture, form) in words.companions(self.names).items():
            groups[form].append((i, picture))
        reasons: dict[int, str] = {}
        for form, pairs in groups.items():
            ones, others = ([self.names[pair[side]] for pair in evenly(pairs, alike.FEW)] for side in (0, 1))
            if alike.show_the_same(self._tree, ones, others):
                reasons |= {i: f"copies in another size or format called {form}" for i, _ in pairs}
            elif (alike.are_flat(self._tree, ones) and not alike.are_flat(self._tree, others)) or (
                alike.sizes(self._tree, ones) == alike.sizes(self._tree, others)
                and alike.are_grey_beside_colour(self._tree, ones, others)
            ):
                reasons |= {i: f"masks in files called {form}" for i, _ in pairs}
        self._take_out(reasons)

    def _leave_out_masks(self, beside: bool, *, asked: bool) -> None:
        """Leave out what lies in a folder whose name speaks of masks and looks like them, unless it is all there is.

        Raises:
            InputError: It may be masks or a class.
        """
        groups: dict[str, dict[int, tuple[str, ...]]] = defaultdict(dict)  # by name: images, and the folder around it
        for i, path in enumerate(self.folders):
            depth = next((depth for depth, name in enumerate(path) if words.is_about_pictures(name)), None)
            if depth is not None:
                groups[path[depth]][i] = path[:depth]
        others = set(range(len(self.names))).difference(*groups.values())
        if not groups or not (others or beside):
            return
        rest = [self.names[i] for i in evenly(sorted(others), alike.FEW)]
        all_flat = bool(rest) and alike.are_flat(self._tree, rest)
        reasons: dict[int, str] = {}
        for name, members in groups.items():
            places = {(*parent, name) for parent in members.values()}
            called = "/".join(min(places)) if len(places) == 1 else f"folders called {name}"
            pairs, siblings = self._pictures_of(members, others)
            chosen = evenly(pairs, alike.FEW)
            ones, pictures = ([self.names[pair[side]] for pair in chosen] for side in (0, 1))
            flat = not all_flat and alike.are_flat(self._tree, [self.names[i] for i in members])
            of_one_size = bool(pairs) and alike.sizes(self._tree, ones) == alike.sizes(self._tree, pictures)
            if not flat and not of_one_size:
                continue
            if (
                all(map(_is_container, siblings))
                or (flat and pairs)
                or alike.are_grey_beside_colour(self._tree, ones, pictures)
            ):
                reasons |= dict.fromkeys(members, f"masks in {called}")
            elif not asked and (flat or not words.are_counted(ones)):
                shown = sorted(siblings - {LOOSE})
                parent = min(places)[:-1]
                subs = [f"--sub {quoted('/'.join((*parent, each)))}" for each in shown[:5] if len(places) == 1]
                raise InputError(
                    f"{displayed(called)} may hold masks of the pictures beside it"
                    f"{f', in {some(shown)}' if shown else ''}, or be a class: what is meant?"
                    + choices(
                        [(f"--exclude {quoted(name)}", "masks"), ("--classes", "a class"), *((sub, "") for sub in subs)]
                    )
                )
        self._take_out(reasons)

    def _pictures_of(
        self, members: Mapping[int, tuple[str, ...]], others: Iterable[int]
    ) -> tuple[list[tuple[int, int]], set[str]]:
        """Each of some files with its namesake beside the folder that it is in, if nearly all have one.

        Args:
            members: The files, and the folder around that folder.
            others: What may be their namesakes.

        Returns:
            The pairs, and the folders beside that one.
        """
        parents = {*members.values()}
        of: dict[tuple[tuple[str, ...], str], int] = {}
        siblings: set[str] = set()
        for k in others:
            path = self.folders[k]
            for depth in range(len(path) + 1):
                if path[:depth] in parents:
                    of[path[:depth], words.subject(self.names[k])] = k
                    siblings.add((*path[depth:], LOOSE)[0])
        known = {i: of.get((parent, words.subject(self.names[i]))) for i, parent in members.items()}
        pairs = [(i, k) for i, k in known.items() if k is not None]
        return (pairs if len(pairs) >= PAIRED * len(members) else []), siblings

    def _compare_siblings(self, level: int) -> None:
        """See that no two folders side by side hold the same pictures twice; leave out those that are masks of others.

        Args:
            level: Of the folders that are compared: 0 are the first; 1 are those in each of them, and what lies beside.

        Raises:
            InputError: They do, or may.
        """
        members = self._by_folder(level)
        if not 2 <= len(members) <= MOST_COMPARED:
            return
        groups: dict[str, dict[tuple[object, ...], int]] = {}  # folder: images in it, by what they show
        for name, inside in members.items():
            around = len(_common(self.folders[i][level + 1 :] for i in inside))  # HR/0001.png, LR/X2/0001x2.png
            groups[name] = {
                (
                    self.splits[i],
                    *self.folders[i][:level],
                    *self.folders[i][level + 1 + around :],
                    words.subject(self.names[i]),
                ): i
                for i in inside
            }
        masks: set[str] = set()
        twins: set[str] = set()
        doubtful: set[str] = set()
        for one, other in combinations(sorted(groups), 2):
            both = groups[one].keys() & groups[other].keys()
            if len(both) < PAIRED * min(len(groups[one]), len(groups[other])):
                continue
            chosen = evenly(sorted(both, key=repr), alike.FEW)
            sides = [[self.names[groups[folder][key]] for key in chosen] for folder in (one, other)]
            flat = [alike.are_flat(self._tree, side) for side in sides]
            contain = [_is_container(one), _is_container(other)]
            of_one_size = alike.sizes(self._tree, sides[0]) == alike.sizes(self._tree, sides[1])
            by_name = words.are_editions(one, other) and not (of_one_size and words.are_counted(sides[0]))
            if of_one_size and flat[0] != flat[1] and contain[flat[0]]:  # what is not flat is only called images
                masks.add(one if flat[0] else other)
            elif by_name or alike.show_the_same(self._tree, *sides):
                twins |= {one, other}
            elif (
                level == 0  # photographs beside drawings, images beside what was made of them
                and of_one_size
                and len(both) >= ENOUGH
                and (flat[0] != flat[1] or contain[0] != contain[1] or not words.are_counted(sides[0]))
            ):
                doubtful |= {one, other}
        found = (twins or doubtful) - masks
        if found:
            says = (
                "files of the same names and sizes, perhaps of the same scenes"
                if doubtful == found
                else "the same pictures"
            )
            named = some([name or "what lies beside folders" for name in sorted(found)], " and ")
            kept = "the folders, without what lies beside them" if LOOSE in found else "all, each folder as a class"
            options = [*self._keep_one(members, sorted(found)), *([("--classes", kept)] if level == 0 else [])]
            raise InputError(f"{named} hold {says}: which are meant?" + choices(options))
        reasons = {}
        for i, path in enumerate(self.folders):
            if len(path) > level and path[level] in masks:
                where = self._place_of(path[level], members[path[level]]) or f"folders called {path[level]}"
                reasons[i] = f"masks in {where}"
        self._take_out(reasons)

    # ---- splits ----

    def _take_splits(self, *, asked: bool) -> None:
        """Find the level of folders that are called train, val and test, and take it out.

        Args:
            asked: Whether the user wants classes, so that folders of images stay some where there are no others.

        Raises:
            InputError: There are such folders and others beside them.
        """
        for level in range(max(map(len, self.folders), default=0)):
            here = [i for i, path in enumerate(self.folders) if len(path) > level]
            meaning = words.split_meanings({self.folders[i][level] for i in here})
            found = {split for split, _ in meaning.values()}
            several = "train" in found and bool(found & {"val", "test"})
            if None in found and several:
                self._refuse_beside_splits(level, here, meaning)
            if None not in found and several:
                self._refuse_beside_what_holds_splits(level, here)
            if None not in found and (several or len(here) == len(self.names)):
                break
        else:
            return
        if asked and not any(len(path) > level + 1 for path in self.folders):
            return
        renamed: dict[str, str] = {}
        doubled: dict[str, set[str]] = defaultdict(set)
        for i in here:
            doubled[self.folders[i][level]] |= {*self.folders[i][level + 1 : level + 2]}
        for i in here:
            path = self.folders[i]
            split, rest = meaning[path[level]]
            assert split is not None
            self.splits[i] = split
            if path[level] != split:
                of = f" of {displayed(rest)}" if rest else ""
                renamed[path[level]] = f"{displayed(path[level])} is {split}{of}"
            if rest:
                self._called.setdefault(rest, set()).add(path[level])
            inner = path[level + 1 :]
            if len(doubled[path[level]]) == 1:  # seg_train/seg_train/cats
                while inner and (inner[0] == path[level] or (not rest and canonical_split(inner[0]) == split)):
                    inner = inner[1:]
            self.folders[i] = path[:level] + ((rest,) if rest else ()) + inner
        said = [renamed[name] for name in sorted(renamed)]
        self.notes.append(f"folders name the splits{': ' if said else ''}{some(said)}")
        for split in SPLITS:  # what wraps the classes may differ between them
            members = [i for i in here if self.splits[i] == split]
            while _wrapper(self.folders[i] for i in members):
                for i in members:
                    self.folders[i] = self.folders[i][1:]

    def _refuse_beside_what_holds_splits(self, level: int, here: Sequence[int]) -> None:
        """See that a folder that holds splits has none beside it, as docs beside data/train and data/test.

        Raises:
            InputError: It has.
        """
        holders = {self.folders[i][:level] for i in here}
        beside = {i for i, path in enumerate(self.folders) if path} - {*here}
        if len(holders) > 1 or not level or not beside:
            return
        holder = "/".join((*self.wrappers, *min(holders)))
        groups = {name: [i for i in members if i in beside] for name, members in self._by_folder().items()}
        others = {name: members for name, members in groups.items() if members and name != min(holders)[0]}
        options = [(f"--sub {quoted(holder)}", f"{len(here):,} images")]
        if others:
            options.append((self._excluding(others), "the same, by leaving the others out"))
        raise InputError(
            f"{displayed(holder)} holds splits of a data set, and there are {len(beside):,} images beside it, such as "
            f"{displayed(self.names[min(beside)])}: what is meant?" + choices(options)
        )

    def _refuse_beside_splits(
        self, level: int, here: Sequence[int], meaning: Mapping[str, tuple[str | None, str]]
    ) -> None:
        others = sorted(name for name, (split, _) in meaning.items() if split is None)
        members = {name: [i for i in here if self.folders[i][level] == name] for name in sorted(meaning)}
        options = [(self._excluding({name: members[name] for name in others[:20]}), "the splits alone")]
        for name, (split, _) in sorted(meaning.items()):
            place = self._place_of(name, members[name])
            if place:
                options.append((f"--sub {quoted(place)}", split or ""))
        raise InputError(
            f"there are splits of a data set, and {some(others)} beside them: what is meant?" + choices(options[:8])
        )

    # ---- classes ----

    def _drop_bundles(self) -> None:
        stems = [stem(name) for name in self.names]
        while self.folders and all(self.folders):
            files: dict[str, list[str]] = defaultdict(list)
            for each, path in zip(stems, self.folders, strict=True):
                files[path[0]].append(each)
            by_hash = words.bundle_by_hash(files)
            if words.bundle_by_name(files):
                why = "are parts of one thing by their names"
            elif by_hash or words.bundle_by_number(files):
                why = "bundle files by their names"
            else:
                return
            self.notes.append(f"folders {some(sorted(files))} {why}: no classes (--classes takes them for such)")
            if by_hash:  # ab/cd/abcd….jpg
                stems = [each.removeprefix(path[0]) for each, path in zip(stems, self.folders, strict=True)]
            self.folders = [path[1:] for path in self.folders]
            while _wrapper(self.folders):
                self.folders = [path[1:] for path in self.folders]

    def _drop_what_says_nothing(self) -> None:
        """A folder that is alone, in a split or in all, and is called images or the like, is no class."""
        of_split: dict[str | None, set[str]] = defaultdict(set)
        for split, path in zip(self.splits, self.folders, strict=True):
            of_split[split] |= {*path[:1]}
        classes = set().union(*(names for names in of_split.values() if len(names) > 1))
        for i, path in enumerate(self.folders):
            if path and len(of_split[self.splits[i]]) == 1 and path[0] not in classes:
                self.folders[i] = path[_says_nothing(path[0]) or path[0].isdecimal() :]

    def _see_that_the_outer_folders_are_classes(self) -> None:
        """See that it is the first folders that are classes: not so in 2019/cat, 2019/dog, 2020/cat.

        Raises:
            InputError: It may be those in them.
        """
        groups = self._by_folder()
        groups.pop(LOOSE, None)
        if len(groups) < 2:
            return
        inner: dict[str, set[str]] = {}
        for outer, members in groups.items():
            paths = [self.folders[i][1:] for i in members]
            while (wrapper := _wrapper(path for path in paths if path)) and all(paths):
                paths = [path[1:] for path in paths]
                if wrapper in groups:
                    break
            inner[outer] = {path[0] for path in paths if path and not _says_nothing(path[0])}
        times = Counter(name for each in inner.values() for name in each)
        among = {name for outer, each in inner.items() for name in each if name in groups and name != outer}
        shared = sorted(among | {name for name, count in times.items() if count > 1})
        everywhere = len(times) == 1 and len(shared) == 1 and times[shared[0]] == len(groups)  # cat/cut, dog/cut
        holding = sorted(name for name, each in inner.items() if len(each) > 1)
        flat = sorted(name for name, each in inner.items() if not each)
        if not times or everywhere:
            return
        example = holding[0] if holding else next(name for name, each in sorted(inner.items()) if each)
        shown = f"{displayed(example)} holds folders {some(sorted(inner[example]))}"
        if not shared and not (holding and flat):
            self.notes.append(
                f"{shown}: they count to {displayed(example)}, and so on (--inner-classes takes the inner ones for "
                "the classes)"
            )
            return
        why = f"some lie in several ({some(shared)})" if shared else f"others hold images alone ({some(flat)})"
        options = [
            ("--classes", "the outer folders"),
            ("--inner-classes", "the inner folders, those of one name as one"),
            ("--no-classes", "all images, without classes"),
        ]
        options += [
            (f"--sub {quoted(place)}", f"{len(groups[name]):,} images")
            for name in sorted(groups, key=lambda name: name not in holding)[:5]
            if (place := self._place_of(name, groups[name]))
        ]
        raise InputError(f"{shown}, and {why}: which are the classes?" + choices(options))

    def _unite_spellings(self) -> None:
        """Take Cat in one split and cat in another for the same class."""
        of_split: dict[str, set[str | None]] = defaultdict(set)
        for split, path in zip(self.splits, self.folders, strict=True):
            if path:
                of_split[path[0]].add(split)
        for group in words.spellings(of_split):
            together = sum(len(of_split[name]) for name in group) > len(
                set().union(*(of_split[name] for name in group))
            )
            if together:
                self.notes.append(f"{some(group, ' and ')} are two classes, as they lie side by side")
                continue
            chosen = next((name for name in group if "train" in of_split[name]), group[0])
            self.notes.append(f"{some(group, ' and ')} of different splits are one class, {displayed(chosen)}")
            self.folders = [(chosen, *path[1:]) if path[:1] and path[0] in group else path for path in self.folders]

    def _note_classes_of_one_split(self) -> None:
        """Say where training would miss a class, or a split has none at all."""
        of_split: dict[str | None, set[str]] = defaultdict(set)
        for split, path in zip(self.splits, self.folders, strict=True):
            of_split[split] |= {*path[:1]}
        known = of_split.get("train", set())
        for split in SPLITS:
            if split not in of_split or not any(of_split.values()):
                continue
            if not of_split[split]:
                self.notes.append(f"the images of split {split} have no class")
            elif "train" in of_split and (missing := sorted(of_split[split] - known)):
                self.notes.append(f"split {split} has classes that train has not: {some(missing)}")

    def _refuse_loose(self, *, leave_out: bool) -> None:
        """See that in each split all images have a class, or none.

        Raises:
            InputError: It is not so, and they are not to be left out.
        """
        with_classes = {split for split, path in zip(self.splits, self.folders, strict=True) if path}
        loose = [
            i
            for i, path in enumerate(self.folders)
            if not path and (self.splits[i] in with_classes or (self.splits[i] is None and with_classes))
        ]
        if loose and not leave_out:
            options = [("--classes", "leave those images out"), ("--no-classes", "all images, without classes")]
            if len(self.class_names) < 5:
                members = self._by_folder()
                members.pop(LOOSE, None)
                options.append((self._excluding(members), "those images alone"))
            raise InputError(
                f"there are class folders ({some(self.class_names)}), and {len(loose):,} images that are in none, "
                f"such as {displayed(self.names[loose[0]])}: what is meant?" + choices(options)
            )
        self._take_out(dict.fromkeys(loose, "images beside the class folders"))


def _wrapper(folders: Iterable[tuple[str, ...]]) -> str | None:
    """The folder that all images are in, where it holds more folders with images."""
    paths = list(folders)
    first = next(iter(paths), ())[:1]
    if first and all(path[:1] == first for path in paths) and any(len(path) > 1 for path in paths):
        return first[0]
    return None


def _common(folders: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all paths begin with."""
    paths = [*{*folders}]
    return tuple(steps[0] for steps in takewhile(lambda steps: len({*steps}) == 1, zip(*paths, strict=False)))


def _innermost(path: tuple[str, ...]) -> tuple[str, ...]:
    """The last folder of a path that says something, alone."""
    return tuple([name for name in path if not _says_nothing(name)][-1:])


def _says_nothing(name: str) -> bool:
    return name == LOOSE or words.says_nothing(name)


def _is_container(name: str) -> bool:
    return name == LOOSE or words.is_container(name)
