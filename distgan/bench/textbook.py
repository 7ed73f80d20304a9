"""The loop that people would otherwise run: PyTorch's DCGAN tutorial for faces, to compare with.

Written after its description (Inkawhich, https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html):
float32, contiguous, eager; for the critic one backward pass through real images and one through generated ones, which
serve the generator too; sigmoid and ``BCELoss``; every loss read by ``.item()`` at every step. Nothing of distgan's own
loop is in it: it is what that is measured against, and stays as slow as it is.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan.checkpoint import GENERATORS, State, save_checkpoint
from distgan.data.conditions import NO_LABELS
from distgan.data.order import Ids
from distgan.data.selection import select_samples
from distgan.networks import ImageShape, build_networks
from distgan.sampling.calibration import calibrate, calibration_inputs
from distgan.spec import DataSpec, ModelSpec, NetworkSpec, RunSpec
from distgan.training.clock import Clock
from shards.reader import Reader

BATCH = 128
"""The tutorial's."""
LATENT_DIM = 100
WIDTH = 64
LEARNING_RATE = 2e-4
BETAS = (0.5, 0.999)
REAL, FAKE = 1.0, 0.0
_DCGAN = NetworkSpec(name="dcgan", width=WIDTH)
MODEL = ModelSpec(generator=_DCGAN, critic=_DCGAN, latent_dim=LATENT_DIM)
"""The same networks as distgan builds them, which the textbook's generators are kept as."""


class Figures(NamedTuple):
    """What the tutorial prints of a step.

    Attributes:
        critic: The critic's loss, the sum of its real and its generated term.
        generator: The generator's loss.
        real: Mean output of the critic for real images, in (0, 1).
        fake: The same for generated ones, before the critic's update.
        fake_after: And after it.
    """

    critic: float
    generator: float
    real: float
    fake: float
    fake_after: float


class Textbook:
    """The tutorial's two networks, and its step.

    Weights begin as those of distgan's ``dcgan`` networks of the same seed, which are drawn as the tutorial has it:
    N(0, 0.02), BatchNorm's scale N(1, 0.02). Latents follow from the seed too.

    Args:
        image: What the images of the data set are. For other sizes than 64 pixels each network has a layer more or
            less for each factor of two, as in the paper's other experiments.
        seed: Of the weights and latents.
        device: Where it computes.

    Raises:
        InputError: The networks cannot have that size.
    """

    def __init__(self, image: ImageShape, seed: int, device: torch.device) -> None:
        ours = build_networks(MODEL, image, seed)
        widths = [WIDTH * 2**power for power in range(int(math.log2(image.size)) - 2)]
        self.image = image
        self.generator = _with_weights(_generator(image.channels, widths[::-1]), ours[0]).to(device)
        self.critic = _with_weights(_critic(image.channels, widths), ours[1]).to(device)
        self._device = device
        self._random = torch.Generator(device).manual_seed(seed)
        self._loss = nn.BCELoss()
        self._optimizers = {
            name: torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, betas=BETAS)
            for name, network in (("critic", self.critic), ("generator", self.generator))
        }

    def latents(self, count: int) -> Tensor:
        """The next latents N(0, 1), (count, 100, 1, 1)."""
        return torch.randn(count, LATENT_DIM, 1, 1, generator=self._random, device=self._device)

    def step(self, real: Tensor, latents: Tensor | None = None) -> Figures:
        """One update of the critic, and one of the generator.

        Args:
            real: float32 (N, C, S, S) in [-1, 1], contiguous, on the device.
            latents: (N, 100, 1, 1); None draws them.
        """
        self.critic.zero_grad()
        label = torch.full((len(real),), REAL, device=self._device)
        output = self.critic(real).view(-1)
        critic_real = self._loss(output, label)
        critic_real.backward()
        mean_real = output.mean().item()

        fake = self.generator(self.latents(len(real)) if latents is None else latents)
        label.fill_(FAKE)
        output = self.critic(fake.detach()).view(-1)
        critic_fake = self._loss(output, label)
        critic_fake.backward()
        mean_fake = output.mean().item()
        critic = critic_real + critic_fake
        self._optimizers["critic"].step()

        self.generator.zero_grad()
        label.fill_(REAL)
        output = self.critic(fake).view(-1)
        generator = self._loss(output, label)
        generator.backward()
        mean_fake_after = output.mean().item()
        self._optimizers["generator"].step()
        return Figures(critic.item(), generator.item(), mean_real, mean_fake, mean_fake_after)

    def drawing(self) -> nn.Module:
        """The generator as distgan draws with it: in evaluation mode, its statistics measured for its weights.

        The tutorial draws in training mode, where an image depends on the others of its batch; these are the statistics
        of many such batches.
        """
        generator, _ = build_networks(MODEL, self.image, 0)
        _with_weights(generator, self.generator)
        return calibrate(generator, calibration_inputs(MODEL, 0, NO_LABELS, torch.float32))


def _generator(channels: int, widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.ConvTranspose2d(LATENT_DIM, widths[0], 4, 1, 0, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(True),
    ]
    for before, after in pairwise(widths):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False), nn.Tanh())


def _critic(channels: int, widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for before, after in pairwise(widths):
        layers += [
            nn.Conv2d(before, after, 4, 2, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False), nn.Sigmoid())


def _with_weights(network: nn.Module, other: nn.Module) -> nn.Module:
    """A network with the weights and statistics of another that has the same layers under other names."""
    names, tensors = network.state_dict().keys(), other.state_dict().values()
    network.load_state_dict(dict(zip(names, tensors, strict=True)))
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

    def read(some: Ids) -> Tensor:
        pixels = torch.from_numpy(reader.read(some)).permute(0, 3, 1, 2)
        return pixels.float().div(255).sub(0.5).div(0.5).contiguous()

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
    textbook = Textbook(ImageShape(index.transform.channels, spec.data.image_size), spec.seed, device)
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
