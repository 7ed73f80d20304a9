"""What the names of folders and files say of what is in them: nothing, a split, a size, a mask, a number.

Names are compared word by word: "gtFine_color" is gt, fine, color; "JPEGImages" is jpeg, images; "trainA" is train, a.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from shards.names import canonical_split


def _known(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_PICTURES = _known(
    "image images img imgs pic pics picture pictures photos jpg jpgs jpeg jpegs png pngs webp bmp bmps tif tiff",
    "gif",
)
_SAYS_NOTHING = _PICTURES | _known(
    "the new folder untitled file files data dataset datasets set all part parts batch chunk fold folds vol volume",
    "disc archive archives input inputs output download downloads extracted unzipped copy content raw original",
    "originals processed version color colour rgb celeba celebahq celebamask ffhq lfw coco voc imagenet",
)
_DESCRIBES = _known("new raw original originals processed color colour rgb")
"""Of those, words that may tell one class from another beside it: raw and ripe, new and old."""
_SURELY_AN_EDITION = _PICTURES | _known(
    "px thumb thumbs thumbnail thumbnails resize resized align aligned crop cropped wild hr lr hq downsampled",
    "upsampled downscaled upscaled rescaled bicubic",
)
_PERHAPS_AN_EDITION = _known("small large low high full raw orig original originals res resolution x")
_ABOUT_A_PICTURE = _known(
    "mask masks colormask trimap trimaps seg segs segmentation segmentations segmented segment segments annot annots",
    "annotation annotations anno annos gt groundtruth truth label labels parsing matte mattes matting alpha depth",
    "depths disparity normals instance instances semantic semantics saliency edges",
)
_WHICH_ONE = _known("color colour rgb ids fine coarse l")
_SMALLER = _known("thumb thumbs thumbnail thumbnails small preview icon")

_BOUNDARY = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])"  # aB, ABc, a1, 1a
)
_TIMES = re.compile(r"\d+ ?[x×] ?\d+", re.IGNORECASE)
_PART = re.compile(r"[-_ .()]+")
_PERHAPS_ABOUT = re.compile("|".join(sorted({*_ABOUT_A_PICTURE, *_SMALLER})), re.IGNORECASE)


def words(name: str) -> list[str]:
    """The words and numbers of a name, in lower case."""
    return [word.lower() for word in re.findall(r"[^\W_]+", _BOUNDARY.sub(" ", name))]


def _among(name: str, known: Collection[str], test: Callable[[Iterable[object]], bool]) -> bool:
    """Whether any or all of the words of a name are known; numbers always count as known to ``all``."""
    spelled = [words(name), re.findall(r"[^\W_]+", name.lower())]  # JPGs is one word only to the second
    return any(each and test(word in known or (test is all and word.isdecimal()) for word in each) for each in spelled)


@lru_cache(4096)  # a folder's name comes once for each file in it
def says_nothing(name: str) -> bool:
    """Whether a folder's name tells nothing of what its pictures show: images, JPEGImages, celeba_hq_256, 64x64."""
    if name.isdecimal():
        return False
    return _among(_TIMES.sub(" px ", name), _SAYS_NOTHING | _SURELY_AN_EDITION, all)


@lru_cache(4096)
def is_container(name: str) -> bool:
    """Whether a folder's name says no more than that it holds pictures, also beside others: images, JPEGImages."""
    return not name.isdecimal() and _among(_TIMES.sub(" images ", name), _SAYS_NOTHING - _DESCRIBES, all)


@lru_cache(4096)  # a folder's name comes once for each file in it
def is_about_pictures(name: str) -> bool:
    """Whether a folder's name says that it holds masks, depths or annotations of other pictures."""
    return _among(name, _ABOUT_A_PICTURE, any)


def are_editions(one: str, other: str) -> bool:
    """Whether the names of two folders side by side say that they hold the same in two sizes, crops or formats.

    One of them says so: 128x128, thumbs, HR, aligned; and what else they say is the same: cat_images and dog_images,
    or crop and weed, are no editions. "" stands for what lies beside folders.
    """
    sure = any(_TIMES.search(name) or _among(name, _SURELY_AN_EDITION, any) for name in (one, other))
    known = _SURELY_AN_EDITION | _PERHAPS_AN_EDITION | _SAYS_NOTHING
    rests = [[word for word in words(_TIMES.sub(" ", name)) if not word.isdecimal()] for name in (one, other)]
    rests = [[word for word in each if word not in known] for each in rests]
    return sure and rests[0] == rests[1]


def subject(path: str) -> str:
    """What a picture is of by its name: without what says that it is an edition of a picture, or about one.

    1 of images/img_0001.jpg, masks/1_mask.png, HR/0001x2.png and gtFine/bonn/1_gtFine_color.png. A number is one
    however it is padded.
    """
    *folders, file = path.split("/")
    around = {folder.lower() for folder in folders}
    parts = re.split(r"[-_ ]+", re.sub(r"(?<=\d)x\d$", "", file.rpartition(".")[0] or file))
    while len(parts) > 1 and _is_not_of_it(parts[-1], around):
        parts = parts[:-1]
    while len(parts) > 1 and _is_not_of_it(parts[0], around):
        parts = parts[1:]
    return "_".join(part.lstrip("0") if part.isdecimal() else part for part in parts)


