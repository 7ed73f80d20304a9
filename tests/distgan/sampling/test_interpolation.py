import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distgan.cli import app
from distgan.sampling.generator import Generator
from distgan.sampling.interpolation import interpolate
from distgan.sampling.paths import between
from shards.errors import InputError
from tests.distgan.sampling.test_sampling import checkpoint, conditional, saved

__all__ = ["checkpoint", "conditional"]  # fixtures


def cells(path, size: int = 16) -> np.ndarray:
    """The pictures of a grid: (rows, columns, size, size)."""
    grid = np.asarray(Image.open(path).convert("L"))
    rows, columns = ((length - 2) // (size + 2) for length in grid.shape)
    return np.stack(
        [[grid[2 + r * 18 : 18 + r * 18, 2 + c * 18 : 18 + c * 18] for c in range(columns)] for r in range(rows)]
    )


def test_a_strip_goes_from_picture_to_picture(tmp_path):
    checkpoint = saved(tmp_path / "run", 1)
    interpolate(checkpoint, tmp_path / "strip.png", pairs=3, steps=5, seed=2)
    strip = cells(tmp_path / "strip.png")
    assert strip.shape == (3, 5, 16, 16)
    generator = Generator(checkpoint)
    drawn = generator.sample(6, seed=2)[..., 0]
    assert np.abs(strip[:, 0].astype(int) - drawn[0::2]).max() <= 1  # rounding of the way's own ends
    assert np.abs(strip[:, -1].astype(int) - drawn[1::2]).max() <= 1
    latents = generator.latents(6, seed=2)
    (middle,) = between(latents[0::2], latents[1::2], torch.tensor([0.5]), "normal")
    assert np.abs(strip[:, 2].astype(int) - generator.draw(middle)[..., 0]).max() <= 1


def test_a_film_goes_there_and_back(checkpoint, tmp_path):
    interpolate(checkpoint, tmp_path / "film.gif", pairs=4, steps=6)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 10  # 0 … 5, 4 … 1
        assert min(film.size) >= 256


def test_what_is_not_asked_for_stays_as_it_is_on_the_way(conditional, tmp_path):
    interpolate(conditional, tmp_path / "strip.png", pairs=2, steps=3, seed=1, where={"Smiling": 1})
    strip = cells(tmp_path / "strip.png")
    generator = Generator(conditional)
    labels = generator.labels(4, seed=1, where={"Smiling": 1})[0::2]
    assert (labels[:, 0] == 1).all()
    ends = list(generator.draw_with(generator.latents(4, seed=1)[1::2], labels))
    assert np.abs(strip[:, -1].astype(int) - np.stack(ends)[..., 0]).max() <= 1


def test_the_command(tmp_path):
    saved(tmp_path / "run", 3)
    asked = ["interpolate", str(tmp_path / "run"), "--out", str(tmp_path / "new" / "i.png"), "--truncation", "1.5"]
    told = CliRunner().invoke(app, [*asked, "--pairs", "2"])
    assert told.exit_code == 0, told.output
    assert "2 ways of step 1" in told.output
    assert cells(tmp_path / "new" / "i.png").shape == (2, 9, 16, 16)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pairs": 0}, "--pairs is at least 1"),
        ({"steps": 1}, "--steps at least 2"),
        ({"steps": 0}, "--steps at least 2"),
        ({"pairs": 200, "steps": 100}, "at most 10,000 pictures"),
        ({"truncation": 0.0}, "--truncation"),
        ({"seed": -1}, "seed"),
        ({"where": {"Smiling": 1}}, "trained without model.condition"),
    ],
)
def test_bad_input(checkpoint, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        interpolate(checkpoint, tmp_path / "i.png", **options)
    assert not (tmp_path / "i.png").exists()
