from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import InputError
from shards.index import COLUMN_TYPES, Index, parse_columns, parse_document, seal, unseal
from shards.verify import verify
from tests.shards.conftest import TRANSFORM, FakeSource, files_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_says_what_was_packed(pristine: Path) -> None:
    index, source = Index.load(pristine), FakeSource()
    assert len(index) == 40
    assert (index.layout, index.encoding, index.transform) == ("folder", "raw", TRANSFORM)
    assert (index.attribute_names, index.class_names) == (source.attribute_names, source.class_names)
    assert index.key.tolist() == [f"images/{i:04d}".encode() for i in range(40)]
    assert index.label.tolist() == [i % 3 for i in range(40)]
    bits = np.unpackbits(index.attributes, axis=1, count=len(source.attribute_names))
    assert np.array_equal(2 * bits.astype(int) - 1, [source.attributes(i) for i in range(40)])
    for entry in index.shards:
        data = (pristine / entry.url).read_bytes()
        assert entry.filesize == len(data)
        assert entry.sha256 == hashlib.sha256(data).hexdigest()
        assert entry.md5sum == hashlib.md5(data).hexdigest()
    document = json.loads((pristine / "index.json").read_text())
    assert document["transform"] == {
        "size": 8, "channels": 3, "crop": None, "crop_top": None, "fit": "crop", "filter": "lanczos"
    }  # fmt: skip
    assert document["fingerprint"] == index.fingerprint


def test_the_columns_carry_no_date(pristine: Path) -> None:
    with zipfile.ZipFile(pristine / "index.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@given(document=st.dictionaries(st.text().filter(lambda name: name != "fingerprint"), JSON, max_size=4))
def test_sealing_loses_nothing_and_notices_each_flipped_bit(document: dict[str, Any]) -> None:
    data = seal(document)
    opened = unseal(data)
    opened.pop("fingerprint")
    assert opened == document
    for byte in range(0, len(data), 7):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[byte] ^= 1 << bit
            with pytest.raises(ValueError, match=r"it is no|it has no|its bytes"):
                unseal(bytes(flipped))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"fingerprint": ""}'])
def test_unseal_refuses_what_seal_did_not_write(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is no|it has no|its bytes"):
        unseal(data)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"Smiling": 1},
        {"Wavy": -1},
        {"Smiling": True, "Wavy": False},
        {"class": "dog"},
        {"class": ["dog", "cat"], "Bald": 1},
    ],
)
def test_select_keeps_what_meets_all(pristine: Path, where: dict[str, Any]) -> None:
    source = FakeSource()

    def meets(i: int) -> bool:
        facts = dict(zip(source.attribute_names, source.attributes(i).tolist(), strict=True))
        classes = where.get("class", source.class_names)
        wanted = {name: 1 if value in (1, True) else -1 for name, value in where.items() if name != "class"}
        return source.class_names[i % 3] in classes and all(facts[name] == value for name, value in wanted.items())

    selected = Index.load(pristine).select(where)
    assert selected.dtype == np.int64
    assert selected.tolist() == [i for i in range(40) if meets(i)]


def test_classes_that_yaml_takes_for_numbers(pristine: Path) -> None:
    index = replace(Index.load(pristine), class_names=("0", "1", "2"))
    assert index.select({"class": [0, 2]}).tolist() == [i for i in range(40) if i % 3 != 1]


def test_names_that_are_no_text_any_more_are_refused(pristine: Path) -> None:
    index = replace(Index.load(pristine), class_names=("False", "None", "1000.0"))
    for value in (False, None, 1000.0, [1000.0]):
        with pytest.raises(InputError, match=r"class .* is no text: quote it"):
            index.select({"class": value})
    with pytest.raises(InputError, match="split False is no text: quote it"):
        index.select({"split": False})
    assert index.select({"class": "1000.0"}).tolist() == [i for i in range(40) if i % 3 == 2]


