from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distgan.bench.sections.profile import _covered


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20))))
def test_what_overlaps_is_covered_once(spans):
    expected = {place for start, length in spans for place in range(start, start + length)}
    assert _covered([(start, start + length) for start, length in spans]) == len(expected)
