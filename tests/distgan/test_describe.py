from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distgan.data.conditions import LabelDistribution
from distgan.describe import Description, _Alive, describe, description_text, options, options_text, schema, to_json
from distgan.launch.local import train_locally
from distgan.networks import CRITICS, ENCODERS, GENERATORS, ImageShape, build_networks
from distgan.networks.convolutions import take_torchs_own
from distgan.objectives import OBJECTIVES, Batch, Loss
from distgan.spec import Cosine, RunSpec, load_spec
from distgan.training.complete import complete
from distgan.training.learner import Learner
from distgan.training.optimizers import OPTIMIZERS, build_optimizer
from distgan.training.workers import Workers
from jobs import recipes
from shards.errors import InputError
from tests.recipes import parameters

JOBS = [Path(__file__).parents[2] / "jobs" / f"{name}.yaml" for name in recipes()]
CPU = torch.device("cpu")


def conv(inputs: int, outputs: int, kernel: int, positions: int) -> int:
    """FLOPs of a convolution at so many places of its output, or of a transposed one at so many of its input."""
    return 2 * kernel**2 * inputs * outputs * positions


def small(**sections: object) -> RunSpec:
    """A DCGAN for 16 pixels, batch 4, without shards."""
    tree = {
        "name": "small",
        "data": {"shards": "nowhere", "image_size": 16},
        "model": {
            "generator": {"width": 3},
            "critic": {"width": 5, "normalisation": "layer"},
            "latent_dim": 7,
        },
        "training": {"batch_size": 4, "images": 100, "precision": "float32"},
    }
    return RunSpec.model_validate({**tree, **sections})


