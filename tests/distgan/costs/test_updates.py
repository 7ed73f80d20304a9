from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from distgan.costs.storages import Storages
from distgan.data.conditions import LabelDistribution
from distgan.describe import describe
from distgan.describe.description import Description
from distgan.describe.text import description_text
from distgan.networks import ImageShape
from distgan.networks.convolutions import take_torchs_own
from distgan.objectives import Batch, Loss
from distgan.training.complete import complete
from distgan.training.learner import Learner
from distgan.training.workers import Workers
from tests.small import AUTOENCODER, CRITIC, GENERATOR, conv, moving, small

CPU = torch.device("cpu")


@pytest.mark.parametrize("n_critic", [1, 5])
@pytest.mark.parametrize("workers", [1, 2])
def test_flops_of_a_step_without_penalty(n_critic, workers):
    """A backward pass takes the gradient of each layer's weights and, where somebody needs it, of its input."""
    spec = small(objective={"kind": "hinge", "n_critic": n_critic}, cluster={"workers": workers})
    step = describe(spec).step
    g, c = sum(GENERATOR), sum(CRITIC)
    critic = g + 2 * (c + 2 * c - CRITIC[0])  # draw; judge real and fake, and go back: the images need no gradient
    generator = g + c + c + 2 * g - GENERATOR[0]  # draw and judge; back through the critic to the generator's weights
    assert (step.critic_update_flops, step.generator_update_flops) == (4 * critic, 4 * generator)
    assert (step.critic_updates, step.generator_updates, step.images) == (n_critic, 1, 4 * n_critic)
    assert step.flops == 4 * (n_critic * critic + generator)
    assert step.flops_per_image == step.flops / step.images


@pytest.mark.slow
@pytest.mark.parametrize("objective", [{"kind": "wasserstein_gp"}, {"kind": "bce", "r1": 1.0}])
def test_flops_of_a_penalty(objective):
    """The gradient of an image's score, and the gradient of that: of its own products and of the pass before it.

    The slope does not depend on the score, so that the way back through that pass begins below the head.
    """
    without = describe(small(objective={"kind": "bce"})).step.critic_update_flops
    c = sum(CRITIC)
    forward, gradient = c, c
    of_the_gradient = 2 * c
    of_the_forward = 2 * (c - CRITIC[-1])
    penalty = forward + gradient + of_the_gradient + of_the_forward
    assert describe(small(objective=objective)).step.critic_update_flops == without + 4 * penalty
    rising = {**objective, "r1" if "r1" in objective else "penalty": moving(0.0, 1.0)}
    assert describe(small(objective=rising)).step.critic_update_flops == without + 4 * penalty
    lazy = describe(small(objective={**objective, "penalty_every": 8}))
    assert lazy.step.critic_update_flops == without + 4 * penalty // 8
    assert lazy.memory.total == pytest.approx(describe(small(objective=objective)).memory.total, abs=16)  # a figure


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["none", "spectral"])
def test_a_penalty_costs_less_where_slopes_do_not_depend_on_outputs(normalisation):
    """Without a normalisation between, the way back through the pass itself is all zeros, and is not gone."""
    model = {"generator": {"width": 3}, "critic": {"width": 5, "normalisation": normalisation}, "latent_dim": 7}
    without, penalised = (describe(small(model=model, objective={"kind": "bce", "r1": r1})) for r1 in (0.0, 1.0))
    of_the_gradient = 2 * sum(CRITIC)
    penalty = penalised.step.critic_update_flops - without.step.critic_update_flops
    singular = 3 * sum(2 * rows * columns for rows, columns in ((5, 3 * 16), (10, 5 * 16), (1, 10 * 16)))
    expected = 4 * (2 * sum(CRITIC) + of_the_gradient)
    if normalisation == "none":
        assert penalty == expected
    else:  # and some products of matrices and vectors once a pass
        assert expected < penalty < expected + 4 * singular


def test_flops_of_an_autoencoder():
    step = describe(small(model=AUTOENCODER, objective={"kind": "elbo"})).step
    encoder, decoder = [*CRITIC[:-1], conv(10, 2 * 7, 4, 1)], GENERATOR
    assert step.generator_updates == step.generator_update_flops == 0
    assert step.flops == 4 * (3 * sum(encoder) - encoder[0] + 3 * sum(decoder))


