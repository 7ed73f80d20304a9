"""The textbooks against the tutorial's networks, a plain reference, ours on equal inputs, and on their own shards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.bench.textbook import (
    MODEL,
    TEXTBOOKS,
    DCGANTutorial,
    batches,
    textbook_spec,
    train_textbook,
    why_no_textbook,
)
from distgan.checkpoint import Checkpoint, generators
from distgan.networks import ImageShape, build_networks
from distgan.networks.layers import Dropout, LeakyReLU, ReLU
from distgan.objectives import Batch
from distgan.sampling import load_generator
from distgan.sampling.scored import evaluate
from distgan.spec import DataSpec, RunSpec
from distgan.training.learner import Learner
from distgan.training.optimizers import OPTIMIZERS
from distgan.training.workers import Workers
from shards.index import Index
from shards.reader import Reader

CPU = torch.device("cpu")
COUNT = 6
LATENT_DIM = 4


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tutorials(size: int = 16) -> RunSpec:
    """The tutorial as it is, on images of another size."""
    return textbook_spec(DataSpec(shards="none", image_size=size), COUNT, 5, 100, 100)


def uniform(name: str, *shape: int) -> Tensor:
    """U[0, 1), which depends on the name alone."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(crc32(name.encode())))


def normal(name: str, *shape: int) -> Tensor:
    """N(0, 1), which depends on the name alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(crc32(name.encode())))


def real_images(name: str, image: ImageShape) -> Tensor:
    return uniform(name, COUNT, image.channels, image.size, image.size) * 2 - 1


def test_the_tutorial_s_networks_are_dcgan_s():
    """Against the two as the tutorial writes them, for its faces."""
    generator, critic = (network for network in build_networks(MODEL, ImageShape(3, 64), 5))
    tutorial = nn.Sequential(
        *(nn.ConvTranspose2d(100, 512, 4, 1, 0, bias=False), nn.BatchNorm2d(512), nn.ReLU(True)),
        *(nn.ConvTranspose2d(512, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU(True)),
        *(nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(True)),
        *(nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True)),
        *(nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh()),
    )
    judge = nn.Sequential(
        *(nn.Conv2d(3, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Conv2d(64, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Conv2d(128, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Conv2d(256, 512, 4, 2, 1, bias=False), nn.BatchNorm2d(512), nn.LeakyReLU(0.2, inplace=True)),
        nn.Conv2d(512, 1, 4, 1, 0, bias=False),
    )
    for theirs, ours in ((tutorial, generator), (judge, critic)):
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    real, latents = real_images("real", ImageShape(3, 64)), normal("latents", COUNT, 100)
    textbook = DCGANTutorial(tutorials(64), ImageShape(3, 64), CPU)
    torch.testing.assert_close(textbook.generator(latents), tutorial(latents[..., None, None]))
    torch.testing.assert_close(textbook.critic(real), judge(real).flatten())
    assert all(weight.is_contiguous() for weight in textbook.critic.parameters())


@pytest.mark.usefixtures("in_float64")
def test_the_tutorial_s_step_is_what_its_description_says(monkeypatch):
    """Against a reference of logits, one loss a side and autograd, with Adam written out."""
    image = ImageShape(3, 16)
    textbook, (generator, critic) = DCGANTutorial(tutorials(), image, CPU), build_networks(MODEL, image, 5)
    moments = {weight: (0.0, 0.0) for network in (generator, critic) for weight in network.parameters()}
    for step in range(1, 4):
        real, latents = real_images(f"real/{step}", image), normal(f"latents/{step}", COUNT, 100)
        monkeypatch.setattr(textbook, "latents", lambda count, latents=latents: latents)
        found = textbook.step(real)
        fake = generator(latents)
        real_logits, fake_logits = critic(real), critic(fake.detach())
        loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        adam(list(critic.parameters()), loss, moments, step)
        after = critic(fake)
        generator_loss = F.softplus(-after).mean()
        adam(list(generator.parameters()), generator_loss, moments, step)
        expected = [loss, generator_loss, *(torch.sigmoid(each).mean() for each in (real_logits, fake_logits, after))]
        assert found == pytest.approx([each.item() for each in expected], rel=1e-8)


def adam(weights, loss, moments, step) -> None:
    """Kingma and Ba 2015, algorithm 1."""
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
        first, second = moments[weight]
        first, second = 0.5 * first + 0.5 * gradient, 0.999 * second + 0.001 * gradient**2
        moments[weight] = first, second
        with torch.no_grad():
            weight -= 2e-4 * (first / (1 - 0.5**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)


Losses = tuple[float, float]
"""The critic's, of its last update, and the generator's."""


@pytest.fixture
def losses(tiny, monkeypatch) -> Callable[..., Iterator[tuple[Losses, Losses]]]:
    """Ours and the textbook's, step by step: of a run with changes, on equal weights, images, latents and mixtures."""

    def of(**changes: Any) -> Iterator[tuple[Losses, Losses]]:
        spec, image = tiny(training__batch_size=COUNT, **changes), ImageShape(3, 16)
        game, n_critic = spec.objective.kind, spec.objective.n_critic
        learner, textbook = Learner(spec, image, Workers.alone(CPU)), TEXTBOOKS[game](spec, image, CPU)

        class Named:
            def __init__(self, seed: int, slots: Tensor, update: Callable[[], str], dtype: torch.dtype) -> None:
                # The tutorial's generator is judged by the images that its critic has learnt from.
                self.update = update().replace("generator", "critic") if game == "bce" else update()

            def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
                return normal(self.update, COUNT, *shape)

            def uniform(self, purpose: str, shape: Sequence[int]) -> Tensor:
                return uniform(self.update, COUNT, *shape)

        monkeypatch.setattr("distgan.training.learner.Noise", Named)
        for step in range(100):
            updates = [f"critic/{step * n_critic + repeat}" for repeat in range(n_critic)]
            of_latents, of_mixtures = iter([*updates, f"generator/{step}"]), iter(updates)
            monkeypatch.setattr(textbook, "latents", lambda n, names=of_latents: normal(next(names), n, LATENT_DIM))
            monkeypatch.setattr(textbook, "mixing", lambda n, names=of_mixtures: uniform(next(names), n), raising=False)
            real = [real_images(f"real/{update}", image) for update in updates]
            for repeat, images in enumerate(real):
                batch = Batch(images, torch.zeros(COUNT, 0))
                critic = learner.update_critic(batch, repeat)
            generator = learner.update_generator(batch)
            theirs = textbook.step(*real)
            assert generator is not None
            yield (critic.value.item(), generator.value.item()), (theirs.critic, theirs.generator)

    return of