GENERATOR = [conv(7, 6, 4, 1), conv(6, 3, 4, 4**2), conv(3, 3, 4, 8**2)]
CRITIC = [conv(3, 5, 4, 8**2), conv(5, 10, 4, 4**2), conv(10, 1, 4, 1)]
"""FLOPs of each layer of the small networks, by hand."""


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.sampled_from([16, 32, 64]))
def test_flops_of_an_image_are_those_of_the_formula(generator_width, critic_width, latent_dim, size):
    spec = RunSpec.model_validate(
        {
            "name": "x",
            "data": {"shards": "nowhere", "image_size": size},
            "model": {
                "generator": {"width": generator_width},
                "critic": {"width": critic_width},
                "latent_dim": latent_dim,
            },
            "training": {"batch_size": 2},
        }
    )
    description = describe(spec)
    widths = [2**power for power in range((size // 4).bit_length() - 1)]
    generator, side, channels = conv(latent_dim, generator_width * widths[-1], 4, 1), 4, generator_width * widths[-1]
    for each in [*(generator_width * width for width in widths[-2::-1]), 3]:
        generator, side, channels = generator + conv(channels, each, 4, side**2), side * 2, each
    critic, side, channels = 0, size, 3
    for each in (critic_width * width for width in widths):
        side //= 2
        critic, channels = critic + conv(channels, each, 4, side**2), each
    assert description.generator.flops_per_image == generator
    assert description.critic.flops_per_image == critic + conv(channels, 1, 4, 1)


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


def depthwise(channels: int, places: int) -> int:
    """FLOPs of the bilinear filter at so many places of the smaller map."""
    return 2 * 4**2 * channels * places


def grouped(channels: int, width: int, places: int) -> int:
    """FLOPs of a 3×3 convolution in groups of so many channels."""
    return 2 * 3**2 * width * channels * places


BOTTLENECK = {"name": "resnet", "block": "bottleneck", "width": 4, "max_width": 8, "group_width": 2, "image_stride": 1}


@pytest.mark.parametrize("layer_gain", ["plain", "equalised"])
@pytest.mark.parametrize("resampling", ["box", "bilinear"])
def test_flops_of_grouped_and_equalised_layers_and_of_filters(layer_gain, resampling):
    """A backward pass takes twice the forward's, less the first layer's input and what filters have no weights for."""
    critic = {**BOTTLENECK, "layer_gain": layer_gain, "resampling": resampling}
    model = {"generator": {"width": 3}, "critic": critic, "latent_dim": 7}
    found = describe(small(model=model, objective={"kind": "hinge"}))
    blocks = [
        conv(channels, 2 * channels, 1, places)
        + grouped(2 * channels, 2, places)
        + conv(2 * channels, channels, 1, places)
        for channels, places in ((4, 16**2), (8, 8**2), (8, 4**2))
    ]
    first, head = conv(3, 4, 1, 16**2), 2 * 4**2 * 8 + 2 * 8
    weighted = first + sum(blocks) + conv(4, 8, 1, 8**2) + head
    filters = depthwise(4, 8**2) + depthwise(8, 4**2) if resampling == "bilinear" else 0
    assert found.critic.flops_per_image == weighted + filters
    of_update = sum(GENERATOR) + 2 * (3 * weighted - first + 2 * filters)
    assert found.step.critic_update_flops == 4 * of_update
    penalised = describe(small(model=model, objective={"kind": "hinge", "r1": 1.0}))
    # A pass, its gradient, and that gradient's; at the score, which it does not depend on, there is half of the last.
    of_penalty = 4 * weighted + 3 * filters - 2 * 8
    assert penalised.step.critic_update_flops == 4 * (of_update + of_penalty)


def test_flops_of_maps_that_change_size_within_a_convolution():
    """With 4×4 weights at stride 2: 4 of 9 products of a 3×3 convolution on the larger map."""
    model = {
        "generator": {"name": "resnet", "width": 3, "image_stride": 1},
        "critic": {"name": "resnet", "width": 3, "image_stride": 1},
        "latent_dim": 7,
    }
    found = describe(small(model=model))
    generator = 2 * 7 * 12 * 16 + conv(3, 3, 3, 16**2)
    for before, after, places in ((12, 6, 4**2), (6, 3, 8**2)):
        generator += conv(before, after, 4, places) + conv(after, after, 3, 4 * places) + conv(before, after, 1, places)
    critic = conv(3, 3, 3, 16**2) + conv(3, 3, 4, 8**2) + conv(3, 3, 1, 8**2) + 2 * 6
    for before, after, places in ((3, 6, 8**2),):
        critic += (
            conv(before, before, 3, places) + conv(before, after, 4, places // 4) + conv(before, after, 1, places // 4)
        )
    critic += 2 * conv(6, 6, 3, 4**2)
    assert found.generator.flops_per_image == generator
    assert found.critic.flops_per_image == critic


def test_layers_of_residual_blocks_are_listed():
    found = describe(small(model={"critic": {"name": "resnet", "width": 4}}))
    names = [layer.name for layer in found.critic.layers]
    assert "features.8.0.residual.1" in names
    assert "features.8.0.shortcut.1" in names
    assert sum(layer.parameters for layer in found.critic.layers) == found.critic.parameters.total


def test_flops_of_an_autoencoder():
    step = describe(small(model=AUTOENCODER, objective={"kind": "elbo"})).step
    encoder, decoder = [*CRITIC[:-1], conv(10, 2 * 7, 4, 1)], GENERATOR
    assert step.generator_updates == step.generator_update_flops == 0
    assert step.flops == 4 * (3 * sum(encoder) - encoder[0] + 3 * sum(decoder))


AUTOENCODER = {"generator": {"width": 3}, "critic": {"name": "dcgan_encoder", "width": 5}, "latent_dim": 7}
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
    with _Alive(weights) as alive:
        for _ in range(2):
            for repeat in range(min(spec.objective.n_critic, 2)):
                real = Batch(torch.zeros(4, 3, size, size, dtype=dtype), torch.zeros(4, len(names), dtype=dtype))
                held = [learner.update_critic(real, repeat), *held[1:]]
            held = [held[0], learner.update_generator(real)]
    # Under autocast, the statistics of fake normalisation layers are in bfloat16, those of real ones in float32.
    assert memory.total == pytest.approx(alive.known + alive.peak, rel=0.02)
    assert memory.weights + memory.ema == sum(tensor.nbytes for tensor in weights)
    trained = [weight for network in networks[:2] for weight in network.parameters()]
    assert memory.gradients == sum(weight.nbytes for weight in trained)
    assert memory.batch == sum(tensor.nbytes for tensor in real)
    parts = (memory.weights, memory.gradients, memory.optimizer_state, memory.ema, memory.batch)
    assert memory.total == sum(parts) + max(memory.activations.values())
    assert memory.on_cpu == memory.total + memory.unused + memory.prefetched + memory.process


def test_storages_are_followed_from_their_making_to_their_end():
    weight = torch.zeros(8, 4, requires_grad=True)
    with _Alive([weight]) as alive:
        x = torch.zeros(16, 8)  # 512 bytes
        y = x @ weight  # 256
        assert (alive.known, alive.now, alive.peak) == (128, 768, 768)
        z = y.view(-1)[3:]  # nothing new
        z = y.exp()  # 256, which its gradient needs, as that of the product needs x
        del x, y
        assert (alive.now, alive.peak) == (768, 1024)
        z.sum().backward()  # and at once: the sum, its gradient, the exponential's and the weight's
        assert alive.now == 256 + 128
        del z
        weight.grad = None
        assert alive.now == 0
    assert 1024 <= alive.peak <= 512 + 256 + 256 + 128 + 8
    assert alive.heap.peak >= 128 + 1024


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


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizers_state_is_what_it_is_after_a_step(name):
    section = {"name": name, **({"momentum": 0.5} if name == "rmsprop" else {})}
    spec = complete(small(optimizer={"generator": section, "critic": section}))
    expected = 0
    for network in build_networks(spec.model, ImageShape(3, 16), 0):
        optimizer = build_optimizer(spec.optimizer.critic, network.parameters())
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        expected += sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())
    assert describe(spec).memory.optimizer_state == expected


def test_workers_share_the_batch():
    alone, four = (describe(small(cluster={"workers": workers})) for workers in (1, 4))
    assert (alone.memory.images, four.memory.images) == (4, 1)
    assert alone.memory.batch == 4 * four.memory.batch
    assert alone.memory.weights == four.memory.weights
    assert alone.step == four.step


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


def test_micro_batches_that_cannot_be_are_refused():
    spec = small(objective={"kind": "bce", "share_fakes": True}, training={"batch_size": 4, "accumulate": 2})
    with pytest.raises(InputError, match=r"training\.accumulate is 2, but objective\.share_fakes"):
        describe(spec)


def test_tfloat32_lies_in_memory_as_float32():
    memory = {}
    for name in ("float32", "tfloat32"):
        memory[name] = describe(small(training={"batch_size": 4, "images": 100, "precision": name})).memory
    assert memory["tfloat32"] == replace(memory["float32"], precision="tfloat32")


def test_nothing_is_computed_and_no_memory_is_taken():
    spec = small(
        data={"shards": "nowhere", "image_size": 1024},
        model={"generator": {"width": 512}, "critic": {"width": 512}},
        training={"batch_size": 2**20},
    )
    assert describe(spec).memory.total > 2**50, "a pebibyte"
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(2).tolist() == [0.0, 0.0]


PUBLISHED = {  # (total, trainable) of the generator and of the critic
    "dcgan128_keras": ((4_743_555, 4_740_611), (4_340_865, 4_340_097)),  # its report's own tables
    "dcgan64": ((3_578_624, 3_576_704), (2_767_360, 2_765_568)),  # trainable: PyTorch's tutorial of the same layers
}


@pytest.mark.parametrize("name", parameters(recipes()))
def test_every_shipped_recipe_is_described(name):
    spec = load_spec(name, ["data.shards=nowhere"])
    description = describe(spec)
    for network in (description.generator, description.critic):
        assert sum(layer.parameters for layer in network.layers) == network.parameters.total
    of_all_sizes = [layer for layer in description.generator.layers if "to_image" not in layer.name]
    assert of_all_sizes[-1].output_shape == (3, spec.data.image_size, spec.data.image_size)
    assert len({layer.name for layer in description.critic.layers}) == len(description.critic.layers)
    if name in PUBLISHED:
        found = [
            (each.parameters.total, each.parameters.trainable) for each in (description.generator, description.critic)
        ]
        assert found == list(PUBLISHED[name])
    run = description.run
    epochs = spec.training.epochs
    assert (run.images_per_step, run.samples, run.epochs) == (description.step.images, None, epochs)
    assert run.steps == (None if epochs else spec.steps)
    if not description.stages:
        assert run.flops == (run.steps and run.steps * description.step.flops)


def test_layers_are_the_papers():
    """Figure 1 of the DCGAN paper, with the width of its authors' code."""
    generator = describe(load_spec(JOBS[0].with_name("dcgan64.yaml"), ["data.shards=nowhere"])).generator
    convolutions = [layer.output_shape for layer in generator.layers if layer.type == "ConvTranspose2d"]
    assert convolutions == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]


def growing(**training: object) -> RunSpec:
    """Of 32 pixels, in three stages: 10 steps of 8 images, 25 of 4, and what is left."""
    stages = [
        {"size": 8, "images": 80, "batch_size": 8},
        {"size": 16, "images": 98, "fade_images": 40},
        {"size": 32, "fade_images": 20},
    ]
    tree = {"batch_size": 4, "images": 300, "precision": "float32", "stages": stages}
    return small(
        data={"shards": "nowhere", "image_size": 32},
        model={"generator": {"width": 3}, "critic": {"width": 5, "normalisation": "layer"}, "latent_dim": 7},
        training={**tree, **training},
    )


def test_a_stage_costs_what_its_layers_do_alone():
    """Those of 16 pixels are a DCGAN of that size: its layers next to the image are twice as wide."""
    description = describe(growing())
    alone = small(
        model={"generator": {"width": 6}, "critic": {"width": 10, "normalisation": "layer"}, "latent_dim": 7},
    )
    of_8, of_16, of_32 = description.stages
    assert of_16.flops_per_image == describe(alone).step.flops_per_image
    generator = [conv(7, 12, 4, 1), conv(12, 3, 4, 4**2)]
    critic = [conv(3, 20, 4, 4**2), conv(20, 1, 4, 1)]
    g, c = sum(generator), sum(critic)
    of_critic = g + 2 * (3 * c - critic[0])
    of_generator = g + 2 * c + 2 * g - generator[0]
    assert of_8.flops_per_image == of_critic + of_generator
    full_size = describe(growing().full_size())
    assert of_32.flops_per_image == description.step.flops_per_image == full_size.step.flops_per_image
    assert [(each.first_step, each.steps, each.images) for each in description.stages] == [
        (0, 10, 80),
        (10, 25, 100),
        (35, 30, 120),
    ]
    total = sum(each.images * each.flops_per_image for each in description.stages if each.images)
    assert description.run.flops == total
    assert description.run.steps == 65
    for each in description.stages:
        assert each.share == pytest.approx((each.images or 0) * each.flops_per_image / total)
    text = description_text(description)
    assert re.search(rf"16×16 +4 +10 +100 +40 .* {of_16.share:.1%}\n", text)


def test_layers_of_all_sizes_are_listed_and_counted():
    description = describe(growing())
    for network in (description.generator, description.critic):
        assert sum(layer.parameters for layer in network.layers) == network.parameters.total
    shapes = {layer.name: layer.output_shape for layer in description.generator.layers}
    assert shapes["layers.to_image.8.0"] == (3, 8, 8)
    assert shapes["layers.to_image.16.0"] == (3, 16, 16)
    shapes = {layer.name: layer.output_shape for layer in description.critic.layers}
    assert shapes["features.from_image.8.0"] == (20, 4, 4)
    assert shapes["features.from_image.16.0"] == (10, 8, 8)


def test_memory_is_of_the_stage_that_takes_most():
    stages = [{"size": 16, "images": 80, "batch_size": 400}, {"size": 32}]
    assert describe(growing(stages=stages)).memory.images == 400
    assert describe(growing()).memory.images == 4


@pytest.mark.parametrize(
    ("length", "steps", "note"),
    [
        ({"images": 90}, [10, 3, 0], "ends in the stage of 16 pixels"),
        ({"images": 40}, [5, 0, 0], "ends in the stage of 8 pixels"),
        ({"images": None, "epochs": 2.0}, [10, 25, None], ""),
    ],
)
def test_a_run_that_ends_before_it_has_grown_or_whose_end_is_not_known(length, steps, note):
    description = describe(growing(**length))
    assert [each.steps for each in description.stages] == steps
    assert note in "\n".join(description.notes)
    assert all((each.share is None) == (description.run.flops is None) for each in description.stages)
    assert description_text(description)


def test_the_index_says_what_the_data_is(pack_discs, tiny):
    spec = tiny(
        data__shards=str(pack_discs(channels=1)),
        data__where={"class": "odd"},
        model__condition={"classes": True},
        training__precision="float32",
    )
    description = describe(spec)
    assert description.image == {"channels": 1, "size": 16}
    assert description.labels == 2
    assert description.generator.layers[-1].output_shape == (1, 16, 16)
    assert (description.run.samples, description.run.steps_per_epoch) == (25, 25 / 8)
    assert description.run.epochs == 96 / 25
    assert description.notes == []
    assert "an epoch of 25" in description_text(description)


def test_what_had_to_be_assumed_is_said():
    spec = small(model={"condition": {"attributes": ["Smiling"], "classes": True}}, training={"batch_size": 4})
    description = describe(spec)
    assert description.labels == 1
    notes = "\n".join(description.notes)
    for word in ("3 channels are assumed", "nowhere", "classes", "left out", "float32 is assumed"):
        assert word in notes
        assert word in description_text(description)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__generator__name": "dcgam"},
        {"model__critic__widht": 3},
        {"model__critic__name": "dcgan_encoder"},
        {"objective__kind": "elbo"},
        {"objective__kind": "wasserstein_gp"},  # with BatchNorm
        {"objective__r2": 1.0},
        {"objective__kind": "wasserstein_clip", "augmentation": {"colour": True, "target": 0.6}},
        {"objective__kind": "elbo", "model__critic": {"name": "dcgan_encoder"}, "augmentation": {"colour": True}},
        {"optimizer__critic__name": "sdg"},
        {"optimizer__generator__betas": [0.5, 1.0]},
        {"data__image_size": 32},
        {"data__where": {"class": "evn"}},
        {"model__condition": {"attributes": ["Smiling"]}},
        {"training__batch_size": 64},
    ],
    ids=str,
)
def test_a_wrong_specification_gets_what_training_says(tiny, tmp_path, monkeypatch, changes):
    spec = tiny(**changes)
    with pytest.raises(InputError) as described:
        describe(spec)
    with pytest.raises(InputError) as trained:
        train_locally(spec, tmp_path / "run", console=False)
    assert str(described.value) == str(trained.value)


