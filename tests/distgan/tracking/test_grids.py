from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from distgan.tracking.grids import Grids, encode, load_grids


def draw(path, size: int, channels: int = 3) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, channels), dtype=np.uint8)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sizes", [{"real": 64}, {"0": 512, "8": 512}, {"real": 512, "0": 64, "8": 64, "16": 512}])
def test_however_large_the_grids_are_they_fit(tmp_path, sizes, channels):
    for name, size in sizes.items():
        draw(tmp_path / f"{name}.png", size, channels)
    found = load_grids(tmp_path, 40_000)
    pictures = [*([found.real] if found.real else []), *found.drawn]
    assert sum(len(grid.data) for grid in pictures) <= 40_000
    drawn = sorted(int(name) for name in sizes if name.isdecimal())
    assert [grid.images for grid in found.drawn][:1] == drawn[:1]
    assert [grid.images for grid in found.drawn][-1:] == drawn[-1:]
    assert (found.real is None) == ("real" not in sizes)
    for grid in pictures:
        with Image.open(io.BytesIO(grid.data)) as image:
            assert (image.width, image.height, image.get_format_mimetype()) == (grid.width, grid.height, grid.mime)
            assert image.mode == ("L" if channels == 1 else "RGB")


def test_a_grid_that_is_gone_meanwhile_is_no_damage(tmp_path, monkeypatch):
    draw(tmp_path / "0.png", 16)
    monkeypatch.setattr(
        "distgan.tracking.grids.sample_grids", lambda _: [(0, tmp_path / "0.png"), (8, tmp_path / "8.png")]
    )
    found = load_grids(tmp_path, 10**6)
    assert [grid.images for grid in found.drawn] == [0]
    assert found.unreadable == []


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "real.png").write_bytes(b"no picture")
    (tmp_path / "8.png").write_bytes(b"none either")
    assert load_grids(tmp_path, 10**6) == Grids(None, [], ["real.png", "8.png"])


def test_a_picture_is_written_as_it_is_or_nearly(tmp_path):
    pixels = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    image = Image.fromarray(pixels)
    for as_jpeg, most in ((False, 0), (True, 4)):
        with Image.open(io.BytesIO(encode(image, as_jpeg=as_jpeg).data)) as seen:
            assert np.abs(np.asarray(seen).astype(int) - pixels).max() <= most