AUGMENTED = {"colour": True, "translation": 0.125, "cutout": 0.5}
SIDES = [
    {"objective": {"kind": "bce", "batches": "one", "label_noise": 0.1}},
    {"objective": {"kind": "bce", "r1": 10.0}},
    {"objective": {"kind": "least_squares"}},
    {"objective": {"kind": "relativistic", "r1": 1.0}, "augmentation": AUGMENTED},
    {"objective": {"kind": "hinge"}, "augmentation": {**AUGMENTED, "target": 0.6}},
    {"objective": {"kind": "wasserstein_gp"}},
    {"objective": {"kind": "wasserstein_clip"}, "training": {"batch_size": 4, "precision": "bfloat16"}},
    {"objective": {"kind": "wasserstein_gp"}, "training": {"batch_size": 4, "precision": "float64"}},
    {"objective": {"kind": "elbo"}, "model": AUTOENCODER},
    {
        "model": {
            "generator": {"name": "dcgan_keras", "width": 2},
            "critic": {"name": "gan_rmsprop", "width": 2},
            "condition": {"attributes": ["Smiling", "Male"], "generator": "batchnorm"},
        },
        "data": {"shards": "nowhere", "image_size": 64},
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("sections", SIDES, ids=str)
def test_memory_is_what_real_tensors_take(sections):
    """A learner's own, of real tensors; what it keeps beside them (counts, slots) is small."""
    spec = complete(small(**sections))
    memory = describe(spec).memory
    names = tuple(getattr(spec.model.condition, "attributes", ()))
    labels = LabelDistribution.of(names, np.zeros((4, len(names)), np.int8))
    size = spec.data.image_size
    learner = Learner(spec, ImageShape(3, size), Workers.alone(CPU), labels)
    take_torchs_own(learner.generator)  # as on any device
    take_torchs_own(learner.critic)
    dtype = learner.precision.dtype
    networks = (learner.generator, learner.critic, learner._ema.network)
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    held: list[Loss | None] = []  # as the loop does
    with Storages(weights) as storages:
        for _ in range(2):
            for repeat in range(min(spec.objective.n_critic, 2)):
                real = Batch(torch.zeros(4, 3, size, size, dtype=dtype), torch.zeros(4, len(names), dtype=dtype))
                held = [learner.update_critic(real, repeat), *held[1:]]
            held = [held[0], learner.update_generator(real)]
    # Under autocast, the statistics of fake normalisation layers are in bfloat16, those of real ones in float32.
    assert memory.total == pytest.approx(storages.known + storages.peak, rel=0.02)
    assert memory.weights + memory.ema == sum(tensor.nbytes for tensor in weights)
    trained = [weight for network in networks[:2] for weight in network.parameters()]
    assert memory.gradients == sum(weight.nbytes for weight in trained)
    assert memory.batch == sum(tensor.nbytes for tensor in real)
    parts = (memory.weights, memory.gradients, memory.optimizer_state, memory.ema, memory.batch)
    assert memory.total == sum(parts) + max(memory.activations.values())
    assert memory.on_cpu == memory.total + memory.unused + memory.prefetched + memory.process


def test_activations_by_hand():
    """Two linear maps would be too easy: the small critic, normalised, on four real and four generated images."""
    spec = small(objective={"kind": "hinge"})
    fake = 4 * 3 * 16 * 16
    first, second = 4 * 5 * 8 * 8, 4 * 10 * 4 * 4
    statistics = 4 + 4  # mean and deviation of each image: one group
    judged = first + second + second + statistics  # convolved (the LeakyReLU is in place); convolved, normalised
    at_once, before = 2 * fake, 2 * fake  # both batches as one; what each side has generated last
    in_passing = 2 * (first + first)  # the gradient of what is convolved first, of the LeakyReLU's output and its input
    activations = describe(spec).memory.activations["critic"]
    kept = fake + 2 * judged + at_once + before
    assert 4 * kept < activations <= 4 * (kept + in_passing)


@pytest.mark.parametrize("workers", [1, 2])
def test_micro_batches_take_less_memory_and_the_same_flops(workers):
    def described(**training: int) -> Description:
        sizes = {"batch_size": 16, "images": 100, "precision": "float32"}
        return describe(small(training={**sizes, **training}, cluster={"workers": workers}))

    whole, parts = described(), described(accumulate=4)
    assert (parts.memory.images, parts.memory.images_at_once) == (16 // workers, 4 // workers)
    assert parts.step == replace(whole.step, micro_batches=4)
    assert "1 × critic + 1 × generator, in 4 micro-batches each, 16 images" in description_text(parts)
    assert parts.memory.batch == whole.memory.batch
    alone = described(batch_size=4)
    for side, activations in parts.memory.activations.items():
        assert alone.memory.activations[side] < activations < whole.memory.activations[side]
    assert any("BatchNorm's statistics are those of micro-batches of 4" in note for note in parts.notes)
    assert f"{16 // workers} images, {4 // workers} at a time, in float32" in description_text(parts)
    assert "at a time" not in description_text(whole)
