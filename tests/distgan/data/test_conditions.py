from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load, save

from distgan.data.conditions import LabelDistribution, Vectors, label_names, label_vectors
from distgan.spec import ConditionSpec
from shards.errors import InputError
from shards.index import Index

ATTRIBUTES = ("Smiling", "Eyeglasses", "Male", "Young")
CLASSES = ("cat", "dog", "emu")
EYES = np.eye(3, dtype=np.int8)


class Labels(NamedTuple):
    """The labels of an invented data set."""

    attributes: tuple[str, ...]
    classes: tuple[str, ...]
    vectors: Vectors

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.attributes, *(f"class={name}" for name in self.classes))

    @property
    def distribution(self) -> LabelDistribution:
        return LabelDistribution.of(self.names, self.vectors)

    def meets(self, vector: tuple[int, ...], where: dict[str, object]) -> bool:
        """Whether a vector is what somebody asks for, said in the plainest way."""
        said: dict[str, object] = dict(zip(self.attributes, vector, strict=False))
        for name, on in zip(self.classes, vector[len(self.attributes) :], strict=True):
            if on:
                said["class"] = name
        return all(
            said[name] in value if isinstance(value, list) else said[name] == value for name, value in where.items()
        )


@st.composite
def labels(draw: st.DrawFn) -> Labels:
    attributes = ATTRIBUTES[: draw(st.integers(0, 4))]
    with_classes = draw(st.booleans()) or not attributes
    rows = st.tuples(*(st.sampled_from([-1, 1]) for _ in attributes), st.sampled_from(range(3)))
    drawn = draw(st.lists(rows, min_size=1, max_size=40))
    vectors = [[*row[:-1], *(EYES[row[-1]] if with_classes else [])] for row in drawn]
    return Labels(attributes, CLASSES if with_classes else (), np.array(vectors, np.int8))


@st.composite
def wishes(draw: st.DrawFn, known: Labels) -> dict[str, object]:
    asked: dict[str, object] = {}
    for name in known.attributes:
        if draw(st.booleans(), label=f"ask for {name}"):
            asked[name] = draw(st.sampled_from([1, -1]))
    if draw(st.booleans(), label="ask for a class") and known.classes:
        asked["class"] = draw(st.sampled_from(CLASSES) | st.lists(st.sampled_from(CLASSES), min_size=1))
    return asked


def rows(vectors: torch.Tensor | Vectors) -> list[tuple[int, ...]]:
    return [tuple(int(value) for value in row) for row in vectors.tolist()]


