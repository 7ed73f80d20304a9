"""The textbook's loop against a plain reference, against ours on equal inputs, and on its own shards."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distgan.bench.textbook import MODEL, Textbook, batches, textbook_spec, train_textbook
from distgan.checkpoint import Checkpoint, generators
from distgan.networks import ImageShape, build_networks
from distgan.objectives import Batch
from distgan.sampling import load_generator
from distgan.sampling.scored import evaluate
from distgan.spec import DataSpec
from distgan.training.learner import Learner
from distgan.training.workers import Workers
from shards.index import Index
from shards.reader import Reader

CPU = torch.device("cpu")
COUNT = 6


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def inputs(image: ImageShape, step: int) -> tuple[Tensor, Tensor]:
    """Real images and latents of a step."""
    random = torch.Generator().manual_seed(step)
    real = torch.rand(COUNT, image.channels, image.size, image.size, generator=random) * 2 - 1
    return real, torch.randn(COUNT, 100, generator=random)


@pytest.mark.parametrize("image", [ImageShape(3, 32), ImageShape(1, 64)])
def test_its_networks_are_the_recipes(image):
    textbook, (generator, critic) = Textbook(image, 5, CPU), build_networks(MODEL, image, 5)
    real, latents = inputs(image, 0)
    torch.testing.assert_close(textbook.generator(latents[..., None, None]), generator(latents))
    torch.testing.assert_close(textbook.critic(real).flatten(), torch.sigmoid(critic(real)))
    sizes = [sum(weight.numel() for weight in network.parameters()) for network in (textbook.generator, generator)]
    assert sizes[0] == sizes[1]


@pytest.mark.usefixtures("in_float64")
def test_a_step_is_what_its_description_says():
    """Against a reference of logits, one loss a side and autograd, with Adam written out."""
    image = ImageShape(3, 16)
    textbook, (generator, critic) = Textbook(image, 5, CPU), build_networks(MODEL, image, 5)
    moments = {weight: (0.0, 0.0) for network in (generator, critic) for weight in network.parameters()}
    for step in range(1, 4):
        real, latents = inputs(image, step)
        found = textbook.step(real, latents[..., None, None])
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


@pytest.mark.usefixtures("in_float64")
def test_on_equal_inputs_ours_has_the_same_losses(monkeypatch):
    image = ImageShape(1, 16)
    spec = textbook_spec(DataSpec(shards="none", image_size=16), COUNT, 5, 100, 100).with_training(precision="float64")
    learner, textbook = Learner(spec, image, Workers.alone(CPU)), Textbook(image, 5, CPU)
    for step in range(4):
        real, latents = inputs(image, step)

        class Same:
            def normal(self, purpose, shape, latents=latents):
                return latents

        monkeypatch.setattr(learner, "_draw", lambda update, same=Same: same())
        batch = Batch(real, torch.zeros(COUNT, 0))
        ours = learner.update_critic(batch, 0).value.item(), learner.update_generator(batch).value.item()
        theirs = textbook.step(real, latents[..., None, None])
        assert ours == pytest.approx((theirs.critic, theirs.generator), rel=1e-9)


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
