from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.autograd import gradcheck, gradgradcheck

from distgan.data.noise import Noise
from distgan.objectives.augmentation import UPDATES, Augmentation, coloured, translated
from distgan.spec import AugmentationSpec
from shards.errors import InputError
from tests.distgan.objectives.conftest import (
    COUNT,
    IMAGE,
    Duel,
    assert_same_gradients,
    batch,
    draw,
    gradient,
    small_autoencoder,
    small_networks,
)

Floats = NDArray[np.float64]

ALL: dict[str, Any] = {"colour": True, "translation": 0.25, "cutout": 0.5, "probability": 0.7}
PAPER: dict[str, Any] = {"colour": True, "translation": 0.125, "cutout": 0.5}


def plain(image: Floats, numbers: Floats, spec: AugmentationSpec, probability: float) -> Floats:
    """What the authors' code (DiffAugment_pytorch.py) does to one image (C, S, S), step by step.

    The numbers are ours: by kind, whether, and then how much.
    """
    x = image.copy()
    size = x.shape[-1]
    if spec.colour and numbers[0] < probability:
        x = x + (numbers[1] - 0.5)
        if len(x) > 1:
            mean = x.mean(0, keepdims=True)
            x = (x - mean) * (numbers[2] * 2) + mean
        x = (x - x.mean()) * (numbers[3] + 0.5) + x.mean()
    if spec.translation and numbers[4] < probability:
        furthest = int(size * spec.translation + 0.5)
        down, right = (int(np.floor(number * (2 * furthest + 1))) - furthest for number in numbers[5:7])
        moved = np.zeros_like(x)
        for row in range(size):
            for column in range(size):
                if 0 <= row - down < size and 0 <= column - right < size:
                    moved[:, row, column] = x[:, row - down, column - right]
        x = moved
    if spec.cutout and numbers[7] < probability:
        side = int(size * spec.cutout + 0.5)
        row, column = (int(np.floor(number * (size + 1 - side % 2))) for number in numbers[8:10])
        for r in range(row - side // 2, row - side // 2 + side):
            for c in range(column - side // 2, column - side // 2 + side):
                if 0 <= r < size and 0 <= c < size:
                    x[:, r, c] = 0.0
    return x


def numbers_of(part: str, slots: range = range(COUNT)) -> Floats:
    return draw(slots).uniform(f"augmentation/{part}", (10,)).numpy()


def some_images(count: int, channels: int = 3, size: int = 8, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    random = torch.Generator().manual_seed(count)
    return (torch.rand(count, channels, size, size, dtype=torch.float64, generator=random) * 2 - 1).to(dtype)


def uniform_of(part: str, count: int) -> Any:
    return lambda purpose, shape: draw(range(count)).uniform(f"{purpose}/{part}", shape)


kinds = st.fixed_dictionaries(
    {
        "colour": st.booleans(),
        "translation": st.sampled_from([0.0, 0.125, 0.3]),
        "cutout": st.sampled_from([0, 0.3, 0.5]),
    }
).filter(lambda tree: any(tree.values()))


@given(kinds, st.floats(0.0, 1.0), st.sampled_from([1, 2, 3]), st.sampled_from([8, 9, 16]), st.integers(0, 99))
def test_it_is_what_the_authors_code_does_to_one_image_after_the_other(tree, probability, channels, size, seed):
    spec = AugmentationSpec.model_validate({**tree, "probability": probability})
    images = some_images(5, channels, size)
    noise = Noise(seed, torch.arange(5), "update", torch.float64)
    augmented = Augmentation(spec)(images, noise.uniform, probability)
    numbers = noise.uniform("augmentation", (10,)).numpy()
    for image, ours, row in zip(images.numpy(), augmented.numpy(), numbers, strict=True):
        np.testing.assert_allclose(ours, plain(image, row, spec, probability), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_keep_their_type_and_layout_also_under_autocast(dtype):
    spec = AugmentationSpec.model_validate(ALL)
    images = some_images(64, size=16, dtype=dtype).to(memory_format=torch.channels_last)
    noise = Noise(0, torch.arange(64), "update")
    with torch.autocast("cpu", torch.bfloat16):
        augmented = Augmentation(spec)(images, noise.uniform, 0.7)
    assert augmented.dtype == dtype
    assert augmented.is_contiguous(memory_format=torch.channels_last)
    expected = [
        plain(image, row, spec, 0.7)
        for image, row in zip(
            images.double().numpy(), noise.uniform("augmentation", (10,)).double().numpy(), strict=True
        )
    ]
    tolerance = 1e-6 if dtype == torch.float32 else 0.05
    np.testing.assert_allclose(augmented.double().numpy(), np.stack(expected), rtol=0, atol=tolerance)


def test_each_kind_is_done_to_its_share_of_the_images_and_the_others_keep_every_bit():
    count, probability = 4_000, 0.3
    images = some_images(count, size=4, dtype=torch.float32)
    noise = Noise(0, torch.arange(count), "update")
    untouched = {}
    for tree in ({"colour": True}, {"translation": 0.5}, {"cutout": 0.5}):
        spec = AugmentationSpec.model_validate({**tree, "probability": probability})
        same = (Augmentation(spec)(images, noise.uniform, probability) == images).flatten(1).all(1)
        untouched[next(iter(tree))] = same
        # Of 25 translations, one is by nothing.
        expected = 1 - probability * (24 / 25 if "translation" in tree else 1)
        assert same.float().mean().item() == pytest.approx(expected, abs=0.03)
    both = (untouched["colour"] & untouched["cutout"]).float().mean().item()
    assert both == pytest.approx(0.49, abs=0.03), "each for itself"


def test_the_numbers_are_spread_as_the_authors_code_has_them():
    """Of images whose pixels say where they are and whose channels differ by a known amount."""
    count = 5_000
    noise = Noise(0, torch.arange(count), "update", torch.float64)
    place = torch.arange(64, dtype=torch.float64).view(1, 1, 8, 8).expand(count, 1, 8, 8) + 1
    moved = Augmentation(AugmentationSpec(translation=0.25))(place, noise.uniform, 1.0)[:, 0, 3, 4] - 1
    shifts = {((27 + 1 - int(m)) // 8, int(m)) for m in moved.tolist()}
    assert len({m for _, m in shifts}) == 25, "from two up and left to two down and right"
    cut = Augmentation(AugmentationSpec(cutout=0.5))(torch.ones_like(place), noise.uniform, 1.0)
    left = cut.flatten(1).sum(1)
    assert (left.min().item(), left.max().item()) == (64 - 16, 64 - 4), "whole, or a quarter of it in a corner"
    colours = torch.tensor([0.2, 0.0, -0.2], dtype=torch.float64).view(1, 3, 1, 1).expand(count, 3, 8, 8)
    painted = Augmentation(AugmentationSpec(colour=True))(colours, noise.uniform, 1.0)
    brightness = painted.mean((1, 2, 3))
    assert (brightness.min().item(), brightness.max().item()) == pytest.approx((-0.5, 0.5), abs=0.01)
    spread = (painted[:, 0] - painted[:, 2]).mean((1, 2)) / 0.4
    assert (spread.min().item(), spread.max().item()) == pytest.approx((0.0, 3.0), abs=0.1)
    assert spread.mean().item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_gradients_go_through_it(channels):
    spec = AugmentationSpec.model_validate(ALL)
    images = some_images(2, channels, 4).requires_grad_(True)

    def bent(images: torch.Tensor) -> torch.Tensor:
        return Augmentation(spec)(images, uniform_of("real", 2), 0.7).pow(3)

    assert not torch.equal(bent(images), images.pow(3))
    assert gradcheck(bent, images)
    assert gradgradcheck(bent, images)


def test_the_gradient_of_what_is_moved_out_of_the_image_is_0():
    images = some_images(2).requires_grad_(True)
    moved = translated(images, torch.tensor([3, 0]), torch.tensor([0, -8]))
    assert torch.equal(moved[1], torch.zeros_like(images[0]))
    (slopes,) = torch.autograd.grad(moved.sum(), images)
    expected = torch.ones_like(images)
    expected[0, :, 5:] = expected[1] = 0
    assert torch.equal(slopes, expected)


def test_nothing_changes_nothing():
    images = some_images(3)
    none, one = torch.zeros(3), torch.ones(3)
    assert torch.equal(coloured(images, none, one, one), images)
    assert torch.equal(translated(images, none.long(), none.long()), images)


@pytest.mark.parametrize(
    "tree",
    [{}, {**PAPER, "probability": 0.0}, {**PAPER, "probability": {"base": 0.0, "final": 0.5, "images": 9}}],
    ids=str,
)
def test_it_costs_nothing_where_it_is_off(tree):
    images = some_images(3)
    off = Augmentation(AugmentationSpec.model_validate(tree))
    assert off(images, lambda *_: pytest.fail("drawn"), off.probability(0)) is images


def test_its_probability_may_move():
    images, noise = some_images(50), Noise(0, torch.arange(50), "update", torch.float64)
    moving = Augmentation(
        AugmentationSpec.model_validate({**PAPER, "probability": {"base": 0.0, "final": 0.8, "images": 100}})
    )
    for shown, probability in ((50, 0.4), (100, 0.8), (999, 0.8)):
        fixed = Augmentation(AugmentationSpec.model_validate({**PAPER, "probability": probability}))
        moved = moving(images, noise.uniform, moving.probability(shown))
        assert torch.equal(moved, fixed(images, noise.uniform, probability))


# In a game: the reference is the authors' code as the affine map of each image that it is


def maps(part: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A and b of each slot, x ↦ Ax + b, found out with one pixel after the other."""
    spec, found = AugmentationSpec.model_validate(ALL), []
    shape = (IMAGE.channels, IMAGE.size, IMAGE.size)
    pixels = np.eye(math.prod(shape)).reshape(-1, *shape)
    for row in numbers_of(part):
        shift = plain(np.zeros(shape), row, spec, 0.7)
        columns = [(plain(pixel, row, spec, 0.7) - shift).ravel() for pixel in pixels]
        found.append((torch.from_numpy(np.stack(columns, axis=1)), torch.from_numpy(shift.ravel())))
    return found


class Seen(torch.nn.Module):
    """A plain critic of single images that sees them augmented."""

    def __init__(self, critic: torch.nn.Module, part: str) -> None:
        super().__init__()
        self.critic, self.maps = critic, maps(part)

    def judged(self, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for image, label, (matrix, shift) in zip(images, labels, self.maps, strict=True):
            seen = (matrix @ image.flatten() + shift).view_as(image)
            outputs.append(self.critic(seen[None], label[None])[0])
        return outputs

    def slopes(self, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        points = images.detach().clone().requires_grad_(True)
        outputs = self.judged(points, labels)
        return [torch.autograd.grad(o, points, create_graph=True)[0][i] for i, o in enumerate(outputs)]


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "hinge", "r1": 2.0, "r2": 3.0},
        {"kind": "relativistic", "r1": 2.0, "r2": 3.0},
        {"kind": "bce", "batches": "one", "r1": 2.0},
        {"kind": "wasserstein_gp"},
    ],
    ids=str,
)
def test_all_that_the_critic_s_side_judges_is_augmented(objective):
    """Loss and gradient, image by image: penalties are of the critic behind the augmentation, at images before it."""
    duel, real = Duel(objective, augmentation=ALL), batch()
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    fakes = duel.fakes(real.labels).detach()
    of_real, of_fake, of_between = (Seen(duel.plain_critic, part) for part in ("real", "fake", "between"))
    expected = torch.zeros((), dtype=torch.float64)
    pairs = zip(of_real.judged(real.images, real.labels), of_fake.judged(fakes, real.labels), strict=True)
    for x, g in pairs:
        expected = (
            expected
            + {
                "hinge": lambda x, g: (1 - x).clamp_min(0) + (1 + g).clamp_min(0),
                "relativistic": lambda x, g: torch.log1p(torch.exp(g - x)),
                "bce": lambda x, g: torch.log1p(torch.exp(-x)) + torch.log1p(torch.exp(g)),
                "wasserstein_gp": lambda x, g: g - x,
            }[objective["kind"]](x, g)
            / COUNT
        )
    for name, seen, points in (("r1", of_real, real.images), ("r2", of_fake, fakes)):
        for slope in seen.slopes(points, real.labels) if name in objective else ():
            expected = expected + objective[name] / 2 * slope.square().sum() / COUNT
    if objective["kind"] == "wasserstein_gp":
        epsilon = draw().uniform("epsilon", ())[:, None, None, None]
        for slope in of_between.slopes(epsilon * real.images + (1 - epsilon) * fakes, real.labels):
            expected = expected + 10.0 * ((slope.square().sum() + 1e-12).sqrt() - 1).square() / COUNT
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-11, atol=0)
    assert_same_gradients(duel.critic, duel.plain_critic)


@pytest.mark.parametrize("kind", ["hinge", "relativistic"])
def test_the_generator_s_gradient_goes_through_it(kind):
    duel, real = Duel({"kind": kind}, augmentation=ALL), batch()
    loss = duel.game.generator(real, draw())
    loss.value.backward()
    of_real, of_fake = (Seen(duel.plain_critic, part) for part in ("real", "fake"))
    with torch.no_grad():
        reals = of_real.judged(real.images, real.labels)
    fakes = of_fake.judged(duel.fakes(real.labels), real.labels)
    terms = [-g if kind == "hinge" else torch.log1p(torch.exp(x - g)) for x, g in zip(reals, fakes, strict=True)]
    expected = torch.stack(terms).mean()
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-11, atol=0)
    assert_same_gradients(duel.generator, duel.plain_generator)


def test_a_part_is_augmented_the_same_every_time_in_an_update_and_another_part_otherwise():
    duel = Duel({"kind": "wasserstein_gp", "r1": 1.0, "r2": 1.0}, augmentation={**PAPER, "translation": 0.25})
    seen: list[torch.Tensor] = []
    duel.critic.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    same = torch.ones(COUNT, 3, 8, 8, dtype=torch.float64)  # all that differs is what was done to them
    critic = duel.game.critic
    for part in ("real", "fake", "between"):
        critic.judge(duel.critic, same, batch().labels, draw(), part)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    seen.clear()
    critic(batch(), draw())
    judged, of_r1, of_r2, _ = seen
    real, fake = judged.chunk(2)
    torch.testing.assert_close(real, of_r1, rtol=0, atol=0)
    torch.testing.assert_close(fake, of_r2, rtol=0, atol=0)
    for other in ("critic/1", "generator/0"):
        judged = [critic.judge(duel.critic, same, batch().labels, noise, "fake") for noise in (draw(), _noise(other))]
        assert not torch.equal(*judged)


def _noise(update: str) -> Noise:
    return Noise(0, torch.arange(COUNT), update, torch.float64)


@pytest.mark.parametrize(
    "objective", [{"kind": "relativistic", "r1": 1.0, "r2": 2.0}, {"kind": "wasserstein_gp"}], ids=str
)
def test_ranks_average_to_the_whole_batch(objective):
    duel = Duel(objective, small_networks(dropout=0.4), ALL)
    for side, network in ((duel.game.critic, duel.critic), (duel.game.generator, duel.generator)):
        gradients = []
        for slots in (range(COUNT), [0, 3, 4], [5, 1, 2]):
            network.zero_grad(set_to_none=True)
            side(batch(slots), draw(slots)).value.backward()
            gradients.append(gradient(network))
        torch.testing.assert_close((gradients[1] + gradients[2]) / 2, gradients[0], rtol=1e-9, atol=1e-14)


def test_its_random_numbers_are_keyed_by_what_they_are_for():
    """The keys are a contract, and so is the order of what is drawn: a row of ten."""

    class Recorder(Noise):
        def uniform(self, purpose, shape=()):
            asked.append((purpose, tuple(shape)))
            return super().uniform(purpose, shape)

    duel = Duel({"kind": "relativistic", "r1": 1.0}, augmentation={"cutout": 0.5})
    asked: list[tuple[str, tuple[int, ...]]] = []
    recorder = Recorder(0, torch.arange(COUNT), "update", torch.float64)
    duel.game.critic(batch(), recorder)
    assert asked == [(f"augmentation/{part}", (10,)) for part in ("real", "fake", "real")]
    asked.clear()
    duel.game.generator(batch(), recorder)
    assert asked == [(f"augmentation/{part}", (10,)) for part in ("real", "fake")]


# Adaptive


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from([8, 8, 8, 16])), max_size=60),
    st.sampled_from([-0.3, 0.5, 0.6]),
    st.sampled_from([100, 1_000]),
    st.sampled_from([1.0, 0.3, {"base": 0.2, "final": 0.6, "images": 300}]),
)
def test_its_probability_follows_the_sign_of_the_outputs_for_real_images(held_real, target, speed, limit):
    """As training_loop.py of stylegan2-ada-pytorch has it, beside our limit: every fourth update."""
    tree = {**PAPER, "target": target, "speed_images": speed, "probability": limit}
    augmentation, expected, signs = Augmentation(AugmentationSpec.model_validate(tree)), 0.0, []
    for update, (count, batch_size) in enumerate(held_real):
        assert float(augmentation.probability(8 * update)) == pytest.approx(expected, abs=1e-12)
        augmentation.adapt(torch.tensor(2.0 * count - batch_size), batch_size, update + 1, 8 * update)
        signs += [1] * count + [-1] * (batch_size - count)
        if (update + 1) % 4 == 0:
            expected += np.sign(np.mean(signs) - target) * len(signs) / speed
            most = limit if isinstance(limit, float) else 0.4 - 0.2 * math.cos(math.pi * min(8 * update / 300, 1))
            expected, signs = min(max(expected, 0.0), most), []
            again = Augmentation(augmentation.spec)
            again.load({name: tensor.clone() for name, tensor in augmentation.tensors().items()})
            augmentation = again


def test_it_goes_from_0_to_1_within_the_images_of_its_speed():
    augmentation, update = Augmentation(AugmentationSpec.model_validate({**PAPER, "target": 0.6})), 0
    while float(augmentation.probability(0)) < 1:
        update += 1
        augmentation.adapt(torch.tensor(64.0), 64, update, 0)
    assert update * 64 == pytest.approx(500_000, abs=UPDATES * 64)


def test_an_adapting_probability_is_that_of_a_fixed_one():
    images, noise = some_images(50), Noise(0, torch.arange(50), "update", torch.float64)
    adapting = Augmentation(AugmentationSpec.model_validate({**PAPER, "target": 0.6, "speed_images": 1_000}))
    assert torch.equal(adapting(images, noise.uniform, adapting.probability(0)), images)
    for update in range(1, 4 * 7 + 1):
        adapting.adapt(torch.tensor(8.0), 8, update, 0)
    probability = float(adapting.probability(0))
    assert probability == pytest.approx(7 * 32 / 1_000)
    fixed = Augmentation(AugmentationSpec.model_validate({**PAPER, "probability": probability}))
    adapted = adapting(images, noise.uniform, adapting.probability(0))
    assert torch.equal(adapted, fixed(images, noise.uniform, probability))


FLIPPED = {"kind": "bce", "real_label": 0.1, "fake_label": 0.9}


@pytest.mark.parametrize("objective", [{"kind": "hinge"}, FLIPPED], ids=str)
def test_both_sides_share_what_adapts_and_say_how_it_is(objective):
    duel, real = Duel(objective, augmentation={**ALL, "probability": 1.0, "target": 0.6}), batch()
    assert duel.game.critic.augmentation is duel.game.generator.augmentation
    for name, tensor in duel.game.critic.augmentation.tensors().items():
        tensor.fill_(0.25 if name == "probability" else 0.0)
    figures = duel.game.critic(real, draw()).figures
    assert figures["augmentation/probability"].item() == 0.25
    fixed = Duel(objective, augmentation={**ALL, "probability": 0.25})
    others = fixed.game.critic(real, draw()).figures
    assert figures == others
    outputs = fixed.game.critic.judge(fixed.critic, *real, draw(), "real")
    signs = [-1.0 if (output > 0) == (objective is FLIPPED) else 1.0 for output in outputs.tolist()]
    assert figures["critic/sign"].item() == pytest.approx(sum(signs) / COUNT)


@pytest.mark.parametrize("kind", ["relativistic", "wasserstein_clip", "wasserstein_gp"])
def test_outputs_that_say_nothing_by_themselves_are_no_target(kind):
    with pytest.raises(InputError, match=r"augmentation\.target .* objective\.kind " + kind) as caught:
        Duel({"kind": kind}, augmentation={"cutout": 0.5, "target": 0.6})
    assert "set augmentation.probability" in str(caught.value)


def test_an_autoencoder_has_no_use_for_it():
    with pytest.raises(InputError, match=r"elbo has no critic: leave augmentation\.colour") as caught:
        Duel({"kind": "elbo"}, small_autoencoder(), {"cutout": 0.5})
    assert "augmentation.cutout" in str(caught.value)
    Duel({"kind": "elbo"}, small_autoencoder())
