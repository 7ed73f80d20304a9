import gzip
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
from shards.writer import pack
from tests.shards.sources.test_sources import choices_at, photos, picture
from tests.shards.test_trees import tar_bytes, zip_bytes


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


@pytest.mark.parametrize("form", ["{0..99999999999}.tar", "{0..9999}{-9999..9999}.tar", "{a,b}" * 25 + ".tar"])
def test_an_expression_of_too_many_tars_is_refused_before_it_is_written_out(form):
    with pytest.raises(InputError, match="stands for more than 1,000,000 tars"):
        open_source(form)


@pytest.mark.parametrize(("kept", "missing"), [((0, 1, 2), ""), ((0, 2), "000001"), ((1, 2), ""), ((2,), "")])
def test_a_gap_in_the_numbers_of_tars_is_said(tmp_path, kept, missing):
    pool = write_pool(tmp_path / "pool")
    for shard in {0, 1, 2}.difference(kept):
        (pool / f"{shard:06d}.tar").unlink()
    notes = [note for note in open_source(pool).recognised.notes if "have gaps" in note]
    assert len(notes) == bool(missing)
    assert all(f"such as {missing}:" in note for note in notes)


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
    with pytest.raises(InputError, match=r"memory://wds-test/002\.tar cannot be read: it is not there, or"):
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


@pytest.mark.parametrize("compression", ["", "gz"])
def test_tars_in_one_file_are_not_read_by_half(tmp_path, compression):
    pool = write_pool(tmp_path / "pool", compression=compression, names="{:06d}.tar")
    (pool / "000001.tar").write_bytes(b"".join(tar_bytes(samples(5 + i, 1), compression) for i in range(5)))
    with pytest.raises(InputError, match=r"000001\.tar goes on after the end of a tar"):
        open_source(pool)


def test_a_compressed_tar_in_pieces_is_read_to_its_end(tmp_path):
    pool = write_pool(tmp_path / "pool")
    for path in pool.iterdir():
        data = path.read_bytes()
        pieces = [data[at : at + 700] for at in range(0, len(data), 700)]  # as pigz and bgzip write them
        path.write_bytes(b"".join(map(gzip.compress, pieces)))
    source = open_source(pool)
    assert [source.sample(i).image for i in range(len(source))] == [picture(i) for i in range(15)]


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


def test_grey_samples_stay_grey(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(file, "PNG")
    (tmp_path / "a.tar").write_bytes(tar_bytes({"1.png": file.getvalue(), "1.cls": b"0"}))
    assert open_source(tmp_path / "a.tar").channels() == 1
    pack(open_source(tmp_path / "a.tar"), tmp_path / "out", Transform(8, 1), workers=1)
    assert Index.load(tmp_path / "out").layout == "webdataset"


# ---- what others write ----


def one_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files))
    return path


def test_labels_in_cls_here_and_in_json_there(tmp_path):
    one_tar(tmp_path / "000000.tar", {"a.jpg": picture(0), "a.cls": b"3"})
    one_tar(tmp_path / "000001.tar", {"b.jpg": picture(1), "b.json": b'{"label": 1.0}', "c.jpg": picture(2)})
    source = open_source(tmp_path)
    assert [source.class_names[label] if label >= 0 else None for label in source.labels] == ["3", "1", None]
    assert "classes from label in .json, where there is no .cls (2 samples)" in source.recognised.notes


def test_labels_that_are_none_are_said(tmp_path):
    values = [b"[1, 2]", b'{"label": [3]}', b'{"label": true}', b'{"label": "x"}', b"4", b'{"label": null}']
    files = {f"{i}.{e}": d for i, data in enumerate(values) for e, d in (("jpg", picture(i)), ("json", data))}
    source = open_source(one_tar(tmp_path / "a.tar", files))
    assert source.recognised.classes == {"4": 1, "x": 1}
    assert any("3 samples have a label in .json that is neither" in note for note in source.recognised.notes)


def test_a_cls_that_is_no_text_is_counted(tmp_path):
    contents = (b"", b"\xff\x00", b"\0\1\2", b"cat")
    files = {f"{i}.{e}": d for i, data in enumerate(contents) for e, d in (("jpg", picture(i)), ("cls", data))}
    source = open_source(one_tar(tmp_path / "a.tar", files))
    assert source.recognised.classes == {"cat": 1}
    assert source.recognised.left_out == {".cls that are empty or no text": 3}


