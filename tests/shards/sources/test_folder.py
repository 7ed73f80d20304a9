import io
import os
import pickle
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from distgan.cli import app
from shards.errors import InputError
from shards.images import ImageError, decode
from shards.sources import LAYOUTS, LayoutError, Source, open_source
from shards.sources.base import MAX_KEY, sample_keys
from shards.sources.pictures import PictureFiles
from tests.shards.sources.test_sources import mask, photos, picture
from tests.shards.test_trees import write as write_files


def image_bytes(shade: int, mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).convert(mode).save(file, "PNG")
    return file.getvalue()


def write(root: Path, *names: str, mode: str = "L") -> None:
    for shade, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_bytes(shade, mode))


def names(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def test_classes_are_the_first_level_and_samples_are_in_order(tmp_path):
    write(tmp_path, "b/2.png", "b/deep/er/1.PNG", "a/x.Jpeg", "a b/1.webp")
    source = open_source(tmp_path)
    assert isinstance(source, PictureFiles)
    assert source.class_names == ("a", "a b", "b")
    assert names(source) == sorted(names(source)) == ["a b/1.webp", "a/x.Jpeg", "b/2.png", "b/deep/er/1.PNG"]
    samples = [source.sample(i) for i in range(4)]
    assert [sample.key for sample in samples] == ["a_b/1", "a/x", "b/2", "b/deep/er/1"]
    assert [source.class_names[sample.label] for sample in samples] == ["a b", "a", "b", "b"]
    assert [sample.image for sample in samples] == [image_bytes(shade) for shade in (3, 2, 0, 1)]
    assert all(sample.attributes is None for sample in samples)


def test_a_flat_folder_has_no_classes(tmp_path):
    write(tmp_path, "2.png", "10.png", "1.png")
    source = open_source(tmp_path)
    assert source.class_names == ()
    assert [(source.sample(i).key, source.sample(i).label) for i in range(3)] == [("1", -1), ("10", -1), ("2", -1)]


def test_what_is_no_image_is_ignored(tmp_path):
    write(tmp_path, "a/1.png", "a/._1.png", "a/.hidden.png", ".cache/1.png", "a/.thumbs/1.png")
    for name in ("a/Thumbs.db", "a/notes.txt", "a/.DS_Store", "README.md", "a/jpg"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "annotations").mkdir()
    source = open_source(tmp_path)
    assert names(source) == ["a/1.png"]
    assert source.class_names == ("a",)


@pytest.mark.parametrize("wrapping", ["faces", "data/faces"])
def test_a_folder_that_only_wraps_the_classes_is_no_class(tmp_path, wrapping):
    write(tmp_path / wrapping, "cat/1.png", "dog/1.png")
    source = open_source(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert names(source) == ["cat/1.png", "dog/1.png"]
    assert source.identity() == open_source(tmp_path / wrapping).identity()


def test_a_single_class_is_a_class(tmp_path):
    write(tmp_path, "faces/1.png", "faces/2.png")
    assert open_source(tmp_path).class_names == ("faces",)


def test_several_splits_are_not_mixed(tmp_path):
    write(tmp_path, "train/cat/1.png", "Val/cat/1.png")
    source = open_source(tmp_path)
    assert source.class_names == ("cat",)
    assert source.split_names == ("train", "val")
    assert [(name, source.split_names[source.sample(i).split]) for i, name in enumerate(names(source))] == [
        ("Val/cat/1.png", "val"),
        ("train/cat/1.png", "train"),
    ]


def test_images_beside_class_folders_are_an_error(tmp_path):
    write(tmp_path, "a/1.png", "preview.png")
    with pytest.raises(InputError, match=r"preview\.png"):
        open_source(tmp_path)


def test_links_are_followed_but_never_round_and_round(tmp_path):
    write(tmp_path / "elsewhere", "cats/1.png", "one.png")
    root = tmp_path / "set"
    write(root, "dog/1.png")
    (root / "dog/linked.png").symlink_to(tmp_path / "elsewhere/one.png")
    (root / "dog/back").symlink_to(root)
    (root / "dog/self").symlink_to(root / "dog")
    (root / "cat").symlink_to(tmp_path / "elsewhere/cats")
    source = open_source(root)
    assert names(source) == ["cat/1.png", "dog/1.png", "dog/linked.png"]


def test_a_folder_that_holds_only_itself(tmp_path):
    (tmp_path / "self").symlink_to(tmp_path)
    with pytest.raises(InputError, match="no data set was found"):
        open_source(tmp_path)


def test_unreadable_samples_are_listed_and_fail_on_their_own(tmp_path):
    write(tmp_path, "a/1.png")
    (tmp_path / "a/2.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "a/3.png")  # must not be waited for
    (tmp_path / "a/4.png").write_bytes(b"")
    source = open_source(tmp_path)
    assert len(source) == 4
    for i in (1, 2):
        with pytest.raises((OSError, ImageError)):
            source.sample(i)
    assert source.sample(3).image == b""
    assert source.channels() == 1
    assert len(source.identity()) == 64


def test_channels(tmp_path):
    write(tmp_path, *(f"{i}.png" for i in range(1100)))  # more than one portion
    assert open_source(tmp_path).channels() == 1
    write(tmp_path, "999.png", mode="RGB")
    assert open_source(tmp_path).channels() == 3
    (tmp_path / "999.png").write_bytes(b"broken")
    assert open_source(tmp_path).channels() == 1


def test_channels_where_nothing_can_be_read(tmp_path):
    (tmp_path / "1.png").write_bytes(b"broken")
    assert open_source(tmp_path).channels() == 3


def test_identity_notices_a_changed_listing_and_nothing_else(tmp_path):
    root = tmp_path / "set"
    write(root, "a/1.png", "a/2.png", "b/1.png")
    identity = open_source(root).identity()
    shutil.copytree(root, tmp_path / "copy")
    (root / "a/notes.txt").write_text("x")
    assert open_source(tmp_path / "copy").identity() == open_source(root).identity() == identity
    seen = {identity}
    with (root / "a/1.png").open("ab") as file:
        file.write(b"\0")
    seen.add(open_source(root).identity())
    (root / "a/2.png").rename(root / "a/3.png")
    seen.add(open_source(root).identity())
    (root / "b/1.png").rename(root / "a/1b.png")
    seen.add(open_source(root).identity())
    assert len(seen) == 4


def test_a_source_travels_to_another_process(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png")
    source = open_source(tmp_path)
    twin = pickle.loads(pickle.dumps(source))
    assert twin.sample(1) == source.sample(1)
    assert decode(twin.sample(0).image).size == (8, 8)


# ---- names ----


NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=120)


@given(st.lists(st.lists(NAME, min_size=1, max_size=3).map("/".join), unique=True, max_size=20))
def test_keys_are_plain_unique_and_short(paths):
    paths = [path + ".png" for path in paths]
    keys = sample_keys(paths)
    assert len(set(keys)) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_/-]{1,80}", key) for key in keys)
    backwards = sample_keys(paths[::-1])[::-1]
    assert backwards == keys


def test_keys_that_would_be_alike():
    assert sample_keys(["a/1.png", "a/2.png"]) == ["a/1", "a/2"]
    paths = ["ä.png", "ö.png", "_.jpg", "_.png", "x.y.png", "x_y.png", "y" * 90 + ".png", "y" * 80 + ".png"]
    keys = sample_keys(paths)
    assert len(set(keys)) == len(paths)
    assert all(key.startswith("_-") for key in keys[:4])
    assert len(keys[-2]) == MAX_KEY
    assert keys[-1] == "y" * 80


def test_a_key_that_imitates_a_hash_is_refused():
    made = sample_keys(["a.jpg", "a.png"])
    with pytest.raises(InputError, match="would get the key"):
        sample_keys(["a.jpg", "a.png", made[0] + ".png"])


@pytest.mark.skipif(os.uname().sysname == "Darwin", reason="file names are always Unicode there")
def test_names_that_are_no_text(tmp_path):
    (tmp_path / "a").mkdir()
    for name in (b"\xff\xfe.png", b"two\nlines.png", b"\x1b[31m.png"):
        (tmp_path / "a" / os.fsdecode(name)).write_bytes(image_bytes(1))
    source = open_source(tmp_path)
    assert len(source) == 3
    assert all(name.isprintable() for name in names(source))
    assert len(source.identity()) == 64
    assert all(source.sample(i).key.isascii() for i in range(3))


# ---- open_source ----


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_source(tmp_path / "missing")
    with pytest.raises(InputError, match="not on this machine"):
        open_source("s3://bucket/images")
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError) as error:
            open_source(path)
        assert all(f"{layout}: " in str(error.value) for layout in LAYOUTS)


def test_a_named_layout_is_the_only_one_looked_for(tmp_path):
    write(tmp_path, "a/1.png")
    assert open_source(tmp_path, "folder").layout == "folder"
    for layout in set(LAYOUTS) - {"folder"}:
        with pytest.raises(LayoutError, match=layout):
            open_source(tmp_path, layout)


def test_a_misspelt_layout(tmp_path):
    with pytest.raises(InputError, match="celeba"):
        open_source(tmp_path, "CelebA".lower()[:-1])
    with pytest.raises(InputError, match="mnist"):
        open_source(tmp_path, "qqq")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b").chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        open_source(tmp_path)
    (tmp_path / "b").chmod(0o700)


@given(st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(0, 9), min_size=1), min_size=1))
@settings(max_examples=20, deadline=None)
def test_every_image_comes_once(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("set")
    expected = {f"{folder}/{i}.png" for folder, files in tree.items() for i in files}
    write(root, *expected)
    source = open_source(root)
    assert set(names(source)) == expected
    assert len(source) == len(expected)
    assert np.bincount([source.sample(i).label for i in range(len(source))]).tolist() == [
        len(tree[name]) for name in sorted(tree)
    ]


# ---- what folders mean: how people lay pictures out, and what must come of it ----

Files = dict[str, bytes]


def many(form: str, count: int = 4, start: int = 0, **words: list[str]) -> Files:
    """Photographs, ``count`` for each combination of the words, named by a form with {i}; no two are the same."""
    combined: list[dict[str, str]] = [{}]
    for word, values in words.items():
        combined = [{**each, word: value} for each in combined for value in values]
    names = [form.format(i=start + i, **each) for each in combined for i in range(count)]
    return photos(*names)


def soft(form: str, count: int = 4, kind: str = "JPEG") -> Files:
    """Grey pictures of soft edges, in the size that photographs have here."""
    found = {}
    for i in range(count):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (5, 6), np.uint8)).resize(
            (24, 20), Image.Resampling.BICUBIC
        ).save(file, kind)
        found[form.format(i=i)] = file.getvalue()
    return found


