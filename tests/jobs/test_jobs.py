"""Every shipped specification is what its source published, and trains, resumes and samples."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from distgan.checkpoint import Checkpoint, checkpoints, find_checkpoint
from distgan.networks import ImageShape, build_networks
from distgan.objectives import build_game
from distgan.objectives.relativistic import RelativisticOptions
from distgan.sampling import sample
from distgan.spec import RunSpec, load_spec, value_at
from distgan.tracking import Sink, read_metrics
from distgan.training.complete import complete
from distgan.training.loop import train
from distgan.training.optimizers import rate_factor
from distgan.training.workers import Workers
from jobs import read, recipes
from shards.images import Transform
from shards.sources import open_source
from shards.writer import pack
from tests.recipes import parameters

NAMES = list(recipes())
CELEBA = 202_599
"""Images in CelebA."""


def spec(name: str, *overrides: str) -> RunSpec:
    return load_spec(name, overrides)


def test_every_recipe_is_there():
    recipes = {
        *("dcgan32_gwu", "dcgan64", "dcgan64_report", "dcgan_mnist", "dcgan_cifar10"),
        *("dcgan128_keras", "gan128_rmsprop", "wgan_gp64", "wgan_gp64_ttur", "wgan_clip64", "vae64"),
        *("demo", "faces64", "faces128", "grow64", "sngan64", "r3gan64", "r3gan128", "pggan128"),
    }
    assert recipes <= set(NAMES)


def test_each_says_what_it_is_in_a_line():
    for name, line in recipes().items():
        assert len(line) > 10
        assert line in read(name).splitlines()[0] or line[1:] in read(name).splitlines()[0]


@pytest.mark.slow
def test_they_are_installed_with_distgan(tmp_path):
    """A wheel, put into a folder of its own, trains a recipe by name in another."""
    pytest.importorskip("setuptools", minversion="77")
    project = Path(__file__).parents[2]
    for name in ("distgan", "shards", "jobs"):
        shutil.copytree(project / name, tmp_path / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copyfile(project / name, tmp_path / "project" / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", tmp_path / "installed", tmp_path / "project"], check=True, capture_output=True)
    elsewhere = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    program = "import distgan; print(distgan.__file__); print(distgan.load_spec('dcgan64').name)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=elsewhere, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(tmp_path / "installed/distgan/__init__.py"), "dcgan64"]
    assert {f"{name}.yaml" for name in (*NAMES, "sweep")} <= {
        path.name for path in (tmp_path / "installed/jobs").iterdir()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_specification_is_named_as_its_file_and_fits_together(name):
    run = spec(name)
    assert run.name == name
    assert complete(complete(run)) == complete(run)
    generator, critic = build_networks(run.model, ImageShape(3, run.data.image_size), run.seed)
    build_game(run.objective, generator, critic, run.model.latent_dim)


@pytest.mark.parametrize(
    ("name", "generator", "critic"),
    [
        # weights, biases, and BatchNorm's scale, shift, mean and variance
        ("dcgan64", 3_576_704 + 2 * 960, 2_765_568 + 2 * 896),
        ("dcgan128_keras", 4_743_555, 4_340_865),
        ("gan128_rmsprop", 14_953_987, 4_211_713),
    ],
)
def test_parameter_totals_are_the_published_ones(name, generator, critic):
    run = spec(name)
    for network, total in zip(
        build_networks(run.model, ImageShape(3, run.data.image_size), 0), (generator, critic), strict=True
    ):
        counted = [value.numel() for key, value in network.state_dict().items() if "num_batches" not in key]
        assert sum(counted) == total


def test_the_published_settings():
    """What RECIPES' sources say in numbers, said once more here, beside the files."""
    gwu = spec("dcgan32_gwu")
    assert (gwu.training.batch_size, gwu.optimizer.critic.lr, gwu.training.images) == (256, 2e-4, 40 * CELEBA)
    keras = spec("dcgan128_keras")
    assert (keras.training.batch_size, keras.optimizer.critic.lr, keras.training.images) == (64, 1e-4, 3 * CELEBA)
    rmsprop = spec("gan128_rmsprop")
    assert (rmsprop.steps, rmsprop.training.batch_size, rmsprop.data.limit) == (20_000, 16, 10_000)
    assert rmsprop.optimizer.generator == rmsprop.optimizer.critic
    assert (rmsprop.optimizer.critic.clip_value, rmsprop.optimizer.critic.schedule.decay) == (1.0, 1e-8)
    assert rmsprop.objective.rest["label_noise"] == 0.05
    report = spec("dcgan64_report")
    assert (report.training.batch_size, report.training.epochs, report.data.limit) == (32, 40, 100_000)
    assert report.in_images(100_000).steps == 125_000
    gradient_penalty = spec("wgan_gp64")
    assert (gradient_penalty.training.images, gradient_penalty.steps) == (30 * CELEBA, 18_994)
    # As Keras's example counts: a batch a step, whatever the number of critic updates.
    keras_steps = -(-30 * CELEBA // gradient_penalty.training.batch_size)
    assert keras_steps == spec("wgan_gp64", "training.images=30_389_850").steps == 94_969
    assert (gradient_penalty.objective.n_critic, gradient_penalty.objective.rest["penalty"]) == (5, 10.0)
    assert gradient_penalty.optimizer.critic.rest["betas"] == [0.0, 0.9]
    two_scales = spec("wgan_gp64_ttur", "name=wgan_gp64", "objective.n_critic=5", "optimizer.critic.lr=1e-4")
    assert two_scales == gradient_penalty, "nothing else differs"
    two_scales = spec("wgan_gp64_ttur")
    assert (two_scales.objective.n_critic, two_scales.steps) == (1, keras_steps)
    assert (two_scales.optimizer.critic.lr, two_scales.optimizer.generator.lr) == (3e-4, 1e-4)
    clipped = spec("wgan_clip64")
    assert (clipped.objective.rest["clip"], clipped.optimizer.critic.lr, clipped.objective.n_critic) == (0.01, 5e-5, 5)
    spectral = spec("sngan64")
    assert (spectral.objective.kind, spectral.objective.n_critic, spectral.steps) == ("hinge", 5, 100_000)
    assert (spectral.optimizer.generator.lr, spectral.optimizer.critic.rest["betas"]) == (2e-4, [0.0, 0.9])
    assert spectral.in_images(CELEBA).optimizer.critic.schedule.until_images == 32_000_000
    growing = spec("pggan128")
    assert (growing.objective.rest["penalty"], growing.objective.rest["drift"]) == (10.0, 0.001)
    assert (growing.optimizer.generator.lr, growing.optimizer.critic.rest["betas"]) == (1e-3, [0.0, 0.99])
    half_life = growing.training.ema_half_life_images
    assert isinstance(half_life, int)
    assert 0.5 ** (16 / half_life) == pytest.approx(0.999, abs=1e-6)
    for name, gamma in (("r3gan64", 2.0), ("r3gan128", math.sqrt(2 * 150))):
        paired = complete(spec(name))
        assert value_at(RelativisticOptions(**paired.objective.rest).r1, 0) == pytest.approx(gamma, rel=0.02)
        assert paired.objective.rest["r1"] == paired.objective.rest["r2"]
        assert rate_factor(paired.optimizer.critic.schedule, 20_000_000, 0) * paired.optimizer.critic.lr == 5e-5
        assert paired.training.batch_size == 256


def small(name: str, shards: Path, steps: int) -> RunSpec:
    """A recipe with narrow networks, little batches and stages of a step each; all else is as it is."""
    run = spec(name)
    batch, stages = 4, []
    for stage in (run.training.stages or [])[:-1]:
        stages.append({"size": stage.size, "images": batch, "fade_images": min(stage.fade_images, batch - 1)})
    if stages:
        stages.append({"size": run.data.image_size, "fade_images": 2 * batch - 1})
    return spec(
        name,
        *([f"training.stages={stages}"] if stages else []),
        f"data.shards={shards}",
        "data.limit=null",
        "model.generator.width=2",
        "model.critic.width=2",
        *(f"model.{role}.group_width=2" for role in ("generator", "critic") if "group_width" in run.model.critic.rest),
        f"training.batch_size={batch}",
        f"training.images={steps * batch * run.objective.n_critic}",
        f"training.checkpoint_every_images={10**6}",
        "tracking={log_every: 1, sample_every_images: 1_000_000, sample_count: 2, wandb: {mode: disabled}}",
    )


class StopAfter(Sink):
    """Ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.stop = steps, threading.Event()

    def progress(self, step: int) -> None:
        if step >= self.steps:
            self.stop.set()


@pytest.mark.slow
@pytest.mark.parametrize("name", parameters(NAMES))
def test_it_trains_resumes_to_the_bit_and_samples(name, pack_discs, tmp_path):
    shards = pack_discs(count=12, size=spec(name).data.image_size, channels=1 if name == "dcgan_mnist" else 3)
    here = Workers.alone(torch.device("cpu"))
    run, after_two = small(name, shards, 4), StopAfter(2)
    train(run, tmp_path / "whole", here, console=False)
    assert train(run, tmp_path / "parts", here, stop=after_two.stop, listener=after_two, console=False).step == 2
    train(run, tmp_path / "parts", here, resume=True, console=False)
    whole, parts = (Checkpoint(checkpoints(tmp_path / folder)[-1]).state for folder in ("whole", "parts"))
    assert whole.step == parts.step == 4
    for file, digest in whole.sha256.items():
        if file.endswith(".safetensors"):
            assert parts.sha256[file] == digest, file
    sample(find_checkpoint(tmp_path / "parts"), tmp_path / "grid.png", count=4)
    assert (tmp_path / "grid.png").stat().st_size > 0


def test_images_of_one_colour_bring_no_nan_into_the_gradient_penalty(tmp_path):
    """A report of 2022 met NaN losses there: between equal images the critic's gradient may vanish."""
    for i in range(8):
        Image.new("RGB", (64, 64), (i * 30, 0, 0)).save(tmp_path / f"{i}.png")
    pack(open_source(str(tmp_path)), tmp_path / "shards", Transform(size=64, channels=3), workers=1)
    run = small("wgan_gp64", tmp_path / "shards", 20)
    train(run, tmp_path / "run", Workers.alone(torch.device("cpu")), console=False)
    lines = read_metrics(tmp_path / "run")
    assert len(lines) == 20
    assert all(math.isfinite(value) for line in lines for value in line.values())
