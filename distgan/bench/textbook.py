"""The loops that people would otherwise run, to compare with: PyTorch's DCGAN tutorial for faces, and WGAN-GP.

Both are in float32, contiguous and eager, and read figures by ``.item()`` at every step. Nothing of distgan's own loop
is in them: they are what that is measured against, and stay as slow as they are. The networks are those of the
specification, as :func:`~distgan.networks.build_networks` has them, with torch's own layers in the place of distgan's
quicker ones. In distgan's own process they have memory handed out as :mod:`distgan.memory` does, which makes them a
little faster than elsewhere.
"""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distgan.checkpoint import GENERATORS, State, save_checkpoint
from distgan.data.conditions import NO_LABELS
from distgan.data.order import Ids
from distgan.data.selection import select_samples
from distgan.networks import ImageShape, build_networks
from distgan.networks.convolutions import take_torchs_own
from distgan.networks.layers import Dropout, LeakyReLU, ReLU
from distgan.objectives import objective_options
from distgan.sampling.calibration import calibrate, calibration_inputs
from distgan.spec import DataSpec, ModelSpec, NetworkSpec, RunSpec, SideOptimizerSpec, greatest, value_at
from distgan.training.clock import Clock
from distgan.training.optimizers import build_optimizer
from shards.reader import Reader

BATCH = 128
"""The tutorial's."""
LEARNING_RATE = 2e-4
BETAS = (0.5, 0.999)
REAL, FAKE = 1.0, 0.0
_DCGAN = NetworkSpec(name="dcgan", width=64)
MODEL = ModelSpec(generator=_DCGAN, critic=_DCGAN, latent_dim=100)
"""The tutorial's networks: layer by layer those of distgan's ``dcgan``."""


class Figures(NamedTuple):
    """What is printed of a step.

    Attributes:
        critic: The loss of the last critic update: the sum of its terms.
        generator: The generator's loss.
        real: Mean output of the critic for real images: in (0, 1) in the tutorial, a score in WGAN-GP.
        fake: The same for generated ones, before the critic's update.
        fake_after: And after it.
    """

    critic: float
    generator: float
    real: float
    fake: float
    fake_after: float


class Textbook:
    """Two networks with optimizers, and a step; a subclass says what the step is.

    Weights begin as those of distgan's networks of the same seed; those of ``dcgan`` are drawn as the tutorial has it:
    N(0, 0.02), BatchNorm's scale N(1, 0.02). Latents follow from the seed too.

    Args:
        spec: The run, of one size and without a condition. Its networks, its objective's numbers, its optimizers with
            constant rates and its seed are used.
        image: What the images of the data set are.
        device: Where it computes.

    Raises:
        InputError: Networks, objective or optimizers that are unknown or wrongly set.
    """

    title: ClassVar[str]
    """What it is, for people."""

    def __init__(self, spec: RunSpec, image: ImageShape, device: torch.device) -> None:
        self.spec = spec
        self.generator, self.critic = (
            _of_torchs_own_layers(network).to(device) for network in build_networks(spec.model, image, spec.seed)
        )
        self._device = device
        self._random = torch.Generator(device).manual_seed(spec.seed)
        self._optimizers = {
            "critic": _optimizer(spec.optimizer.critic, self.critic),
            "generator": _optimizer(spec.optimizer.generator, self.generator),
        }

    def latents(self, count: int) -> Tensor:
        """The next latents N(0, 1), (count, latent_dim)."""
        return torch.randn(count, self.spec.model.latent_dim, generator=self._random, device=self._device)

    def step(self, *real: Tensor) -> Figures:
        """The critic's updates, and one of the generator.

        Args:
            real: A batch for each critic update: float32 (N, C, S, S) in [-1, 1], contiguous, on the device.
        """
        raise NotImplementedError

    def drawing(self) -> nn.Module:
        """The generator as distgan draws with it: in evaluation mode, its statistics measured for its weights.

        The tutorial draws in training mode, where an image depends on the others of its batch; these are the statistics
        of many such batches.
        """
        generator = copy.deepcopy(self.generator).cpu()
        return calibrate(generator, calibration_inputs(self.spec.model, 0, NO_LABELS, torch.float32))


