import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distgan.cli import app
from distgan.evaluation.features import classifier, load_features
from shards.errors import InputError
from shards.images import Transform
from shards.index import Index
from shards.sources import open_source
from shards.writer import pack


@pytest.fixture(scope="module")
def shards(pack_discs):
    return str(pack_discs(count=120, size=16, classes=("a", "b"), attributes=("X",)))


def test_it_learns_what_can_be_learnt(tmp_path):
    for split, count in (("train", 60), ("test", 20)):
        for name, dark in (("day", 0), ("night", 150)):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i + count).integers(150 - dark, 256 - dark, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / name / f"{i}.png")
    pack(open_source(tmp_path / "set"), tmp_path / "shards", Transform(16, 3), workers=1)
    out = tmp_path / "c.safetensors"
    asked = [
        "classifier",
        "train",
        "--shards",
        str(tmp_path / "shards"),
        "--out",
        str(out),
        "--images",
        "1280",
        "--json",
    ]
    known = json.loads(CliRunner().invoke(app, asked).output)
    assert known["held_out"] == 40
    assert known["chance"] == {"class": 0.5}
    assert known["accuracy"]["class"] > 0.9
    network, read = classifier.read(out)
    assert read.accuracy == known["accuracy"]
    again = classifier.train(Index.load(str(tmp_path / "shards")), tmp_path / "again.safetensors", images=1280)
    assert again.accuracy == read.accuracy
    torch.testing.assert_close(classifier.read(tmp_path / "again.safetensors")[0].state_dict(), network.state_dict())


def test_its_trunk_is_features(shards, tmp_path):
    out = tmp_path / "discs.safetensors"
    known = classifier.train(Index.load(shards), out, images=64)
    assert set(known.accuracy) == {"X", "class"}
    features = load_features(str(out))
    assert features is not None
    assert (features.name, features.distance) == ("discs", "FD-discs")
    width, classes = features.shape(16)
    assert classes == 2
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    described = features(images)
    assert described.vectors.shape == (3, width)
    torch.testing.assert_close(features(images[1:2]).vectors, described.vectors[1:2])
    assert features(images[:, :1]).vectors.shape == (3, width)  # grey ones are taken too


def test_what_cannot_be_learnt_or_read(pack_discs, tmp_path):
    plain = Index.load(str(pack_discs(count=20, size=16, classes=())))
    with pytest.raises(InputError, match="neither attributes nor classes"):
        classifier.train(plain, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        classifier.train(plain, tmp_path / "c.pt")
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    for refused in (
        lambda: classifier.read(tmp_path / "x.safetensors"),
        lambda: load_features(str(tmp_path / "x.safetensors")),
    ):
        with pytest.raises(InputError, match=r"x\.safetensors"):
            refused()


def test_a_damaged_file_is_named(shards, tmp_path):
    out = tmp_path / "c.safetensors"
    classifier.train(Index.load(shards), out, images=64)
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"c\.safetensors is damaged"):
        classifier.read(out)