def flat(form: str, count: int = 4, kind: str = "PNG") -> Files:
    file = io.BytesIO()
    Image.open(io.BytesIO(mask())).save(file, kind)
    return {form.format(i=i): file.getvalue() for i in range(count)}


def smaller(form: str, count: int = 4) -> Files:
    """The photographs that ``many`` gives, in another size."""
    return {form.format(i=i): picture(i, (12, 10)) for i in range(count)}


PETS = ["cat", "dog"]
CLEAR: dict[str, tuple[Files, dict[str, int], dict[str, int], dict[str, int]]] = {
    # what lies there: classes, splits, left out
    "class names inside images of a split": (
        many("train/{pet}/images/{pet}{i}.jpg", pet=PETS) | many("val/images/v{i}.jpg") | many("test/images/t{i}.jpg"),
        {"cat": 4, "dog": 4},
        {"train": 8, "val": 4, "test": 4},
        {},
    ),
    "splits and domains in one word": (
        many("{name}/{name}{i}.jpg", name=["trainA", "trainB", "testA", "testB"]),
        {"A": 8, "B": 8},
        {"train": 8, "test": 8},
        {},
    ),
    "splits in the names of folders twice": (
        many("seg_{split}/seg_{split}/{pet}/{split}{i}.jpg", split=["train", "test"], pet=PETS),
        {"cat": 8, "dog": 8},
        {"train": 8, "test": 8},
        {},
    ),
    "classes and splits in one word": (
        many("{pet}s_{split}/{i}.jpg", split=["train", "val"], pet=PETS),
        {"cats": 8, "dogs": 8},
        {"train": 8, "val": 8},
        {},
    ),
    "a class without splits": (
        many("{pet}/{split}/{i}.jpg", split=["train", "val"], pet=PETS) | many("bird/b{i}.jpg"),
        {"cat": 8, "dog": 8, "bird": 4},
        {"train": 8, "val": 8},
        {},
    ),
    "classes called like splits' beginnings": (
        many("{name}/{name}{i}.jpg", name=["train_station", "testament", "bus"]),
        {"train_station": 4, "testament": 4, "bus": 4},
        {},
        {},
    ),
    "a class called train": (many("{name}/{name}{i}.jpg", name=["train", "bus"]), {"train": 4, "bus": 4}, {}, {}),
    "numbered parts": (
        many("part{part}/pets/{pet}/{part}{i}.jpg", part=["1", "2"], pet=PETS) | many("part3/pets/cat/3{i}.jpg"),
        {"cat": 12, "dog": 8},
        {},
        {},
    ),
    "parts that hold images alone": (many("images_00{part}/images/{part}{i}.png", part=["1", "2"]), {}, {}, {}),
    "bundles by the last digits": (
        {f"{i % 1000:04d}/{i}.jpg": picture(i) for i in (1000, 2000, 5001, 12001, 30002)},
        {},
        {},
        {},
    ),
    "bundles by a hash": (
        {f"{h[:2]}/{h}.jpg": picture(i) for i, h in enumerate(["ab12cd34e", "ab99cd34e", "0f12cd34e"])},
        {},
        {},
        {},
    ),
    "classes of files that are numbered throughout": (
        {f"{i // 10}/{i}.jpg": picture(i) for i in range(40)},
        {"0": 10, "1": 10, "2": 10, "3": 10},
        {},
        {},
    ),
    "one folder of images": (many("JPEGImages/{i}.jpg"), {}, {}, {}),
    "one folder in some size": (many("celeba_hq_256/{i}.jpg"), {}, {}, {}),
    "masks with soft edges": (
        many("images/{i}.jpg") | soft("mattes/{i}.jpg"),
        {},
        {},
        {"masks in mattes": 4},
    ),
    "masks as JPEG": (
        many("images/{i}.jpg") | flat("masks/{i}.jpg", kind="JPEG"),
        {},
        {},
        {"masks in masks": 4},
    ),
    "depths": (many("rgb/{i}.jpg") | soft("depth/{i}.png", kind="PNG"), {}, {}, {"masks in depth": 4}),
    "masks of streets": (
        many("leftImg8bit/{split}/bonn/{i}_leftImg8bit.png", split=["train", "val"])
        | {
            f"gtFine/{split}/bonn/{i}_gtFine_{kind}.png": mask()
            for split in ("train", "val")
            for i in range(4)
            for kind in ("color", "labelIds")
        },
        {"bonn": 8},
        {"train": 4, "val": 4},
        {"masks in gtFine": 16},
    ),
    "masks inside splits": (
        many("{split}/images/{i}.jpg", split=["train", "val"])
        | flat("train/masks/{i}.png")
        | flat("val/masks/{i}.png"),
        {},
        {"train": 4, "val": 4},
        {"masks in folders called masks": 8},
    ),
    "masks in numbered files": (
        many("{pet}/{i}.jpg", pet=PETS) | flat("cat/{i}_mask_1.png") | flat("dog/mask-{i}.png"),
        {"cat": 4, "dog": 4},
        {},
        {"masks in files called …_mask": 4, "masks in files called mask-…": 4},
    ),
    "thumbnails beside their pictures": (
        many("cat/{i}.jpg") | smaller("cat/{i}_thumb.jpg") | many("dog/d{i}.jpg"),
        {"cat": 4, "dog": 4},
        {},
        {"copies in another size or format called …_thumb": 4},
    ),
    "people with masks and without": (
        many("{name}/{i}.jpg", name=["with_mask", "without_mask"]),
        {"with_mask": 4, "without_mask": 4},
        {},
        {},
    ),
    "sizes of things as classes": (
        {f"{name}/{i}.jpg": picture(100 * k + i) for k, name in enumerate(["large", "small"]) for i in range(4)},
        {"large": 4, "small": 4},
        {},
        {},
    ),
    "kinds of kinds": (
        many("{a}/{b}{a}/{i}{a}{b}.jpg", a=["mammal", "bird"], b=["x", "y"]),
        {"mammal": 8, "bird": 8},
        {},
        {},
    ),
    "all of it once more, one deeper": (
        {
            f"{outer}{name}": data
            for outer in ("pets/", "pets/pets/")
            for name, data in many("{p}/{i}.jpg", p=PETS).items()
        },
        {"cat": 4, "dog": 4},
        {},
        {"the same once more in pets/pets": 8},
    ),
    "masks of splits in one word": (
        many("{split}/{split}{i}.png", split=["train", "test"])
        | flat("train_labels/train{i}_L.png")
        | flat("test_labels/test{i}_L.png"),
        {},
        {"train": 4, "test": 4},
        {"masks in test_labels": 4, "masks in train_labels": 4},
    ),
    "classes that are called images too": (
        many("{pet}_images/{i}.jpg", pet=PETS) | many("thumbs_up/u{i}.jpg"),
        {"cat_images": 4, "dog_images": 4, "thumbs_up": 4},
        {},
        {},
    ),
    "classes in folders of their own names": (
        many("{pet}s/{pet}s/{i}.jpg", pet=PETS),
        {"cats": 4, "dogs": 4},
        {},
        {},
    ),
    "words for masks and sizes as classes of numbered photographs": (
        {
            f"{name}/{i}.jpg": picture(10 * k + i)
            for k, name in enumerate(["alpha", "beta", "raw", "crop"])
            for i in range(4)
        },
        {"alpha": 4, "beta": 4, "crop": 4, "raw": 4},
        {},
        {},
    ),
    "a numbered class that is alone in one split": (
        many("train/0/{i}.jpg") | many("test/{k}/t{k}{i}.jpg", k=["0", "1"]),
        {"0": 8, "1": 4},
        {"train": 4, "test": 8},
        {},
    ),
    "bundles by a hash, twice": (
        {f"{h[:2]}/{h[2:4]}/{h}.jpg": picture(i) for i, h in enumerate(["ab12cd34e", "ab99cd34e", "0f12cd34e"])},
        {},
        {},
        {},
    ),
    "the same download twice": (
        {
            f"{outer}/{name}": data
            for outer in ("data", "data (1)")
            for name, data in many("{p}/{i}.jpg", p=PETS).items()
        },
        {"cat": 4, "dog": 4},
        {},
        {"the same once more in data (1)": 8},
    ),
    "numbered parts of a name": (
        many("HAM_images_part_{k}/{k}{i}.jpg", k=["1", "2"]),
        {},
        {},
        {},
    ),
    "folders of a camera": (many("DCIM/{k}APPLE/IMG_{k}{i}.jpg", k=["100", "101"]), {}, {}, {}),
    "masks of pictures that have a word, too": (
        many("train/{i}_sat.jpg") | flat("train/{i}_mask.png") | many("test/t{i}_sat.jpg"),
        {},
        {"train": 4, "test": 4},
        {"masks in files called …_mask": 4},
    ),
    "masks of the same name": (many("{i}.jpg") | flat("{i}.png"), {}, {}, {"masks in files called ….png": 4}),
    "a split in a word beside a plain one": (
        many("train/{pet}/a{i}.jpg", pet=PETS) | many("public_test/{pet}/b{i}.jpg", pet=PETS),
        {"cat": 8, "dog": 8},
        {"train": 8, "test": 8},
        {},
    ),
    "people by four digits": (
        {f"{k:04d}/{k:04d}{i:03d}.jpg": picture(10 * k + i) for k in range(1, 4) for i in range(4)},
        {"0001": 4, "0002": 4, "0003": 4},
        {},
        {},
    ),
    "a folder for each picture": (
        {f"stage1_train/{h}/images/{h}.png": picture(i) for i, h in enumerate(["a1b2c3", "d4e5f6", "0a9b8c"])},
        {},
        {},
        {},
    ),
    "a class called like its split": (
        many("train/{name}/a{name}{i}.jpg", name=["bus", "train"])
        | many("val/{name}/b{name}{i}.jpg", name=["bus", "train"]),
        {"bus": 8, "train": 8},
        {"train": 8, "val": 8},
        {},
    ),
    "one spelling more": (
        many("train/Cat/{i}.jpg") | many("train/dog/d{i}.jpg") | many("val/cat/v{i}.jpg") | many("val/dog/w{i}.jpg"),
        {"Cat": 8, "dog": 8},
        {"train": 8, "val": 8},
        {},
    ),
    "accents encoded in two ways": (
        many("train/caf\u00e9/{i}.jpg") | many("train/x/d{i}.jpg") | many("val/cafe\u0301/v{i}.jpg"),
        {"caf\u00e9": 8, "x": 4},
        {"train": 8, "val": 4},
        {},
    ),
}


