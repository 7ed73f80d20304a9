from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from distgan.data.selection import select_samples, split_note
from shards.errors import InputError
from shards.index import Index


@pytest.fixture
def select(tiny, labelled):
    """Selects among the labelled discs."""

    def run(**changes):
        return select_samples(tiny(**{"data__shards": str(labelled), **changes}))

    return run


@pytest.fixture
def copied(labelled, tmp_path):
    """A set to do damage to."""
    return shutil.copytree(labelled, tmp_path / "set")


def test_all_samples_are_kept_unless_the_specification_says_otherwise(select):
    index, kept = select()
    assert len(index) == 50
    assert kept.dtype == np.int64
    assert kept.tolist() == list(range(50))


def test_a_filter_keeps_what_meets_all_of_it(select):
    index, kept = select(data__where={"Eyeglasses": -1, "class": ["dog", "emu"]})
    glasses = index.attribute("Eyeglasses")
    assert kept.tolist() == [i for i in range(50) if not glasses[i] and index.label[i] in (1, 2)]
    assert 8 <= len(kept) < 33


def test_a_limit_keeps_the_first_of_what_the_filter_keeps(select):
    dogs = select(data__where={"class": "dog"})[1]
    assert select(data__where={"class": "dog"}, data__limit=9)[1].tolist() == dogs[:9].tolist()
    assert select(data__where={"class": "dog"}, data__limit=len(dogs))[1].tolist() == dogs.tolist()
    assert select(data__limit=50)[1].tolist() == list(range(50))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__where": {"Eyeglases": -1}}, r"data\.where: .*'Eyeglases': did you mean 'Eyeglasses'"),
        ({"data__where": {"class": "dogs"}}, r"data\.where: .*'dogs': did you mean 'dog'"),
        ({"data__where": {"class": ["cat", "cow"]}}, r"data\.where: .*'cow'"),
        ({"data__where": {"Male": 2}}, r"data\.where: .*Male is 1 or -1, not 2"),
        ({"data__where": {"Male": None}}, r"data\.where: .*Male is 1 or -1, not None"),
        ({"data__where": {"class": []}}, r"data\.where: no sample"),
        ({"data__limit": 51}, r"data\.limit is 51, but there are only 50 samples"),
        ({"data__where": {"class": "dog"}, "data__limit": 18}, r"data\.limit is 18, but .* 17 samples .*data\.where"),
        ({"data__limit": 7}, r"training\.batch_size is 8, but there are only 7"),
        ({"data__lanes": 3}, r"training\.batch_size is 8, which data\.lanes = 3"),
        ({"data__image_size": 32}, r"data\.image_size is 32.* 16 pixels"),
    ],
)
def test_the_field_that_is_wrong_is_named(select, changes, message):
    with pytest.raises(InputError, match=message):
        select(**changes)


def test_a_filter_that_keeps_nothing_is_refused(select, pack_discs):
    shards = pack_discs(count=2, attributes=("Bald",))  # one even, one odd
    without = -1 if Index.load(shards).attribute("Bald")[0] else 1
    with pytest.raises(InputError, match=r"data\.where: no sample .*meets all of"):
        select(data__shards=str(shards), data__where={"class": "even", "Bald": without})


def test_selecting_reads_no_image(select, copied):
    """Neither their bytes nor, for the filter, their files are needed: a wrong filter is said before all else."""
    expected = select(data__where={"Smiling": 1})[1].tolist()
    tars = list(copied.glob("*.tar"))
    for tar in tars:
        size = tar.stat().st_size
        tar.write_bytes(b"")
        with tar.open("r+b") as file:
            file.truncate(size)
    assert select(data__shards=str(copied), data__where={"Smiling": 1})[1].tolist() == expected
    for tar in tars:
        tar.unlink()
    assert Index.load(copied).select({"Smiling": 1}).tolist() == expected
    with pytest.raises(InputError, match=r"data\.where"):
        select(data__shards=str(copied), data__where={"Smilng": 1})
    with pytest.raises(InputError, match="is missing"):
        select(data__shards=str(copied), data__where={"Smiling": 1})


@pytest.fixture(scope="module")
def divided(pack_discs):
    """Forty-eight discs, a third of each class in each split."""
    return pack_discs(count=48, attributes=("Male",), classes=("cat", "dog", "emu"), splits=("train", "val", "test"))


def test_only_the_split_train_is_trained_on_unless_the_filter_names_splits(select, tiny, divided):
    def chosen(**changes):
        changes = {"data__shards": str(divided), **changes}
        index, kept = select(**changes)
        return index.split[kept].tolist(), split_note(index, tiny(**changes))

    splits, note = chosen()
    assert splits == [0] * 18
    assert note == (
        "training on the split train: 18 of 48 samples; val 15 and test 15 are kept out (data.where.split chooses)"
    )
    splits, note = chosen(data__where={"class": ["cat", "dog"]})
    assert splits == [0] * 12
    assert note == (
        "training on the split train: 12 of 32 samples that data.where keeps; val 10 and test 10 are kept out "
        "(data.where.split chooses)"
    )
    for where, expected in (
        ({"split": "validation"}, {1}),
        ({"split": ["train", "test"]}, {0, 2}),
        ({"split": ["train", "val", "test"]}, {0, 1, 2}),
        ({"split": "all"}, {0, 1, 2}),
    ):
        splits, note = chosen(data__where=where)
        assert set(splits) == expected
        assert note is None


def test_samples_of_no_split_are_trained_on_too(select, tiny, divided, monkeypatch):
    index = Index.load(divided)
    some = dataclasses.replace(index, split=np.where(np.arange(48) % 4, index.split, -1).astype(np.int8))
    monkeypatch.setattr(Index, "load", lambda root: some)
    kept = select()[1]
    assert kept.tolist() == [i for i in range(48) if some.split[i] in (0, -1)]
    assert f"{len(kept)} of 48 samples, 12 of them in no split; val" in str(split_note(some, tiny()))


def test_a_set_without_a_split_train_is_used_whole(select, tiny, divided, labelled, monkeypatch):
    assert split_note(Index.load(labelled), tiny()) is None
    other = dataclasses.replace(Index.load(divided), split_names=("test", "val"), split=np.zeros(48, np.int8))
    monkeypatch.setattr(Index, "load", lambda root: other)
    assert len(select()[1]) == 48
    assert split_note(other, tiny()) is None


def test_what_the_split_leaves_too_few_of_is_said_so(select, divided, monkeypatch):
    for changes, message in (
        ({"data__limit": 19}, r"data\.limit is 19, but there are only 18 samples in the split train in"),
        (
            {"data__limit": 7, "data__where": {"class": "cat"}},
            r"data\.limit is 7, but there are only 6 samples that data\.where keeps in the split train in",
        ),
        ({"training__batch_size": 19}, r"training\.batch_size is 19, but there are only 18"),
    ):
        with pytest.raises(InputError, match=message):
            select(**{"data__shards": str(divided), **changes})
    index = Index.load(divided)
    none = dataclasses.replace(index, split=np.where(index.label, index.split, 1).astype(np.int8))
    monkeypatch.setattr(Index, "load", lambda root: none)
    with pytest.raises(InputError, match=r"data\.where: no sample .* is in the split train; .*data\.where\.split"):
        select(data__where={"class": "cat"})
