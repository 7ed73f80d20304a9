from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.utils import make_grid

from distgan.checkpoint import Checkpoint, State, save_checkpoint
from distgan.data.conditions import LabelDistribution
from distgan.networks import ImageShape, build_networks
from distgan.sampling import (
    draw_images,
    grid_of,
    image_bytes,
    load_generator,
    load_labels,
    sample,
    sample_labels,
    sample_latents,
    save_grid,
)
from distgan.spec import ModelSpec, RunSpec
from shards.errors import InputError

NAMES = ("Smiling", "Male", "class=cat", "class=dog", "class=emu")
ROWS = {(-1, 1, 1, 0, 0): 3, (1, -1, 1, 0, 0): 2, (1, 1, 0, 0, 1): 4, (-1, -1, 0, 0, 1): 5}
"""Label vectors, and how often each of them occurs. No sample is a dog."""


def saved(run: Path, channels: int, condition: dict[str, Any] | None = None) -> Checkpoint:
    spec = RunSpec.model_validate(
        {
            "name": "tiny",
            "data": {"shards": "x", "image_size": 16},
            "model": {"generator": {"width": 4}, "critic": {"width": 1}, "latent_dim": 5, "condition": condition},
        }
    )
    names = NAMES if condition else ()
    image = ImageShape(channels, 16)
    state = State(
        step=1,
        images=1,
        position=1,
        spec=spec,
        seeds={"noise": 0},
        label_names=names,
        channels=channels,
        fingerprint="f",
    )
    files = {
        name: build_networks(spec.model, image, seed, len(names))[0].state_dict()
        for name, seed in (("generator", 1), ("generator_ema", 2))
    }
    if condition:
        vectors = np.array([row for row, count in ROWS.items() for _ in range(count)], np.int8)
        files["labels"] = LabelDistribution.of(names, vectors).tensors()
    return save_checkpoint(run, state, files, {})


@pytest.fixture(params=[1, 3])
def checkpoint(request, tmp_path) -> Checkpoint:
    return saved(tmp_path / "run", request.param)


@pytest.fixture(params=["concatenation", "batchnorm"])
def conditional(request, tmp_path) -> Checkpoint:
    condition = {"attributes": ["Smiling", "Male"], "classes": True, "generator": request.param}
    return saved(tmp_path / "conditional", 1, condition)


def pictures(checkpoint: Checkpoint, folder: Path, **options: Any) -> list[bytes]:
    sample(checkpoint, folder, **options)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_a_picture_depends_on_seed_and_index_alone(checkpoint, tmp_path):
    sample(checkpoint, tmp_path / "many", count=70, seed=3)
    sample(checkpoint, tmp_path / "few", count=5, seed=3)
    sample(checkpoint, tmp_path / "other", count=5, seed=4)
    assert len(list((tmp_path / "many").iterdir())) == 70
    for path in (tmp_path / "few").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / path.name).read_bytes()


def test_single_pictures_are_written_as_they_are_drawn_and_an_interruption_leaves_whole_ones(checkpoint, tmp_path):
    """So that any number needs no more memory than one batch."""
    out = tmp_path / "single"

    def look(done: int, total: int) -> None:
        assert (len(list(out.iterdir())), total) == (done, 200)
        if done == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(checkpoint, out, count=200, progress=look)
    assert sorted(path.name for path in out.iterdir()) == [f"{i:08d}.png" for i in range(150)]
    for path in out.iterdir():
        Image.open(path).load()


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


@given(st.integers(1, 12), st.none() | st.integers(1, 15), st.sampled_from([(3, 5, 1), (4, 4, 3)]), st.integers(0, 99))
def test_a_grid_is_what_torchvision_makes_of_the_same(count, columns, shape, seed):
    images = list(np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8))
    tensor = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    theirs = make_grid(tensor, nrow=columns or math.ceil(math.sqrt(count)), padding=2)
    assert np.array_equal(grid_of(images, columns), theirs[: shape[2]].permute(1, 2, 0).numpy())