def even(count: int) -> torch.Tensor:
    """The middles of so many equal parts of [0, 1)."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def noise(count: int, numbers: int, seed: int = 0) -> torch.Tensor:
    """Multiples of 2⁻²⁴, whose products with counts are exact."""
    return torch.rand(count, numbers, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def index(labelled):
    return Index.load(labelled)


def test_a_vector_holds_the_attributes_and_then_the_class(index):
    spec = ConditionSpec(attributes=["Male", "Smiling"], classes=True)
    assert label_names(spec, index) == ("Male", "Smiling", "class=cat", "class=dog", "class=emu")
    ids = np.array([49, 0, 7, 7, 30])
    vectors = label_vectors(spec, index, ids)
    assert vectors.dtype == np.int8
    for sample, vector in zip(ids.tolist(), vectors, strict=True):
        for column, name in enumerate(["Male", "Smiling"]):
            assert vector[column] == (1 if sample in index.select({name: 1}) else -1)
        assert vector[2:].tolist() == [int(sample in index.select({"class": name})) for name in CLASSES]


@pytest.mark.parametrize(
    ("spec", "width"),
    [
        (None, 0),
        (ConditionSpec(attributes=["Eyeglasses"]), 1),
        (ConditionSpec(classes=True), 3),
    ],
)
def test_only_what_is_asked_for_is_in_a_vector(index, spec, width):
    assert len(label_names(spec, index)) == width
    assert label_vectors(spec, index, np.arange(50)).shape == (50, width)


def test_what_the_set_does_not_have_is_refused(index, discs):
    with pytest.raises(InputError, match=r"model\.condition\.attributes.*'Smilling'.*did you mean 'Smiling'"):
        label_names(ConditionSpec(attributes=["Male", "Smilling"]), index)
    without = dataclasses.replace(index, class_names=(), label=np.full(50, -1, np.int32))
    with pytest.raises(InputError, match=r"model\.condition\.classes.*no classes"):
        label_names(ConditionSpec(classes=True), without)
    some = dataclasses.replace(index, label=np.where(np.arange(50) < 7, -1, index.label))
    with pytest.raises(InputError, match=r"model\.condition\.classes: 6 of 49 samples"):
        label_vectors(ConditionSpec(classes=True), some, np.arange(1, 50))
    assert label_vectors(ConditionSpec(classes=True), some, np.arange(7, 50)).sum() == 43


@given(labels())
def test_the_distribution_counts_the_vectors_of_the_data(known):
    distribution = known.distribution
    assert dict(zip(rows(distribution.rows), distribution.counts.tolist(), strict=True)) == Counter(rows(known.vectors))
    assert rows(distribution.rows) == sorted(rows(distribution.rows))
    assert distribution.width == known.vectors.shape[1]


@given(labels(), st.integers(1, 3))
def test_even_numbers_draw_exactly_what_the_data_has(known, times):
    drawn = known.distribution.draw(even(times * len(known.vectors)))
    assert drawn.dtype == torch.float32
    assert Counter(rows(drawn)) == Counter(times * rows(known.vectors))


@given(labels(), st.data())
def test_even_numbers_draw_exactly_what_the_data_has_among_what_is_asked_for(known, data):
    where = data.draw(wishes(known))
    matching = [row for row in rows(known.vectors) if known.meets(row, where)]
    if matching:
        drawn = known.distribution.given(where).draw(even(len(matching)))
        assert Counter(rows(drawn)) == Counter(matching)


@given(labels(), st.data(), st.integers(0, 100))
def test_what_is_asked_for_is_always_met_and_the_class_is_always_one(known, data, seed):
    where = data.draw(wishes(known))
    chosen = known.distribution.given(where)
    for numbers in range(1, chosen.choices + 1):
        drawn = rows(chosen.draw(noise(50, numbers, seed)))
        assert all(known.meets(row, where) for row in drawn)
        assert all(set(row[: len(known.attributes)]) <= {1, -1} for row in drawn)
        if known.classes:
            assert all(sorted(row[len(known.attributes) :]) == [0, 0, 1] for row in drawn)


@given(labels(), st.data())
def test_what_no_sample_has_is_set_and_the_rest_is_as_in_all_the_data(known, data):
    where = data.draw(wishes(known))
    others = [not known.meets(row, where) for row in rows(known.vectors)]
    assume(any(others))
    known = known._replace(vectors=known.vectors[others])
    wanted = where.get("class", [])
    classes = sorted(set(wanted if isinstance(wanted, list) else [wanted]))
    expected: Counter[tuple[int, ...]] = Counter()
    for row, name in itertools.product(rows(known.vectors), classes or [None]):
        attributes = [where.get(each, value) for each, value in zip(known.attributes, row, strict=False)]
        one_hot = row[len(attributes) :] if name is None else EYES[CLASSES.index(name)].tolist()
        expected[(*attributes, *one_hot)] += 1
    assert Counter(rows(known.distribution.given(where).draw(even(expected.total())))) == expected


@given(labels(), st.integers(0, 1000))
def test_entries_are_drawn_one_after_the_other_given_those_before(known, seed):
    """Against the definition, with exact fractions on the whole list of samples."""
    distribution = known.distribution
    numbers = noise(20, distribution.choices, seed)

    def by_definition(numbers: list[Fraction]) -> tuple[int, ...]:
        left = sorted(rows(known.vectors))
        for entry, number in enumerate(numbers[:-1]):
            low = [row for row in left if row[entry] <= 0]
            left = low if number < Fraction(len(low), len(left)) else [row for row in left if row[entry] == 1]
        return left[int(numbers[-1] * len(left))]

    expected = [by_definition([Fraction(number) for number in each]) for each in numbers.tolist()]
    assert rows(distribution.draw(numbers)) == expected


def test_each_choice_has_its_number():
    vectors = np.zeros((1, 5), np.int8)
    assert LabelDistribution.of(ATTRIBUTES, vectors[:, :4]).choices == 4
    assert LabelDistribution.of(("class=cat", "class=dog"), vectors[:, :2]).choices == 1
    assert LabelDistribution.of(("Male", "class=cat", "class=dog"), vectors[:, :3]).choices == 2
    assert LabelDistribution.of((), vectors[:, :0]).choices == 1


@given(st.integers(0, 100), st.lists(st.tuples(*[st.sampled_from([-1, 1])] * 3), min_size=1, max_size=20))
def test_what_does_not_depend_on_the_entry_asked_for_stays(seed, others):
    both = [(*other[:1], value, *other[1:]) for other in others for value in (1, -1)]
    distribution = LabelDistribution.of(ATTRIBUTES, np.array(both, np.int8))
    numbers = noise(30, 4, seed)
    with_it, without = (distribution.given({"Eyeglasses": value}).draw(numbers) for value in (1, -1))
    assert torch.equal(with_it[:, [0, 2, 3]], without[:, [0, 2, 3]])


def test_most_of_what_depends_on_the_entry_asked_for_stays():
    random = np.random.default_rng(0)
    looks = random.normal(size=(20_000, 3)) @ random.normal(size=(3, 8)) + random.normal(size=(20_000, 8))
    names = tuple(f"attribute {i}" for i in range(8))
    distribution = LabelDistribution.of(names, np.where(looks > 0.5, 1, -1).astype(np.int8))

    def changed(numbers: torch.Tensor, others: torch.Tensor) -> float:
        one = distribution.given({"attribute 3": 1}).draw(numbers)
        other = distribution.given({"attribute 3": -1}).draw(others)
        return float((one != other)[:, [0, 1, 2, 4, 5, 6, 7]].float().mean())

    assert changed(noise(2000, 8), noise(2000, 8)) < 0.6 * changed(noise(2000, 8), noise(2000, 8, seed=1))


def test_without_a_condition_there_is_nothing_to_draw_or_ask_for():
    none = LabelDistribution.of((), np.zeros((50, 0), np.int8))
    assert (none.width, none.counts.tolist()) == (0, [50])
    assert none.draw(even(5)).shape == (5, 0)
    assert none.given({}).draw(even(5)).shape == (5, 0)
    with pytest.raises(InputError, match=r"without model\.condition"):
        none.given({"Smiling": 1})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"smilng": 1}, "'smilng': did you mean 'Smiling'"),
        ({"Smiling": 1, "Bald": 1}, "'Bald': there are Smiling, Eyeglasses, class"),
        ({"Smiling": 0}, "Smiling is 1 or -1, not 0"),
        ({"Smiling": "1"}, "Smiling is 1 or -1, not '1'"),
        ({"Smiling": [1, -1]}, "Smiling is 1 or -1"),
        ({"Smiling": None}, "Smiling is 1 or -1"),
        ({"class": "cats"}, "class 'cats': did you mean 'cat'"),
        ({"class": ["cat", "cow"]}, "class 'cow'"),
        ({"class": []}, "class ''"),
    ],
)
def test_what_the_run_was_not_conditioned_on_is_refused(where, message):
    names = ("Smiling", "Eyeglasses", "class=cat", "class=dog", "class=emu")
    with pytest.raises(InputError, match=message):
        LabelDistribution.of(names, np.array([[1, -1, 1, 0, 0]], np.int8)).given(where)


def test_names_that_look_like_numbers_are_told_apart():
    known = LabelDistribution.of(("class=010", "class=10", "class=no"), EYES)
    for name, column in (("010", 0), (10, 1), ("no", 2)):
        assert known.given({"class": name}).rows[:, column].tolist() == [1]
    for value in (False, 10.0, None):
        with pytest.raises(InputError, match=r"class .* is no text: quote it"):
            known.given({"class": value})


def test_an_attribute_called_class_is_ambiguous_beside_classes():
    vectors = np.array([[1, 1, 0], [-1, 0, 1]], np.int8)
    with pytest.raises(InputError, match="'class' is ambiguous"):
        LabelDistribution.of(("class", "class=cat", "class=dog"), vectors).given({"class": "cat"})
    assert LabelDistribution.of(("class",), vectors[:, :1]).given({"class": 1}).rows.tolist() == [[1]]


def test_class_is_refused_where_only_attributes_are_known():
    with pytest.raises(InputError, match="'class': there are Smiling"):
        LabelDistribution.of(("Smiling",), np.ones((3, 1), np.int8)).given({"class": "cat"})


@given(labels())
def test_it_survives_a_file(known):
    before = known.distribution
    after = LabelDistribution.from_tensors(known.names, load(save(before.tensors())))
    assert (after.names, rows(after.rows), after.counts.tolist()) == (
        before.names,
        rows(before.rows),
        before.counts.tolist(),
    )
    assert after.rows.dtype == np.int8


def test_celebas_forty_attributes_take_few_bytes():
    vectors = np.where(np.random.default_rng(0).random((162_770, 40)) < 0.5, 1, -1).astype(np.int8)
    names = tuple(f"attribute {i}" for i in range(40))
    distribution = LabelDistribution.of(names, vectors)
    data = save(distribution.tensors())
    assert len(data) < 2.2e6
    again = LabelDistribution.from_tensors(names, load(data))
    assert np.array_equal(again.rows, distribution.rows)
    asked = again.given({"attribute 7": 1, "attribute 20": False}).draw(noise(64, 40))
    assert (asked[:, 7] == 1).all()
    assert (asked[:, 20] == -1).all()
    assert {row.tobytes() for row in asked.numpy().astype(np.int8)} <= {row.tobytes() for row in vectors}
