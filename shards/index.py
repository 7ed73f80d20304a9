"""What a packed set holds: index.json says which shards there are and how they were made, index.npz has a row a sample.

index.json is a wids shard list with more in it. It is sealed: its bytes are the one way to write down what it says, and
its fingerprint is a sha256 over all the rest, the sha256 of index.npz and of each shard among it. So a flipped bit
anywhere in a set is found, and the fingerprint stands for all samples of the set.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import string
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from shards import pyramid
from shards.cache import file_size, is_remote, read_bytes
from shards.errors import InputError
from shards.files import write_atomically
from shards.images import Transform
from shards.names import as_written, canonical_split, counts, near

FORMAT = "distgan-shards-1"
INDEX_JSON = "index.json"
INDEX_NPZ = "index.npz"
UNFINISHED = ".pack"
"""Folder inside a set that is there while the set is being packed."""

ENCODINGS = ("raw", "png", "jpeg", "original")
# A plain file name: an index never points out of its folder.
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar")

# What distgan itself calls its shards, and how files or URLs that are tar files end.
_OURS = re.compile(r"shard-\d{6,}\.tar")
_TARS = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz|zst))$")

Columns = dict[str, np.ndarray]
"""A row a sample, by column; see Index for what each holds."""

COLUMN_TYPES = {
    "shard": "<i4",
    "offset": "<i8",
    "size": "<i8",
    "crc32": "<u4",
    "label": "<i4",
    "split": "|i1",
    "attributes": "|u1",
    "key": "S",
    "extension": "S",
    "pyramid_crc32": "<u4",
}
_LATER = ("split", "pyramid_crc32")
"""Columns that sets of the first version, or without any such, do not have."""


@dataclass(frozen=True)
class ShardEntry:
    """One tar file of a set, in wids' words.

    Attributes:
        url: Its file name; it lies beside index.json.
        nsamples: Samples in it; 0 where none of its images could be used.
        filesize: Bytes.
        md5sum: Of the whole file, hex.
        sha256: Of the whole file, hex.
    """

    url: str
    nsamples: int
    filesize: int
    md5sum: str
    sha256: str


@dataclass(frozen=True)
class Description:
    """How a set was made.

    Attributes:
        layout: Of the source: "celeba", "folder", "mnist", "cifar10".
        encoding: Of the image members: "raw", "png", "jpeg", or "original" where they are the source's own files.
        transform: What was done to each image; with encoding "original", what reading does to it.
        attribute_names: In the order of the packed bits.
        class_names: In the order of the labels.
        split_names: Of "train", "val" and "test" those that the source says which samples belong to.
        recognised: What the source was taken for, and what was left out, as JSON has it; see sources.base.Recognised.
        pyramid: Sizes of the smaller images that stand beside each raw one, descending; see pyramid.
    """

    layout: str
    encoding: str
    transform: Transform
    attribute_names: tuple[str, ...]
    class_names: tuple[str, ...]
    split_names: tuple[str, ...] = ()
    recognised: Mapping[str, Any] = field(default_factory=dict)
    pyramid: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Index(Description):
    """Which samples a set holds and where their bytes are.

    Attributes:
        root: Folder or URL.
        shards: The tar files.
        fingerprint: A sha256 (hex) that stands for every byte of the set.
        shard: int32 (n,), position in shards. Samples are in the order of their bytes, shard after shard.
        offset: int64 (n,), where the image member's bytes start in the tar file.
        size: int64 (n,), how many there are.
        crc32: uint32 (n,), of those bytes.
        label: int32 (n,), position in class_names; -1 where there is none.
        split: int8 (n,), position in split_names; -1 where there is none.
        attributes: uint8 (n, ceil(len(attribute_names) / 8)), as numpy.packbits packs them; a set bit is 1, others -1.
        key: bytes (n,), the names of the samples: their members are KEY.EXTENSION, KEY.pyramid.raw, KEY.cls, KEY.json.
        extension: bytes (n,), of the image members.
        pyramid_crc32: uint32 (n, len(pyramid)), of the bytes of each smaller image.
    """

    root: str
    shards: tuple[ShardEntry, ...]
    fingerprint: str
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    label: np.ndarray
    split: np.ndarray
    attributes: np.ndarray
    key: np.ndarray
    extension: np.ndarray
    pyramid_crc32: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    @classmethod
    def load(cls, root: str | Path) -> Index:
        """Read and check index.json and index.npz; the shards themselves are not touched.

        Args:
            root: Folder that was packed into, or a URL that fsspec reads.

        Raises:
            InputError: Missing, unfinished, foreign or damaged; says which and what to do.
        """
        root = str(root)
        document = _checked(root, INDEX_JSON, parse_document)
        columns = _checked(root, INDEX_NPZ, lambda data: parse_columns(data, document))
        return cls(
            **vars(parse_description(document)),
            root=root,
            shards=parse_shards(document),
            fingerprint=document["fingerprint"],
            **columns,
        )

    def select(self, where: Mapping[str, object]) -> np.ndarray:
        """Ids of the samples that meet every condition.

        Args:
            where: Attribute name to 1 or -1 (or true, false); "class" to a class name or a list of them; "split" to
                "train", "val", "test" (or another word for one of them), a list of them, or "all". {} is all.

        Returns:
            int64, ascending; never empty.

        Raises:
            InputError: No such attribute, class or split (near names are suggested), another value, an attribute that
                is itself called "class" or "split" is meant or not, or no sample meets all.
        """
        kept = np.ones(len(self), dtype=bool)
        for name, value in where.items():
            if name in ("class", "split") and name in self.attribute_names:
                raise InputError(
                    f"{name!r} is ambiguous: {self.root} has an attribute of that name too; "
                    "pack the set again with another name for the attribute"
                )
            if name == "class":
                kept &= self._in_classes(value)
            elif name == "split":
                kept &= self._in_splits(value)
            else:
                kept &= self._has_attribute(name, value)
        if not kept.any():
            raise InputError(f"no sample of {self.root} meets all of {dict(where)}: ask for less")
        return np.flatnonzero(kept).astype(np.int64)

    def place_of(self, size: int) -> tuple[int, np.ndarray]:
        """Where a sample's image of a size begins, from the offset on, and the crc32 of each: uint32 (n,).

        Args:
            size: The images' own, or one of the pyramid's.
        """
        if size == self.transform.size:
            return 0, self.crc32
        level, channels = self.pyramid.index(size), self.transform.channels
        begins = pyramid.first_byte(self.transform.size**2 * channels)
        return begins + pyramid.starts(self.pyramid, channels)[level], self.pyramid_crc32[:, level]

    def attribute(self, name: str) -> np.ndarray:
        """Which samples have an attribute: bool (n,).

        Raises:
            InputError: There is no such attribute; near names are suggested.
        """
        if name not in self.attribute_names:
            raise InputError(f"{self.root} has no attribute {name!r}: {near(name, self.attribute_names)}")
        return self._bit(self.attribute_names.index(name))

    def check_files(self) -> None:
        """See that every shard is there and of the right size, without reading them.

        Raises:
            InputError: Names the shards that are missing or of another size.
        """

        def wrong(entry: ShardEntry) -> str | None:
            try:
                size = file_size(self.root, entry.url)
            except FileNotFoundError:
                return f"{entry.url} is missing"
            except OSError as error:
                return f"{entry.url} cannot be read ({error})"
            return None if size == entry.filesize else f"{entry.url} has {size} bytes instead of {entry.filesize}"

        with ThreadPoolExecutor(16) as pool:
            found = [reason for reason in pool.map(wrong, self.shards) if reason]
        if found:
            more = f", and {len(found) - 5} more" if len(found) > 5 else ""
            raise InputError(
                f"{self.root} is damaged: {', '.join(found[:5])}{more}. Copy or pack the set again; "
                f"distgan shards verify names all damage, distgan shards repair keeps what is sound"
            )

    def summary(self) -> dict[str, Any]:
        """What a person wants to know of a set; numbers, strings and dicts of these."""
        transform = self.transform
        crop = f"{transform.crop or 'largest'} square" if transform.fit == "crop" else "none, padded"
        if transform.crop_top is not None:
            crop += f" from row {transform.crop_top}"
        return {
            "samples": len(self),
            "shards": len(self.shards),
            "bytes": sum(entry.filesize for entry in self.shards),
            "layout": self.layout,
            "encoding": self.encoding,
            "size": transform.size,
            "channels": transform.channels,
            "crop": crop,
            "filter": transform.filter,
            "pyramid": ", ".join(map(str, self.pyramid)) or "none",
            "fingerprint": self.fingerprint,
            "classes": counts(self.class_names, self.label),
            "splits": counts(self.split_names, self.split),
            "attributes": {name: int(self._bit(i).sum()) for i, name in enumerate(self.attribute_names)},
            "left out": dict(self.recognised.get("left_out", {})),
        }

    def _bit(self, i: int) -> np.ndarray:
        """Bool (n,): which samples have attribute i."""
        bits: np.ndarray = self.attributes[:, i // 8] & (128 >> i % 8)
        return bits.astype(bool)

    def _has_attribute(self, name: str, value: object) -> np.ndarray:
        has = self.attribute(name)
        if value not in (1, -1) and value is not False:
            raise InputError(f"attribute {name} is 1 or -1, not {value!r}")
        return has if value == 1 else ~has

    def _in_classes(self, value: object) -> np.ndarray:
        wanted = as_written(value, "class")
        for name in wanted:
            if name not in self.class_names:
                raise InputError(f"{self.root} has no class {name!r}: {near(name, self.class_names)}")
        chosen: np.ndarray = np.isin(self.label, [self.class_names.index(name) for name in wanted])
        return chosen

    def _in_splits(self, value: object) -> np.ndarray:
        wanted = as_written(value, "split")
        if wanted == ["all"]:
            return np.ones(len(self), dtype=bool)
        splits = [canonical_split(name) or name for name in wanted]
        for name, split in zip(wanted, splits, strict=True):
            if split not in self.split_names:
                there = ", ".join(self.split_names) or "none"
                raise InputError(f"{self.root} has no split {name!r}: there are {there}")
        chosen: np.ndarray = np.isin(self.split, [self.split_names.index(split) for split in splits])
        return chosen


def write_index(out: Path, description: Description, shards: Sequence[ShardEntry], columns: Columns) -> None:
    """Write index.npz and then index.json, which makes the set whole. The same samples give the same bytes.

    Args:
        out: The folder the shards lie in.
        description: How they were made.
        shards: The shards, in order.
        columns: As in Index, a row a sample.

    Raises:
        OSError: The folder cannot be written.
    """
    npz = io.BytesIO()
    # Not compressed: zlib and its replacements pack the same rows into different bytes.
    kept = [name for name in COLUMN_TYPES if name != "pyramid_crc32" or description.pyramid]
    np.savez(npz, **{name: columns[name] for name in kept})  # type: ignore[arg-type]
    with write_atomically(out / INDEX_NPZ) as file:
        file.write(npz.getvalue())
    document = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"{description.layout}-{description.transform.size}",
        "shardlist": [asdict(entry) for entry in shards],
        "format": FORMAT,
        "nsamples": sum(entry.nsamples for entry in shards),
        "index_npz": {"sha256": hashlib.sha256(npz.getvalue()).hexdigest(), "filesize": len(npz.getvalue())},
        **{
            field.name: getattr(description, field.name)
            for field in fields(Description)
            if field.name != "pyramid" or description.pyramid  # sets without one keep their very bytes
        },
        "transform": description.transform.to_json(),
    }
    with write_atomically(out / INDEX_JSON) as file:
        file.write(seal(document))


def seal(document: Mapping[str, Any]) -> bytes:
    """Write a JSON document down in the one way there is, with a fingerprint of everything in it."""
    return _canonical({**document, "fingerprint": _fingerprint(document)})


def unseal(data: bytes) -> dict[str, Any]:
    """Read what seal wrote.

    Raises:
        ValueError: It is not that, to the bit.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON document") from None
    if not isinstance(document, dict) or "fingerprint" not in document:
        raise ValueError("it has no fingerprint")
    content = {name: value for name, value in document.items() if name != "fingerprint"}
    if data != _canonical(document) or document["fingerprint"] != _fingerprint(content):
        raise ValueError("its bytes are not those that were written")
    return document


