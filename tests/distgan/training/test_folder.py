"""Run folders of every format that there has been are drawn from, reported, and gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distgan.checkpoint import FORMAT, find_checkpoint
from distgan.sampling import sample
from distgan.spec import load_spec
from distgan.tracking import read_metrics
from distgan.tracking.report import write_report
from distgan.training.folder import precision_of
from distgan.training.loop import train
from distgan.training.workers import Workers
from shards.errors import InputError

EARLIER = Path(__file__).parents[1] / "earlier"
RUNS = sorted(EARLIER.glob("*/*"))
"""FORMAT/RUN, each stopped at step 6 of 12 by the version that wrote the format, and ``drawn.png`` sampled by it."""


@pytest.fixture(params=RUNS, ids=lambda path: str(path.relative_to(EARLIER)))
def earlier(request, tmp_path) -> Path:
    """A copy of a run's folder."""
    return Path(shutil.copytree(request.param, tmp_path / "run"))


def test_there_are_some():
    assert RUNS


def test_it_draws_what_it_drew(earlier, tmp_path):
    sample(find_checkpoint(earlier), tmp_path / "drawn.png", count=4)
    ours, theirs = (np.asarray(Image.open(path / "drawn.png")).astype(int) for path in (tmp_path, earlier))
    assert theirs.std() > 1
    assert np.abs(ours - theirs).max() <= 1  # machines round differently


def test_it_is_reported(earlier):
    assert "6 of 12" in write_report(earlier).read_text()


def test_it_is_gone_on_with(earlier, pack_discs):
    written = load_spec(earlier / "spec.yaml")
    shards = f"data.shards={pack_discs(size=written.data.image_size)}"
    here = Workers.alone(torch.device("cpu"))
    overrides = [shards]
    if written.model.generator.name == "dcgan_keras":
        with pytest.raises(InputError, match=r"model\.generator\.order: regular -> published"):
            train(load_spec(earlier / "spec.yaml", overrides), earlier, here, resume=True, console=False)
        overrides.append("model.generator.order=regular")
    assert precision_of(earlier) == "auto"
    train(load_spec(earlier / "spec.yaml", overrides), earlier, here, resume=True, console=False)
    assert [line["step"] for line in read_metrics(earlier)] == [2, 4, 6, 8, 10, 12]
    newest = find_checkpoint(earlier)
    assert (newest.state.step, newest.state.format) == (12, FORMAT)
    assert "does not say in which precision it was computed" in (earlier / "log.txt").read_text()
    assert precision_of(earlier) == "float32"
