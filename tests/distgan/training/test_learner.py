from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from distgan.data.noise import Noise
from distgan.networks import ImageShape, build_networks
from distgan.objectives import Batch
from distgan.training.learner import Learner
from distgan.training.workers import Workers

IMAGE = ImageShape(3, 16)
CPU = torch.device("cpu")


def learner(spec) -> Learner:
    return Learner(spec, IMAGE, Workers.alone(CPU))


def real(spec, number: int, dtype: torch.dtype = torch.float64) -> Batch:
    random = torch.Generator().manual_seed(number)
    images = torch.rand(spec.training.batch_size, 3, 16, 16, dtype=torch.float64, generator=random) * 2 - 1
    return Batch(images.to(dtype), torch.zeros(len(images), 0, dtype=dtype))


@pytest.mark.parametrize(("n_critic", "shared"), [(1, False), (3, False), (1, True)])
def test_it_takes_the_steps_of_a_plain_loop(tiny, n_critic, shared):
    """A DCGAN as anybody would write it down, in float64: the same weights after four steps."""
    spec = tiny(training__precision="float64", objective={"kind": "bce", "n_critic": n_critic, "share_fakes": shared})
    ours = learner(spec)
    generator, critic = (network.double() for network in build_networks(spec.model, IMAGE, spec.seed))
    average = copy.deepcopy(generator)
    adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
    optimizer_g = torch.optim.Adam(generator.parameters(), **adam, foreach=False)
    optimizer_d = torch.optim.Adam(critic.parameters(), **adam, foreach=False)
    slots, images, update = torch.arange(8), 0, 0

    def latents(of: str) -> torch.Tensor:
        return Noise(spec.seed, slots, of, torch.float64).normal("latent", (4,))

    for step in range(4):
        for repeat in range(n_critic):
            real_batch = real(spec, update)
            ours.update_critic(real_batch, repeat)
            optimizer_d.zero_grad()
            fake = generator(latents(f"critic/{update}"))
            logits_real, logits_fake = critic(real_batch.images), critic(fake.detach())
            loss = F.binary_cross_entropy_with_logits(logits_real, torch.ones_like(logits_real))
            loss = loss + F.binary_cross_entropy_with_logits(logits_fake, torch.zeros_like(logits_fake))
            loss.backward()
            optimizer_d.step()
            images, update = images + 8, update + 1
        ours.update_generator(real_batch)
        optimizer_g.zero_grad()
        logits = critic(fake if shared else generator(latents(f"generator/{step}")))
        F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
        optimizer_g.step()
        keep = 0.5 ** (8 * n_critic / min(50, 0.05 * images))
        for mean, weight in zip(average.parameters(), generator.parameters(), strict=True):
            mean.data = keep * mean.data + (1 - keep) * weight.data

    for mine, plain in ((ours.generator, generator), (ours.critic, critic)):
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-8, atol=1e-10)
    for a, b in zip(ours.averaged_generator().parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert (ours.step, ours.images) == (4, images)


def test_what_is_lazy_and_what_moves_takes_the_steps_of_a_plain_loop(tiny):
    """Relativistic pairs, image by image, in float64; penalties at every third update, and every number moves."""
    every, n_critic = 3, 2

    def moving(base: float, final: float, images: int = 70) -> dict[str, float]:
        return {"base": base, "final": final, "images": images}

    def at(images: int, base: float, final: float, until: int = 70) -> float:
        return final + (base - final) * (1 + math.cos(math.pi * min(images / until, 1))) / 2

    adam = {"lr": 2e-4, "betas": [moving(0.0, 0.5), moving(0.9, 0.99)]}
    adam["schedule"] = {"kind": "cosine", "final": 0.25, "until_images": 70}
    spec = tiny(
        training__precision="float64",
        objective={
            **{"kind": "relativistic", "n_critic": n_critic, "penalty_every": every},
            **{"r1": moving(2.0, 0.2), "r2": moving(0.0, 3.0)},
        },
        optimizer={"generator": adam, "critic": adam},
        training__ema_half_life_images=moving(0, 500),
        training__ema_ramp_up=0.0,
        model__critic__normalisation="none",
    )
    ours = learner(spec)
    generator, critic = (network.double() for network in build_networks(spec.model, IMAGE, spec.seed))
    average = copy.deepcopy(generator)
    optimizer_g, optimizer_d = (torch.optim.Adam(each.parameters(), foreach=False) for each in (generator, critic))
    update, penalised = 0, []

    def latents(of: str) -> torch.Tensor:
        return Noise(spec.seed, torch.arange(8), of, torch.float64).normal("latent", (4,))

    def descend(optimizer: torch.optim.Adam, loss: torch.Tensor, images: int) -> None:
        optimizer.param_groups[0].update(lr=2e-4 * at(images, 1.0, 0.25))
        optimizer.param_groups[0].update(betas=(at(images, 0.0, 0.5), at(images, 0.9, 0.99)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for step in range(6):
        for repeat in range(n_critic):
            batch = real(spec, update)
            figures = ours.update_critic(batch, repeat).figures
            fake = generator(latents(f"critic/{update}")).detach()
            loss = torch.zeros((), dtype=torch.float64)
            gammas = at(8 * update, 2.0, 0.2), at(8 * update, 0.0, 3.0)
            for x, g in zip(batch.images.split(1), fake.split(1), strict=True):
                loss = loss + F.softplus(critic(g) - critic(x)).sum() / 8
                if update % every == 0:
                    for gamma, image in zip(gammas, (x, g), strict=True):
                        point = image.clone().requires_grad_(True)
                        (slope,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
                        loss = loss + every * gamma / 2 * slope.square().sum() / 8
            descend(optimizer_d, loss, 8 * update)
            penalised += [(update, "critic/penalty_fake" in figures)] if "critic/penalty" in figures else []
            update += 1
        shown = 8 * n_critic * step
        ours.update_generator(batch)
        fake = generator(latents(f"generator/{step}"))
        descend(optimizer_g, F.softplus(critic(batch.images) - critic(fake)).mean(), shown)
        keep = 0.5 ** (8 * n_critic / at(shown + 8 * n_critic, 0, 500))
        for mean, weight in zip(average.parameters(), generator.parameters(), strict=True):
            mean.data = keep * mean.data + (1 - keep) * weight.data
    assert penalised == [(0, False), (3, True), (6, True), (9, True)]
    for mine, plain in ((ours.generator, generator), (ours.critic, critic)):
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-8, atol=1e-10)
    for a, b in zip(ours.averaged_generator().parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


SINGLE = {"model__generator__normalisation": "none", "model__critic__normalisation": "none"}
"""Networks in which an image knows of no other."""
AUGMENTED = {"colour": True, "translation": 0.125, "cutout": 0.5}
GAMES: dict[str, dict[str, object]] = {
    "bce, noisy labels in one batch": {"objective": {"kind": "bce", "batches": "one", "label_noise": 0.2}},
    "hinge, R1, augmentation adapts": {
        "objective": {"kind": "hinge", "r1": 1.0},
        "augmentation": {**AUGMENTED, "target": 0.1, "speed_images": 100},
    },
    "wasserstein_gp": {"objective": {"kind": "wasserstein_gp", "drift": 0.001, "n_critic": 2}},
    "wasserstein_clip": {"objective": {"kind": "wasserstein_clip"}},
    "least_squares": {"objective": {"kind": "least_squares"}, "optimizer__critic": {"clip_norm": 0.01}},
    "relativistic, lazy penalties, spectral": {
        "objective": {"kind": "relativistic", "r1": 1.0, "r2": 0.5, "penalty_every": 2},
        "model__critic__normalisation": "spectral",
        "augmentation": {**AUGMENTED, "probability": 0.7},
    },
    "spectral on both sides": {
        "objective": {"kind": "hinge", "n_critic": 2},
        "model__generator": {"name": "resnet", "width": 2, "normalisation": "none"},
        "model__critic": {"name": "resnet", "width": 2, "normalisation": "spectral"},
    },
    "pixel norm": {"model__generator__normalisation": "pixel"},
    "elbo": {
        "objective": {"kind": "elbo"},
        "model__critic": {"name": "dcgan_encoder", "width": 2, "normalisation": "none"},
    },
    "growing": {
        "training__stages": [{"size": 8, "images": 8, "batch_size": 4}, {"size": 16, "fade_images": 24}],
        "training__keep_traces_every_images": 8,
    },
}


def gradients(trainee: Learner) -> list[torch.Tensor]:
    """Of both networks' last updates, where there were any."""
    parameters = [*trainee.generator.parameters(), *trainee.critic.parameters()]
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_take_the_steps_of_the_whole_batch(tiny, name, accumulate):
    options = {**SINGLE, "training__precision": "float64", **GAMES[name]}
    whole, parts = (growing(tiny(**options, training__accumulate=number)) for number in (1, accumulate))

    def same(found: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    for step in range(4):
        batch = real(whole.spec, step)
        pixels = F.avg_pool2d(batch.images, 16 // whole.stage.size)[: whole.stage.batch_size]
        batch = Batch(pixels, batch.labels[: len(pixels)])
        for repeat in range(whole.stage.n_critic):
            compare_losses(*(each.update_critic(batch, repeat) for each in (whole, parts)), same)
            compare_gradients(whole, parts, same)
        losses = [each.update_generator(batch) for each in (whole, parts)]
        if losses[0] is not None:
            compare_losses(*losses, same)
            compare_gradients(whole, parts, same)
        for key, norm in whole.gradient_norms().items():
            same(parts.gradient_norms()[key], norm)
    networks = zip((whole.generator, whole.critic), (parts.generator, parts.critic), strict=True)
    for one, other in (*networks, (whole.averaged_generator(), parts.averaged_generator())):
        for key, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[key], value, rtol=1e-8, atol=1e-10)
    if "target" in whole.spec.augmentation.model_fields_set:
        adapted = [each._game.critic.augmentation.tensors() for each in (whole, parts)]
        assert adapted[0]["probability"] > 0
        assert adapted[0] == adapted[1]


class Peak:
    """The most bytes that graphs have held for backward passes at once."""

    def __init__(self) -> None:
        self.held = self.most = 0

    def keep(self, tensor: torch.Tensor) -> Kept:
        return Kept(self, tensor.detach())


class Kept:
    """A tensor that a graph holds until it is done with it."""

    def __init__(self, peak: Peak, tensor: torch.Tensor) -> None:
        self.peak, self.tensor = peak, tensor
        peak.held += tensor.nbytes
        peak.most = max(peak.most, peak.held)

    def __del__(self) -> None:
        self.peak.held -= self.tensor.nbytes


@pytest.mark.parametrize("objective", [{"kind": "bce"}, {"kind": "hinge", "r1": 1.0}])
def test_micro_batches_hold_memory_for_one_at_a_time(tiny, objective):
    def most(accumulate: int) -> list[int]:
        trainee = learner(tiny(**SINGLE, objective=objective, training__accumulate=accumulate))
        batch, found = real(trainee.spec, 0, torch.float32), []
        for update in (lambda: trainee.update_critic(batch, 0), lambda: trainee.update_generator(batch)):
            peak = Peak()
            with saved_tensors_hooks(peak.keep, lambda kept: kept.tensor):
                update()
            found.append(peak.most)
        return found

    weights = sum(parameter.nbytes for net in build_networks(tiny().model, IMAGE, 0) for parameter in net.parameters())
    for whole, parts in zip(most(1), most(8), strict=True):
        assert 0 < parts < whole / 8 + weights < whole / 4


def compare_losses(whole, parts, same) -> None:
    same(parts.value, whole.value)
    assert parts.figures.keys() == whole.figures.keys()
    for key, figure in whole.figures.items():
        same(parts.figures[key], figure)
    same(parts.fake, whole.fake)


def compare_gradients(whole: Learner, parts: Learner, same) -> None:
    ours, theirs = gradients(parts), gradients(whole)
    assert ours
    for found, expected in zip(ours, theirs, strict=True):
        same(found, expected)


def test_with_batchnorm_each_micro_batch_is_normalised_alone(tiny):
    """By its own statistics, which then move the running ones; as one would write it down."""
    spec = tiny(training__precision="float64", training__accumulate=2)
    ours, batch = learner(spec), real(spec, 0)
    generator, critic = (network.double() for network in build_networks(spec.model, IMAGE, spec.seed))
    latents = Noise(spec.seed, torch.arange(8), "critic/0", torch.float64).normal("latent", (4,))
    for z, x in zip(latents.split(4), batch.images.split(4), strict=True):
        logits_real, logits_fake = critic(x), critic(generator(z).detach())
        ((F.softplus(-logits_real).sum() + F.softplus(logits_fake).sum()) / 8).backward()
    ours.update_critic(batch, 0)
    for found, expected in zip(ours.critic.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-12)
    for found, expected in zip(ours.critic.buffers(), critic.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def adaptive(tiny, **options):
    kinds = {"colour": True, "translation": 0.125, "cutout": 0.5}
    return tiny(augmentation={**kinds, "target": 0.1, "speed_images": 100}, objective__n_critic=3, **options)


def test_augmentation_adapts_to_all_real_images_of_four_updates(tiny):
    spec = adaptive(tiny)
    trainee = learner(spec)
    expected, signs, seen = 0.0, [], []
    for step in range(10):
        for repeat in range(3):
            figures = trainee.update_critic(real(spec, 3 * step + repeat, torch.float32), repeat).figures
            seen.append(expected)
            assert figures["augmentation/probability"].item() == pytest.approx(expected, abs=1e-12)
            signs.append(figures["critic/sign"].item())
            if len(signs) == 4:
                expected += math.copysign(4 * 8 / 100, sum(signs) / 4 - 0.1)
                expected, signs = min(max(expected, 0.0), 1.0), []
        trainee.update_generator(real(spec, step, torch.float32))
    assert len(set(seen)) > 3


def test_what_has_adapted_goes_on_in_the_middle_of_four_updates(tiny, tmp_path):
    spec = adaptive(tiny)
    one = learner(spec)

    def step(trainee: Learner, number: int) -> list[float]:
        figures = [trainee.update_critic(real(spec, 3 * number + i, torch.float32), i).figures for i in range(3)]
        trainee.update_generator(real(spec, number, torch.float32))
        return [figure.item() for each in figures for figure in each.values()]

    for number in range(3):  # nine updates: one after the second adaptation
        step(one, number)
    checkpoint = one.snapshot("f", None).write(tmp_path)
    assert checkpoint.tensors("augmentation")["signs"] != 0
    other = learner(spec)
    other.load(checkpoint)
    for number in range(3, 6):
        assert step(one, number) == step(other, number)
    assert torch.equal(*(each._game.critic.augmentation.tensors()["probability"] for each in (one, other)))


def test_saved_and_loaded_it_goes_on_the_same(tiny, tmp_path):
    spec = tiny()
    one = learner(spec)
    for number in range(3):
        batch = real(spec, number, torch.float32)
        one.update_critic(batch, 0)
        one.update_generator(batch)
    other = learner(spec)
    other.load(one.snapshot("f", None).write(tmp_path))
    for each in (one, other):
        batch = real(spec, 3, torch.float32)
        each.update_critic(batch, 0)
        each.update_generator(batch)
    for a, b in zip(one.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.gradient_norms() == other.gradient_norms()


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_what_was_loaded_lies_in_memory_as_what_never_ended(tiny, tmp_path, name):
    """An optimizer takes twice as long where the moments of a gradient lie otherwise than the parameters."""
    spec = tiny(optimizer={side: {"name": name} for side in ("generator", "critic")})
    one, other = learner(spec), learner(spec)
    batch = real(spec, 0, torch.float32)
    one.update_critic(batch, 0)
    one.update_generator(batch)
    other.load(one.snapshot("f", None).write(tmp_path))

    def strides(of: Learner) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for side, network in (("generator", of.generator), ("critic", of.critic), ("ema", of.averaged_generator())):
            found |= {f"{side}.{key}": tensor.stride() for key, tensor in network.state_dict().items()}
        for side, optimizer in of._optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                found |= {f"{side}.{index}.{key}": tensor.stride() for key, tensor in state.items()}
        return found

    assert strides(one) == strides(other)
    assert (32, 1, 8, 2) in strides(one).values(), "channels last"


def test_gradient_norms_are_of_the_last_update_of_each_side(tiny):
    spec = tiny(training__precision="float64")
    trainee = learner(spec)
    batch = real(spec, 0)
    trainee.update_critic(batch, 0)
    critic = torch.cat([p.grad.flatten() for p in trainee.critic.parameters()]).norm()
    trainee.update_generator(batch)
    generator = torch.cat([p.grad.flatten() for p in trainee.generator.parameters()]).norm()
    norms = trainee.gradient_norms()
    torch.testing.assert_close(norms["critic"], critic)
    torch.testing.assert_close(norms["generator"], generator)


def test_crossing_is_noticed_once(tiny):
    trainee = learner(tiny())  # 8 images a step
    crossed = []
    for step in range(1, 20):
        trainee.step = step
        if trainee.crossed(20):
            crossed.append(step)
    assert crossed == [3, 5, 8, 10, 13, 15, 18]


STAGES = [
    {"size": 8, "images": 24, "batch_size": 4, "lr": {"critic": 1e-3}},
    {"size": 16, "fade_images": 24, "lr": {"generator": 5e-4}},
]
"""Six steps of 4 images of 8 pixels; three of 8 until 16 pixels have faded in."""


def growing(spec) -> Learner:
    return Learner(spec, ImageShape.of(spec, 3), Workers.alone(CPU))


def take_steps(trainee: Learner, count: int) -> None:
    for _ in range(count):
        stage = trainee.stage
        batch = Batch(*real(trainee.spec, trainee.step, torch.float64))
        images = F.avg_pool2d(batch.images[: stage.batch_size], 16 // stage.size).to(trainee.precision.dtype)
        small = Batch(images, images.new_zeros(len(images), 0))
        for repeat in range(stage.n_critic):
            trainee.update_critic(small, repeat)
        trainee.update_generator(small)


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def test_layers_that_are_not_in_use_rest(tiny):
    """With their averages and moments: those of 16 pixels until these come, those of 8 pixels when these are gone."""
    trainee = growing(tiny(training__stages=STAGES, training__keep_traces_every_images=8))
    networks = (trainee.generator, trainee.critic, trainee.averaged_generator())

    def moved(steps: int) -> list[set[str]]:
        before = [weights(network) for network in networks]
        take_steps(trainee, steps)
        return [
            {name for name, weight in weights(network).items() if not torch.equal(weight, old[name])}
            for network, old in zip(networks, before, strict=True)
        ]

    every = [set(weights(network)) for network in networks]
    of_8 = [{name for name in names if "_image.8." in name} for names in every]
    of_16 = [
        {"layers.4.weight", "layers.5.weight", "layers.5.bias", "layers.7.weight"},
        {"features.0.weight", "features.2.weight", "features.3.weight", "features.3.bias"},
    ]
    of_16.append(of_16[0])
    assert [len(names) for names in of_8] == [1, 1, 1]
    assert moved(6) == [all_ - new for all_, new in zip(every, of_16, strict=True)]
    asked = sum(parameter.requires_grad for network in networks[:2] for parameter in network.parameters())
    assert sum(len(optimizer.state) for optimizer in trainee._optimizers.values()) == asked
    assert moved(2) == every
    take_steps(trainee, 1)  # the first one without those of 8 pixels, whose averages may still be on their way
    *trained, _ = moved(3)
    assert trained == [all_ - old for all_, old in zip(every[:2], of_8[:2], strict=True)]


def test_a_stage_has_its_batch_and_its_rates(tiny):
    trainee = growing(tiny(training__stages=STAGES, optimizer__generator={"lr": 1e-4}, optimizer__critic={"lr": 2e-4}))
    seen = []
    for _ in range(8):
        take_steps(trainee, 1)
        seen.append((trainee.images, *(trainee.learning_rates()[side] for side in ("generator", "critic"))))
    assert seen == [*((4 * n, 1e-4, 1e-3) for n in range(1, 7)), (32, 5e-4, 2e-4), (40, 5e-4, 2e-4)]


def test_one_stage_of_full_size_is_no_stage(tiny):
    one, other = growing(tiny()), growing(tiny(training__stages=[{"size": 16}]))
    for each in (one, other):
        take_steps(each, 4)
    for a, b in ((one.generator, other.generator), (one.critic, other.critic)):
        assert a.state_dict().keys() == b.state_dict().keys()
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_average_is_drawn_in_the_stage_that_it_has_learnt_in(tiny):
    """The last one of 8 pixels is no worse for the layers of 16 that are not trained yet."""
    trainee = growing(tiny(training__stages=STAGES))
    latents = torch.randn(8, 4)
    sizes = []
    for _ in range(8):
        take_steps(trainee, 1)
        images = trainee.averaged_generator()(latents)
        assert images.shape == (8, 3, 16, 16)
        sizes.append(8 if torch.equal(images, F.interpolate(images[..., ::2, ::2], 16, mode="nearest")) else 16)
    assert sizes == [8] * 6 + [16] * 2


def test_in_the_first_fades_the_generator_is_a_blend(tiny):
    """Of what its layers of either size draw, by the share of the fade's images that the step completes."""
    trainee = growing(tiny(training__stages=STAGES, training__precision="float64"))
    take_steps(trainee, 6)
    for share in (1 / 3, 2 / 3, 1.0):
        take_steps(trainee, 1)
        network, latents = trainee.generator.eval(), torch.randn(5, 4, dtype=torch.float64)
        layers = list(network.layers)
        maps = latents
        for layer in layers[:4]:
            maps = layer(maps)
        small = maps
        for layer in network.layers.to_image["8"]:
            small = layer(small)
        large = maps
        for layer in layers[4:9]:
            large = layer(large)
        blended = (1 - share) * small.repeat_interleave(2, 2).repeat_interleave(2, 3) + share * large
        torch.testing.assert_close(network(latents), blended)
        network.train()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_gpu_takes_the_cpu_s_steps(tiny, precision):
    spec = tiny(training__precision=precision)
    cpu = Learner(tiny(training__precision="float64"), IMAGE, Workers.alone(CPU))
    gpu = Learner(spec, IMAGE, Workers.alone(torch.device("cuda")))
    batch = real(spec, 0)
    for each in (cpu, gpu):
        there = Batch(*(tensor.to(each.precision.device, each.precision.dtype) for tensor in batch))
        loss = each.update_critic(there, 0)
        assert loss.value.item() == pytest.approx(2 * 0.6931, abs=0.2)
    tolerance = 1e-3 if precision == "float32" else 0.1
    assert gpu.gradient_norms()["critic"].item() == pytest.approx(cpu.gradient_norms()["critic"].item(), rel=tolerance)
