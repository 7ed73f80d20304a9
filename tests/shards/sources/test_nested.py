"""Archives among files: looked into where they hold the data, asked about where that is not clear."""

import os
import re
from functools import partial

import pytest

from shards.errors import InputError
from shards.sources import open_source
from tests.shards.sources.test_sources import PETS, choices_at, photos, picture
from tests.shards.test_trees import tar_bytes, write, zip_bytes


def test_archives_are_looked_into_where_there_is_nothing_else(tmp_path):
    train = zip_bytes(photos("train/cat.0.jpg", "train/dog.0.jpg"))
    test = tar_bytes(photos("test/0.jpg"))
    source = open_source(write(tmp_path / "it", "folder", {"train.zip": train, "test.tar": test, "sample.csv": b"id"}))
    assert source.recognised.splits == {"train": 2, "test": 1}
    assert source.class_names == ()
    assert source.recognised.container == "folder with tar with zip"


def test_archives_beside_pictures_are_asked_about(tmp_path):
    files = {"cats.zip": zip_bytes(photos("1.jpg", "2.jpg")), "dogs.zip": zip_bytes(photos("3.jpg"))}
    path = write(tmp_path / "it", "folder", files | {"preview.jpg": picture(9)})
    with pytest.raises(InputError, match=r"cats\.zip.*preview\.jpg"):
        open_source(path)
    found = [open_source(path, **option).recognised for option in choices_at(path)]
    both = {"cats": 2, "dogs": 1}
    assert [each.classes for each in found] == [{"cats": 2}, {"dogs": 1}, both, {}, both, {}]
    assert [each.samples for each in found] == [2, 1, 3, 1, 3, 4]
    assert [sum(each.left_out.values()) for each in found] == [2, 2, 1, 2, 1, 0]


@pytest.mark.parametrize(
    "names", [("pets.zip", "pets2.zip"), ("pets.zip", "pets - Copy.zip"), ("cat.zip", "caterpillar.zip")]
)
def test_an_archive_is_asked_for_by_its_whole_name(tmp_path, names):
    files = {name: zip_bytes({f"{i}.jpg": picture(i), "9.jpg": picture(9)}) for i, name in enumerate(names)}
    path = write(tmp_path / "it", "folder", files | {"preview.jpg": picture(9)})
    assert sum("sub" in option for option in choices_at(path)) == 2
    for i, name in enumerate(names):
        source = open_source(path, sub=name[:-4])
        assert (len(source), source.sample(0).image) == (2, picture(i))
    assert len(open_source(path, sub=names[0][:2])) == 4


def test_an_archive_beside_a_folder_may_be_a_class_as_well(tmp_path):
    path = write(tmp_path / "it", "folder", {"dog.zip": zip_bytes(photos("1.jpg", "2.jpg")), "cat/3.jpg": picture(3)})
    assert [open_source(path, **option).recognised.classes for option in choices_at(path) if "classes" in option] == [
        {"cat": 1, "dog": 2},
        {},
    ]


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (("archive.zip", "archive (1).zip"), "archive (1).zip"),
        (("pets - Copy.tar.gz", "pets.tar.gz", "b.zip"), "pets.tar.gz"),
    ],
)
@pytest.mark.parametrize("form", ["cat/1.jpg dog/2.jpg", "1.jpg 2.jpg"])
def test_the_same_archive_once_more_is_left_out(tmp_path, names, left_out, form):
    inner = photos(*form.split())
    files = {
        name: (zip_bytes if name.endswith(".zip") else partial(tar_bytes, compression="gz"))(inner) for name in names
    }
    path = write(tmp_path / "it", "folder", files)
    for option in ({}, {"classes": True}, {"classes": False}):
        source = open_source(path, **option)
        assert len(source) == 2
        assert source.recognised.left_out[f"the same once more in {left_out}"] == 1
    assert "cat" not in form or open_source(path).class_names == ("cat", "dog")


def test_archives_of_the_same_names_and_sizes_are_not_the_same(tmp_path):
    files = {f"{name}.zip": zip_bytes({"1.bmp": picture(i, kind="BMP")}) for i, name in enumerate(("cat", "dog"))}
    assert open_source(write(tmp_path / "it", "folder", files)).recognised.classes == {"cat": 1, "dog": 1}


def test_an_archive_of_other_data_beside_a_picture_is_asked_about(tmp_path):
    csv = ("label," + ",".join(f"pixel{i}" for i in range(784)) + "\n" + "1," * 784 + "1").encode()
    path = write(tmp_path / "it", "folder", {"d.zip": zip_bytes({"train.csv": csv}), "preview.jpg": picture(9)})
    assert [open_source(path, **option).layout for option in choices_at(path)[:3]] == ["mnist", "mnist", "folder"]


def test_an_archive_without_data_is_left_out(tmp_path):
    path = write(tmp_path / "it", "folder", {**PETS, "notes.zip": zip_bytes({"a.xml": b"<a/>"})})
    assert open_source(path).recognised.left_out == {".zip": 1}


