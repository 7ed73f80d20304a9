from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.networks.sizes import doublings, require_power
from shards.errors import InputError


@given(st.integers(0, 6), st.integers(2, 4))
def test_as_often_as_said(times, power):
    start = 2**power
    if start * 2**times <= 1024:
        assert doublings(start * 2**times, start, least=start, network="any") == times


@given(st.integers(-10, 3000).filter(lambda size: size not in (32, 64, 128, 256, 512, 1024)))
def test_other_sizes_are_refused_with_the_reason_and_what_there_is(size):
    with pytest.raises(InputError) as caught:
        doublings(size, start=4, least=32, network="some_name")
    assert f"data.image_size is {size}:" in str(caught.value)
    assert "some_name" in str(caught.value)
    assert "use one of 32, 64, 128, 256, 512, 1024" in str(caught.value)
    with pytest.raises(InputError, match=f"is {size}: for this reason: use one of 32, 64, 128, 256, 512, 1024"):
        require_power(size, 32, "for this reason")
