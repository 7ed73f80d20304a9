from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgan.bench import measurements
from distgan.bench.measurements import DEVICE_ERROR, GOOD, SECTIONS, Place, _covered, read_record
from distgan.evaluation import pictures
from jobs import recipes
from tests.distgan.bench.failing import SECTIONS as FAILING


def test_a_device_that_can_no_more_ends_the_process_and_the_next_goes_on_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(measurements, "SECTIONS", FAILING)
    with pytest.raises(SystemExit) as ended:
        measurements.main("failing", str(tmp_path), str(tmp_path))
    assert ended.value.code == DEVICE_ERROR
    lines = read_record(tmp_path / "failing.jsonl")
    assert lines[0] == {"planned": ["one", "raises", "device", "crashes", "hangs", "last"]}
    assert [line["began"] for line in lines if "began" in line] == ["one", "raises", "device"]
    assert [line["failed"] for line in lines if "failed" in line] == ["raises", "device"]
    with (tmp_path / "failing.jsonl").open("a") as file:
        file.write(
            '{"began": "crashes"}\n{"began": "hangs"}\n{"of": "han'
        )  # and its process was killed in the middle of a line
    measurements.main("failing", str(tmp_path), str(tmp_path))
    lines = read_record(tmp_path / "failing.jsonl")
    assert [line["began"] for line in lines if "began" in line] == lines[0]["planned"]
    assert [line["ended"] for line in lines if "ended" in line] == ["one", "last"]


LONG = {"distgan/training/test_learner.py", "distgan/training/test_workers.py", "torchrun, 1"}
"""Measurements that are made in the same way as another one that is made here."""


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20))))
def test_what_overlaps_is_covered_once(spans):
    expected = {place for start, length in spans for place in range(start, start + length)}
    assert _covered([(start, start + length) for start, length in spans]) == len(expected)


def test_all_recipes_are_measured_in_both_precisions(tmp_path):
    place = Place(tmp_path, tmp_path, small=False)
    names = SECTIONS["speed"].measurements(place)
    for recipe in recipes():
        assert f"{recipe}, auto, its batch" in names
        assert f"{recipe}, float32, its batch" in names
    assert "dcgan64, auto, batch 1024" in names
    assert next(iter(names)) == "PyTorch's tutorial, batch 128"


@pytest.mark.slow
def test_every_measurement_works_on_a_cpu_in_small(tmp_path_factory, monkeypatch):
    """Before it meets a GPU, which is at hand for minutes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(pictures, "PATCHES", pictures.PATCHES)  # which a small run changes
    place = Place(tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("out"), small=True)
    for section in SECTIONS.values():
        measured = section.measurements(place)
        for name in LONG & set(measured):
            del measured[name]
        for name, measurement in measured.items():
            rows = list(measurement())
            assert rows, name
            assert all(row.get(GOOD, True) for row in rows), rows
    assert (place.out / "sample.png").exists()
