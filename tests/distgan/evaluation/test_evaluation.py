import pytest

from distgan.evaluation import held_out
from shards.index import Index


@pytest.fixture(scope="module")
def shards(pack_discs):
    return str(pack_discs(count=60, size=16, splits=("train", "test")))


def test_what_is_compared_with(shards, pack_discs):
    index = Index.load(shards)
    assert len(held_out(index, {}).ids) == 30
    assert held_out(index, {"split": "train"}).note == ""
    plain = held_out(Index.load(str(pack_discs(count=20, size=16))), {"class": "odd"})
    assert (len(plain.ids), "may have been learnt from" in plain.note) == (10, True)