@pytest.mark.parametrize("lies", CLEAR, ids=str)
def test_what_is_clear(tmp_path: Path, lies: str) -> None:
    files, classes, splits, left_out = CLEAR[lies]
    found = open_source(write_files(tmp_path / "it", "folder", files)).recognised
    assert (found.classes, found.splits, found.left_out) == (dict(sorted(classes.items())), splits, left_out)
    assert found.samples + sum(found.left_out.values()) == len(files)


AMBIGUOUS: dict[str, tuple[Files, str, int]] = {
    # what lies there: what is said, how many choices at least
    "years of classes, one of them not whole": (
        many("2019/{pet}/a{i}.jpg", pet=PETS) | many("2020/cat/b{i}.jpg"),
        "2019 holds folders cat, dog, and some lie in several \\(cat\\)",
        4,
    ),
    "domains of classes": (
        many("{domain}/{thing}/{domain}{i}.jpg", domain=["Art", "Real World"], thing=["Bed", "Fan"])
        | many("Clipart/Fan/c{i}.jpg"),
        "which are the classes.*\n.*\n.*\n  --no-classes ",
        5,
    ),
    "a folder of pictures beside a folder of classes": (
        many("data/{pet}/{i}.jpg", pet=PETS) | many("docs/fig{i}.png", 1),
        "data holds folders cat, dog, and others hold images alone \\(docs\\)",
        3,
    ),
    "the same once more, one deeper": (
        many("cells/{kind}/{i}.jpg", kind=["x1", "x2"]) | many("cells/cells/{kind}/{i}.jpg", kind=["x2", "x1"]),
        "which are the classes",
        3,
    ),
    "a picture beside splits": (
        many("{split}/{pet}/{split}{i}.jpg", split=["train", "test"], pet=PETS) | many("preview{i}.jpg", 1),
        r"class folders \(cat and dog|class folders \(cat, dog\)",
        3,
    ),
    "a picture beside a wrapper": (
        many("PetImages/{pet}/{i}.jpg", pet=PETS) | many("preview{i}.jpg", 1),
        r"class folders \(cat, dog\), and 1 images",
        3,
    ),
    "images without labels beside splits": (
        many("seg_{split}/seg_{split}/{pet}/{split}{i}.jpg", split=["train", "test"], pet=PETS)
        | many("seg_pred/seg_pred/p{i}.jpg"),
        "splits of a data set, and seg_pred beside them",
        4,
    ),
    "editions inside splits": (
        {
            f"{split}/{name}/{i}{split}.png": picture(i, size, "PNG")
            for split in ("train", "val")
            for name, size in (("HR", (48, 40)), ("LR", (24, 20)))
            for i in range(4)
        },
        "HR and LR hold the same pictures:",
        3,
    ),
    "editions and splits in one word": (
        {
            f"DIV2K_{split}_{name}/000{i}{end}.png": picture(i, size, "PNG")
            for split in ("train", "valid")
            for name, end, size in (("HR", "", (48, 40)), ("LR_bicubic/X2", "x2", (24, 20)))
            for i in range(4)
        },
        "DIV2K_HR and DIV2K_LR_bicubic hold the same pictures:",
        3,
    ),
    "splits in a folder beside another": (
        many("data/{split}/{pet}/{split}{i}.jpg", split=["train", "val"], pet=PETS) | many("docs/logo{i}.png", 1),
        "data holds splits of a data set, and there are 1 images beside it",
        2,
    ),
    "smaller ones in each class": (
        many("{pet}/{i}.jpg", pet=["cat"]) | smaller("cat/thumbs/{i}.jpg") | many("dog/d{i}.jpg"),
        "what lies beside folders and thumbs hold the same",
        1,
    ),
    "pictures and smaller ones below": (
        many("x/{i}.jpg") | smaller("x/thumbs/{i}.jpg"),
        "what lies beside folders and thumbs hold the same pictures:",
        2,
    ),
    "photographs and drawings": (
        many("photo/{i}.jpg") | flat("sketch/{i}.png"),
        "photo and sketch hold files of the same names",
        3,
    ),
    "images and something of the same scenes": (
        many("images/{i}.jpg") | photos(*(f"after/{i}.jpg" for i in (3, 2, 1, 0))),
        "after and images hold files of the same names",
        3,
    ),
    "labels beside stickers": (
        many("stickers/{i}_of_{i}.jpg") | photos(*(f"labels/{i}_of_{i}.jpg" for i in (3, 2, 1, 0))),
        "labels may hold masks of the pictures beside it, in stickers",
        3,
    ),
    "flat labels among photographs": (
        flat("labels/b{i}.png") | many("logos/p{i}.jpg"),
        "labels may hold masks of the pictures beside it, in logos, or be a class",
        2,
    ),
}