def are_counted(names: Sequence[str]) -> bool:
    """Whether files are called by small numbers alone, so that namesakes in another folder are no sign of anything."""
    return all(re.fullmatch(r"[^0-9]*[0-9]{0,6}[^0-9]*", subject(name)) for name in names)


def _is_not_of_it(part: str, around: Collection[str]) -> bool:
    return part.lower() in _SMALLER | _WHICH_ONE | _PICTURES or part.lower() in around or is_about_pictures(part)


def companions(names: Sequence[str]) -> dict[int, tuple[int, str]]:
    """Files that are called after another one in their folder and may be about it, or a smaller one.

    1_mask.png, mask_1.png, 1_mask_2.png, 1.jpg.mask.png and 1_thumb.jpg beside 1.jpg; 1_mask.png beside 1_sat.jpg;
    1.png beside 1.jpg.

    Args:
        names: Paths.

    Returns:
        For the position of each: the position of the picture, and how it is called: "…_mask".
    """
    found: dict[int, tuple[int, str]] = {}
    about: list[int] = []
    stems: dict[str, int] = {}
    for i, name in enumerate(names):
        stem = name.rpartition(".")[0] or name
        first = stems.setdefault(stem, i)
        if first != i:
            ending = name.removeprefix(stem)
            found[i] = (first, f"…{ending}")
        elif _PART.search(stem, name.rfind("/") + 1) and _PERHAPS_ABOUT.search(stem, name.rfind("/") + 1):
            about.append(i)
    if about:
        whole = {**{name: i for i, name in enumerate(names)}, **stems}
        begun = _beginnings(names, {*about})
        for i in about:
            if (picture := _picture_of(names[i], whole, begun)) and picture[0] != i:
                found[i] = picture
    return found


def _picture_of(name: str, whole: Mapping[str, int], begun: Mapping[str, int]) -> tuple[int, str] | None:
    """The picture that a file is called after, by what its name has beside the words for masks and small copies."""
    folder, slash, file = name.rpartition("/")
    stem = file.rpartition(".")[0] or file
    known = _ABOUT_A_PICTURE | _SMALLER | _WHICH_ONE | _PICTURES
    for pictures in (whole, begun):
        for cut in _PART.finditer(stem):
            sides = [(stem[: cut.start()], stem[cut.start() :], "…{}"), (stem[cut.end() :], stem[: cut.end()], "{}…")]
            for picture, rest, form in sides:
                said = {word for word in words(rest) if not word.isdecimal()}
                if not (said & (_ABOUT_A_PICTURE | _SMALLER) and said <= known) or (
                    form == "{}…" and re.search(r"\d", rest)
                ):
                    continue
                if (k := pictures.get(f"{folder}{slash}{picture}")) is not None:
                    return k, form.format(re.sub(r"[-_ .]*\d+$", "", rest))
    return None


def _beginnings(names: Sequence[str], but: Collection[int]) -> dict[str, int]:
    """Pictures by their names without the last or the first part: 85 of 85_sat.jpg, 1 of image_1.png."""
    found: dict[str, int] = {}
    for i, name in enumerate(names):
        if i not in but:
            folder, slash, file = name.rpartition("/")
            stem = file.rpartition(".")[0] or file
            cuts = list(_PART.finditer(stem))
            for rest in (stem[: cuts[-1].start()], stem[cuts[0].end() :]) if cuts else ():
                found.setdefault(f"{folder}{slash}{rest}", i)
    return found


# ---- splits ----


def split_meanings(names: Collection[str]) -> dict[str, tuple[str | None, str]]:
    """Which split each of some folders side by side stands for, and what else its name says.

    "train", "val2017" and "Test_set" say no more than that. Of others a word in them may: of trainA, trainB, testA and
    testB the rests are A and B; of train and public_test there are none, as no split has two. All names have to be of a
    split then, train and another among them, as a class may be called train_station.

    Returns:
        By name: "train", "val", "test" or None, and the rest, "" where it tells nothing apart.
    """
    plain: dict[str, tuple[str | None, str]] = {name: (canonical_split(name), "") for name in names}
    within = {name: plain[name] if plain[name][0] else _split_within(name) for name in names}
    rests: dict[str | None, set[str]] = defaultdict(set)
    for split, rest in within.values():
        rests[split].add(rest)
    telling = any(len(each) > 1 for split, each in rests.items() if split)
    several = "train" in rests and len(rests.keys() - {None}) > 1
    others = None in rests and (telling or any(split for split, _ in plain.values()))
    if not several or others:
        return plain
    return {name: (split, rest if telling else "") for name, (split, rest) in within.items()}