def split(index: Index) -> Index:
    """The same samples: of four neighbours one each is in train, test and val, and one in none of them."""
    numbers = np.array([i % 4 if i % 4 < 3 else -1 for i in range(40)], np.int8)
    return replace(index, split_names=("train", "test", "val"), split=numbers)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("train", {0}),
        ("Training_set", {0}),
        (["train", "validation"], {0, 2}),
        (["train", "val", "test"], {0, 1, 2}),
        ("all", {0, 1, 2, 3}),
    ],
)
def test_select_knows_splits_by_any_of_their_names(pristine: Path, value: Any, kept: set[int]) -> None:
    index = split(Index.load(pristine))
    assert index.select({"split": value}).tolist() == [i for i in range(40) if i % 4 in kept]
    assert index.summary()["splits"] == {"train": 10, "test": 10, "val": 10}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("trian", "has no split 'trian': there are train, test, val"),
        (["train", "all"], "has no split 'all'"),
        ([], "no sample"),
    ],
)
def test_select_says_which_splits_there_are(pristine: Path, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        split(Index.load(pristine)).select({"split": value})
    with pytest.raises(InputError, match="has no split 'val': there are none"):
        Index.load(pristine).select({"split": "val"})


@pytest.mark.parametrize("name", ["class", "split"])
def test_an_attribute_with_a_name_that_means_another_thing_is_ambiguous(pristine: Path, name: str) -> None:
    index = split(Index.load(pristine))
    index = replace(index, attribute_names=(name, *index.attribute_names[1:]))
    with pytest.raises(InputError, match=f"'{name}' is ambiguous: "):
        index.select({name: "train"})
    assert len(index.select({"Bald": 1}))
    assert index.attribute(name).any()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"smilling": 1}, "no attribute 'smilling': did you mean 'Smiling'"),
        ({"xyz": 1}, "there are Smiling, Eyeglasses"),
        ({"class": "dgo"}, "no class 'dgo': did you mean 'dog'"),
        ({"class": ["cat", "whale"]}, "no class 'whale'"),
        ({"Smiling": 2}, "Smiling is 1 or -1, not 2"),
        ({"Smiling": 0}, "Smiling is 1 or -1, not 0"),
        ({"Smiling": "yes"}, "Smiling is 1 or -1, not 'yes'"),
        ({"class": []}, "no sample"),
    ],
)
def test_select_says_what_is_wrong(pristine: Path, where: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Index.load(pristine).select(where)


def test_select_on_a_set_without_names(pristine: Path) -> None:
    index = replace(Index.load(pristine), attribute_names=(), class_names=())
    for where in ({"Smiling": 1}, {"class": "dog"}):
        with pytest.raises(InputError, match="there are none"):
            index.select(where)


def test_check_files_names_what_is_missing_or_of_another_size(packed: Callable[[], Path]) -> None:
    root = packed()
    index = Index.load(root)
    index.check_files()
    (root / "shard-000001.tar").unlink()
    with (root / "shard-000003.tar").open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        InputError, match=r"shard-000001.tar is missing, shard-000003.tar has 40961 bytes instead of 40960\."
    ):
        index.check_files()


def test_summary_counts(pristine: Path) -> None:
    summary, source = Index.load(pristine).summary(), FakeSource()
    attributes = np.stack([source.attributes(i) for i in range(40)])
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["samples"], summary["shards"], summary["encoding"]) == (40, 4, "raw")
    assert summary["bytes"] == sum(len(data) for name, data in files_of(pristine).items() if name.endswith(".tar"))
    assert summary["classes"] == {"cat": 14, "dog": 13, "emu": 13}
    assert list(summary["attributes"].values()) == (attributes == 1).sum(axis=0).tolist()


def test_load_says_what_is_there_instead(tmp_path: Path, packed: Callable[[], Path]) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Index.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no packed set.*distgan shards pack"):
        Index.load(tmp_path)
    root = packed()
    (root / "index.npz").unlink()
    with pytest.raises(InputError, match=r"index\.npz is missing"):
        Index.load(root)
    (root / "index.json").write_text('{"wids_version": 1, "shardlist": []}')
    with pytest.raises(InputError, match=r"index\.json is damaged or foreign"):
        Index.load(root)


def tars(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"tar")
    return folder