class DCGANTutorial(Textbook):
    """PyTorch's DCGAN tutorial, written after its description.

    For the critic a backward pass through real images and one through generated ones, which serve the generator too;
    sigmoid and ``BCELoss``; the critic's loss is the sum of both terms. The generator's update computes gradients of
    the critic's weights as well, which are thrown away
    (Inkawhich, https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html).
    """

    title = "PyTorch's DCGAN tutorial"

    def step(self, *real: Tensor) -> Figures:
        """One update of the critic with one batch, and one of the generator."""
        (images,) = real
        loss = nn.BCELoss()
        self.critic.zero_grad()
        label = torch.full((len(images),), REAL, device=self._device)
        output = torch.sigmoid(self.critic(images))
        critic_real = loss(output, label)
        critic_real.backward()
        mean_real = output.mean().item()

        fake = self.generator(self.latents(len(images)))
        label.fill_(FAKE)
        output = torch.sigmoid(self.critic(fake.detach()))
        critic_fake = loss(output, label)
        critic_fake.backward()
        mean_fake = output.mean().item()
        critic = critic_real + critic_fake
        self._optimizers["critic"].step()

        self.generator.zero_grad()
        label.fill_(REAL)
        output = torch.sigmoid(self.critic(fake))
        generator = loss(output, label)
        generator.backward()
        mean_fake_after = output.mean().item()
        self._optimizers["generator"].step()
        return Figures(critic.item(), generator.item(), mean_real, mean_fake, mean_fake_after)


