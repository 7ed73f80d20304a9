from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distgan.checkpoint import Checkpoint, save_checkpoint
from distgan.cli import app
from distgan.evaluation.features import classifier
from distgan.sampling import nearest as module
from distgan.sampling import thumbnails
from distgan.sampling.generator import Generator
from distgan.sampling.nearest import _Nearest, nearest
from shards.errors import InputError
from shards.index import Index
from shards.reader import Reader
from tests.distgan.sampling.test_sampling import saved


@pytest.fixture(scope="module")
def shards(pack_discs) -> Path:
    return pack_discs(count=60, size=16, splits=("train", "test"))


def trained_on(checkpoint: Checkpoint, shards: Path, *, flip: bool = False) -> Checkpoint:
    """The same generator, of a run on these shards."""
    state = checkpoint.state
    data = state.spec.data.model_copy(update={"shards": str(shards), "flip": flip})
    spec = state.spec.model_copy(update={"data": data}).with_training(batch_size=8)
    files = {name: checkpoint.tensors(name) for name in ("generator", "generator_ema")}
    state = state.model_copy(update={"spec": spec, "fingerprint": Index.load(str(shards)).fingerprint})
    run = checkpoint.path.parents[1]
    return save_checkpoint(run.with_name(f"{run.name}-{flip}"), state, files, {})


def pixels(shards: Path, split: str) -> torch.Tensor:
    index = Index.load(str(shards))
    with Reader(index) as reader:
        found = reader.read(index.select({"split": split}))
    return torch.from_numpy(found).permute(0, 3, 1, 2)


@pytest.mark.parametrize("flip", [False, True])
def test_distances_are_those_of_a_plain_loop(shards, tmp_path, monkeypatch, flip):
    monkeypatch.setattr(module, "BLOCK", 7)
    checkpoint = trained_on(saved(tmp_path / "run", 3), shards, flip=flip)
    seen: list[tuple[int, int]] = []
    out = tmp_path / "near.png"
    found = nearest(checkpoint, out, count=20, rows=3, columns=2, features="none", progress=lambda *at: seen.append(at))
    drawn = torch.from_numpy(Generator(checkpoint).sample(20)).permute(0, 3, 1, 2)
    train, test = (pixels(shards, split) for split in ("train", "test"))

    def distances(pictures: torch.Tensor) -> torch.Tensor:
        sides = [pictures, pictures.flip(-1)] if flip else [pictures]
        return torch.stack(
            [
                torch.stack([(thumbnails(side[i : i + 1]) - thumbnails(train)).norm(dim=1) for side in sides]).amin(0)
                for i in range(len(pictures))
            ]
        )

    ours, theirs = distances(drawn), distances(test)
    assert found.drawn == pytest.approx(float(ours.amin(1).median()), rel=1e-4)
    held_out = np.sort(theirs.amin(1).numpy())
    assert found.held_out_count == 20
    assert held_out[0] <= (found.held_out or 0) <= held_out[-1]  # of some of the held-out images
    assert found.trained_on == len(train) == 30
    assert seen[-1] == (30 + (1 + flip) * 40, 30 + (1 + flip) * 40)
    grid = np.asarray(Image.open(out)).astype(int)
    cell = [[grid[2 + 18 * r : 18 + 18 * r, 2 + 18 * c : 18 + 18 * c] for c in range(3)] for r in range(3)]
    for row, place in zip(cell, ours.amin(1).argsort()[:3].tolist(), strict=True):
        assert (row[0] == drawn[place].permute(1, 2, 0).numpy()).all()
        for column, near in zip(row[1:], ours[place].argsort()[:2].tolist(), strict=True):
            assert (column == train[near].permute(1, 2, 0).numpy()).all()


