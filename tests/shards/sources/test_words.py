import pytest

from shards.sources.words import (
    are_counted,
    are_editions,
    bundle_by_name,
    companions,
    is_about_pictures,
    is_container,
    says_nothing,
    spellings,
    split_meanings,
    subject,
    without_copy,
    words,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gtFine_color", ["gt", "fine", "color"]),
        ("JPEGImages", ["jpeg", "images"]),
        ("trainA", ["train", "a"]),
        ("img1024x1024", ["img", "1024", "x", "1024"]),
        ("Кошки 2", ["кошки", "2"]),
        ("", []),
    ],
)
def test_words(name, expected):
    assert words(name) == expected


def test_what_says_nothing():
    nothing = ["images", "JPEGImages", "jpgs", "celeba_hq_256", "128x128", "New folder (2)", "raw", "Dataset"]
    assert [name for name in nothing if not says_nothing(name)] == []
    assert [name for name in ["cat", "cat_images", "16", "wild boar", "mask"] if says_nothing(name)] == []
    assert is_container("images")
    assert not is_container("raw")


def test_what_is_about_pictures():
    assert all(map(is_about_pictures, ["masks", "gtFine", "SegmentationClass", "trimaps", "train_labels", "with_mask"]))
    assert not any(map(is_about_pictures, ["damask", "cat", "segway", "images"]))


def test_editions():
    pairs = [("images1024x1024", "thumbnails128x128"), ("HR", "LR"), ("", "thumbs"), ("img_align_celeba", "img_celeba")]
    assert [pair for pair in pairs if not are_editions(*pair)] == []
    others = [("cat_images", "dog_images"), ("crop", "weed"), ("cat", "wild"), ("thumbs_up", "thumbs_down")]
    assert [pair for pair in others if are_editions(*pair)] == []


def test_subjects():
    names = ["images/img_0001.jpg", "masks/1_mask.png", "HR/0001x2.png", "gtFine/bonn/1_gtFine_color.png"]
    assert {subject(name) for name in names} == {"1"}
    assert are_counted(names)
    assert not are_counted(["26_0_1_2017.jpg"])


def test_companions():
    names = [
        "a/1.jpg",
        "a/1_mask.png",
        "a/mask-1.png",
        "a/1.jpg.mask.png",
        "b/1_mask.png",
        "c/8_sat.jpg",
        "c/8_mask.png",
    ]
    found = companions([*names, "d/2.jpg", "d/2.png", "d/no_mask.jpg"])
    assert found == {
        1: (0, "…_mask"),
        2: (0, "mask-…"),
        3: (0, "….jpg.mask"),
        6: (5, "…_mask"),
        8: (7, "….png"),
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "val2017"], {"train": ("train", ""), "val2017": ("val", "")}),
        (["trainA", "trainB", "testA"], {"trainA": ("train", "A"), "trainB": ("train", "B"), "testA": ("test", "A")}),
        (["train", "public_test"], {"train": ("train", ""), "public_test": ("test", "")}),
        (["train", "bus"], {"train": ("train", ""), "bus": (None, "")}),
        (["train_station", "bus"], {"train_station": (None, ""), "bus": (None, "")}),
    ],
)
def test_splits_in_names(names, expected):
    assert split_meanings(names) == expected


def test_parts_of_one_thing():
    parts = [
        ["part1", "part2"],
        ["HAM_part_1", "HAM_part_2"],
        ["100APPLE", "101APPLE"],
        ["New folder", "New folder (2)"],
    ]
    assert [names for names in parts if not bundle_by_name(names)] == []
    others = [["1", "2"], ["s1", "s2"], ["part1"], ["class1", "class2"], ["cats", "dogs"]]
    assert [names for names in others if bundle_by_name(names)] == []


def test_copies_and_spellings():
    assert {without_copy(name) for name in ["data", "Data (1)", "data - Copy", "data copy 2"]} == {"data"}
    assert without_copy("Train") == without_copy("training") == "train"
    assert spellings(["Cat", "cat", "caf\u00e9", "cafe\u0301", "dog"]) == [["Cat", "cat"], ["cafe\u0301", "caf\u00e9"]]
