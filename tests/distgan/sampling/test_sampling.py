from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distgan.checkpoint import Checkpoint, State, save_checkpoint
from distgan.networks import ImageShape, build_networks
from distgan.sampling import draw_images, image_bytes, load_generator, sample, sample_latents, save_grid
from distgan.spec import RunSpec
from shards.errors import InputError


@pytest.fixture(params=[1, 3])
def checkpoint(request, tmp_path) -> Checkpoint:
    spec = RunSpec.model_validate(
        {
            "name": "tiny",
            "data": {"shards": "x", "image_size": 16},
            "model": {"generator": {"width": 4}, "critic": {"width": 1}, "latent_dim": 5},
        }
    )
    image = ImageShape(request.param, 16)
    state = State(step=1, images=1, position=1, spec=spec, channels=request.param, fingerprint="f")
    weights = {
        name: build_networks(spec.model, image, seed)[0].state_dict()
        for name, seed in (("generator", 1), ("generator_ema", 2))
    }
    return save_checkpoint(tmp_path / "run", state, weights, {})


def test_a_picture_depends_on_seed_and_index_alone(checkpoint, tmp_path):
    sample(checkpoint, tmp_path / "many", count=70, seed=3)
    sample(checkpoint, tmp_path / "few", count=5, seed=3)
    sample(checkpoint, tmp_path / "other", count=5, seed=4)
    assert len(list((tmp_path / "many").iterdir())) == 70
    for path in (tmp_path / "few").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / path.name).read_bytes()


def test_a_grid_holds_the_pictures_row_by_row(checkpoint, tmp_path):
    sample(checkpoint, tmp_path / "deep" / "grid.png", count=6, columns=3)
    sample(checkpoint, tmp_path / "single", count=6)
    grid = np.asarray(Image.open(tmp_path / "deep" / "grid.png").convert("RGB"))
    assert grid.shape == (2 * 18 + 2, 3 * 18 + 2, 3)
    for i in range(6):
        top, left = 2 + 18 * (i // 3), 2 + 18 * (i % 3)
        picture = Image.open(tmp_path / "single" / f"{i:08d}.png")
        assert picture.mode == {1: "L", 3: "RGB"}[checkpoint.state.channels]
        assert np.array_equal(grid[top : top + 16, left : left + 16], np.asarray(picture.convert("RGB")))


def test_the_averaged_weights_are_the_default(checkpoint):
    for ema, name in ((True, "generator_ema"), (False, "generator")):
        loaded = load_generator(checkpoint, ema=ema)
        assert not loaded.training
        for key, value in checkpoint.tensors(name).items():
            assert torch.equal(loaded.state_dict()[key], value)


def test_images_do_not_depend_on_their_neighbours(checkpoint):
    generator = load_generator(checkpoint)
    latents = sample_latents(0, 0, 10, 5)
    alone = next(draw_images(generator, latents[7:8]))
    assert np.array_equal(alone, list(draw_images(generator, latents))[7])


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30))
def test_bytes_survive_the_way_to_the_network_and_back(values):
    images = torch.tensor(values, dtype=torch.uint8).view(1, 1, 1, -1)
    scaled = images.float().mul_(2.0 / 255.0).sub_(1.0)
    assert image_bytes(scaled).flatten().tolist() == values


def test_out_of_range_values_are_clipped():
    values = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).view(1, 1, 1, -1)
    assert image_bytes(values).flatten().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"columns": 0}])
def test_numbers_out_of_range_are_refused(checkpoint, tmp_path, wrong):
    with pytest.raises(InputError):
        sample(checkpoint, tmp_path / "x.png", **wrong)
    assert not (tmp_path / "x.png").exists()


def test_other_places_are_refused(checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    for name, count in (("x.jpg", 1), ("huge.png", 10**12), ("full", 1)):
        with pytest.raises(InputError, match=name):
            sample(checkpoint, tmp_path / name, count=count)
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == []


def test_an_unwritable_place_is_named(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        sample(checkpoint, tmp_path / "file" / "grid.png")


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "grid.png"
    save_grid([np.zeros((4, 4, 3), np.uint8)], path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="shape"):
        save_grid([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 5, 3), np.uint8)], path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["grid.png"]
