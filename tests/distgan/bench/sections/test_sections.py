from __future__ import annotations

import pytest
import torch

from distgan.bench.sections import SECTIONS
from distgan.bench.sections.base import GOOD, Place
from distgan.evaluation import pictures
from jobs import recipes

LONG = {"distgan/training/test_learner.py", "distgan/training/test_workers.py", "torchrun, 1"}
"""Measurements that are made in the same way as another one that is made here."""


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
