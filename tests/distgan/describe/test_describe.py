from __future__ import annotations

import re
from dataclasses import replace

import pytest

from distgan.describe import describe
from distgan.describe.text import description_text
from distgan.launch.local import train_locally
from distgan.spec import load_spec
from jobs import recipes
from shards.errors import InputError
from tests.recipes import parameters
from tests.small import conv, growing, small


def test_workers_share_the_batch():
    alone, four = (describe(small(cluster={"workers": workers})) for workers in (1, 4))
    assert (alone.memory.images, four.memory.images) == (4, 1)
    assert alone.memory.batch == 4 * four.memory.batch
    assert alone.memory.weights == four.memory.weights
    assert alone.step == four.step


def test_micro_batches_that_cannot_be_are_refused():
    spec = small(objective={"kind": "bce", "share_fakes": True}, training={"batch_size": 4, "accumulate": 2})
    with pytest.raises(InputError, match=r"training\.accumulate is 2, but objective\.share_fakes"):
        describe(spec)


def test_tfloat32_lies_in_memory_as_float32():
    memory = {}
    for name in ("float32", "tfloat32"):
        memory[name] = describe(small(training={"batch_size": 4, "images": 100, "precision": name})).memory
    assert memory["tfloat32"] == replace(memory["float32"], precision="tfloat32")


PUBLISHED = {  # (total, trainable) of the generator and of the critic
    "dcgan128_keras": ((4_743_555, 4_740_611), (4_340_865, 4_340_097)),  # its report's own tables
    "dcgan64": ((3_578_624, 3_576_704), (2_767_360, 2_765_568)),  # trainable: PyTorch's tutorial of the same layers
}


@pytest.mark.slow
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