@pytest.mark.parametrize(
    ("archive", "files", "reason"),
    [
        ("pets.zip", PETS, "archives beside a folder of the same name"),
        ("download.zip", PETS, "archives that lie unpacked beside themselves"),
    ],
)
def test_an_archive_that_is_unpacked_beside_itself(tmp_path, archive, files, reason):
    path = write(tmp_path / "it", "folder", {**files, archive: zip_bytes(files)})
    source = open_source(path)
    assert source.class_names == ("cat", "dog")
    assert source.recognised.left_out == {reason: 1}


# ---- tars of classes, parts, and shards ----


@pytest.mark.parametrize("names", [("n01440764.tar", "n01443537.tar"), ("cat.tar", "dog.tar")])
def test_tars_of_classes_are_folders(tmp_path, names):
    files = {name: tar_bytes(photos(f"{name}_1.JPEG", f"{name}_2.JPEG")) for name in names}
    path = write(tmp_path / "it", "folder", files)
    assert open_source(path).recognised.classes == {name[:-4]: 2 for name in names}
    assert open_source(path, "webdataset").class_names == ()


def test_tars_of_short_numbers_are_asked_about(tmp_path):
    files = {f"class0{i}.tar.gz": tar_bytes({"1.jpg": picture(i)}, "gz") for i in (1, 2)}
    path = write(tmp_path / "it", "folder", files)
    assert choices_at(path) == [{"layout": "webdataset"}, {"layout": "folder"}]
    assert [open_source(path, **option).class_names for option in choices_at(path)] == [(), ("class01", "class02")]


def test_numbered_tars_with_a_gap_are_asked_about(tmp_path):
    files = {f"{i:05d}.tar": tar_bytes(photos(f"{i}.jpg")) for i in (0, 1, 3)}
    assert len(choices_at(write(tmp_path / "it", "folder", files))) == 2


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
@pytest.mark.parametrize("form", ["cat/{}.jpg dog/{}.jpg", "images/{}.jpg images/{}b.jpg"])
def test_parts_of_one_set_are_no_classes(tmp_path, pack, form):
    ending = ".tar.gz" if pack is tar_bytes else ".zip"
    files = {f"part_0{i}{ending}": pack(photos(*form.replace("{}", str(i)).split())) for i in (1, 2, 3)}
    source = open_source(write(tmp_path / "it", "folder", files))
    assert source.recognised.classes == ({"cat": 3, "dog": 3} if "cat" in form else {})
    assert "part_01, part_02, part_03 are parts of one thing" in source.recognised.notes[0]


def test_archives_of_one_place_are_asked_about(tmp_path):
    files = {f"VOC{i}_06-Nov.tar": tar_bytes(photos(f"VOCdevkit/VOC2007/JPEGImages/{i}.jpg")) for i in (1, 2)}
    path = write(tmp_path / "it", "folder", files)
    assert choices_at(path) == [{"classes": True}, {"classes": False}]
    assert [len(open_source(path, **option).class_names) for option in choices_at(path)] == [2, 0]


# ---- one in another, and misnamed ----


def test_archives_within_archives(tmp_path):
    data = zip_bytes(photos("cat/1.jpg", "dog/2.jpg"))
    for i in range(3):
        data = zip_bytes({f"in{i}.zip": data})
    path = write(tmp_path / "it", "folder", {"o.zip": data})
    assert open_source(path).class_names == open_source(path / "o.zip").class_names == ("cat", "dog")


@pytest.mark.parametrize(("name", "pack"), [("o.zip", tar_bytes), ("o.tgz", zip_bytes), ("o.dat", zip_bytes)])
def test_an_archive_is_known_by_its_content(tmp_path, name, pack):
    path = write(tmp_path / "it", "folder", {name: pack(photos("cat/1.jpg", "dog/2.jpg"))})
    assert open_source(path).class_names == open_source(path / name).class_names == ("cat", "dog")


def test_a_document_is_no_archive(tmp_path):
    path = write(tmp_path / "it", "folder", {"o.docx": zip_bytes(photos("word/media/1.jpg"))})
    with pytest.raises(InputError, match="no data set"):
        open_source(path)


# ---- caches of the Hugging Face hub ----


def test_a_cache_of_the_hugging_face_hub(tmp_path):
    path = write(tmp_path / "it", "folder", {"blobs/abc": picture(1), "blobs/def": picture(2), "refs/main": b"1" * 40})
    for revision in ("1" * 40, "2" * 40):
        for name, blob in (("cat/1.jpg", "abc"), ("dog/2.jpg", "def")):
            link = path / "snapshots" / revision / name
            link.parent.mkdir(parents=True)
            link.symlink_to(os.path.relpath(path / "blobs" / blob, link.parent))
        if revision[0] == "1":
            assert open_source(path).recognised.classes == {"cat": 1, "dog": 1}
    with pytest.raises(InputError, match=re.escape(f"revisions of a data set: give the folder of one\n  {path}/snap")):
        open_source(path)
    assert open_source(path / "snapshots" / ("2" * 40)).recognised.classes == {"cat": 1, "dog": 1}


def test_classes_that_are_called_like_a_cache(tmp_path):
    path = write(tmp_path / "it", "folder", photos("blobs/1.jpg", "snapshots/a/2.jpg"))
    assert open_source(path).class_names == ("blobs", "snapshots")
