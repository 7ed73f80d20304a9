import io
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.errors import InputError
from shards.images import ImageError, decode
from shards.sources import LAYOUTS, LayoutError, Source, open_source
from shards.sources.base import MAX_KEY, sample_keys
from shards.sources.pictures import PictureFiles


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