@pytest.mark.parametrize("form", ["{}.jpg {}.cls", "img/{}.jpg lab/{}.cls"])
def test_labels_that_lie_apart_from_their_images(tmp_path, form):
    image, label = form.split()
    files = {image.format(i): picture(i) for i in range(3)} | {label.format(i): str(i).encode() for i in range(4)}
    source = open_source(one_tar(tmp_path / "a.tar", files))
    assert (source.layout, [source.sample(i).label for i in range(3)]) == ("webdataset", [0, 1, 2])
    assert source.recognised.left_out == {"samples without an image": 1}
    assert source.recognised.notes[0].startswith("3 .cls or .json lie apart")


def test_images_called_img(tmp_path):
    files = {"1.img": picture(1), "1.cls": b"0", "2.image": picture(2), "2.cls": b"1"}
    source = open_source(one_tar(tmp_path / "a.tar", files))
    assert [source.sample(i).image for i in range(2)] == [picture(1), picture(2)]


@pytest.mark.parametrize("packed", [zip_bytes, tar_bytes])
@pytest.mark.parametrize("given", ["pool.x", ""])
def test_tars_in_an_archive(tmp_path, packed, given):
    pool = {f"pool/{i:06d}.tar": tar_bytes(samples(5 * i, 5)) for i in range(2)}
    (tmp_path / "in").mkdir()
    (tmp_path / "in/pool.x").write_bytes(packed(pool))
    source = open_source(tmp_path / "in" / given)
    assert (source.layout, len(source)) == ("webdataset", 10)
    assert pickle.loads(pickle.dumps(source)).sample(7).image == picture(7)


def test_folders_of_tars_are_splits(tmp_path):
    for split in ("train", "val"):
        write_pool(tmp_path / "in" / split)
    for source in (open_source(tmp_path / "in"), open_source(f"{tmp_path}/in/{{train,val}}/00000{{0..2}}.tar")):
        assert source.recognised.splits == {"train": 15, "val": 15}
        assert len({source.sample(i).key for i in range(30)}) == 30


def test_another_tar_beside_a_set_is_asked_about(tmp_path):
    path = write_pool(tmp_path / "pool")
    one_tar(path / "extra.tar", samples(20, 2))
    assert [len(open_source(path, **option)) for option in choices_at(path)] == [15, 2, 17]
    assert len(open_source(path, sub="extra")) == 2


@pytest.mark.parametrize("names", [("00000", "00001", "00002"), ("train-0000", "train-0001", "val-0000")])
def test_numbered_tars_without_anything_but_images(tmp_path, names):
    for name in names:
        one_tar(tmp_path / f"{name}.tar", {f"{name}{i}.jpg": picture(i) for i in range(2)})
    source = open_source(tmp_path)
    assert (source.layout, len(source), source.class_names) == ("webdataset", 6, ())
    assert source.recognised.splits == ({"train": 4, "val": 2} if "train-0000" in names else {})


def test_a_part_of_a_tar_is_refused(tmp_path):
    path = one_tar(tmp_path / "a.tar", {f"{i}/{k}": d for i in (1, 2) for k, d in samples(i, 1).items()})
    for given in ({"sub": "1"}, {"exclude": ["1"]}):
        with pytest.raises(InputError, match="are packed whole"):
            open_source(path, **given)
    assert len(open_source(path, "folder", sub="1")) == len(open_source(path, "folder", exclude=["1"])) == 1
    for given in ({"sub": "1"}, {"exclude": ["1"]}):
        with pytest.raises(InputError, match="are for folders and archives"):
            open_source(f"{tmp_path}/{{a,b}}.tar", **given)


def beside(form: str, *names: str) -> dict[str, bytes]:
    """Pictures, and a file beside each that says something of it."""
    return photos(*names) | {form.format(name.rpartition(".")[0]): b"{}" for name in names}


CLASS_FOLDERS = [f"pets/{pet}/{pet}{i}.jpg" for pet in ("cat", "dog") for i in range(3)]
SPLIT_FOLDERS = [f"{split}/{split}{i}.jpg" for split in ("train", "val") for i in range(3)]