def parse_document(data: bytes) -> dict[str, Any]:
    """Read the bytes of an index.json and check all that it says.

    Raises:
        ValueError: The reason, for people.
    """
    document = unseal(data)
    if document.get("format") != FORMAT:
        raise ValueError(f"its format is {document.get('format')!r}, and this version of distgan reads {FORMAT!r}")
    try:
        parse_description(document)
        shards = parse_shards(document)
        if document["nsamples"] != sum(entry.nsamples for entry in shards):
            raise ValueError("its counts contradict each other")
        _expect(document["index_npz"]["sha256"], str)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not what distgan writes ({error!r})") from error
    return document


def parse_description(document: Mapping[str, Any]) -> Description:
    """How the set of an index.json was made; parse_document has checked it."""
    if document["encoding"] not in ENCODINGS:
        raise ValueError(f"its encoding is {document['encoding']!r}, and this version reads {', '.join(ENCODINGS)}")
    transform = Transform.from_json(document["transform"])
    sizes = tuple(_expect(size, int) for size in document.get("pyramid", []))
    if sizes and (document["encoding"] != "raw" or sizes != pyramid.sizes_of(transform.size)):
        raise ValueError(f"its pyramid is of the sizes {sizes}")
    recognised = _expect(document.get("recognised", {}), dict)
    _expect(recognised.get("left_out", {}), dict)
    return Description(
        layout=_expect(document["layout"], str),
        encoding=document["encoding"],
        transform=transform,
        attribute_names=_names(document["attribute_names"]),
        class_names=_names(document["class_names"]),
        # Sets that were packed by the first version know of neither.
        split_names=_names(document.get("split_names", [])),
        recognised=recognised,
        pyramid=sizes,
    )


