from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.explore.state import LONGEST, MIX, NUMBER, SEED, STEP, STRENGTH, TRUNCATION, Bounds, State
from shards.errors import InputError


def whole(bounds: Bounds) -> st.SearchStrategy[int]:
    return st.integers(int(bounds.least), int(bounds.most))


def number(bounds: Bounds) -> st.SearchStrategy[float]:
    return st.integers(round(1000 * bounds.least), round(1000 * bounds.most)).map(lambda value: value / 1000)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
STATES = st.builds(
    State,
    step=st.none() | whole(STEP),
    seed=whole(SEED),
    number=whole(NUMBER),
    truncation=st.none() | number(TRUNCATION),
    other_seed=whole(SEED),
    other_number=whole(NUMBER),
    mix=number(MIX),
    directions=st.none() | whole(STEP),
    show=st.dictionaries(NAMES, number(STRENGTH).filter(bool), max_size=5),
    principal=st.dictionaries(st.integers(1, 999), number(STRENGTH).filter(bool), max_size=5),
    where=st.dictionaries(NAMES, NAMES, max_size=5),
)


@given(STATES)
def test_what_is_written_is_read(state):
    assert State.from_query(state.to_query()) == state


@given(STATES, st.randoms())
def test_equal_states_are_equal_texts(state, random):
    pairs = state.to_query().split("&")
    random.shuffle(pairs)
    assert State.from_query("&".join(pairs)).to_query() == state.to_query()


def test_what_is_as_it_is_at_first_is_left_out():
    assert State.from_query("") == State()
    assert State().to_query() == ""
    assert State.from_query("seed=0&number=00&mix=-0.0&other_seed=1&show.Smiling=0&principal.2=-0").to_query() == ""


def test_a_state_for_people():
    state = State.from_query("show.big+dog=-1.50&step=1500&seed=7&principal.3=2&where.class=a%26b&mix=0.25004")
    assert state.show == {"big dog": -1.5}
    assert state.mix == 0.25
    assert state.to_query() == "step=1500&seed=7&mix=0.25&show.big+dog=-1.5&principal.3=2&where.class=a%26b"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("seed=-1", "seed is a whole number from 0 to 4,294,967,295, not '-1'"),
        ("seed=1.5", "seed is a whole number"),
        ("seed=", "seed is a whole number"),
        ("seed=" + "9" * 7000, "seed is a whole number"),
        ("seed=٣", "seed is a whole number"),
        ("number=10000", "number is a whole number from 0 to 9,999"),
        ("truncation=0", "truncation is a number from 0.1 to 4"),
        ("truncation=nan", "truncation is a number"),
        ("mix=1.01", "mix is a number from 0 to 1"),
        ("show.Smiling=inf", "show.Smiling is a number from -4 to 4"),
        ("show.Smiling=-4.1", "show.Smiling is a number from -4 to 4"),
        ("principal.0=1", "the number of a principal direction is a whole number from 1 to 999"),
        ("principal.x=1", "the number of a principal direction"),
        ("principal.1=1&principal.01=2", "principal.1 is there twice"),
        ("seed=1&seed=2", "seed is there twice"),
        ("path=../../etc/passwd", "there is no 'path' in a state; there are step, seed"),
        ("seed", "a state is like seed=7"),
        ("where.class=%ff", "a state is like seed=7"),
        ("where.class=" + "a" * LONGEST, "at most 8,000 characters"),
    ],
)
def test_states_that_are_none(query, said):
    with pytest.raises(InputError) as refused:
        State.from_query(query)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 400


@given(st.text(max_size=60))
def test_any_text_is_a_state_or_refused(text):
    try:
        state = State.from_query(text)
    except InputError:
        return
    assert State.from_query(state.to_query()) == state
