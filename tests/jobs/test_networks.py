"""The networks of every recipe compute what their published tables say.

Each table is written down here once more, row by row, with nothing but torch.nn.functional in float64: layers in
another order, another padding, slope or normalisation have the same number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distgan.networks import ImageShape, build_networks
from distgan.spec import RunSpec, load_spec
from tests.distgan.networks.conftest import enlarged, noise
from tests.recipes import parameters
from tests.tables import (
    SAME,
    Table,
    pggan_critic,
    pggan_generator,
    r3gan_critic,
    r3gan_generator,
    sngan_critic,
    sngan_generator,
)

JOBS = Path(__file__).parents[2] / "jobs"
BATCH = 3


def paper_generator(network: nn.Module, z: Tensor, widths: tuple[int, ...], channels: int = 3) -> Tensor:
    """Radford et al. 2015: projection, fractionally strided convolutions, BatchNorm, ReLU, tanh."""
    table = Table(network, z).project(widths[0]).batch_norm().relu()
    for width in widths[1:]:
        table.conv_t(width, 4, bias=False).batch_norm().relu()
    return table.conv_t(channels, 4, bias=False).tanh().out()


def report_generator(network: nn.Module, z: Tensor) -> Tensor:
    """The report of 2021: LeakyReLU, and no BatchNorm on the input layer."""
    table = Table(network, z).project(512, bias=True).leaky()
    for width in (256, 128, 64):
        table.conv_t(width, 4, bias=False).batch_norm().leaky()
    return table.conv_t(3, 4, bias=False).tanh().out()


def paper_features(
    network: nn.Module, x: Tensor, widths: tuple[int, ...], norm: str = "batch_norm", image_bias: float = 0
) -> Table:
    """Its mirror: no normalisation on the first layer, LeakyReLU."""
    table = Table(network, x).conv(widths[0], 4, 2, 1, bias=image_bias).leaky()
    for width in widths[1:]:
        getattr(table.conv(width, 4, 2, 1, bias=0), norm)().leaky()
    return table


def paper_critic(
    network: nn.Module, x: Tensor, widths: tuple[int, ...], norm: str = "batch_norm", image_bias: float = 0
) -> Tensor:
    features = paper_features(network, x, widths, norm, image_bias)
    return features.dense(1, bias=False, shape=(1, widths[-1], 4, 4)).out().flatten()


def encoder(network: nn.Module, x: Tensor) -> Tensor:
    return paper_features(network, x, W64).dense(200, shape=(200, 512, 4, 4)).out()


def keras_generator(network: nn.Module, z: Tensor) -> Tensor:
    """The source's table, whose order changes in the middle."""
    table = Table(network, z, keras=True).dense(8192).reshape(512, 4, 4).batch_norm()
    table.conv_t(512, 3).leaky().batch_norm()
    table.conv_t(256, 3).leaky().batch_norm().leaky()
    table.conv_t(128, 3).batch_norm().leaky()
    table.conv_t(64, 3).batch_norm().leaky()
    return table.conv_t(3, 3).tanh().out()


def keras_critic(network: nn.Module, x: Tensor) -> Tensor:
    table = Table(network, x, keras=True).conv(64, 5, 2, SAME).leaky()
    table.conv(128, 5, 2, SAME).batch_norm().leaky()
    table.conv(256, 5, 2, SAME).batch_norm().leaky()
    return table.conv(512, 5, 2, SAME).dense(1).out().flatten()


NARROW = 8
"""The networks of WIDE are computed with an eighth of their channels: the tutorial's take 335 GFLOP an image."""
WIDE: dict[str, dict[str, int]] = {
    "gan128_rmsprop": {"width": 256},
    "sngan64": {"width": 64, "max_width": 1024},
    "r3gan64": {"width": 384, "max_width": 768},
    "r3gan128": {"width": 192, "max_width": 768},
    "pggan128": {"width": 128, "max_width": 512},
}
"""What their networks have, and must be divisible by that."""


