from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import InputError
from shards.names import as_written, canonical_split, in_a_row, near, parse_where


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smilling", "did you mean 'Smiling'?"),
        ("BALD", "did you mean 'Bald'?"),
        ("hat", "did you mean 'Hat' or 'Hats'?"),
        ("xyz", "there are Smiling, Hats, Bald, Hat"),
    ],
)
def test_the_nearest_or_all(name: str, hint: str) -> None:
    assert near(name, ["Smiling", "Hats", "Bald", "Hat"]) == hint


def test_nothing_is_known() -> None:
    assert near("x", iter(())) == "there are none"


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAIN training training_set trainset train2017 train-images Train_Data train_split_1"),
        ("val", "val valid validation val2017 Validation-Set validset dev devset dev_01 development eval evaluation"),
        ("test", "test Test testing test1 testset test_images TestData test_dataset test-image"),
        (None, "data images set split 2017 trains contest trainer tested attest value devil evaluated a_test cat"),
    ],
)
def test_splits_have_many_names(split: str | None, names: str) -> None:
    for name in [*names.split(), names.split()[0] + " set"]:
        assert canonical_split(name) == split, name


def test_split_names_may_have_spaces_and_nothing_else_has_one() -> None:
    assert canonical_split("Training Images 2") == "train"
    assert canonical_split(" test ") == "test"
    assert canonical_split("") is None
    assert canonical_split("train/val") is None


def test_names_are_taken_as_they_are_written() -> None:
    assert as_written("010", "class") == ["010"]
    assert as_written(["a b", 10, "no"], "class") == ["a b", "10", "no"]
    assert as_written((), "class") == []
    for value in (False, None, 1000.0, ["cat", True], [["cat"]], {"a": 1}):
        with pytest.raises(InputError, match=r"^class .* is no text: quote it$"):
            as_written(value, "class")


@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        ([], {}),
        (["Smiling=1,Eyeglasses=-1"], {"Smiling": True, "Eyeglasses": False}),
        ([" Smiling = TRUE , class = cat "], {"Smiling": True, "class": ["cat"]}),
        (["class=010", "class=no,split=1e3"], {"class": ["010", "no"], "split": ["1e3"]}),
        (['class="Smith, John"', "class=Jane"], {"class": ["Smith, John", "Jane"]}),
        (['class="a=b",Male="-1"'], {"class": ["a=b"], "Male": False}),
        (['"a, b = c"=1'], {"a, b = c": True}),
        (['class="12"" disc"'], {"class": ['12" disc']}),
        (['class=12" disc'], {"class": ['12" disc']}),
        (["class=a b=c"], {"class": ["a b=c"]}),
        (["class=don't"], {"class": ["don't"]}),
        (['class=""'], {"class": [""]}),
        (['class="  "'], {"class": ["  "]}),
        (["class=a\nb"], {"class": ["a\nb"]}),
    ],
)
def test_conditions_are_read(texts: list[str], asked: dict[str, object]) -> None:
    assert parse_where(texts) == asked


@given(st.lists(st.text(), min_size=1, max_size=4), st.booleans())
def test_every_name_can_be_given(names: list[str], together: bool) -> None:
    conditions = ["class=" + '"' + name.replace('"', '""') + '"' for name in names]
    assert parse_where([",".join(conditions)] if together else conditions) == {"class": names}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write NAME=VALUE"),
        ("Smiling", "write NAME=VALUE"),
        ("Smiling=", "write NAME=VALUE"),
        ("=1", "write NAME=VALUE"),
        ("Smiling=1,", "write NAME=VALUE"),
        (",Smiling=1", "write NAME=VALUE"),
        ("class=Smith, John", "in double quotes where it holds a comma"),
        ('class="Smith', "in double quotes"),
        ('class="Smith" John', "in double quotes"),
        ("Smiling=yes", "--where Smiling=yes: Smiling is 1 or -1, not 'yes'"),
        ("Smiling=1,Smiling=-1", "Smiling is asked for twice"),
    ],
)
def test_what_is_not_written_so_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_where([text])
    assert message in str(caught.value)
    assert f"--where {text}" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "in_row"),
    [
        (["a-00", "a-01", "a-02"], True),
        (["2", "1", "3"], True),
        (["a-1"], True),
        (["a-0", "a-2"], False),
        (["a-2", "a-3"], False),
        (["a-0", "b-1"], False),
        (["a-0", "a-0"], False),
        (["a-0", "a"], False),
        ([], False),
    ],
)
def test_names_in_a_row(names, in_row):
    assert in_a_row(names) == in_row
