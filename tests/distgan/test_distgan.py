"""What programs and notebooks may use."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import distgan
from distgan.checkpoint import find_checkpoint
from distgan.sampling import sample
from distgan.spec import dump_spec

LIKE_A_NOTEBOOK = """
import asyncio, io, sys
from pathlib import Path

class Stream(io.TextIOBase):  # as ipykernel's: no file behind it
    def __init__(self): self.text = ""
    def writable(self): return True
    def write(self, text): self.text += text; return len(text)
    def fileno(self): raise io.UnsupportedOperation("fileno")

real, sys.stdout, sys.stderr = sys.stdout, Stream(), Stream()
folder = Path(sys.argv[1])

async def cells():  # an event loop is running
    import distgan
    seen, spec = [], folder / "spec.yaml"
    trained = distgan.train(spec, out=str(folder / "one"), on_log=lambda step, figures: seen.append(step))
    assert trained == (folder / "one", "finished", 12, 96), trained
    assert seen == list(range(1, 13))
    assert "step 12/12" in sys.stderr.text
    stopped = await asyncio.to_thread(  # a tuner's thread may not handle signals
        distgan.train, spec, out=folder / "two", on_log=lambda step, figures: step < 5
    )
    assert (stopped.ended, stopped.step) == ("interrupted", 6), stopped
    assert [line["step"] for line in distgan.read_metrics(str(folder / "two"))] == [1, 2, 3, 4, 5, 6]
    assert distgan.train(str(spec), out=folder / "two", resume=True).step == 12
    generator = distgan.load(folder / "two")
    print(generator.sample(3, seed=7).shape, generator.sample(3, seed=7).dtype)

try:
    asyncio.run(cells())
finally:
    real.write(sys.stdout.text)
    sys.stdout, sys.stderr = real, sys.__stderr__
"""


@pytest.mark.slow
def test_a_notebook_trains_stops_resumes_and_draws(tiny, tmp_path):
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny(tracking__wandb={"mode": "offline"})))
    command = [sys.executable, "-c", LIKE_A_NOTEBOOK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(3, 16, 16, 3) uint8\n"
    assert done.stderr == ""


def test_importing_it_costs_nothing():
    program = "import sys, distgan; print(sorted({'torch', 'numpy', 'pydantic', 'wandb', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_what_it_offers_is_there_and_nothing_else():
    assert set(distgan.__all__) <= set(dir(distgan))
    for name in distgan.__all__:
        assert getattr(distgan, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = distgan.lod


@pytest.fixture(scope="module")
def trained(tiny, labelled, tmp_path_factory):
    spec = tiny(data__shards=str(labelled), model__condition={"attributes": ["Smiling"]}, training__images=16)
    return distgan.train(spec, out=tmp_path_factory.mktemp("trained") / "run", console=False)


def test_pictures_are_those_of_the_command(trained, tmp_path):
    generator = distgan.load(trained.run)
    assert (generator.step, generator.spec.name) == (2, "tiny")
    images = generator.sample(70, seed=7)
    assert (images.shape, images.dtype) == ((70, 16, 16, 3), np.uint8)
    sample(find_checkpoint(trained.run), tmp_path / "singles", count=70, seed=7)
    for i in (0, 69):
        with Image.open(tmp_path / "singles" / f"{i:08d}.png") as image:
            assert np.array_equal(np.asarray(image), images[i])
    smiling, not_smiling = (generator.sample(4, where={"Smiling": value}) for value in (1, -1))
    assert not np.array_equal(smiling, not_smiling)
    latents = generator.latents(4)
    assert (latents.shape, latents.dtype) == ((4, 4), torch.float32)
    assert np.array_equal(generator.draw(latents, where={"Smiling": 1}), smiling)
    with torch.inference_mode():
        assert generator.module(latents, torch.ones(4, 1)).shape == (4, 3, 16, 16)
    for wrong in (
        lambda: generator.sample(0),
        lambda: generator.sample(1, where={"Hat": 1}),
        lambda: generator.draw(torch.zeros(4)),
        lambda: distgan.load(tmp_path / "nowhere"),
    ):
        with pytest.raises(distgan.InputError):
            wrong()


def test_grey_pictures_have_one_channel_and_their_grids_are_grey(tiny, pack_discs, tmp_path):
    spec = tiny(data__shards=str(pack_discs(channels=1)), training__images=8)
    run = distgan.train(spec, out=tmp_path / "run", console=False).run
    assert distgan.load(str(run)).sample(2).shape == (2, 16, 16, 1)
    for grid in (*(run / "samples").iterdir(),):
        with Image.open(grid) as image:
            assert image.mode == "L"