def test_the_averaged_weights_are_the_default(checkpoint):
    for ema, name in ((True, "generator_ema"), (False, "generator")):
        loaded = load_generator(checkpoint, ema=ema)
        assert not loaded.training
        for key, value in checkpoint.tensors(name).items():
            assert torch.equal(loaded.state_dict()[key], value)


def test_images_do_not_depend_on_their_neighbours(checkpoint):
    generator = load_generator(checkpoint)
    latents = sample_latents(0, 0, 10, ModelSpec(latent_dim=5))
    alone = next(draw_images(generator, latents[7:8], torch.empty(1, 0)))
    assert np.array_equal(alone, list(draw_images(generator, latents, torch.empty(10, 0)))[7])


def test_labels_are_as_in_the_data_unless_asked_for(conditional):
    distribution = load_labels(conditional)
    count = 14 * 200
    seen = Counter(map(tuple, sample_labels(distribution, 0, 0, count).int().tolist()))
    assert set(seen) == set(ROWS)
    assert all(abs(seen[row] / count - share / 14) < 5 * 0.5 / count**0.5 for row, share in ROWS.items())
    asked = sample_labels(distribution.given({"Male": 1}), 0, 0, count)
    assert {tuple(row) for row in asked.int().tolist()} == {row for row in ROWS if row[1] == 1}


def test_labels_depend_on_seed_and_index_alone(conditional):
    distribution = load_labels(conditional)
    whole = sample_labels(distribution, 3, 0, 100)
    assert torch.equal(sample_labels(distribution, 3, 40, 7), whole[40:47])
    assert not torch.equal(sample_labels(distribution, 4, 0, 100), whole)


def test_a_conditional_picture_depends_on_seed_index_and_wish_alone(conditional, tmp_path):
    wish = {"Smiling": 1, "class": ["cat", "emu"]}
    many = pictures(conditional, tmp_path / "many", count=70, where=wish)
    assert pictures(conditional, tmp_path / "few", count=5, where=wish) == many[:5]
    other = pictures(conditional, tmp_path / "other", count=70, where={"Smiling": -1, "class": ["cat", "emu"]})
    assert all(one != another for one, another in zip(many, other, strict=True))
    assert pictures(conditional, tmp_path / "any", count=70) == pictures(
        conditional, tmp_path / "also any", count=70, where={}
    )


def test_a_picture_is_of_its_latent_and_the_labels_asked_for(conditional, tmp_path):
    """The latents are those of any other picture of the seed; a dog is drawn though no sample is one."""
    generator = load_generator(conditional)
    sample(conditional, tmp_path / "dogs", count=3, seed=5, where={"Smiling": 1, "Male": -1, "class": "dog"})
    labels = torch.tensor([[1.0, -1.0, 0.0, 1.0, 0.0]]).expand(3, 5)
    for i, expected in enumerate(draw_images(generator, sample_latents(5, 0, 3, ModelSpec(latent_dim=5)), labels)):
        drawn = np.asarray(Image.open(tmp_path / "dogs" / f"{i:08d}.png"))
        assert np.array_equal(drawn, expected[..., 0])


def test_a_wish_that_the_run_does_not_know_is_refused_before_anything_is_written(checkpoint, conditional, tmp_path):
    for run, wish, message in (
        (checkpoint, {"Smiling": 1}, r"without model\.condition"),
        (conditional, {"Smilng": 1}, "did you mean 'Smiling'"),
        (conditional, {"class": "cow"}, "'cow'"),
    ):
        with pytest.raises(InputError, match=message):
            sample(run, tmp_path / "folder", where=wish)
    assert not (tmp_path / "folder").exists()


def test_damaged_labels_are_named(conditional, tmp_path):
    path = conditional.path / "labels.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"labels\.safetensors"):
        sample(conditional, tmp_path / "grid.png")


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