GAMES = [
    ({"objective__kind": "bce"}, 1),
    ({"objective__terms": "mean"}, 2),  # our critic's loss is the mean of its terms, the textbook's always the sum
    ({"objective__share_fakes": True}, 1),
    (
        {
            "objective__kind": "wasserstein_gp",
            "objective__n_critic": 2,
            "objective__penalty": 7.0,
            "model__critic": {"width": 2, "normalisation": "layer"},
        },
        1,
    ),
]


@pytest.mark.parametrize(("changes", "terms"), GAMES)
def test_on_equal_inputs_ours_has_the_same_losses(losses, changes, terms):
    """In float32, as both are timed: the same work is compared."""
    ours, theirs = next(losses(training__precision="float32", **changes))
    assert (ours[0] * terms, ours[1]) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("changes", "terms"), GAMES)
def test_and_goes_on_having_them(losses, changes, terms):
    """Over several steps, in which each sees what its optimizers have done."""
    found = losses(training__precision="float64", **changes)
    for _ in range(4):
        ours, theirs = next(found)
        assert (ours[0] * terms, ours[1]) == pytest.approx(theirs, rel=1e-8)


def test_where_there_is_no_textbook(tiny):
    layer = {"width": 2, "normalisation": "layer"}
    gp = {"objective__kind": "wasserstein_gp", "model__critic": layer}
    for changes in ({}, gp, {"objective__real_label": 0.9}, {**gp, "objective__n_critic": 5, "objective__drift": 0.1}):
        assert why_no_textbook(tiny(**changes)) is None
    for changes, said in (
        ({"objective__kind": "hinge"}, "none for objective.kind hinge, only for bce and wasserstein_gp"),
        ({"objective__kind": "elbo"}, "none for objective.kind elbo"),
        ({"objective__n_critic": 2}, "none with objective.n_critic"),
        (
            {"objective__r1": {"base": 0.0, "final": 1.0, "images": 9}, "augmentation": {"colour": True}},
            "augmentation, ",
        ),
        ({"model__condition": {"classes": True}}, "none with model.condition"),
        ({**gp, "objective__penalty": 0.0}, "none with objective.penalty of 0"),
    ):
        assert said in (why_no_textbook(tiny(**changes)) or ""), changes


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_its_optimizers_compute_as_torch_s_do_by_default(tiny, monkeypatch, name):
    plain = OPTIMIZERS[name]
    quicker = plain._replace(build=partial(plain.build, **({"fused": True} if name == "adam" else {"foreach": True})))
    monkeypatch.setitem(OPTIMIZERS, name, quicker)
    spec = tiny(optimizer={"generator": {"name": name, "lr": 0.1}, "critic": {"name": name, "lr": 0.2}})
    textbook = DCGANTutorial(spec, ImageShape(3, 16), CPU)
    for (side, optimizer), rate in zip(textbook._optimizers.items(), (0.2, 0.1), strict=True):
        (group,) = optimizer.param_groups
        assert group["lr"] == rate
        assert (group.get("fused"), group["foreach"]) == (None, None), side
    textbook.step(real_images("real", ImageShape(3, 16)))