def said_of(root: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        Index.load(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tar_files_of_others_are_to_be_packed(tmp_path: Path) -> None:
    pool = tars(tmp_path / "pool", *(f"{i:05d}.tar" for i in range(32)))
    how = f"that distgan did not pack: pack them with distgan shards pack {pool} OUT --size 64"
    assert said_of(pool) == f"{pool} holds 32 tar files {how}"
    (pool / "index.json").write_text('{"name": "something else"}')
    assert said_of(pool) == f"{pool} holds 32 tar files {how}"
    shardlist = [{"url": f"shard-{i:06d}.tar", "nsamples": 1} for i in range(3)]
    (pool / "index.json").write_text(json.dumps({"wids_version": 1, "shardlist": shardlist}))
    assert said_of(pool) == f"{pool} holds 3 tar files {how}"
    one = tars(tmp_path / "one", "a b.tar.gz")
    assert said_of(one) == (
        f"{one} holds 1 tar file that distgan did not pack: pack it with distgan shards pack {one} OUT --size 64"
    )
    file = one / "a b.tar.gz"
    assert said_of(file).startswith(f"{file} is a tar file that distgan did not pack: pack it with")
    assert f"distgan shards pack '{file}' OUT" in said_of(file)
    (pool / "index.json").unlink()
    for name in (
        f"{pool}/{{00000..00031}}.tar",
        f"{pool}/*.tar",
        "s3://bucket/{000..127}.tar",
        "pipe:x http://y/z.tar",
    ):
        several = "z.tar" not in name
        assert said_of(name).startswith(f"{name} {'stands for tar files' if several else 'is a tar file'} that")
        assert f"distgan shards pack '{name}' OUT --size 64" in said_of(name)


def test_a_set_that_lost_its_index_is_not_taken_for_one_of_others(packed: Callable[[], Path]) -> None:
    root = packed()
    assert "is a file: give the folder" in said_of(root / "shard-000000.tar")
    assert "does not exist: give the folder" in said_of(root / "shard-{000000..000003}.tar")
    (root / "index.json").write_text('{"cut off')
    assert "damaged or foreign" in said_of(root)
    (root / "index.json").unlink()
    assert "holds no packed set (no index.json)" in said_of(root)
    assert "is a file: give the folder" in said_of(root / "shard-000000.tar")
    assert "does not exist" in said_of(root / "{0..3}.tar")
    assert "does not exist" in said_of(root / "x.tar")
    (root / ".pack").mkdir()
    for tar in root.glob("*.tar"):
        tar.rename(root / f"x{tar.name}")
    assert "is not packed to the end" in said_of(root)


def test_every_flipped_bit_of_the_index_is_noticed(packed: Callable[[], Path]) -> None:
    root = packed()
    for name in ("index.json", "index.npz"):
        data = (root / name).read_bytes()
        for position in np.random.default_rng(0).integers(0, 8 * len(data), 200).tolist():
            flipped = bytearray(data)
            flipped[position // 8] ^= 1 << position % 8
            (root / name).write_bytes(flipped)
            with pytest.raises(InputError, match=name.replace(".", r"\.")):
                Index.load(root)
        (root / name).write_bytes(data)
    Index.load(root)


def forged(root: Path, **changes: Any) -> bytes:
    """An index.json with a right fingerprint that says something else."""
    document = json.loads((root / "index.json").read_text())
    document.pop("fingerprint")
    return seal({**document, **changes})


ENTRY = {"url": "shard-000000.tar", "nsamples": 40, "filesize": 10**6, "md5sum": "", "sha256": ""}


@pytest.mark.parametrize(
    "change",
    [
        *({"shardlist": [{**ENTRY, "url": url}]} for url in ("../x.tar", "/x.tar", "a/b.tar", "..", ".tar", "s3:", 7)),
        {"shardlist": [ENTRY, ENTRY]},
        {"shardlist": [{**ENTRY, "nsamples": -1}]},
        {"shardlist": [{**ENTRY, "filesize": True}]},
        {"shardlist": [{**ENTRY, "more": 1}]},
        {"shardlist": [{**ENTRY, "sha256": 7}]},
        {"shardlist": [{**ENTRY, "filesize": 10**30}]},
        {"shardlist": None},
        {"shardlist": ["x"]},
        {"nsamples": 41},
        {"encoding": "pickle"},
        {"transform": {"size": 8}},
        {"transform": {"size": 0, "channels": 3, "crop": None, "crop_top": None, "fit": "crop", "filter": "lanczos"}},
        {"attribute_names": [1]},
        {"class_names": None},
        {"class_names": "abc"},
        {"recognised": []},
        {"recognised": {"left_out": 7}},
        {"index_npz": {}},
        {"format": "distgan-shards-2"},
    ],
)  # fmt: skip
def test_an_index_that_lies_is_refused(packed: Callable[[], Path], change: dict[str, Any]) -> None:
    root = packed()
    (root / "index.json").write_bytes(forged(root, **change))
    with pytest.raises(InputError, match=r"index\.json is damaged or foreign"):
        Index.load(root)


@pytest.mark.parametrize(
    "change",
    [
        {"shard": lambda column: column + 1},
        {"shard": lambda column: column[::-1]},
        {"offset": lambda column: column + 10**6},
        {"offset": lambda column: column - 10**6},
        {"offset": lambda column: np.full_like(column, 2**63 - 1)},
        {"size": lambda column: column - 1},
        {"size": lambda column: np.full_like(column, 2**62)},
        {"label": lambda column: column + 5},
        {"label": lambda column: column - 5},
        {"crc32": lambda column: column.astype(np.int64)},
        {"key": lambda column: column[:-1]},
        {"key": lambda column: column.astype(object)},
        {"attributes": lambda column: column[:, :1]},
        {"extension": lambda column: None},
        {"extension": lambda column: np.full_like(column, b"r/w")},
        {"extension": lambda column: np.full_like(column, b"")},
        *(
            {"key": lambda column, name=name: np.array([name] * len(column))}
            for name in (b"x" * 81, b"../x", b"a/../x", b"/x", b"", b"\xff", b"a\0b", b"a\nb", b"a.b")
        ),
    ],
)
def test_rows_that_lie_are_refused(pristine: Path, change: dict[str, Callable[[Any], Any]]) -> None:
    columns = dict(np.load(pristine / "index.npz"))
    assert columns.keys() == COLUMN_TYPES.keys() - {"pyramid_crc32"}
    for name, function in change.items():
        columns[name] = function(columns[name])
    file = BytesIO()
    np.savez(file, **{name: column for name, column in columns.items() if column is not None})
    document = parse_document(
        forged(pristine, index_npz={"sha256": hashlib.sha256(file.getvalue()).hexdigest(), "filesize": 0})
    )
    with pytest.raises(ValueError, match=r"it has rows|it has keys|column|it is not what"):
        parse_columns(file.getvalue(), document)


def test_more_rows_than_there_are_need_no_memory(pristine: Path) -> None:
    entries = json.loads((pristine / "index.json").read_text())["shardlist"]
    entries[0]["nsamples"] += 10**15
    document = parse_document(forged(pristine, shardlist=entries, nsamples=40 + 10**15, split_names=[]))
    with pytest.raises(ValueError, match=r"has not the 1,000,000,000,000,040 rows"):
        parse_columns((pristine / "index.npz").read_bytes(), document)


@pytest.mark.parametrize("damage", ["method", "shape", "empty", "encrypted"])
def test_an_archive_of_columns_that_lies_is_refused(pristine: Path, damage: str) -> None:
    file = BytesIO()
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (%d,)}" % 10**17
    with zipfile.ZipFile(pristine / "index.npz") as whole, zipfile.ZipFile(file, "w") as archive:
        for name in whole.namelist():
            bad = {"shape": b"\x93NUMPY\1\0" + bytes([len(header), 0]) + header, "empty": b""}
            member = bad.get(damage, whole.read(name)) if name == "offset.npy" else whole.read(name)
            archive.writestr(zipfile.ZipInfo(name), member)
    data = bytearray(file.getvalue())
    for begins, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for at in (match.start() for match in re.finditer(begins, bytes(data))):
            data[at + flags] |= damage == "encrypted"
            data[at + flags + 2] = 99 if damage == "method" else 0
    document = parse_document(forged(pristine, index_npz={"sha256": hashlib.sha256(data).hexdigest(), "filesize": 0}))
    with pytest.raises(ValueError, match=r"it is not what distgan writes|column offset"):
        parse_columns(bytes(data), document)


@pytest.mark.parametrize("name", ["index.json", "index.npz", "shard-000001.tar"])
def test_what_is_no_file_is_not_read(packed: Callable[[], Path], name: str) -> None:
    root = packed()
    (root / name).unlink()
    (root / name).symlink_to(os.devnull)  # a device that ends; others never do
    with pytest.raises(InputError, match=rf"{name} cannot be read.*not a regular file"):
        Index.load(root).check_files()
    assert {damage.file for damage in verify(root) if "not a regular file" in damage.reason} == {name}


def test_load_from_a_url(pristine: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, data in files_of(pristine).items():
        memory.pipe(f"/index-test/{name}", data)
    index, local = Index.load("memory://index-test"), Index.load(pristine)
    assert index.fingerprint == local.fingerprint
    assert np.array_equal(index.offset, local.offset)
    index.check_files()
    memory.rm("/index-test/shard-000002.tar")
    with pytest.raises(InputError, match=r"shard-000002.tar is missing"):
        index.check_files()
    with pytest.raises(InputError, match="holds no packed set"):
        Index.load("memory://nothing")
    with pytest.raises(InputError, match="nosuch"):
        Index.load("nosuch://bucket/faces")