def tutorial_generator(network: nn.Module, z: Tensor) -> Tensor:
    table = Table(network, z, keras=True).dense(128 // NARROW * 16 * 16).leaky().reshape(128 // NARROW, 16, 16)
    table.conv(256 // NARROW, 5, 1, SAME).leaky()
    for _ in range(3):
        table.conv_t(256 // NARROW, 4).leaky()
    table.conv(512 // NARROW, 5, 1, SAME).leaky().conv(512 // NARROW, 5, 1, SAME).leaky()
    return table.conv(3, 7, 1, SAME).tanh().out()


def tutorial_critic(network: nn.Module, x: Tensor) -> Tensor:
    """Without its dropout, which does nothing when the network is evaluated."""
    table = Table(network, x, keras=True).conv(256 // NARROW, 3).leaky()
    for _ in range(4):
        table.conv(256 // NARROW, 4, 2).leaky()
    return table.dense(1).out().flatten()


W32, W64, NARROWED = (64, 128, 256), (64, 128, 256, 512), (64, 128, 128, 128)
HALF, HALF128 = (32, 64, 128, 256), (32, 64, 128, 256, 512)
Forward = Callable[[nn.Module, Tensor], Tensor]
TABLES: dict[str, tuple[Forward, Forward]] = {
    "dcgan32_gwu": (lambda n, z: paper_generator(n, z, W32[::-1]), lambda n, x: paper_critic(n, x, W32)),
    "dcgan64": (lambda n, z: paper_generator(n, z, W64[::-1]), lambda n, x: paper_critic(n, x, W64)),
    "grow64": (lambda n, z: paper_generator(n, z, NARROWED[::-1]), lambda n, x: paper_critic(n, x, NARROWED)),
    "faces64": (
        lambda n, z: paper_generator(n, z, HALF[::-1]),
        lambda n, x: paper_critic(n, x, HALF, image_bias=0.1),
    ),
    "faces128": (
        lambda n, z: paper_generator(n, z, HALF128[::-1]),
        lambda n, x: paper_critic(n, x, HALF128, image_bias=0.1),
    ),
    "dcgan64_report": (report_generator, lambda n, x: paper_critic(n, x, W64)),
    "dcgan_mnist": (lambda n, z: paper_generator(n, z, W32[::-1], 1), lambda n, x: paper_critic(n, x, W32)),
    "dcgan_cifar10": (lambda n, z: paper_generator(n, z, W32[::-1]), lambda n, x: paper_critic(n, x, W32)),
    "dcgan128_keras": (keras_generator, keras_critic),
    "gan128_rmsprop": (tutorial_generator, tutorial_critic),
    "wgan_gp64": (lambda n, z: paper_generator(n, z, W64[::-1]), lambda n, x: paper_critic(n, x, W64, "layer_norm")),
    "wgan_gp64_ttur": (
        lambda n, z: paper_generator(n, z, W64[::-1]),
        lambda n, x: paper_critic(n, x, W64, "layer_norm"),
    ),
    "wgan_clip64": (lambda n, z: paper_generator(n, z, W64[::-1]), lambda n, x: paper_critic(n, x, W64)),
    "vae64": (lambda n, z: paper_generator(n, z, W64[::-1]), encoder),
    "sngan64": (
        lambda n, z: sngan_generator(n, z, (128, 64, 32, 16, 8)),
        lambda n, x: sngan_critic(n, x, (8, 16, 32, 64, 128), 2),
    ),
    "r3gan64": (
        lambda n, z: r3gan_generator(n, z, (96, 96, 96, 96, 48), 16),
        lambda n, x: r3gan_critic(n, x, (48, 96, 96, 96, 96), 16),
    ),
    "r3gan128": (
        lambda n, z: r3gan_generator(n, z, (96, 96, 96, 96, 48, 24), 16),
        lambda n, x: r3gan_critic(n, x, (24, 48, 96, 96, 96, 96), 16),
    ),
    "pggan128": (
        lambda n, z: pggan_generator(n, z, (64, 64, 64, 64, 32, 16)),
        lambda n, x: pggan_critic(n, x, (16, 32, 64, 64, 64, 64)),
    ),
}


def networks(name: str, *overrides: str) -> tuple[RunSpec, int, tuple[nn.Module, nn.Module]]:
    """A recipe, the channels of its images, and its networks in float64 with weights that are all different."""
    for role in ("generator", "critic"):
        narrow = (f"model.{role}.{field}={width // NARROW}" for field, width in WIDE.get(name, {}).items())
        overrides = (*overrides, *narrow)
    spec, channels = load_spec(JOBS / f"{name}.yaml", overrides), 1 if name == "dcgan_mnist" else 3
    built = build_networks(spec.model, ImageShape(channels, spec.data.image_size), spec.seed)
    return spec, channels, (enlarged(built[0]), enlarged(built[1]))


@torch.no_grad()
def difference(network: nn.Module, table: Forward, x: Tensor) -> float:
    """The greatest, over the outputs of a network, as a share of how much these differ among themselves."""
    expected = table(network, x)
    computed = network(x)
    found = torch.cat(computed, 1) if isinstance(computed, tuple) else computed
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.std())


def test_every_recipe_has_its_table():
    assert set(TABLES) == {path.stem for path in JOBS.glob("*.yaml")} - {"demo", "sweep"}


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("name", parameters(TABLES))
def test_a_recipe_s_networks_compute_its_table(name, training):
    spec, channels, (generator, critic) = networks(name)
    z = noise(BATCH, spec.model.latent_dim)
    images = noise(BATCH, channels, spec.data.image_size, spec.data.image_size, seed=1).clamp(-1, 1)
    assert difference(generator.train(training), TABLES[name][0], z) < 1e-11
    critic.train(training and name != "gan128_rmsprop")
    assert difference(critic, TABLES[name][1], images) < 1e-11


def test_layers_in_another_order_are_told_by_what_they_compute():
    """And by nothing else: the totals are the same."""
    _, _, (published, _) = networks("dcgan128_keras")
    _, _, (regular, _) = networks("dcgan128_keras", "model.generator.order=regular")
    assert [value.shape for value in published.state_dict().values()] == [
        value.shape for value in regular.state_dict().values()
    ]
    assert difference(regular.eval(), keras_generator, noise(BATCH, 100)) > 0.1