@pytest.mark.parametrize("lies", AMBIGUOUS, ids=str)
def test_what_is_ambiguous_is_refused_and_each_choice_works(tmp_path: Path, lies: str) -> None:
    files, said, least = AMBIGUOUS[lies]
    path = write_files(tmp_path / "it", "folder", files)
    with pytest.raises(InputError, match=said) as refused:
        open_source(path)
    first, *lines = str(refused.value).splitlines()
    options = [line.strip().split("  ")[0] for line in lines]
    assert len(options) >= least, first
    outcomes = set()
    for option in options:
        result = CliRunner().invoke(app, ["shards", "pack", str(path), "--dry-run", "--json", *shlex.split(option)])
        assert result.exit_code == 0, f"{option}: {result.output}"
        outcomes.add(result.output)
    assert len(outcomes) == len(options), options


def test_folders_called_like_splits_can_be_classes(tmp_path: Path) -> None:
    path = write_files(tmp_path / "it", "folder", many("{name}/{name}{i}.jpg", name=["train", "test"]))
    assert open_source(path).recognised.splits == {"train": 4, "test": 4}
    assert open_source(path, classes=True).recognised.classes == {"test": 4, "train": 4}


def test_inner_classes(tmp_path: Path) -> None:
    files = many("2019/{pet}/a{i}.jpg", pet=PETS) | many("2020/cat/images/b{i}.jpg")
    path = write_files(tmp_path / "it", "folder", files)
    assert open_source(path, inner=True).recognised.classes == {"cat": 8, "dog": 4}
    with pytest.raises(InputError, match="--inner-classes says by itself"):
        CliRunner().invoke(
            app,
            ["shards", "pack", str(path), "--dry-run", "--inner-classes", "--classes"],
            standalone_mode=False,
            catch_exceptions=False,
        )


def test_folders_and_files_are_excluded(tmp_path: Path) -> None:
    files = many("data/{pet}/{i}.jpg", pet=PETS) | many("data/c[1]/x{i}.jpg") | many("docs/fig{i}.png", 2)
    path = write_files(tmp_path / "it", "folder", files)
    found = open_source(path, exclude=["docs", "data/c[1]", "?*3.jpg", "[03].jpg"]).recognised
    assert found.classes == {"cat": 2, "dog": 2}
    assert found.left_out == {"excluded": 10}
    with pytest.raises(InputError, match=r"--exclude dosc: .*holds nothing of this name; did you mean 'docs'"):
        open_source(path, exclude=["dosc"])