def test_a_generator_that_copies_is_found_out(shards, tmp_path, monkeypatch):
    checkpoint = trained_on(saved(tmp_path / "run", 3), shards)
    honest = nearest(checkpoint, tmp_path / "a.png", count=30, features="none")
    copies = list(pixels(shards, "train").permute(0, 2, 3, 1).numpy())
    monkeypatch.setattr(Generator, "images", lambda self, count, **_: iter(copies[:count]))
    found = nearest(checkpoint, tmp_path / "b.png", count=30, features="none")
    assert found.drawn == pytest.approx(0, abs=0.1)
    assert found.near == 1.0
    assert honest.near is not None
    assert honest.near < 0.5


def test_mirrored_copies_too_where_the_run_mirrors(shards, tmp_path, monkeypatch):
    checkpoint = saved(tmp_path / "run", 3)
    copies = list(pixels(shards, "train").flip(-1).permute(0, 2, 3, 1).numpy())
    monkeypatch.setattr(Generator, "images", lambda self, count, **_: iter(copies[:count]))
    mirrored = nearest(trained_on(checkpoint, shards, flip=True), tmp_path / "a.png", count=30, features="none")
    assert mirrored.near == 1.0
    plain = nearest(trained_on(checkpoint, shards), tmp_path / "b.png", count=30, features="none")
    assert plain.drawn > mirrored.drawn


def test_features_are_kept(shards, tmp_path, monkeypatch):
    checkpoint = trained_on(saved(tmp_path / "run", 3), shards)
    features = tmp_path / "c.safetensors"
    classifier.train(Index.load(str(shards)), features, images=64)
    options = {"count": 10, "features": str(features), "cache": tmp_path / "cache"}
    first = nearest(checkpoint, tmp_path / "a.png", **options)
    assert first.features == "c"
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 1
    read = Reader.read
    asked: list[int] = []
    monkeypatch.setattr(Reader, "read", lambda self, ids: asked.append(len(ids)) or read(self, ids))
    seen: list[tuple[int, int]] = []
    again = nearest(checkpoint, tmp_path / "b.png", **options, progress=lambda *at: seen.append(at))
    assert again == first
    assert sum(asked) == 10 + 8 * 5  # held-out ones, and what is shown
    assert seen[-1] == (50, 50)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_command(shards, discs, tmp_path):
    run = trained_on(saved(tmp_path / "run", 3), shards).path
    asked = ["neighbours", str(run), "--out", str(tmp_path / "n.png"), "--count", "16", "--features", "none"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    assert "16 generated, 16 held-out and 30 training images, by thumbnails of 16 pixels" in told.output
    figures = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert 0 <= figures["near"] <= 1
    run = trained_on(saved(tmp_path / "other", 3), discs).path
    told = CliRunner().invoke(app, ["neighbours", str(run), *asked[2:]])
    assert told.exit_code == 0, told.output
    assert "nothing to compare with" in told.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": 0}, "--rows is from 1"),
        ({"rows": 11, "count": 10}, "--rows is from 1 to --count, 10"),
        ({"columns": 31}, "--columns is at most 30"),
        ({"out": "near.gif"}, "ends in .png"),
        ({"shards": "other"}, "is not the set that .* was trained on"),
        ({"shards": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input(shards, discs, tmp_path, options, said):
    checkpoint = trained_on(saved(tmp_path / "run", 3), shards)
    if options.get("shards") == "other":
        options = {**options, "shards": str(discs)}
    out = tmp_path / options.pop("out", "near.png") if "out" in options else tmp_path / "near.png"
    options = {name: value for name, value in options.items() if name != "out"}
    with pytest.raises(InputError, match=said):
        nearest(checkpoint, out, **{"features": "none", **options})
    assert not out.exists()


def test_the_nearest_of_all_that_come_by():
    vectors, others = (torch.randn(2, n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 50))
    found = _Nearest(vectors, 3)
    for first in range(0, 50, 8):
        found.add(first, others[0, first : first + 8])
    apart = torch.cdist(vectors, others[:1].expand(2, -1, -1)).amin(0).sort(1)
    torch.testing.assert_close(found.distances, apart.values[:, :3])
    assert (found.places == apart.indices[:, :3]).all()