def test_json_has_the_same_keys_for_every_specification():
    def keys(node: object) -> object:
        if isinstance(node, dict):
            return {key: keys(value) for key, value in node.items()}
        return [keys(node[0])] if isinstance(node, list) and node else None

    gan, autoencoder = (
        json.loads(to_json(describe(spec))) for spec in (small(), small(model=AUTOENCODER, objective={"kind": "elbo"}))
    )
    assert keys(gan) == keys(autoencoder)
    sections = ["name", "image", "labels", "generator", "critic", "step", "stages", "memory", "run", "notes"]
    assert list(gan) == sections
    assert list(gan["generator"]["layers"][0]) == ["name", "type", "output_shape", "parameters"]
    assert list(gan["critic"]["parameters"]) == ["total", "trainable"]


def test_people_read_round_numbers():
    text = description_text(describe(load_spec(JOBS[0].with_name("dcgan64.yaml"), ["data.shards=nowhere"])))
    for words in ("3,578,624 parameters", "209.3 MFLOP an image", "512×4×4", "39,063 steps", "MiB", "128 images"):
        assert words in text
    assert max(map(len, text.splitlines()[:-2])) <= 100


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """The fields by their paths; a number that moves is one field."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and prefix + key != "data.where" and set(value) != set(Cosine.model_fields):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_options_are_every_field_of_the_complete_specification(path):
    spec = load_spec(path)
    found = {option.path: option for option in options(spec)}
    expected = leaves(complete(spec).model_dump(mode="json"))
    assert expected.pop("model.condition") is None
    unset = {option for option in found if option.startswith(("model.condition.", "training.stages.N."))}
    assert unset == {f"model.condition.{name}" for name in ("attributes", "classes", "generator")} | {
        f"training.stages.N.{name}"
        for name in ("size", "images", "fade_images", "batch_size", "lr.generator", "lr.critic")
    }
    assert {name: option.value for name, option in found.items() if name not in unset} == expected
    assert all(found[name].value is None for name in unset)
    assert all(option.description for option in found.values())


def test_options_in_words():
    text = options_text(options(small(objective={"kind": "bce", "real_label": 0.9})))
    assert "objective.real_label: 0.9\n    The critic's target for real images." in text
    assert "optimizer.critic.schedule.warm_up_images: 0\n" in text
    assert "model.condition.classes: unset\n" in text
    assert 'objective.kind: "bce"\n    The name in the registry of distgan.objectives. One of bce, ' in text
    assert "``" not in text
    assert json.loads(to_json(options(small())))[0]["path"] == "name"


@pytest.fixture(scope="module")
def check():
    """Checks a tree against the schema, as an editor does."""
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema())
    return validator(schema())


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_schema_takes_every_shipped_specification(check, path):
    spec = load_spec(path)
    written = yaml.load(path.read_text(), Loader=_Numbers)
    for tree in (written, complete(spec).model_dump(mode="json")):
        assert [error.message for error in check.iter_errors(tree)] == []


def moving(base: float, final: float) -> dict[str, float]:
    return {"base": base, "final": final, "images": 10}


def test_the_schema_takes_numbers_that_move_each_within_its_own_bounds(check):
    tree = {
        "name": "x",
        "data": {"shards": "y"},
        "objective": {"kind": "relativistic", "r1": moving(150.0, 15.0), "r2": 2},
        "augmentation": {"cutout": 0.5, "probability": moving(0.0, 1.0)},
        "optimizer": {"critic": {"betas": [0.0, moving(0.9, 0.99)]}},
        "training": {"ema_half_life_images": moving(0, 500_000)},
    }
    assert [error.message for error in check.iter_errors(tree)] == []
    complete(RunSpec.model_validate(tree))


class _Numbers(yaml.SafeLoader):
    """2e-4 is a number, as in YAML 1.2, which editors read."""


_Numbers.yaml_implicit_resolvers = copy.deepcopy(yaml.SafeLoader.yaml_implicit_resolvers)
_Numbers.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^\d+[eE][-+]?\d+$"), list("0123456789"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": {"generator": {"name": "dcgam"}}},
        {"model": {"generator": {"name": "dcgan_keras", "activation": "relu"}}},
        {"model": {"critic": {"normalisation": "bach"}}},
        {"objective": {"kind": "hinge", "real_label": 0.9}},
        {"objective": {"penalty": 10.0}},
        {"optimizer": {"critic": {"alpha": 0.9}}},
        {"optimizer": {"critic": {"name": "rmsprop", "alpha": 1.5}}},
        {"optimizer": {"critic": {"schedule": {"kind": "square"}}}},
        {"optimizer": {"critic": {"betas": [0.0, moving(0.9, 1.0)]}}},
        {"objective": {"kind": "hinge", "r1": moving(-1.0, 1.0)}},
        {"objective": {"kind": "hinge", "r1": {"base": 1.0, "final": 2.0}}},
        {"augmentation": {"cutout": 0.5, "probability": moving(0.0, 1.5)}},
        {"training": {"ema_half_life_images": moving(0.5, 3)}},
        {"trainig": {}},
    ],
    ids=str,
)
def test_the_schema_knows_what_belongs_to_which_name(check, wrong):
    tree = {"name": "x", "data": {"shards": "y"}}
    assert check.is_valid(tree)
    assert not check.is_valid({**tree, **wrong})


def test_the_schema_names_everything_in_the_registries():
    text = json.dumps(schema())
    for name in (*GENERATORS, *CRITICS, *ENCODERS, *OBJECTIVES, *OPTIMIZERS):
        assert f'"const": "{name}"' in text
    assert schema() == schema(), "nothing is changed in place"