def _split_within(name: str) -> tuple[str | None, str]:
    parts = re.findall(r"[^\W_]+|[\W_]+", _BOUNDARY.sub("\0", name))
    splits = [k for k, part in enumerate(parts) if canonical_split(part) and not part.isdecimal()]
    if len(splits) != 1:
        return None, name
    rest = "".join(parts[: splits[0]]) + "".join(parts[splits[0] + 1 :])
    rest = re.sub(r"([-_ .]){2,}", r"\1", rest.replace("\0", ""))
    return canonical_split(parts[splits[0]]), rest.strip("-_ .")


# ---- bundles ----


def bundle_by_name(names: Collection[str]) -> bool:
    """Whether folders side by side are only counted parts of one thing, so that they differ in nothing but a number.

    part1 and part2, images_001, New folder (2), mydata_batch_1, faces-20240101T000000Z-001 (a download from a drive),
    100APPLE (of a camera).
    """
    if len(names) < 2 or any(name.isdecimal() for name in names):
        return False
    if len({re.sub(r"[-_ .()]*\d+[-_ .()]*", "", name).lower() for name in names}) > 1:
        return False
    return all(
        says_nothing(name)
        or re.search(r"(?:part|batch|chunk|vol|volume|disc|section|subset)[-_ .(]*\d+\)?$", name, re.IGNORECASE)
        or re.search(r"\d{8}T\d{6}Z-\d+", name)
        or re.fullmatch(r"[1-9]\d\d[A-Z0-9_]{5}", name)
        for name in names
    )


def bundle_by_number(files: Mapping[str, Sequence[str]]) -> bool:
    """Whether folders bundle files by their numbers alone, so that a file's name tells its folder.

    That is a folder for each power of ten of them, whose name is the first file's (00000, 01000), or what is
    left without the last digits, or the last digits themselves; or by the whole name. Folders that are classes restart
    the numbers of their files, mix them, or hold but some of a range.

    Args:
        files: By folder, the names of its files without their ending.
    """
    if len(files) > 1 and all(stems == [folder] for folder, stems in files.items()):
        return True
    if not all(re.fullmatch(r"[0-9]{1,18}", folder) for folder in files):
        return False
    numbers: dict[str, list[int]] = defaultdict(list)
    for folder, stems in files.items():
        for stem in stems:
            digits = re.fullmatch(r"[^0-9]*([0-9]{1,18})", stem)
            if digits is None:
                return False
            numbers[folder].append(int(digits[1]))
    several, padded = len(files) > 1, min(map(len, files)) > 3
    for width in (10**power for power in range(1, 9)):
        pairs = [(int(folder), number) for folder, found in numbers.items() for number in found]
        if (several or padded) and all(number // width * width == first for first, number in pairs):
            return True
        # Five digits are what tools pad to; people and other classes rarely have so many.
        if (
            several
            and (min(map(len, files)) > 4 or _filled(numbers, width))
            and all(number // width == folder for folder, number in pairs)
        ):
            return True
    pairs = [(int(folder), number) for folder, found in numbers.items() for number in found]
    return (
        several
        and min(map(len, files)) > 2
        and any(all(number % width == last for last, number in pairs) for width in (100, 1000, 10000))
        and any(number != last for last, number in pairs)
    )


def bundle_by_hash(files: Mapping[str, Sequence[str]]) -> bool:
    """Whether folders are the first letters of the hashes that their files are called after.

    Args:
        files: By folder, the names of its files without their ending and without the letters of folders around.
    """
    if len(files) < 2 or not all(re.fullmatch(r"[0-9a-f]{1,4}", folder) for folder in files):
        return False
    if all(stem.isdecimal() for stems in files.values() for stem in stems):  # numbers, which begin alike in a class
        return False
    return all(
        stem.startswith(folder) and re.fullmatch(r"[0-9a-f]{6,}", stem.replace("-", ""))
        for folder, stems in files.items()
        for stem in stems
    )


def _filled(numbers: Mapping[str, Sequence[int]], width: int) -> bool:
    """Whether all folders but the last hold nearly all the numbers of theirs, hundreds of them."""
    whole = sorted(numbers, key=int)[:-1]
    return width >= 100 and all(len({*numbers[folder]}) >= 0.9 * width for folder in whole)


# ---- copies ----


def without_copy(name: str) -> str:
    """A folder's name without what says that it is a copy, in lower case; of a split, the split: data (1), Train."""
    plain = re.sub(r"(?i)[-_ ]*(?:\(\d+\)|\bcopy(?:[-_ ]*\(?\d+\)?)?)$", "", name).strip().lower()
    return canonical_split(plain) or plain


# ---- one name, spelled in several ways ----


def spellings(names: Iterable[str]) -> list[list[str]]:
    """Names that differ in nothing but case or in how accents are encoded, each group sorted; none of one name."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted({*names}):
        groups[unicodedata.normalize("NFC", name).casefold()].append(name)
    return [group for group in groups.values() if len(group) > 1]
