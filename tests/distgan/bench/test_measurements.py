from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.bench import measurements
from distgan.bench.measurements import DEVICE_ERROR, SECTIONS, _covered, read_record
from jobs import recipes
from tests.distgan.bench.failing import SECTIONS as FAILING


@pytest.fixture(autouse=True)
def failing(monkeypatch):
    monkeypatch.setattr(measurements, "SECTIONS", FAILING)


def test_a_device_that_can_no_more_ends_the_process_and_the_next_goes_on_behind(tmp_path):
    with pytest.raises(SystemExit) as ended:
        measurements.main("failing", str(tmp_path), str(tmp_path))
    assert ended.value.code == DEVICE_ERROR
    lines = read_record(tmp_path / "failing.jsonl")
    assert lines[0] == {"planned": ["one", "raises", "device", "crashes", "last"]}
    assert [line["began"] for line in lines if "began" in line] == ["one", "raises", "device"]
    assert [line["failed"] for line in lines if "failed" in line] == ["raises", "device"]
    with (tmp_path / "failing.jsonl").open("a") as file:
        file.write('{"began": "crashes"}\n{"of": "cra')  # and its process was killed in the middle of a line
    measurements.main("failing", str(tmp_path), str(tmp_path))
    lines = read_record(tmp_path / "failing.jsonl")
    assert [line["began"] for line in lines if "began" in line] == ["one", "raises", "device", "crashes", "last"]
    assert [line["ended"] for line in lines if "ended" in line] == ["one", "last"]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20))))
def test_what_overlaps_is_covered_once(spans):
    expected = {place for start, length in spans for place in range(start, start + length)}
    assert _covered([(start, start + length) for start, length in spans]) == len(expected)


def test_all_recipes_are_measured_in_both_precisions(tmp_path):
    place = measurements.Place(tmp_path, tmp_path, small=False)
    names = SECTIONS["speed"].measurements(place)
    for recipe in recipes():
        assert f"{recipe}, auto, its batch" in names
        assert f"{recipe}, float32, its batch" in names
    assert "dcgan64, auto, batch 1024" in names
    assert next(iter(names)) == "PyTorch's tutorial, batch 128"
