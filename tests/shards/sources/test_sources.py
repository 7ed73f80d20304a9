"""What people bring, as a whole: which layout has it, what is ambiguous, what is left out, and that all is counted."""

import gzip
import io
import json
import shlex
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.errors import InputError
from shards.images import Transform
from shards.index import Index
from shards.sources import Source, open_source
from shards.sources.base import Recognised, displayed, recognised_text
from shards.writer import pack
from tests.shards.test_trees import KINDS, tar_bytes, write, zip_bytes


def picture(seed: int, size: tuple[int, int] = (24, 20), kind: str = "JPEG") -> bytes:
    """A picture with soft structure, the same for the same seed at any size."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def mask(size: tuple[int, int] = (24, 20)) -> bytes:
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[4:12, 5:15] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def photos(*names: str) -> dict[str, bytes]:
    return {name: picture(seed) for seed, name in enumerate(names)}


PETS = photos(*(f"pets/{pet}/{i}.jpg" for pet in ("cat", "dog") for i in range(3)))


def classes(source: Source) -> dict[str, str | None]:
    """The class of each sample."""
    labels = [source.sample(i).label for i in range(len(source))]
    return {source.name(i): source.class_names[label] if label >= 0 else None for i, label in enumerate(labels)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapping", ["", "download/of the/"])
def test_class_folders_in_any_container(tmp_path, kind, wrapping):
    source = open_source(write(tmp_path / "it", kind, {wrapping + name: data for name, data in PETS.items()}))
    found = source.recognised
    assert (found.container, found.layout, found.samples) == (kind, "folder", 6)
    assert found.classes == {"cat": 3, "dog": 3}
    assert found.left_out == {}
    assert classes(source) == {name.removeprefix("pets/"): name.split("/")[1] for name in PETS}
    assert [source.sample(i).image for i in range(6)] == [PETS[f"pets/{source.name(i)}"] for i in range(6)]


def test_what_was_recognised_is_in_the_index(tmp_path):
    source = open_source(write(tmp_path / "it", "zip", {**PETS, "pets/notes.txt": b"x"}))
    pack(source, tmp_path / "out", Transform(8, 3), workers=1)
    index = Index.load(tmp_path / "out")
    assert index.recognised == source.recognised.to_json()
    assert index.recognised["left_out"] == {".txt": 1}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_folders_that_hold_no_images_are_no_classes(tmp_path, kind):
    extra = {"__MACOSX/pets/cat/._0.jpg": b"shadow", "annotations/0.xml": b"<x/>", "README": b"text"}
    source = open_source(write(tmp_path / "it", kind, PETS | extra))
    assert source.class_names == ("cat", "dog")
    assert source.recognised.left_out == {"in __MACOSX": 1, ".xml": 1, "without a suffix": 1}


def test_an_image_is_known_by_its_content(tmp_path):
    files = {
        "a.jfif": picture(1),
        "b.JPE": picture(2),
        "c": picture(3, kind="PNG"),
        "d.jpg": picture(4, kind="PNG"),
        "e.part": picture(5, kind="WEBP"),
        "f.jp2": picture(6, kind="JPEG2000"),
        "g.txt": b"BM is how this text begins",
    }
    source = open_source(write(tmp_path / "it", "folder", files))
    assert [source.name(i) for i in range(len(source))] == ["a.jfif", "b.JPE", "c", "d.jpg", "e.part", "f.jp2"]
    assert source.recognised.left_out == {".txt": 1}
    report = pack(source, tmp_path / "out", Transform(8, 3), workers=1)
    assert (len(report.index), report.skipped) == (6, [])


# ---- what can be understood in several ways ----


def test_two_editions_of_the_same_pictures(tmp_path):
    sizes = {"images1024x1024": (64, 64), "thumbnails128x128": (16, 16)}
    files = {
        f"{folder}/{i // 2 * 1000:05d}/{i // 2 * 1000 + i % 2:05d}.png": picture(i, size, "PNG")
        for folder, size in sizes.items()
        for i in range(4)
    }
    path = write(tmp_path / "ffhq", "folder", files)
    with pytest.raises(
        InputError, match=r"(?s)hold the same pictures:.*--sub images1024x1024 .*--sub thumbnails128x128 "
    ):
        open_source(path)
    source = open_source(path, sub="thumbnails128x128")
    assert (len(source), source.class_names) == (4, ())  # folders by number are no classes
    assert source.recognised.left_out == {"not in thumbnails128x128": 4}
    assert open_source(path, classes=True).class_names == tuple(sizes)


def test_the_same_pictures_in_another_size_whatever_the_folders_are_called(tmp_path):
    files = {
        f"{folder}/{i}.jpg": picture(i, size) for folder, size in (("x", (64, 64)), ("y", (32, 32))) for i in range(4)
    }
    with pytest.raises(InputError, match=r"(?s)x and y hold the same.*--sub x .*--sub y "):
        open_source(write(tmp_path / "it", "folder", files))


@pytest.mark.parametrize("masks", ["masks", "other"])
def test_masks_are_no_class(tmp_path, masks):
    files = {f"images/{i}.jpg": picture(i) for i in range(4)} | {f"{masks}/{i}.png": mask() for i in range(4)}
    source = open_source(write(tmp_path / "it", "folder", files))
    assert (len(source), source.class_names) == (4, ())
    assert source.recognised.left_out == {f"masks in {masks}": 4}


def test_masks_beside_their_pictures_are_left_out(tmp_path):
    files = {f"{pet}/{i}.jpg": picture(i) for pet in ("cat", "dog") for i in range(3)}
    files |= {f"cat/{i}_mask.png": mask() for i in range(3)} | {"dog/no_mask.jpg": picture(9)}
    source = open_source(write(tmp_path / "it", "folder", files))
    assert source.recognised.classes == {"cat": 3, "dog": 4}
    assert source.recognised.left_out == {"masks in files called …_mask": 3}


def test_people_with_masks_are_a_class(tmp_path):
    files = {f"{folder}/{i}.jpg": picture(7 * i + k) for k, folder in enumerate(("mask", "no_mask")) for i in range(4)}
    assert open_source(write(tmp_path / "it", "folder", files)).class_names == ("mask", "no_mask")


def test_classes_of_numbered_files_are_no_editions(tmp_path):
    files = {f"{folder}/{i}.jpg": picture(10 * folder + i) for folder in range(3) for i in range(4)}
    assert open_source(write(tmp_path / "it", "folder", files)).class_names == ("0", "1", "2")


def test_folders_of_folders_of_the_same_names(tmp_path):
    files = photos(
        *(f"{year}/{pet}/{year}-{i}.jpg" for year in (2019, 2020) for pet in ("cat", "dog") for i in range(2))
    )
    path = write(tmp_path / "it", "folder", files)
    said = r"(?s)which are the classes.*--classes .*--inner-classes .*--sub 2019 .*--sub 2020 "
    with pytest.raises(InputError, match=said):
        open_source(path)
    assert open_source(path, classes=True).class_names == ("2019", "2020")
    assert open_source(path, inner=True).recognised.classes == {"cat": 4, "dog": 4}
    assert open_source(path, sub="2020").class_names == ("cat", "dog")


def test_images_beside_class_folders(tmp_path):
    path = write(tmp_path / "it", "folder", photos("cat/1.jpg", "dog/1.jpg", "cover.jpg"))
    with pytest.raises(InputError, match=r"(?s)cover\.jpg.*--classes .*--no-classes "):
        open_source(path)
    assert open_source(path, classes=True).recognised.left_out == {"images beside the class folders": 1}
    assert classes(open_source(path, classes=False)) == {"cat/1.jpg": None, "cover.jpg": None, "dog/1.jpg": None}


def test_two_data_sets_in_one_root(tmp_path):
    def idx(array: np.ndarray) -> bytes:
        return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()

    digits = {
        "mnist/train-images-idx3-ubyte.gz": gzip.compress(idx(np.zeros((5, 28, 28), np.uint8))),
        "mnist/train-labels-idx1-ubyte": idx(np.arange(5, dtype=np.uint8)),
    }
    path = write(tmp_path / "it", "folder", PETS | digits)
    with pytest.raises(InputError, match=r"(?s)2 data sets.*--sub mnist .*--sub pets "):
        open_source(path)
    assert open_source(path, sub="mnist").layout == "mnist"
    assert open_source(path, sub="pets").class_names == ("cat", "dog")


def test_a_wrong_sub_is_named(tmp_path):
    path = write(tmp_path / "it", "folder", PETS)
    with pytest.raises(InputError, match="no such folder; did you mean 'pets"):
        open_source(path, sub="pts")


# ---- splits ----


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "form",
    [
        "{split}/{pet}/{split}{i}.jpg",
        "{split}_set/{split}_set/{pet}/{i}.jpg",
        "{pet}/{split}/{i}.jpg",
        "data/{split}/images/{pet}/{i}.jpg",
    ],
)
def test_splits_are_no_classes(tmp_path, kind, form):
    files = photos(
        *(
            form.format(split=split, pet=pet, i=i)
            for split in ("train", "test")
            for pet in ("cat", "dog")
            for i in range(2)
        )
    )
    source = open_source(write(tmp_path / "it", kind, files))
    assert source.recognised.classes == {"cat": 4, "dog": 4}
    assert source.recognised.splits == {"train": 4, "test": 4}
    for i in range(len(source)):
        assert source.split_names[source.sample(i).split] in source.name(i)
        assert source.class_names[source.sample(i).label] in source.name(i)


def test_one_split_is_packed(tmp_path):
    files = photos(
        *(f"{split}/{pet}/{i}.jpg" for split in ("training", "Test") for pet in ("cat", "dog") for i in range(3))
    )
    path = write(tmp_path / "it", "folder", files)
    source = open_source(path, split="training_set")
    assert {source.name(i).split("/")[0] for i in range(len(source))} == {"training"}
    assert source.recognised.left_out == {"of split test": 6}
    assert source.recognised.classes == {"cat": 3, "dog": 3}
    assert (source.recognised.splits, source.recognised.formats) == ({"train": 6}, {".jpg": 6})
    assert source.identity() != open_source(path).identity()
    pack(open_source(path), tmp_path / "out", Transform(8, 3), workers=1)
    index = Index.load(tmp_path / "out")
    assert [index.split_names[split] for split in index.split] == ["test"] * 6 + ["train"] * 6
    with pytest.raises(InputError, match=r"no split val: there are train \(6\), test \(6\)"):
        open_source(path, split="val")
    with pytest.raises(InputError, match="--split is one of"):
        open_source(path, split="both")


def test_a_test_split_without_classes(tmp_path):
    source = open_source(write(tmp_path / "it", "folder", photos("train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg")))
    assert classes(source) == {"test/1.jpg": None, "train/cat/1.jpg": "cat", "train/dog/1.jpg": "dog"}


def test_a_folder_beside_the_splits(tmp_path):
    path = write(tmp_path / "it", "folder", photos("train/a/1.jpg", "test/a/1.jpg", "extra/a/1.jpg"))
    with pytest.raises(InputError, match=r"(?s)splits of a data set, and extra beside them.*--sub train"):
        open_source(path)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_every_choice_that_is_offered_leaves_one(tmp_path, kind):
    def idx(array: np.ndarray) -> bytes:
        return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()

    digits = {
        "train-images-idx3-ubyte": idx(np.zeros((2, 28, 28), np.uint8)),
        "train-labels-idx1-ubyte": idx(np.arange(2, dtype=np.uint8)),
    }
    table = {
        "mnist_train.csv": ("label," + ",".join(f"pixel{i}" for i in range(784)) + "\n" + "1," * 784 + "1").encode()
    }
    both = {f"{place}/{name}": data for place in ("a", "b") for name, data in digits.items()}
    inside = {f"data/{name}": data for name, data in (photos("1.png") | digits).items()}
    for number, files in enumerate((both, digits | table, inside, inside | both)):
        path = write(tmp_path / f"it{number}", kind, files)
        for layout in (None, "mnist"):
            options = choices_at(path, layout=layout)
            assert len(options) > 1 or layout
            for option in options:
                assert len(open_source(path, **({"layout": layout} | option)))


def test_no_classes_is_for_all_layouts(tmp_path):
    labels = json.dumps({"labels": [["1.png", 0], ["2.png", 1]]}).encode()
    rows = "label," + ",".join(f"pixel{i}" for i in range(784)) + "\n" + "1," * 784 + "1"
    for number, files in enumerate(
        (
            photos("1.png", "2.png") | {"dataset.json": labels},
            {"train.csv": rows.encode()},
            {"a.tar": tar_bytes(photos("1.jpg") | {"1.cls": b"7"})},
        )
    ):
        path = write(tmp_path / f"it{number}", "folder", files)
        source, whole = open_source(path, classes=False), open_source(path)
        assert whole.class_names
        assert source.class_names == ()
        assert {source.sample(i).label for i in range(len(source))} == {-1}
        assert source.recognised.classes == {}
        assert source.identity() != whole.identity()


def test_a_picture_is_no_data_set(tmp_path):
    path = write(tmp_path / "it", "folder", photos("one.jpg", "two.jpg"))
    with pytest.raises(InputError, match=r"(?s)one picture: which are meant\?\n  \S+/it .*\n  \S+/it --sub one\.jpg "):
        open_source(path / "one.jpg")
    assert open_source(path, sub="one.jpg").recognised.left_out == {"not in one.jpg": 1}


def test_the_split_says_what_is_meant_beside_it(tmp_path):
    path = write(tmp_path / "it", "folder", photos("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "extra/a/1.jpg"))
    source = open_source(path, split="train")
    assert (source.class_names, source.recognised.splits) == (("a", "b"), {"train": 2})
    assert source.recognised.left_out == {"not in train": 2}


# ---- nothing ----


def test_the_pieces_of_an_archive_are_to_be_joined(tmp_path):
    data = tar_bytes(photos("a/1.jpg"), "gz")
    path = write(tmp_path / "it", "folder", {"a.tar.gz.00": data[:300], "a.tar.gz.01": data[300:]})
    for place in (path, path / "a.tar.gz.00"):
        with pytest.raises(InputError, match=r"cat \S*a\.tar\.gz\.\* > \S*a\.tar\.gz"):
            open_source(place)


def test_the_pieces_of_a_zip_are_to_be_joined(tmp_path):
    path = write(tmp_path / "it", "folder", {"my pets.z01": b"PK\7\x08", "my pets.z02": b"x"})
    for place in (path, path / "my pets.z01"):
        with pytest.raises(InputError, match=r"zip -s 0 '\S*my pets\.zip' --out whole\.zip") as error:
            open_source(place)
        assert str(error.value).count("zip -s") == 1


def test_nothing_found_says_what_was_seen(tmp_path):
    path = write(tmp_path / "it", "folder", {"a.txt": b"x", "b.txt": b"y", "in/c.npz": b"z", ".hidden": b""})
    with pytest.raises(InputError) as error:
        open_source(path)
    text = str(error.value)
    assert "3 files (2 .txt, 1 .npz) in 1 folders" in text
    assert "1 hidden" in text
    assert ".npz: distgan does not read these" in text


@pytest.mark.parametrize(
    "name",
    ["a.7z", "a.rar", "a.parquet", "a.arrow", "a.npy", "a.tfrecords", "a.tfrec", "a.mat", "a.pkl", "a.pt", "a.beton"],
)
def test_containers_that_are_not_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(InputError, match="unpack it"):
        open_source(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name[1:]}: distgan does not read these"):
        open_source(tmp_path)


def test_the_text_says_all_of_it(tmp_path):
    files = {**photos("train/cat/1.jpg", "test/dog/1.jpg"), "a.txt": b"", "__MACOSX/x": b""}
    text = recognised_text(open_source(write(tmp_path / "it", "zip", files)).recognised, 3)
    for part in (
        "zip, layout folder",
        "2 (2 .jpg)",
        "24×20",
        "cat 1, dog 1",
        "train 1, test 1",
        "2 files: 1 .txt, 1 in",
    ):
        assert part in text
    text = recognised_text(Recognised("folder", "folder", samples=5, classes={"cat": 2, "dog": 1}), 3)
    assert "2: cat 2, dog 1, none 2\n" in text
    assert "splits      none\n" in text


@pytest.mark.parametrize("names", [("a\nb", "a\tb"), ("caf\udce9", "caf\udce8"), ("a\x1bb", "a\x7fb")])
def test_classes_that_print_alike_are_refused(tmp_path, names):
    for i, name in enumerate(names):
        (tmp_path / "it" / name).mkdir(parents=True)
        (tmp_path / "it" / name / f"{i}.jpg").write_bytes(picture(i))
    with pytest.raises(InputError, match=r"it: several classes would be called (a|caf)\ufffd"):
        open_source(tmp_path / "it")
    (tmp_path / "it" / names[0]).rename(tmp_path / "it" / "other")
    assert len(open_source(tmp_path / "it").recognised.classes) == 2


@given(st.text(st.characters(codec=None)))
def test_any_name_can_be_printed(name):
    assert displayed(name).isprintable()
    assert displayed(name) == name or not name.isprintable()
    displayed(name).encode()


def test_a_class_with_a_comma_is_named_as_where_takes_it(tmp_path):
    found = open_source(write(tmp_path / "it", "folder", photos("Smith, John/1.jpg", "b/1.jpg"))).recognised
    assert '2: "Smith, John" 1, b 1' in recognised_text(found, 3)


NAMES = st.sampled_from(
    ["a", "b", "train", "test", "images", "masks", "00000", "1", "__MACOSX", ".hidden", "x y", "ü", "labels", "cat"]
)
ENDINGS = st.sampled_from(
    ["1.jpg", "2.jpg", "01.png", "notes.txt", "x.zip", "dataset.json", "list_attr_celeba.csv", "none"]
)


@given(
    paths=st.lists(st.tuples(st.lists(NAMES, max_size=3), ENDINGS), max_size=8),
    kind=st.sampled_from(["folder", "zip", "tar.gz"]),
)
@settings(max_examples=150)
def test_every_file_is_a_sample_or_counted_or_all_is_refused(tmp_path_factory, paths, kind):
    root = tmp_path_factory.mktemp("set")
    files: dict[str, bytes] = {}
    for seed, (folders, name) in enumerate(paths):
        path = "/".join([*folders, name])
        content = picture(seed, kind="PNG" if name.endswith("png") else "JPEG")
        if name.endswith("zip"):
            content = zip_bytes({"in.jpg": content})
        elif not name.endswith(("jpg", "png")):
            content = json.dumps({"x": 1}).encode()
        files[path] = content
    path = write(root / "it", kind, files) if files or kind != "folder" else root
    source = opened(path)
    if isinstance(source, str):
        for given in offered(source):
            outcome = opened(path, **given)  # what was asked for, or the next question
            assert len(outcome) if not isinstance(outcome, str) else offered(outcome) and outcome != source, given
        return
    found = source.recognised
    tables = sum(name.endswith(("dataset.json", "celeba.csv")) for name in files)
    counted = found.samples + sum(found.left_out.values())
    assert len(files) - tables <= counted <= len(files)
    assert found.samples == len(source) == len({source.sample(i).key for i in range(len(source))})


def opened(path: Path, **given: Any) -> Source | str:
    """The source, or what is said where there is none."""
    try:
        return open_source(path, **given)
    except InputError as error:
        return str(error)


def offered(message: str) -> list[dict[str, Any]]:
    """What the choices of a message say, as open_source takes it."""
    plain = {"--classes": ("classes", True), "--no-classes": ("classes", False), "--inner-classes": ("inner", True)}
    choices = []
    for line in message.splitlines()[1:]:
        given: dict[str, Any] = {}
        option = line.strip().split("  ")[0]
        if not option.startswith("--"):
            continue
        words = iter(shlex.split(option))
        for word in words:
            if word in plain:
                given[plain[word][0]] = plain[word][1]
            elif word == "--exclude":
                given.setdefault("exclude", []).append(next(words))
            else:
                given[word.removeprefix("--")] = next(words)
        choices.append(given)
    return choices


def choices_at(path: Path, **given: Any) -> list[dict[str, Any]]:
    """The choices that are offered there, as open_source takes them."""
    found = opened(path, **given)
    assert isinstance(found, str) or given
    return offered(found) if isinstance(found, str) else []


def test_a_zip_is_read_while_others_read_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "it.zip", "w") as archive:
        for name, data in PETS.items():
            archive.writestr(name, data)
    one, two = open_source(tmp_path / "it.zip"), open_source(tmp_path / "it.zip")
    assert [one.sample(i).image for i in range(6)] == [two.sample(i).image for i in range(5, -1, -1)][::-1]
    assert Path(tmp_path / "it.zip").exists()