def _names(values: Any) -> tuple[str, ...]:
    return tuple(_expect(name, str) for name in _expect(values, list))


def parse_shards(document: Mapping[str, Any]) -> tuple[ShardEntry, ...]:
    """The shards of an index.json; parse_document has checked it."""
    shards = tuple(ShardEntry(**entry) for entry in document["shardlist"])
    for entry in shards:
        if not SHARD_NAME.fullmatch(entry.url):
            raise ValueError(f"{entry.url!r} is no name for a shard")
        if _expect(entry.nsamples, int) < 0 or not 0 <= _expect(entry.filesize, int) < 2**63:
            raise ValueError(f"{entry.url} has counts that no file has")
        for checksum in (entry.md5sum, entry.sha256):
            _expect(checksum, str)
    if len({entry.url for entry in shards}) < len(shards):
        raise ValueError("it names a shard twice")
    return shards


def parse_columns(data: bytes, document: Mapping[str, Any]) -> Columns:
    """Read the bytes of an index.npz and check that every row lies inside its shard.

    Args:
        data: The file.
        document: What parse_document returned for the index.json beside it.

    Raises:
        ValueError: The reason, for people.
    """
    if hashlib.sha256(data).hexdigest() != document["index_npz"]["sha256"]:
        raise ValueError(f"its bytes are not those that {INDEX_JSON} goes with (sha256)")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            columns = {
                name: np.asarray(archive[name]) for name in COLUMN_TYPES if name in archive or name not in _LATER
            }
    except Exception as error:  # readers of hostile zips and arrays raise nearly anything
        raise ValueError(f"it is not what distgan writes ({error})") from error
    description, shards = parse_description(document), parse_shards(document)
    rows = document["nsamples"]
    if columns["shard"].shape != (rows,):  # before anything is made for so many rows
        raise ValueError(f"it has not the {rows:,} rows that {INDEX_JSON} speaks of")
    if not description.split_names:  # which sets of the first version do not even have a column of
        columns.setdefault("split", np.full(rows, -1, COLUMN_TYPES["split"]))
    if not description.pyramid:
        columns.setdefault("pyramid_crc32", np.empty((rows, 0), COLUMN_TYPES["pyramid_crc32"]))
    for name in _LATER:
        if name not in columns:
            raise ValueError(f"it has no column {name}")
    shapes = {
        "attributes": (rows, (len(description.attribute_names) + 7) // 8),
        "pyramid_crc32": (rows, len(description.pyramid)),
    }
    for name, kind in COLUMN_TYPES.items():
        column = columns[name]
        if column.shape != shapes.get(name, (rows,)) or not column.dtype.str.startswith((kind, f"|{kind}")):
            raise ValueError(f"column {name} is {column.dtype.str} {column.shape}")
    filesize = np.repeat([entry.filesize for entry in shards], [entry.nsamples for entry in shards])
    size, offset, label, split = columns["size"], columns["offset"], columns["label"], columns["split"]
    pixels = description.transform.size**2 * description.transform.channels
    behind = 0  # of an image: how far its pyramid reaches
    if description.pyramid:
        ends = pyramid.starts(description.pyramid, description.transform.channels)[-1]
        behind = pyramid.first_byte(pixels) - pixels + ends
    if (
        not np.array_equal(columns["shard"], np.repeat(np.arange(len(shards)), [entry.nsamples for entry in shards]))
        or not np.all((size > 0) & (size <= filesize) & (offset >= 0) & (offset <= filesize - size - behind))
        or (description.encoding == "raw" and not np.all(size == pixels))
        or not np.all((label >= -1) & (label < len(description.class_names)))
        or not np.all((split >= -1) & (split < len(description.split_names)))
    ):
        raise ValueError("it has rows that lie outside what they index")
    if not _are_plain(columns["key"], b"_-/", 80) or not _are_plain(columns["extension"], b"", 8):
        raise ValueError("it has keys that are no names of samples")
    return columns


def _are_plain(names: np.ndarray, others: bytes, most: int) -> bool:
    """Whether bytes (n,) are names that fit into a tar and lead nowhere else when it is unpacked.

    They are of letters, digits and others, so many at most.
    """
    known = np.isin(np.arange(256), list(others + string.ascii_letters.encode() + string.digits.encode()))
    known[0] = True  # which fills up those that are shorter than others, and does not begin any
    letters = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), names.itemsize)
    filling = letters == 0
    ends = not (filling[:, 0] | (letters[:, 0] == ord("/"))).any() and not (filling[:, :-1] > filling[:, 1:]).any()
    return bool(known[letters].all() and ends and names.itemsize <= most)


