from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from distgan.checkpoint import Best, mark_best
from distgan.sampling.generator import Generator
from distgan.sampling.interpolation import interpolate
from distgan.tracking import ways
from distgan.tracking.ways import WAYS, Ways, draw_ways
from tests.distgan.sampling.test_sampling import saved


def pixels(found: Ways) -> np.ndarray:
    with Image.open(io.BytesIO(found.picture.data)) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("condition", [None, {"attributes": ["Smiling", "Male"], "classes": True}])
def test_they_are_those_that_interpolate_draws(tmp_path, condition):
    run = tmp_path / "run"
    checkpoint = saved(run, 3, condition)
    found = draw_ways(run)
    assert isinstance(found, Ways)
    assert (found.count, found.step, found.images, found.best) == (WAYS, 1, 1, False)
    interpolate(checkpoint, tmp_path / "strip.png", pairs=WAYS, steps=ways.STEPS)
    expected = np.asarray(Image.open(tmp_path / "strip.png")).astype(int)
    assert np.abs(pixels(found) - expected).max() <= 1  # other batches round otherwise
    assert expected.std() > 0


def test_the_best_checkpoint_is_preferred(tmp_path):
    path = saved(tmp_path / "run", 1).path
    mark_best(tmp_path / "run", Best(path, "frechet", 3.0, ""))
    found = draw_ways(tmp_path / "run")
    assert isinstance(found, Ways)
    assert found.best


def test_a_slow_generator_draws_one_way_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(ways, "SECONDS", -1.0)
    saved(tmp_path / "run", 1)
    found = draw_ways(tmp_path / "run")
    assert isinstance(found, Ways)
    assert found.count == 1
    assert pixels(found).shape == (2 + 18, 2 + 9 * 18)


def test_large_pictures_take_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(ways, "_MOST_PIXELS", 82)
    monkeypatch.setattr(ways, "_AS_JPEG", 10)
    saved(tmp_path / "run", 3)
    found = draw_ways(tmp_path / "run")
    assert isinstance(found, Ways)
    assert (found.picture.width, found.picture.height, found.picture.mime) == (82, 55, "image/jpeg")


def test_why_nothing_is_drawn_is_said(tmp_path, monkeypatch):
    assert "nor a run that has one" in str(draw_ways(tmp_path / "nowhere"))
    path = saved(tmp_path / "run", 1).path
    (path / "generator_ema.safetensors").write_bytes(b"damaged")
    assert "is damaged: generator_ema.safetensors" in str(draw_ways(tmp_path / "run"))
    saved(tmp_path / "other", 1)

    def too_large(self: Generator, count: int = 1, **options: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: not enough memory\nmore")

    monkeypatch.setattr(Generator, "latents", too_large)
    assert draw_ways(tmp_path / "other") == "DefaultCPUAllocator: not enough memory"