@pytest.mark.parametrize("form", ["{}.txt", "{}.json", "{}.jpg.json"])
@pytest.mark.parametrize("names", [CLASS_FOLDERS, SPLIT_FOLDERS])
@pytest.mark.parametrize("place", ["it.tar", "in/it.tgz"])
def test_folders_with_files_beside_the_images_are_asked_about(tmp_path, form, names, place):
    (tmp_path / "in").mkdir()
    (tmp_path / place).write_bytes(tar_bytes(beside(form, *names), "gz" if place.endswith("gz") else ""))
    path = tmp_path / place.replace("in/it.tgz", "in")
    assert choices_at(path) == [{"layout": "webdataset"}, {"layout": "folder"}]
    samples, folders = (open_source(path, **option) for option in choices_at(path))
    assert (samples.layout, len(samples), samples.class_names) == ("webdataset", 6, ())
    assert (folders.layout, len(folders)) == ("folder", 6)
    assert (folders.class_names == ("cat", "dog")) is (names is CLASS_FOLDERS)
    assert (folders.split_names == ("train", "val")) is (names is SPLIT_FOLDERS)


def test_what_is_asked_for_says_that_folders_are_meant(tmp_path):
    path = one_tar(tmp_path / "a.tar", beside("{}.txt", *CLASS_FOLDERS))
    assert open_source(path, classes=True).class_names == ("cat", "dog")
    assert len(open_source(path, sub="pets/cat")) == len(open_source(path, exclude=["cat"])) == 3
    (tmp_path / "in").mkdir()
    path = path.rename(tmp_path / "in/a.tar").parent
    assert open_source(path, classes=True).class_names == ("cat", "dog")
    assert len(open_source(path, sub="a/pets/cat")) == len(open_source(path, exclude=["cat"], classes=True)) == 3


def test_folders_that_raise_a_question_are_asked_about_all_the_same(tmp_path):
    names = ["2019/cat/1.jpg", "2019/dog/2.jpg", "2020/cat/3.jpg"]
    path = one_tar(tmp_path / "a.tar", beside("{}.txt", *names))
    first = choices_at(path)
    assert first == [{"layout": "webdataset"}, {"layout": "folder"}]
    assert len(open_source(path, **first[0])) == 3
    second = choices_at(path, **first[1])
    assert {"inner": True} in second
    for option in second:
        assert open_source(path, **{**first[1], **option}).layout == "folder"


@pytest.mark.parametrize(
    "names",
    [
        ["00000/000000001.jpg", "00000/000000002.jpg", "00001/000010001.jpg", "00001/000010002.jpg"],
        [f"images/{i}.jpg" for i in range(4)],
        [f"part{i % 2}/{i}.jpg" for i in range(4)],
    ],
)
def test_folders_that_say_nothing_are_samples(tmp_path, names):
    source = open_source(one_tar(tmp_path / "a.tar", beside("{}.txt", *names)))
    assert (source.layout, len(source)) == ("webdataset", 4)


def test_a_folder_in_each_tar_is_no_class(tmp_path):
    for i in range(2):
        one_tar(tmp_path / f"{i:05d}.tar", beside("{}.txt", f"{i:05d}/{i}1.jpg", f"{i:05d}/{i}2.jpg"))
    source = open_source(tmp_path)
    assert (source.layout, len(source), source.class_names) == ("webdataset", 4, ())


def test_a_name_twice_is_named_in_words(tmp_path):
    path = tmp_path / "it.tar"
    whole = tar_bytes({"0.jpg": picture(0), "0.cls": b"1"})
    members = whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 512]
    path.write_bytes(members + whole)
    with pytest.raises(InputError, match=r"it\.tar cannot be read: 0\.jpg: duplicate file name$"):
        open_source(path)


@pytest.mark.parametrize("odd", ["a\nb", "\x1b[31mred", "\ud800"])
def test_names_in_json_that_cannot_be_printed(tmp_path, odd):
    def pool(facts: list[dict[str, object]]) -> Path:
        files = {f"{i}.{end}": data for i, each in enumerate(facts) for end, data in fields(i, each)}
        (tmp_path / "it.tar").write_bytes(tar_bytes(files))
        return tmp_path / "it.tar"

    def fields(i: int, facts: dict[str, object]) -> list[tuple[str, bytes]]:
        return [("jpg", picture(i)), ("json", json.dumps(facts).encode())]

    source = open_source(pool([{"class": odd, odd: 1}, {"class": "cat", odd: 0}]))
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in odd)
    assert sorted(source.class_names) == sorted(["cat", shown])
    assert source.attribute_names == (shown,)
    assert source.class_names[source.labels[0]] == shown
    with pytest.raises(InputError, match="several classes would be called"):
        open_source(pool([{"class": odd}, {"class": shown}]))
    with pytest.raises(InputError, match="several attributes would be called"):
        open_source(pool([{odd: 1, shown: 1}, {odd: 1, shown: 0}]))