def _checked(root: str, name: str, parse: Any) -> Any:
    """Read one file of an index; every way in which that fails becomes an error for people."""
    path = f"{root.rstrip('/')}/{name}"
    if is_remote(root) and _TARS.search(root):  # the network need not be asked
        refuse_foreign(root)
    try:
        return parse(read_bytes(root, name))
    except (FileNotFoundError, NotADirectoryError):
        if name == INDEX_NPZ:
            raise InputError(f"{path} is missing: copy or pack the set again") from None
        refuse_foreign(root)
        raise InputError(f"{root} {_why_no_set(root)}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if name == INDEX_JSON:
            refuse_foreign(root)
        raise InputError(f"{path} is damaged or foreign: {error}. Copy or pack the set again") from error


def refuse_foreign(root: str | Path) -> None:
    """Of a place that has no index of distgan's that can be read: see that it is not shards which others have made.

    Args:
        root: A folder, a URL, a tar file, or a name of several such as ``pool/{000..031}.tar``.

    Raises:
        InputError: It is; says how they are packed.
    """
    root = str(root)
    if _TARS.search(root) and (is_remote(root) or not Path(root).is_dir()):
        several = bool(set("{*?[") & set(root))
        found = ("stands for tar files" if several else "is a tar file") if _are_foreign(root) else None
    else:
        number = _foreign_tars(root)
        several = number > 1
        found = f"holds {number:,} tar file{'s' if several else ''}" if number else None
    if found:
        raise InputError(
            f"{root} {found} that distgan did not pack: "
            f"pack {'them' if several else 'it'} with distgan shards pack {shlex.quote(root)} OUT --size 64"
        )


def _are_foreign(tars: str) -> bool:
    """Whether the tar files that a name stands for are there, and neither are distgan's nor lie beside an index."""
    if is_remote(tars):
        return True
    path = Path(tars)
    pattern = re.sub(r"\{[^{}]*\}", "*", path.name)
    try:
        names = [found.name for found in path.parent.glob(pattern)]
    except (OSError, ValueError):
        return False
    return bool(names) and not (path.parent / INDEX_JSON).exists() and not any(map(_OURS.fullmatch, names))


def _foreign_tars(root: str) -> int:
    """How many tar files of others a folder holds; 0 where it is distgan's, or where that cannot be told."""
    try:
        document = json.loads(read_bytes(root, INDEX_JSON))
        if not {"format", "fingerprint"} & document.keys() and document["shardlist"]:
            return len(document["shardlist"])  # wids' list, which has nothing of distgan's in it
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    if is_remote(root) or not Path(root).is_dir() or (Path(root) / UNFINISHED).exists():
        return 0
    names = [path.name for path in Path(root).iterdir() if _TARS.search(path.name)]
    return 0 if any(map(_OURS.fullmatch, names)) else len(names)


def _why_no_set(root: str) -> str:
    if not is_remote(root):
        if Path(root).is_file():
            return "is a file: give the folder that distgan shards pack wrote"
        if not Path(root).is_dir():
            return "does not exist: give the folder that distgan shards pack wrote"
        if (Path(root) / UNFINISHED).exists():
            return "is not packed to the end: run the same distgan shards pack command again, and it goes on"
    return f"holds no packed set (no {INDEX_JSON}): make one with distgan shards pack"


def _canonical(document: Mapping[str, Any]) -> bytes:
    # A line an item: readable, and many times faster than indented.
    return json.dumps(document, sort_keys=True, separators=(",\n", ": ")).encode() + b"\n"


def _fingerprint(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(document)).hexdigest()


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:  # not isinstance: a bool is an int
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