class WGANGP(Textbook):
    """WGAN-GP as the port to PyTorch has it that most have copied from (https://github.com/caogang/wgan-gp).

    For each critic update a batch of real images and one of generated ones, drawn without a gradient; a backward pass
    through either, and a third one through the penalty: λ · mean (‖∇D(x̂)‖₂ − 1)², the slope by ``autograd.grad`` with
    ``create_graph``. Then one generator update on fresh latents, with the critic's weights frozen.
    """

    title = "WGAN-GP as its common port to PyTorch has it"

    def __init__(self, spec: RunSpec, image: ImageShape, device: torch.device) -> None:
        super().__init__(spec, image, device)
        options: Any = objective_options(spec.objective)
        self._weight = value_at(options.penalty, 0)

    def mixing(self, count: int) -> Tensor:
        """The next shares of real images in x̂, U[0, 1), (count,)."""
        return torch.rand(count, generator=self._random, device=self._device)

    def step(self, *real: Tensor) -> Figures:
        """One update of the critic for each batch, and one of the generator."""
        for weight in self.critic.parameters():
            weight.requires_grad_(True)
        for images in real:
            self.critic.zero_grad()
            mean_real = self.critic(images).mean()
            (-mean_real).backward()

            with torch.no_grad():
                fake = self.generator(self.latents(len(images)))
            mean_fake = self.critic(fake).mean()
            mean_fake.backward()

            penalty = self._penalty(images, fake)
            penalty.backward()  # type: ignore[no-untyped-call]
            critic = mean_fake - mean_real + penalty
            self._optimizers["critic"].step()

        for weight in self.critic.parameters():
            weight.requires_grad_(False)
        self.generator.zero_grad()
        generator = -self.critic(self.generator(self.latents(len(images)))).mean()
        generator.backward()
        self._optimizers["generator"].step()
        return Figures(critic.item(), generator.item(), mean_real.item(), mean_fake.item(), -generator.item())

    def _penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        share = self.mixing(len(real)).view(-1, 1, 1, 1)
        between = (share * real + (1 - share) * fake).requires_grad_(True)
        output = self.critic(between)
        (slopes,) = torch.autograd.grad(output, between, torch.ones_like(output), create_graph=True, retain_graph=True)
        penalty: Tensor = self._weight * ((slopes.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
        return penalty


TEXTBOOKS: dict[str, type[Textbook]] = {"bce": DCGANTutorial, "wasserstein_gp": WGANGP}
"""By ``objective.kind``. Other objectives have no form that most people copy."""


def why_no_textbook(spec: RunSpec) -> str | None:
    """Why none of the textbooks does the same work as a run's step, in a line; None where one does.

    What costs nothing may differ: whether the critic's loss is a sum or a mean, targets other than 1 and 0, a drift.

    Raises:
        InputError: An unknown objective or a wrong option.
    """
    objective = spec.objective
    options: Any = objective_options(objective)
    if objective.kind not in TEXTBOOKS:
        return f"none for objective.kind {objective.kind}, only for {' and '.join(TEXTBOOKS)}"
    has = {
        "model.condition": spec.model.condition is not None,
        "augmentation": spec.augmentation.on,
        "objective.r1": greatest(options.r1) > 0,
        "objective.r2": greatest(options.r2) > 0,
        "objective.penalty_every": options.penalty_every > 1,
        "objective.n_critic": objective.kind == "bce" and objective.n_critic > 1,
        "objective.penalty of 0": objective.kind == "wasserstein_gp" and not greatest(options.penalty),
    }
    beyond = [name for name, here in has.items() if here]
    return f"none with {', '.join(beyond)}" if beyond else None


def _optimizer(spec: SideOptimizerSpec, network: nn.Module) -> torch.optim.Optimizer:
    """A network's optimizer as torch computes one of which nothing but the numbers is said."""
    optimizer = build_optimizer(spec, network.parameters())
    for group in optimizer.param_groups:
        group.update({way: None for way in ("fused", "foreach") if way in group})
    return optimizer


def _of_torchs_own_layers(network: nn.Module) -> nn.Module:
    """A network with torch's own layers where distgan's do the same in another way."""
    take_torchs_own(network)
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, LeakyReLU):
                setattr(module, name, nn.LeakyReLU(layer.negative_slope, layer.inplace))
            elif isinstance(layer, ReLU):
                setattr(module, name, nn.ReLU(layer.inplace))
            elif isinstance(layer, Dropout):
                setattr(module, name, nn.Dropout(layer.probability))
    return network


def batches(reader: Reader, ids: Ids, batch_size: int, seed: int, device: torch.device) -> Generator[Tensor]:
    """Real images as the tutorial's DataLoader gives them, without end: shuffled, the last batch of an epoch smaller.

    They are made float32 and normalised on the host, a batch ahead of the loop, and are not mirrored.

    Args:
        reader: Where images come from.
        ids: Samples to train on.
        batch_size: Images in a batch.
        seed: Of the order.
        device: Where batches are wanted.

    Yields:
        float32 (N, C, S, S) in [-1, 1], contiguous.

    Raises:
        DamageError: A sample is not what was packed.
    """
    random = torch.Generator().manual_seed(seed)

    def chosen() -> Iterator[Ids]:
        while True:
            order = torch.randperm(len(ids), generator=random).numpy()
            for first in range(0, len(ids), batch_size):
                yield ids[order[first : first + batch_size]]

    def read(some: Ids) -> Tensor:  # with NumPy: torch would have threads of its own there, see distgan.threads
        pixels = reader.read(some).transpose(0, 3, 1, 2).astype(np.float32, order="C")
        return torch.from_numpy((pixels / 255 - 0.5) / 0.5)

    with ThreadPoolExecutor(1, "textbook") as pool:
        following = chosen()
        ready = pool.submit(read, next(following))
        while True:
            images = ready.result()
            ready = pool.submit(read, next(following))
            yield images.to(device)


def textbook_spec(data: DataSpec, batch_size: int, seed: int, images: int, every: int) -> RunSpec:
    """A specification that says what a run of the textbook's is, for its kept generators.

    Args:
        data: The images; of flips and the like in it the tutorial knows nothing.
        batch_size: Images in a batch.
        seed: Of everything.
        images: Length of the run.
        every: Images between two kept generators.
    """
    adam = {"name": "adam", "lr": LEARNING_RATE, "betas": BETAS}
    return RunSpec.model_validate(
        {
            "name": f"textbook-{batch_size}",
            "seed": seed,
            "data": data.model_dump(include={"shards", "image_size", "where", "limit", "cache"}),
            "model": MODEL.model_dump(),
            "optimizer": {"generator": adam, "critic": adam},
            "training": {"batch_size": batch_size, "images": images, "keep_generator_every_images": every},
        }
    )


def train_textbook(
    spec: RunSpec,
    run: Path,
    device: torch.device,
    *,
    stop: threading.Event,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Train the textbook's networks, from the beginning: what an interrupted call has left is removed.

    Args:
        spec: Of :func:`textbook_spec`.
        run: The folder that gets ``generators/``, one each ``training.keep_generator_every_images`` and one at the
            end: distgan draws with them and scores them like those of its own runs.
        device: Where to compute.
        stop: When set, this ends after the current step.
        progress: Told how many images of how many have been shown.

    Returns:
        Whether it came to its end.

    Raises:
        InputError: The shards are missing, damaged, or do not fit.
        DamageError: A sample is not what was packed.
        OSError: The folder could not be written.
    """
    index, ids = select_samples(spec)
    total, every = spec.training.images, spec.training.keep_generator_every_images
    assert total is not None
    assert every is not None
    shutil.rmtree(run / GENERATORS, ignore_errors=True)
    textbook = DCGANTutorial(spec, ImageShape(index.transform.channels, spec.data.image_size), device)
    clock, images, step = Clock(device), 0, 0
    with (
        Reader(index, cache=spec.data.cache) as reader,
        closing(batches(reader, ids, spec.training.batch_size, spec.seed, device)) as shown,
        clock.running(),
    ):
        for real in shown:
            textbook.step(real)
            before, images, step = images, images + len(real), step + 1
            progress(images, total)
            if images // every > before // every or images >= total:
                with clock.paused():
                    state = State(
                        step=step,
                        images=images,
                        position=images,
                        spec=spec,
                        seeds={"noise": spec.seed},
                        training_seconds=clock.seconds,
                        channels=index.transform.channels,
                        fingerprint=index.fingerprint,
                    )
                    save_checkpoint(run, state, {"generator_ema": textbook.drawing().state_dict()}, kind=GENERATORS)
            if images >= total:
                return True
            if stop.is_set():
                return False
    raise AssertionError("batches come without end")