@pytest.mark.parametrize("name", ["dcgan", "gan_rmsprop"])
def test_its_layers_are_torch_s_own(tiny, name):
    spec = tiny(
        model__critic={"name": name, "width": 2}, model__generator={"name": name, "width": 8}, data__image_size=64
    )
    textbook = DCGANTutorial(spec, ImageShape(3, 64), CPU)
    layers = {type(layer) for layer in textbook.critic.modules()}
    assert nn.LeakyReLU in layers
    assert not layers & {LeakyReLU, ReLU, Dropout}
    assert not any(
        getattr(layer, "quick", False) for each in (textbook.critic, textbook.generator) for layer in each.modules()
    )
    assert (nn.Dropout in layers) == (name == "gan_rmsprop")
    assert np.isfinite(textbook.step(real_images("real", ImageShape(3, 64)))).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_all_images_of_an_epoch_and_the_last_is_smaller(pack_discs, channels):
    index = Index.load(pack_discs(count=10, channels=channels))
    ids = np.arange(1, 10)
    with Reader(index) as reader:
        real = torch.from_numpy(reader.read(ids)).permute(0, 3, 1, 2)
        shown = batches(reader, ids, 4, 3, CPU)
        epochs = [[next(shown) for _ in range(3)] for _ in range(2)]
        again = next(batches(reader, ids, 4, 3, CPU))
        shown.close()
    assert [len(batch) for batch in epochs[0]] == [4, 4, 1]
    for epoch in epochs:
        images = torch.cat(epoch)
        assert images.dtype == torch.float32
        assert all(batch.is_contiguous() for batch in epoch)
        found = images.add(1).mul(127.5).round().to(torch.uint8)
        order = [next(i for i in range(9) if torch.equal(image, real[i])) for image in found]
        assert sorted(order) == list(range(9))
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    assert torch.equal(again, epochs[0][0])


@pytest.fixture(scope="module")
def split(pack_discs) -> str:
    return str(pack_discs(count=44, size=16, channels=1, splits=("train", "test")))


@pytest.mark.usefixtures("small_textbook")
def test_training_leaves_generators_and_is_the_same_twice(split, tmp_path):
    spec = textbook_spec(DataSpec(shards=split, image_size=16), 8, 1, 40, 16)
    told: list[tuple[int, int]] = []
    for name in ("one", "other"):
        assert train_textbook(
            spec, tmp_path / name, CPU, stop=threading.Event(), progress=lambda *each: told.append(each)
        )
    assert told[:6] == [(8, 40), (16, 40), (22, 40), (30, 40), (38, 40), (44, 40)]  # epochs of 22: 8, 8 and 6
    one, other = ([Checkpoint(path).state for path in generators(tmp_path / name)] for name in ("one", "other"))
    assert [state.images for state in one] == [16, 38, 44]
    seconds = [state.training_seconds for state in one]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    for ours, theirs in zip(one, other, strict=True):
        assert ours.sha256["generator_ema.safetensors"] == theirs.sha256["generator_ema.safetensors"]
    last = Checkpoint(generators(tmp_path / "one")[-1])
    assert not load_generator(last).training
    found = evaluate(last, count=10, metrics=["wasserstein"], features="none")
    assert found.scores["wasserstein"] > 0
    assert found.facts["where"] == {"split": "test"}


@pytest.mark.usefixtures("small_textbook")
def test_another_seed_is_another_run(split, tmp_path):
    for seed in (1, 2):
        spec = textbook_spec(DataSpec(shards=split, image_size=16), 8, seed, 8, 8)
        train_textbook(spec, tmp_path / str(seed), CPU, stop=threading.Event())
    one, other = (Checkpoint(generators(tmp_path / seed)[0]).state.sha256 for seed in ("1", "2"))
    assert one["generator_ema.safetensors"] != other["generator_ema.safetensors"]


@pytest.mark.usefixtures("small_textbook")
def test_interrupted_it_begins_again(split, tmp_path):
    spec, stop = textbook_spec(DataSpec(shards=split, image_size=16), 8, 1, 24, 8), threading.Event()
    assert not train_textbook(spec, tmp_path, CPU, stop=stop, progress=lambda done, total: done >= 16 and stop.set())
    assert len(generators(tmp_path)) == 2
    assert train_textbook(spec, tmp_path, CPU, stop=threading.Event())
    assert len(generators(tmp_path)) == 3
