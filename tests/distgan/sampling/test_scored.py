"""From a checkpoint and a packed set to scores, by the command that people use."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distgan.checkpoint import find_checkpoint
from distgan.cli import app
from distgan.evaluation import pictures
from distgan.launch.local import train_locally
from distgan.sampling.scored import evaluate
from shards.errors import InputError
from shards.index import Index
from tests.distgan.sampling.test_sampling import saved


@pytest.fixture(scope="module")
def shards(pack_discs):
    return str(pack_discs(count=60, size=16, splits=("train", "test")))


def test_the_command(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PATCHES", 1024)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = saved(tmp_path / "run", 3)
    asked = ["evaluate", str(tmp_path / "run"), "--shards", shards, "--count", "40", "--features", "none"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    assert "sliced Wasserstein" in told.output
    assert "compared with the split test" in told.output
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert set(found["scores"]) == {"wasserstein", "wasserstein_16", "ms_ssim", "ms_ssim_of_real"}
    facts = found["facts"]
    assert (facts["count"], facts["real_count"], facts["where"]) == (40, 30, {"split": "test"})
    assert (facts["ema"], facts["step"], facts["shards"]) == (True, 1, Index.load(shards).fingerprint)
    direct = evaluate(checkpoint, shards, count=40, features="none", metrics=["wasserstein"])
    assert direct.scores["wasserstein"] == found["scores"]["wasserstein"]
    other = evaluate(checkpoint, shards, count=40, features="none", metrics=["wasserstein"], ema=False)
    assert other.scores["wasserstein"] != direct.scores["wasserstein"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metrics", "frechet,wassrstein"], "there is no 'wassrstein'; did you mean 'wasserstein'"),
        (["--features", "nowhere.pt"], "there is no such file, and no features of this name"),
        (["--features", "lite0:9000"], "give a size from 32 to 224|distgan\\[lite0\\]"),
        (["--count", "1"], "--count is at least 2"),
        (["--where", "class=cat"], "no class 'cat'|cat"),
    ],
)
def test_bad_input(shards, tmp_path, options, said):
    saved(tmp_path / "run", 3)
    with pytest.raises(InputError, match=said):
        CliRunner().invoke(
            app,
            ["evaluate", str(tmp_path / "run"), "--shards", shards, *options],
            standalone_mode=False,
            catch_exceptions=False,
        )


def test_images_of_another_kind_are_named(pack_discs, tmp_path):
    checkpoint = saved(tmp_path / "run", 1)
    with pytest.raises(InputError, match=r"16 pixels and 1 channel.*hold 16 pixels and 3: pack the images again"):
        evaluate(checkpoint, str(pack_discs(count=10, size=16)))


@pytest.mark.slow
def test_a_set_that_lies_elsewhere_now(tiny, tmp_path, monkeypatch):
    shards = Path(tiny().data.shards)
    monkeypatch.chdir(shards.parent)
    train_locally(tiny(data__shards=shards.name), tmp_path / "run", console=False)
    monkeypatch.chdir(tmp_path)
    checkpoint = find_checkpoint(tmp_path / "run")
    with pytest.raises(InputError, match=r"does not exist.*the run's data\.shards; --shards says where"):
        evaluate(checkpoint, count=10, metrics=["wasserstein"], features="none")
    assert evaluate(checkpoint, str(shards), count=10, metrics=["wasserstein"], features="none").scores
