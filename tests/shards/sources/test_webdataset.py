import io
import json
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from PIL import Image

from shards.errors import InputError
from shards.images import Transform
from shards.index import Index
from shards.sources import open_source
from shards.sources.webdataset import split_key
from shards.writer import pack
from tests.shards.sources.test_sources import picture
from tests.shards.test_trees import tar_bytes


def samples(first: int, count: int, dotted: str = "") -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for i in range(first, first + count):
        key = f"s{i:04d}{dotted}"
        facts = {"Smiling": 1 if i % 2 else -1, "Young": bool(i % 3), "caption": "a face", "id": i}
        files |= {
            f"{key}.jpg": picture(i),
            f"{key}.cls": str(i % 3).encode(),
            f"{key}.json": json.dumps(facts).encode(),
            f"{key}.txt": b"words",
        }
    return files


def write_pool(folder: Path, dotted: str = "", compression: str = "", names: str = "{:06d}.tar") -> Path:
    folder.mkdir(parents=True)
    for shard in range(3):
        (folder / names.format(shard)).write_bytes(tar_bytes(samples(shard * 5, 5, dotted), compression))
    return folder


@pytest.mark.parametrize("dotted", ["", ".0001", ".part"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_of_tars(tmp_path, dotted, workers):
    source = open_source(write_pool(tmp_path / "pool", dotted))
    assert (source.layout, len(source), source.class_names) == ("webdataset", 15, ("0", "1", "2"))
    assert source.attribute_names == ("Smiling", "Young")
    found = source.recognised
    assert found.classes == {"0": 5, "1": 5, "2": 5}
    assert found.attributes == {"Smiling": 7, "Young": 10}
    assert sum(found.left_out.values()) == 15  # the captions
    assert any("caption" in note for note in found.notes)
    for copy in (source, pickle.loads(pickle.dumps(source))):
        for i in (0, 1, 7, 14, 3):
            sample = copy.sample(i)
            assert (sample.image, sample.label) == (picture(i), i % 3)
            assert sample.attributes.tolist() == [1 if i % 2 else -1, 1 if i % 3 else -1]
    report = pack(source, tmp_path / f"out{workers}", Transform(8, 3), shard_samples=4, workers=workers)
    assert (len(report.index), report.skipped) == (15, [])
    assert report.index.label.tolist() == [i % 3 for i in range(15)]


def test_against_the_library_itself(tmp_path):
    pool = write_pool(tmp_path / "pool")
    reference = list(
        webdataset.WebDataset([str(path) for path in sorted(pool.iterdir())], shardshuffle=False, empty_check=False)
    )
    source = open_source(pool)
    assert [source.sample(i).image for i in range(15)] == [sample["jpg"] for sample in reference]
    assert [source.keys[i] for i in range(15)] == [sample["__key__"] for sample in reference]


@pytest.mark.parametrize(
    "form", ["pool/{{000000..000002}}.tar", "pool/*.tar", "pool/000000.tar::pool/{{000001,000002}}.tar"]
)
def test_expressions(tmp_path, monkeypatch, form):
    write_pool(tmp_path / "pool")
    monkeypatch.chdir(tmp_path)
    assert len(open_source(form.format())) == 15


def test_a_single_tar_and_gzipped_ones(tmp_path):
    pool = write_pool(tmp_path / "pool", compression="gz", names="{:06d}.tar.gz")
    assert len(open_source(pool)) == 15
    source = open_source(pool / "000001.tar.gz")
    assert (source.layout, len(source)) == ("webdataset", 5)


def test_urls(tmp_path):
    memory = fsspec.filesystem("memory")
    for shard in range(2):
        memory.pipe(f"/wds-test/{shard:03d}.tar", tar_bytes(samples(5 * shard, 5)))
    source = open_source("memory://wds-test/{000..001}.tar")
    assert len(source) == 10
    assert pickle.loads(pickle.dumps(source)).sample(7).image == picture(7)
    with pytest.raises(InputError, match=r"memory://wds-test/002\.tar cannot be read"):
        open_source("memory://wds-test/{000..002}.tar")


def test_splits_by_the_names_of_tars(tmp_path):
    (tmp_path / "pool").mkdir()
    for number, name in enumerate(("set-train-000000", "set-train-000001", "set-val-000000")):
        (tmp_path / "pool" / f"{name}.tar").write_bytes(tar_bytes(samples(number * 2, 2)))
    assert open_source(tmp_path / "pool").recognised.splits == {"train": 4, "val": 2}
    assert len(open_source(tmp_path / "pool", split="val")) == 2


def test_classes_as_text_and_from_json(tmp_path):
    texts = {
        f"{i}.{ending}": data
        for i in range(4)
        for ending, data in (("jpg", picture(i)), ("cls", b"cat\n" if i % 2 else b"a dog"))
    }
    (tmp_path / "a.tar").write_bytes(tar_bytes(texts))
    assert open_source(tmp_path / "a.tar").recognised.classes == {"a dog": 2, "cat": 2}
    texts = {
        f"{i}.{e}": d for i in range(4) for e, d in (("jpg", picture(i)), ("json", json.dumps({"label": i}).encode()))
    }
    (tmp_path / "b.tar").write_bytes(tar_bytes(texts))
    assert open_source(tmp_path / "b.tar").recognised.classes == {"0": 1, "1": 1, "2": 1, "3": 1}


def test_equal_keys_in_several_tars(tmp_path):
    (tmp_path / "pool").mkdir()
    for shard in range(2):
        (tmp_path / f"pool/{shard:03d}.tar").write_bytes(tar_bytes(samples(0, 3)))
    source = open_source(tmp_path / "pool")
    assert len({source.sample(i).key for i in range(6)}) == 6


def test_samples_without_an_image_are_counted(tmp_path):
    files = samples(0, 3) | {"x.txt": b"only words", "y.cls": b"1"}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    source = open_source(tmp_path / "a.tar")
    assert (len(source), source.recognised.left_out["samples without an image"]) == (3, 2)


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_a_damaged_tar_is_named(tmp_path, damage):
    pool = write_pool(tmp_path / "pool")
    path = pool / "000001.tar"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        place = data.index(b"s0006.jpg")  # so flipped, readers take it for the end, without an error
        data[place + 148] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"000001\.tar"):
        open_source(pool)


def test_a_tar_that_changes_meanwhile(tmp_path):
    pool = write_pool(tmp_path / "pool")
    source = open_source(pool)
    (pool / "000002.tar").write_bytes(tar_bytes(samples(3, 2)))
    report = pack(source, tmp_path / "out", Transform(8, 3), workers=1)
    assert len(report.index) == 10
    assert {reason.rpartition(" ")[2] for _, reason in report.skipped} == {"changed"}


def test_commands_are_not_run(tmp_path):
    with pytest.raises(InputError, match="runs no commands"):
        open_source(f"pipe:touch {tmp_path}/x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("000.jpg", ("000", "jpg")),
        ("a/b.seg.PNG", ("a/b", "seg.png")),
        ("photo.0001.jpg", ("photo.0001", "jpg")),
        ("a.b/c.jpg", ("a.b/c", "jpg")),
        ("none", ("none", "")),
    ],
)
def test_split_key(name, key):
    assert split_key(name) == key


def test_grey_samples_stay_grey(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(file, "PNG")
    (tmp_path / "a.tar").write_bytes(tar_bytes({"1.png": file.getvalue(), "1.cls": b"0"}))
    assert open_source(tmp_path / "a.tar").channels() == 1
    pack(open_source(tmp_path / "a.tar"), tmp_path / "out", Transform(8, 1), workers=1)
    assert Index.load(tmp_path / "out").layout == "webdataset"
