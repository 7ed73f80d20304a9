"""A small game in float64, and what its reference is written with: copies of the networks, images one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distgan.data.noise import Noise
from distgan.networks import Critic, Encoder, Generator, ImageShape, build_networks
from distgan.networks.base import GeneratorInput
from distgan.networks.layers import Dropout, Layers
from distgan.objectives import Batch, build_game
from distgan.spec import AugmentationSpec, ModelSpec, ObjectiveSpec

IMAGE = ImageShape(3, 8)
LATENT = 4
LABELS = 2
COUNT = 6

ADVERSARIAL: list[dict[str, Any]] = [
    {"kind": "bce"},
    {"kind": "bce", "batches": "one", "terms": "mean", "real_label": 0.1, "fake_label": 0.9, "label_noise": 0.3},
    {"kind": "bce", "generator": "saturating", "r1": 2.0},
    {"kind": "hinge"},
    {"kind": "hinge", "r1": 3.0},
    {"kind": "hinge", "r1": 1.0, "r2": 2.0},
    {"kind": "relativistic"},
    {"kind": "relativistic", "r1": 2.0, "r2": 3.0},
    {"kind": "least_squares"},
    {"kind": "least_squares", "r1": 0.5},
    {"kind": "wasserstein_clip"},
    {"kind": "wasserstein_gp"},
    {"kind": "wasserstein_gp", "penalty": 1.0, "r1": 2.0, "drift": 0.5},
]
PENALISED = [tree for tree in ADVERSARIAL if tree.get("r1") or tree.get("r2") or tree["kind"] == "wasserstein_gp"]


class SmallGenerator(Generator):
    """No BatchNorm: an image depends on its own latent and labels alone."""

    def __init__(self, labels: int) -> None:
        super().__init__(GeneratorInput(LATENT, labels))
        pixels = IMAGE.channels * IMAGE.size**2
        self.layers = Layers(nn.Linear(LATENT + labels, pixels), nn.Unflatten(1, (3, 8, 8)), nn.Tanh())


def small_features() -> nn.Sequential:
    """Images to (N, 5, 2, 2); smooth, so that finite differences mean something."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.GroupNorm(1, 4),
        nn.SiLU(),
        nn.Conv2d(4, 5, 3, stride=2, padding=1),
        nn.SiLU(),
    )


def small_critic(labels: int = 0, dropout: float = 0.0) -> Critic:
    """Judges each image for itself."""
    return Critic(small_features(), nn.Sequential(nn.Flatten(), Dropout(dropout), nn.Linear(20, 1)), 5, labels)


def small_networks(labels: int = LABELS, dropout: float = 0.0, seed: int = 0) -> tuple[Generator, Critic]:
    """Generator and critic without BatchNorm, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallGenerator(labels).double(), small_critic(labels, dropout).double()


def small_autoencoder(labels: int = LABELS) -> tuple[Generator, Encoder]:
    """Decoder and encoder without BatchNorm, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Sequential(nn.Flatten(), nn.Linear(20, 2 * LATENT))
        return SmallGenerator(labels).double(), Encoder(small_features(), head, LATENT, labels).double()


def dcgan_networks(
    normalisation: str = "batch", labels: int = LABELS, minibatch_stddev: bool = False
) -> tuple[nn.Module, nn.Module]:
    """The registered networks at their smallest (16 pixels), in float64."""
    critic = {"width": 2, "normalisation": normalisation, "minibatch_stddev": minibatch_stddev}
    condition = {"condition": {"classes": True, "generator": "batchnorm"}} if labels else {}
    spec = ModelSpec.model_validate({"generator": {"width": 2}, "critic": critic, "latent_dim": LATENT, **condition})
    generator, judge = build_networks(spec, ImageShape(3, 16), seed=0, labels=labels)
    for network in (generator, judge):  # larger than N(0, 0.02), so that no term of a loss is lost beside another
        for parameter in network.parameters():
            parameter.data.mul_(10 if parameter.ndim > 1 else 1)
    return generator.double(), judge.double()


def draw(slots: Sequence[int] = range(COUNT), dtype: torch.dtype = torch.float64, seed: int = 0) -> Noise:
    """The random numbers of one update for these slots of the global batch."""
    return Noise(seed, torch.tensor(list(slots)), "update", dtype)


def batch(
    slots: Sequence[int] = range(COUNT),
    size: int = IMAGE.size,
    labels: int = LABELS,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """The real images of these slots; a slot's image and labels depend on nothing else."""
    images, vectors = [], []
    for slot in slots:
        random = torch.Generator().manual_seed(slot)
        images.append(torch.rand(3, size, size, dtype=torch.float64, generator=random) * 2 - 1)
        vectors.append(torch.randint(0, 2, (labels,), generator=random) * 2.0 - 1)
    return Batch(torch.stack(images).to(dtype), torch.stack(vectors).to(dtype))


class Duel:
    """A game, and copies of its networks for the reference to differentiate."""

    def __init__(
        self,
        objective: dict[str, Any],
        networks: tuple[nn.Module, nn.Module] | None = None,
        augmentation: dict[str, Any] | None = None,
    ) -> None:
        self.generator, self.critic = networks or small_networks()
        self.plain_generator, self.plain_critic = copy.deepcopy((self.generator, self.critic))
        self.game = build_game(
            ObjectiveSpec.model_validate(objective),
            self.generator,
            self.critic,
            LATENT,
            augmentation=AugmentationSpec.model_validate(augmentation or {}),
        )

    def fakes(self, labels: Tensor) -> Tensor:
        """What the plain generator makes of the update's latents; with gradient."""
        images: Tensor = self.plain_generator(draw(range(len(labels))).normal("latent", (LATENT,)), labels)
        return images

    def judged(self, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
        """The plain critic's output, a scalar, for each image by itself."""
        for i in range(len(images)):
            yield self.plain_critic(images[i : i + 1], labels[i : i + 1])[0]

    def slopes(self, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
        """∇ D(x), differentiable, for each image by itself."""
        for i in range(len(images)):
            image = images[i : i + 1].detach().clone().requires_grad_(True)
            output = self.plain_critic(image, labels[i : i + 1])[0]
            yield torch.autograd.grad(output, image, create_graph=True)[0]


def assert_same_gradients(ours: nn.Module, plain: nn.Module) -> None:
    """Every parameter has the plain network's gradient; what does not touch the loss may have none."""
    actual, expected = gradients(ours), gradients(plain)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-13)
    assert any(each.abs().max() > 0 for each in expected.values())


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """By parameter; what has none counts as 0."""
    named = network.named_parameters()
    return {name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in named}


def gradient(network: nn.Module) -> Tensor:
    """The whole gradient, flat."""
    return torch.cat([each.flatten() for each in gradients(network).values()])
