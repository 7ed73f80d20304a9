"""Generators for others, read back as others read them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import distgan
from distgan import export
from distgan.checkpoint import Checkpoint, State, save_checkpoint
from distgan.cli import app
from distgan.export import export_onnx, export_safetensors
from distgan.networks import ImageShape, build_networks
from distgan.sampling.generator import Generator
from distgan.spec import RunSpec
from distgan.training.complete import complete
from shards.errors import InputError
from tests.distgan.sampling.test_sampling import conditional, saved

__all__ = ["conditional"]  # a fixture

FAMILIES: dict[str, dict[str, Any]] = {
    "dcgan": {"generator": {"name": "dcgan", "width": 4}, "critic": {"name": "dcgan", "width": 4}},
    "resnet": {"generator": {"name": "resnet", "width": 4}, "critic": {"name": "resnet", "width": 4}},
    "pggan": {"generator": {"name": "pggan", "width": 4}, "critic": {"name": "pggan", "width": 4}},
}


def of_family(run: Path, name: str, **training: Any) -> Checkpoint:
    """An untrained generator of 32 pixels, in colour."""
    spec = complete(
        RunSpec.model_validate(
            {
                "name": name,
                "data": {"shards": "https://me:key@host/home/me/faces?token=secret", "image_size": 32},
                "model": {**FAMILIES[name], "latent_dim": 6},
                "training": {"images": 1_000, **training},
                "evaluation": {"every_images": 100},
            }
        )
    )
    state = State(
        step=7,
        images=56,
        position=56,
        spec=spec,
        seeds={"noise": 0},
        channels=3,
        fingerprint="f",
        wandb_run_id="secret",
    )
    weights = build_networks(spec.model, ImageShape.of(spec, 3), 3)[0].state_dict()
    return save_checkpoint(run, state, {"generator": weights, "generator_ema": weights}, {})


def drawn_by(path: Path, **inputs: torch.Tensor) -> np.ndarray:
    """Pixels uint8 (N, H, W, C), as the model card's lines make them."""
    session = onnxruntime.InferenceSession(path)
    (images,) = session.run(["images"], {name: values.numpy() for name, values in inputs.items()})
    pixels: np.ndarray = ((images + 1) * 127.5).round().clip(0, 255).astype("uint8").transpose(0, 2, 3, 1)
    return pixels


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_draws_the_same_pictures_of_any_number(family, tmp_path):
    checkpoint = of_family(tmp_path / "run", family)
    out = tmp_path / "new" / "g.onnx"
    levels = export_onnx(checkpoint, out)
    assert levels is not None
    assert levels <= 1
    generator = Generator(checkpoint)
    for count in (1, 5):
        pixels = drawn_by(out, latents=generator.latents(count, seed=3))
        assert np.abs(pixels.astype(int) - generator.sample(count, seed=3)).max() <= 1
    (entry,) = [each for each in onnx.load(out).metadata_props if each.key == "model_card"]
    assert "onnxruntime.InferenceSession" in entry.value


@pytest.mark.slow
def test_onnx_of_a_conditioned_run_takes_labels(conditional, tmp_path):
    assert export_onnx(conditional, tmp_path / "g.onnx") == 0
    generator = Generator(conditional)
    labels = generator.labels(4, seed=1, where={"Smiling": 1})
    pixels = drawn_by(tmp_path / "g.onnx", latents=generator.latents(4, seed=1), labels=labels)
    assert np.abs(pixels.astype(int) - generator.sample(4, seed=1, where={"Smiling": 1})).max() <= 1


def test_a_folder_that_distgan_reads(tmp_path):
    checkpoint = of_family(tmp_path / "run", "dcgan")
    export_safetensors(checkpoint, tmp_path / "out" / "faces")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["faces"]
    names = sorted(path.name for path in (tmp_path / "out" / "faces").iterdir())
    assert names == ["README.md", "generator_ema.safetensors", "state.json"]
    theirs = distgan.load(tmp_path / "out" / "faces").sample(3, seed=9)
    assert (theirs == Generator(checkpoint).sample(3, seed=9)).all()
    for name in names:  # nothing of this machine, nor of an account
        assert b"/home/me" not in (tmp_path / "out" / "faces" / name).read_bytes()
        assert b"secret" not in (tmp_path / "out" / "faces" / name).read_bytes()


def test_a_folder_of_a_conditioned_run(conditional, tmp_path):
    (tmp_path / "empty").mkdir()
    export_safetensors(conditional, tmp_path / "empty", ema=False)
    ours = Generator(conditional, ema=False).sample(4, where={"Smiling": 1})
    assert (distgan.load(tmp_path / "empty").sample(4, where={"Smiling": 1}) == ours).all()
    assert "Smiling" in (tmp_path / "empty" / "README.md").read_text()


def test_the_card_has_the_scores_that_are_known(tmp_path):
    checkpoint = saved(tmp_path / "run", 3)
    export_safetensors(checkpoint, tmp_path / "a")
    assert "None are known" in (tmp_path / "a" / "README.md").read_text()
    figures = {"step": 1, "images": 1, "score/frechet": 12.5, "score/precision": 0.75}
    facts = {"count": 1000, "real_count": 900, "distance": "FD-lite0", "features": "lite0", "where": {"split": "test"}}
    (tmp_path / "run" / "metrics.jsonl").write_text(
        json.dumps({"step": 0, "images": 0, "score/frechet": 99.0})
        + "\n"
        + json.dumps({**figures, "evaluation": facts})
        + "\n"
    )
    export_safetensors(checkpoint, tmp_path / "b")
    card = (tmp_path / "b" / "README.md").read_text()
    assert "Of 1,000 generated, 900 real images, the split test, features lite0" in card
    assert "FD-lite0" in card
    assert "12.5" in card
    assert "99" not in card


def test_the_command(tmp_path):
    run = of_family(tmp_path / "run", "dcgan").path
    asked = ["export", str(run), "--onnx", str(tmp_path / "g.onnx"), "--safetensors", str(tmp_path / "g")]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    assert "of 255 levels at most" in told.output
    assert (tmp_path / "g.onnx").exists()
    assert (tmp_path / "g" / "README.md").exists()


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    checkpoint = of_family(tmp_path / "run", "dcgan")
    with pytest.raises(InputError, match="say what to write"):
        CliRunner().invoke(app, ["export", str(checkpoint.path)], standalone_mode=False, catch_exceptions=False)
    with pytest.raises(InputError, match=r"ends in \.onnx"):
        export_onnx(checkpoint, tmp_path / "g.pt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"")
    for out in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(InputError, match="is not empty"):
            export_safetensors(checkpoint, out)
    with pytest.raises(InputError, match="cannot write"):
        export_safetensors(checkpoint, tmp_path / "full" / "file" / "out")
    monkeypatch.setattr(export, "_levels_apart", lambda *_: 2)
    with pytest.raises(InputError, match="would differ by 2 of 255 levels"):
        export_onnx(checkpoint, tmp_path / "g.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"--onnx needs onnxscript: pip install 'distgan\[onnx\]'"):
        export_onnx(checkpoint, tmp_path / "g.onnx")
    assert not (tmp_path / "g.onnx").exists()


def test_a_run_that_keeps_its_best_is_exported_without_the_score_that_says_so(tmp_path):
    export_safetensors(of_family(tmp_path / "run", "dcgan", keep_best="frechet"), tmp_path / "out")
    exported = Checkpoint(tmp_path / "out")
    assert exported.state.spec.training.keep_best is None
    assert Generator(exported).sample(1).shape == (1, 32, 32, 3)
