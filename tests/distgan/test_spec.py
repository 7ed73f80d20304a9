from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distgan.spec import (
    FREE_ON_RESUME,
    ConditionSpec,
    Cosine,
    DataSpec,
    Options,
    RunSpec,
    ScheduleSpec,
    SideOptimizerSpec,
    differences,
    dump_spec,
    greatest,
    load_spec,
    section_of,
    selected_options,
    value_at,
)
from jobs import recipes
from shards.errors import InputError

MINIMAL = "name: tiny\ndata: {shards: somewhere}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return path


def test_every_shipped_specification_is_valid():
    assert recipes()
    for name in recipes():
        assert load_spec(name).name == load_spec(Path(__file__).parents[2] / f"jobs/{name}.yaml").name == name


def test_a_dumped_specification_reads_back_the_same(tmp_path):
    spec = load_spec(write(tmp_path, MINIMAL), ["model.generator.width=32", "data.where={Smiling: 1}"])
    assert load_spec(write(tmp_path, dump_spec(spec))) == spec


def test_numbers_as_people_write_them(tmp_path):
    text = MINIMAL + "training: {images: 5_000_000}\noptimizer: {critic: {lr: 2e-4, clip_norm: 1E+2, clip_value: 1}}\n"
    spec = load_spec(write(tmp_path, text))
    assert spec.training.images == 5_000_000
    critic = spec.optimizer.critic
    assert (critic.lr, critic.clip_norm, critic.clip_value) == (2e-4, 100.0, 1.0)


def test_what_a_name_selects_keeps_its_own_options(tmp_path):
    text = MINIMAL + "optimizer: {critic: {name: rmsprop, lr: 1e-4, alpha: 0.9}}\nobjective: {kind: hinge, r1: 10}\n"
    spec = load_spec(write(tmp_path, text), ["model.critic.normalisation=layer"])
    assert spec.optimizer.critic.rest == {"alpha": 0.9}
    assert spec.objective.rest == {"r1": 10}
    assert spec.model.critic.rest == {"normalisation": "layer"}


def test_a_condition_is_a_section_that_may_be_absent(tmp_path):
    path = write(tmp_path, MINIMAL)
    assert load_spec(path).model.condition is None
    condition = load_spec(
        path, ["model.condition.attributes=[Smiling]", "model.condition.classes=true"]
    ).model.condition
    assert condition is not None
    assert (condition.attributes, condition.classes, condition.generator) == (["Smiling"], True, "concatenation")


WRITTEN = [
    "010",
    "no",
    "Yes",
    "1e3",
    "~",
    "null",
    "2024-01-01",
    "0x1F",
    "1_000",
    "1:30",
    ".5",
    "=",
    "-1",
    "a b",
    ".inf",
]
"""Names that YAML, left to itself, would take most of for something else."""


@pytest.mark.parametrize("name", WRITTEN)
def test_names_are_taken_as_they_are_written(tmp_path, name):
    path = write(tmp_path, MINIMAL)
    flow = write(tmp_path, f"name: tiny\ndata: {{shards: x, where: {{class: [{name}, cat], split: {name}}}}}\n")
    assert load_spec(flow).data.where == {"class": [name, "cat"], "split": name}
    where = f"    {name}: 1\n    class:\n    - {name}  # this one\n    - '{name}'\n"
    block = f"name: tiny\ndata:\n  shards: x\n  where:\n{where}"
    assert load_spec(write(tmp_path, block)).data.where == {name: 1, "class": [name, name]}
    condition = load_spec(
        write(tmp_path, MINIMAL + f"model: {{condition: {{attributes: [{name}]}}}}\n")
    ).model.condition
    assert condition is not None
    assert condition.attributes == [name]
    path = write(tmp_path, MINIMAL)
    for override in (
        f"data.where={{class: [{name}]}}",
        f"data.where.class=[{name}]",
        f"data={{shards: x, where: {{class: [{name}]}}}}",
    ):
        assert load_spec(path, [override]).data.where == {"class": [name]}
    assert load_spec(path, [f"data.where.class={name}"]).data.where == {"class": name}
    assert load_spec(path, [f"data.where={{{name}: true}}"]).data.where == {name: True}


def test_names_may_hold_anything_and_values_of_attributes_stay_what_they_are(tmp_path):
    path = write(tmp_path, MINIMAL)
    overrides = ['data.where.class=[a b, "c,d", "it\'s: [1]"]', "data.where.Male=-1", "data.where.Hat=true"]
    assert load_spec(path, overrides).data.where == {"class": ["a b", "c,d", "it's: [1]"], "Male": -1, "Hat": True}


def test_names_behind_anchors_and_merges_are_names_too(tmp_path):
    text = "name: tiny\ntraining: {images: &ten 010}\ndata: {shards: x, where: {<<: {split: no}, class: [*ten]}}\n"
    spec = load_spec(write(tmp_path, text))
    assert spec.data.where == {"split": "no", "class": ["010"]}
    assert spec.training.images == 8
    with pytest.raises(InputError, match="nested too deeply"):
        load_spec(write(tmp_path, "name: tiny\ndata: {shards: x, where: {class: &a [*a]}}\n"))


@given(st.lists(st.text(), max_size=3), st.sampled_from(WRITTEN) | st.text(), st.text(min_size=1))
def test_every_name_reads_back_the_same(tmp_path_factory, classes, attribute, shards):
    where = {attribute: -1, "class": classes, "split": ["no"]}
    spec = RunSpec.model_validate({"name": "x", "data": {"shards": shards, "where": where}})
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(dump_spec(spec), encoding="utf-8")
    assert load_spec(path) == spec


def test_a_text_that_looks_like_a_number_reads_back_as_text(tmp_path):
    spec = RunSpec(name="x", data=DataSpec(shards="1e3"))
    assert load_spec(write(tmp_path, dump_spec(spec))) == spec


def test_a_run_from_before_names_were_text_goes_on(tmp_path):
    """Its checkpoint has numbers in place of some names; its spec.yaml reads as text today."""
    before = RunSpec.model_validate_json('{"name": "x", "data": {"shards": "y", "where": {"class": [0, 2]}}}')
    path = write(tmp_path, "name: x\ndata: {shards: y, where: {class: [0, 2]}}\n")
    assert differences(before, load_spec(path)) == []
    assert differences(before, load_spec(path, ["data.where.class=[0, 02]"])) == [
        "data.where.class: ['0', '2'] -> ['0', '02']"
    ]


@given(st.floats(1e-12, 1e3))
def test_every_float_survives_an_override(tmp_path_factory, lr):
    path = write(tmp_path_factory.mktemp("spec"), MINIMAL)
    for text in (repr(lr), f"{lr:e}", f"{lr:.17g}"):
        assert load_spec(path, [f"optimizer.generator.lr={text}"]).optimizer.generator.lr == float(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: tiny\n", ["data", "missing"]),
        (MINIMAL + "trainning: {}\n", ["trainning", "did you mean 'training'"]),
        (MINIMAL + "training: {batchsize: 3}\n", ["training.batchsize", "did you mean 'batch_size'"]),
        (MINIMAL + "optimizer: {criticc: {}}\n", ["optimizer.criticc", "did you mean 'critic'"]),
        (MINIMAL + "guard: {nonfinit: warn}\n", ["guard.nonfinit", "did you mean 'nonfinite'"]),
        (MINIMAL + "guard: {exploding: rolback}\n", ["guard.exploding", "'rollback'", "'rolback'"]),
        (MINIMAL + "guard: {won_accuracy: 0.5}\n", ["guard.won_accuracy", "greater than 0.5"]),
        (MINIMAL + "optimizer: {critic: {schedule: {knd: linear}}}\n", ["schedule.knd", "did you mean 'kind'"]),
        (MINIMAL + "optimizer: {critic: {clip_norm: 0}}\n", ["optimizer.critic.clip_norm", "greater than 0"]),
        (MINIMAL + "model: {condition: {attributs: [x]}}\n", ["condition.attributs", "did you mean 'attributes'"]),
        ("name: tiny\ndata: {shards: x, limit: 0}\n", ["data.limit", "greater than or equal to 1"]),
        (MINIMAL + "tracking: {wandb: {mod: auto}}\n", ["tracking.wandb.mod", "did you mean 'mode'"]),
        (MINIMAL + "training: {batch_size: many}\n", ["training.batch_size", "integer", "'many'"]),
        (MINIMAL + "training: {batch_size: '64'}\n", ["training.batch_size", "integer", "'64'"]),
        (MINIMAL + "training: {batch_size: 0}\n", ["training.batch_size", "greater than or equal to 1"]),
        (MINIMAL + "training: {batch_size: true}\n", ["training.batch_size", "integer", "True"]),
        (MINIMAL + "training: {precision: half}\n", ["training.precision", "'float32'", "'half'"]),
        (MINIMAL + "training: {precision: fp16}\n", ["training.precision", "fp16 is not supported", "bfloat16"]),
        (MINIMAL + "training: {accumulate: 0}\n", ["training.accumulate", "greater than or equal to 1"]),
        (MINIMAL + "training: {precision: 16}\n", ["training.precision", "'float32'", "16"]),
        (MINIMAL + "training: {images: 9, epochs: 3}\n", ["'training'", "images and epochs", "give one"]),
        (MINIMAL + "training: {epochs: 0}\n", ["training.epochs", "greater than 0"]),
        (MINIMAL + "model: {latent: gaussian}\n", ["model.latent", "'uniform'", "'gaussian'"]),
        (MINIMAL + "training: 3\n", ["'training' should be a mapping of fields", "3"]),
        (MINIMAL + "seed: -1\n", ["seed"]),
        (MINIMAL + "name: twice\n", ["line 3", "'name'", "twice"]),
        ("name: ../up\ndata: {shards: x}\n", ["name", "'../up'"]),
        ("name: [\n", ["not valid YAML", "line"]),
        ("- a\n- b\n", ["mapping"]),
        ("", ["mapping"]),
        (MINIMAL + "? [a, b]\n: 1\n", ["line 3", "a key is a word"]),
        (MINIMAL + "seed: 2026-99-99\n", ["not valid YAML"]),
        (MINIMAL + "seed: !!int foo\n", ["not valid YAML"]),
        (MINIMAL + "seed: " + "[" * 5000, ["nested too deeply"]),
        (MINIMAL + "training: {ema_ramp_up: .inf}\n", ["training.ema_ramp_up", "finite"]),
        (MINIMAL + "training: {ema_half_life_images: -1}\n", ["training.ema_half_life_images'", "greater than"]),
        (MINIMAL + "training: {ema_half_life_images: [1]}\n", ["training.ema_half_life_images'", "integer", "[1]"]),
        (
            MINIMAL + "training: {ema_half_life_images: {base: -1, final: 5, images: 0}}\n",
            ["'training.ema_half_life_images.base'", "-1", "'training.ema_half_life_images.images'", "not 0"],
        ),
        (
            MINIMAL + "training: {ema_half_life_images: {bsae: 1, final: 0.5}}\n",
            [
                "training.ema_half_life_images.bsae'; did you mean 'base'",
                "'training.ema_half_life_images.final'",
                "0.5",
            ],
        ),
        (MINIMAL + "training: {ema_half_life_images: {base: 1}}\n", ["ema_half_life_images.final' is missing"]),
        (MINIMAL + "optimizer: {critic: {lr: 1e30}}\n", ["optimizer.critic.lr", "less than"]),
        (
            MINIMAL + "optimizer: {critic: {lr: {base: 1, final: 0, images: 9}}}\n",
            ["'optimizer.critic.lr': a learning rate is a number", "schedule: {kind: cosine, final: 0.25}"],
        ),
        (
            MINIMAL + "training: {stages: [{size: 64, lr: {generator: {base: 1, final: 0, images: 9}}}]}\n",
            ["'training.stages.0.lr.generator': a learning rate is a number", "schedule"],
        ),
        ("name: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
    ],
)
def test_a_wrong_specification_is_named(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_spec(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "optimizer.critic.schedule={kind: linear, hold_images: 9, until_images: 9}",
            ["'optimizer.critic.schedule'", "greater than hold_images"],
        ),
        (
            "optimizer.critic.schedule={kind: cosine, hold_images: 9, until_images: 3}",
            ["'optimizer.critic.schedule'", "a cosine schedule needs"],
        ),
        ("optimizer.critic.schedule={final: 0.1}", ["'optimizer.critic.schedule'", "final belongs to kind: cosine"]),
        ("optimizer.generator.schedule={until_images: 9}", ["'optimizer.generator.schedule'", "kind: linear"]),
        ("optimizer.generator.schedule={hold_images: 9}", ["'optimizer.generator.schedule'", "kind: linear"]),
        ("optimizer.critic.schedule={kind: inverse_time}", ["'optimizer.critic.schedule'", "decay > 0"]),
        ("optimizer.critic.schedule={decay: 0.1}", ["'optimizer.critic.schedule'", "kind: inverse_time"]),
        ("augmentation.probability=0.5", ["'augmentation'", "set colour, translation or cutout"]),
        ("augmentation={cutout: 0.5, probability: {base: 0, final: 1.5, images: 9}}", ["probability.final'", "1.5"]),
        ("augmentation.target=0.6", ["'augmentation'", "target is of what is done", "set colour"]),
        ("augmentation={colour: true, target: 1.0}", ["'augmentation.target'", "less than 1"]),
        ("augmentation={colour: true, speed_images: 9}", ["'augmentation'", "speed_images", "set target"]),
        ("augmentation={cutout: -0.5}", ["'augmentation.cutout'", "greater than or equal to 0"]),
        ("augmentation={cutout: 1.5}", ["'augmentation.cutout'", "less than or equal to 1"]),
        ("augmentation={cutout: 1.0}", ["augmentation.cutout = 1.0", "nothing of some images of 64 pixels", "0.5"]),
        ("augmentation={translation: 1}", ["augmentation.translation = 1.0", "nothing of some images", "0.125"]),
        ("augmentation={translation: 0.5, cutout: 0.5}", ["translation = 0.5", "cutout = 0.5", "nothing of some"]),
        ("augmentation={cutout: 0.001}", ["augmentation.cutout is less than half a pixel of 64", "or to 0"]),
        ("augmentation={color: true}", ["augmentation.color", "did you mean 'colour'"]),
        ("model.condition={}", ["'model.condition'", "attributes: [NAME, ...]"]),
        ("data.pyramid=true", ["data.pyramid", "training.stages"]),
        ("model.condition={attributes: [Male, Male]}", ["'model.condition'", "twice"]),
    ],
)
def test_fields_that_do_not_go_together_are_named_with_their_section(tmp_path, override, words):
    with pytest.raises(InputError) as caught:
        load_spec(write(tmp_path, MINIMAL), [override])
    for word in words:
        assert word in str(caught.value)
    assert "{'" not in str(caught.value), "what was written is not shown once more"


UNFIT_STAGES = [
    ("[{size: 16, images: 9}, {size: 64}]", ["'training.stages'", "from 16 to 64 pixels", "twice the one before"]),
    ("[{size: 64, images: 9}, {size: 64}]", ["'training.stages'", "from 64 to 64 pixels"]),
    ("[{size: 16, images: 9}, {size: 32}]", ["training.stages end at 32", "data.image_size is 64", "until the last"]),
    ("[]", ["'training.stages'", "leave it out"]),
    ("[{size: 32}, {size: 64}]", ["'training.stages'", "32 pixels does not say how long it is", "give it images"]),
    ("[{size: 32, images: 9}, {size: 64, images: 9}]", ["'training.stages'", "the last one", "training.images"]),
    ("[{size: 32, images: 9, fade_images: 3}, {size: 64}]", ["'training.stages'", "the first stage", "fade_images"]),
    (
        "[{size: 16, images: 99}, {size: 32, images: 9, fade_images: 10}, {size: 64}]",
        ["'training.stages'", "32 pixels has 9 images, and fade_images = 10", "at most as many"],
    ),
    (
        "[{size: 32, images: 9, fade_image: 3}, {size: 64}]",
        ["'training.stages.0.fade_image'", "did you mean 'fade_images'"],
    ),
    ("[{size: 32, images: 9, lr: {critc: 1e-4}}, {size: 64}]", ["'training.stages.0.lr.critc'", "'critic'"]),
    ("[{size: 32, images: 0}, {size: 64}]", ["training.stages.0.images", "greater than or equal to 1"]),
    ("{size: 32}", ["training.stages", "valid list"]),
]


def test_an_augmentation_leaves_something_of_small_images_too(tmp_path):
    """Pixels are rounded in each size: of 64 they move by 28 and lose 32, of 8 by 4 and 4."""
    of_large = "augmentation={translation: 0.44, cutout: 0.5}"
    load_spec(write(tmp_path, MINIMAL), [of_large])
    sizes = ", ".join(f"{{size: {size}, images: 9}}" for size in (8, 16, 32))
    with pytest.raises(InputError, match=r"translation = 0\.44 .* nothing of some images of 8 pixels: set them lower"):
        load_spec(write(tmp_path, MINIMAL), [of_large, f"training.stages=[{sizes}, {{size: 64}}]"])


@pytest.mark.parametrize(("stages", "words"), UNFIT_STAGES)
def test_stages_that_cannot_be_are_named(tmp_path, stages, words):
    with pytest.raises(InputError) as caught:
        load_spec(write(tmp_path, MINIMAL), [f"training.stages={stages}"])
    for word in words:
        assert word in str(caught.value)


STAGES = "training.stages=[{size: 32, images: 100, batch_size: 48}, {size: 64}]"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.accumulate=3"], ["training.batch_size = 128", "set it to 2 or 4"]),
        (["training.accumulate=256"], ["set it to 128"]),
        (["training.accumulate=64", "cluster.workers=4"], ["cluster.workers = 4", "set it to 32"]),
        (["training.accumulate=64", "cluster.workers=[1, 3]"], ["cluster.workers = 3", "set it to 32"]),
        (["training.accumulate=32", STAGES], ["training.stages.0.batch_size = 48", "set it to 16"]),
        (["training.accumulate=3", STAGES], ["training.batch_size = 128", "set it to 2 or 4"]),
    ],
)
def test_micro_batches_are_equal_and_have_an_image_for_each_worker(tmp_path, overrides, words):
    with pytest.raises(InputError) as caught:
        load_spec(write(tmp_path, MINIMAL), overrides)
    for word in [overrides[0].replace("=", " is "), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("workers", ["1", "3", "[1, 7]", "8"])
def test_micro_batches_are_dealt_with_by_any_number_of_workers(tmp_path, workers):
    overrides = ["training.accumulate=16", f"cluster.workers={workers}"]
    assert load_spec(write(tmp_path, MINIMAL), overrides).training.accumulate == 16


def test_a_number_of_micro_batches_is_free_unless_it_is_bound(tmp_path):
    one, other = (load_spec(write(tmp_path, MINIMAL), [f"training.accumulate={n}"]) for n in (1, 4))
    assert differences(one, other) == []
    assert differences(one, other, ("training.accumulate",)) == ["training.accumulate: 1 -> 4"]


def test_each_stage_s_batch_has_an_image_for_each_worker(tmp_path):
    stages = "training.stages=[{size: 16, images: 9, batch_size: 6}, {size: 32, images: 9}, {size: 64, batch_size: 3}]"
    spec = load_spec(write(tmp_path, MINIMAL), [stages])
    assert spec.batch_sizes == {
        "training.stages.0.batch_size": 6,
        "training.batch_size": 128,
        "training.stages.2.batch_size": 3,
    }
    with pytest.raises(InputError, match=r"training\.stages\.2\.batch_size is 3, too few for cluster\.workers = 4"):
        load_spec(write(tmp_path, MINIMAL), [stages, "cluster.workers=4"])
    with pytest.raises(InputError, match=r"training\.batch_size is 1, too few for cluster\.workers = 2"):
        load_spec(write(tmp_path, MINIMAL), ["training.batch_size=1", "cluster.workers=2"])


def test_stages_read_back_the_same_and_make_a_timetable(tmp_path):
    stages = "[{size: 32, images: 100, batch_size: 6, lr: {critic: 1e-4}}, {size: 64, fade_images: 30}]"
    overrides = [f"training.stages={stages}", "objective.n_critic=2", "training={batch_size: 8, images: 300}"]
    spec = load_spec(write(tmp_path, MINIMAL), overrides[::-1])
    assert load_spec(write(tmp_path, dump_spec(spec))) == spec
    small, large = spec.timetable.stages
    assert (small.size, small.batch_size, small.images_per_step, dict(small.learning_rates)) == (
        *(32, 6, 12),
        {"critic": 1e-4},
    )
    assert (large.size, large.batch_size, large.first_step, large.first_image) == (64, 8, 9, 108)
    assert spec.steps == 9 + 12
    assert spec.cut_short is None
    assert "of 32 pixels" in str(spec.with_training(images=100).cut_short)
    assert "of 64 pixels" in str(spec.with_training(images=109).cut_short)
    alone = spec.full_size()
    assert (alone.training.stages, alone.training.batch_size, alone.steps) == (None, 8, 19)


class Own(Options):
    alpha: float = 0.9


class Other(Options):
    beta: float = 0.9
    alpha: float = 0.9


class Entry(NamedTuple):
    options: type[Options]


def test_a_hint_knows_the_fields_that_are_declared_elsewhere():
    registry = {"own": Entry(Own)}
    for wrong, meant in (("alfa", "alpha"), ("clipnorm", "clip_norm")):
        section = SideOptimizerSpec.model_validate({"name": "own", wrong: 1.0})
        with pytest.raises(InputError, match=f"optimizer.critic: unknown field '{wrong}'; did you mean '{meant}'"):
            selected_options(section, registry, "optimizer.critic")


def test_an_option_of_what_was_not_selected_is_known_for_it():
    registry = {"own": Entry(Own), "other": Entry(Other), "third": Entry(Other)}
    section = SideOptimizerSpec.model_validate({"name": "own", "alpha": 0.5, "beta": 1.0, "lr": 1.0})
    words = (
        r"'beta'; it is an option of other, third, not of own, which has alpha: leave it out, or give "
        r"optimizer\.critic={name: own} on"
    )
    with pytest.raises(InputError, match=words) as caught:
        selected_options(section, registry, "optimizer.critic")
    assert str(caught.value).count("unknown field") == 1
    section = SideOptimizerSpec.model_validate({"name": "own", "alpha": 0.5})
    assert selected_options(section, registry, "optimizer.critic") == Own(alpha=0.5)


def test_all_wrong_fields_are_named_at_once(tmp_path):
    with pytest.raises(InputError, match=r"(?s)training\.batch_size.*training\.imagse"):
        load_spec(write(tmp_path, MINIMAL + "training: {batch_size: 0, imagse: 3}\n"))


@pytest.mark.parametrize("override", ["training", "=3", "training..images=3", "name.first=a", "training.images=["])
def test_a_wrong_override_is_named(tmp_path, override):
    with pytest.raises(InputError) as caught:
        load_spec(write(tmp_path, MINIMAL), [override])
    assert override in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_spec(tmp_path / "nowhere.yaml")


def test_an_override_reaches_below_an_empty_section(tmp_path):
    path = write(tmp_path, MINIMAL + "training:\n")
    assert load_spec(path, ["training.images=7"]).training.images == 7


def test_what_would_change_the_numbers_is_named_and_the_rest_is_free(tmp_path):
    path = write(tmp_path, MINIMAL)
    before = load_spec(path)
    free = [
        "name=other",
        "training.keep_last=7",
        "tracking.log_every=1",
        "guard.nonfinite=rollback",
        "guard.rollback_lr=0.1",
        "tracking.sample_scale=0.5",
        "data.shards=moved",
        "data.cache=c",
        "training.epochs=3",
        "training.keep_generator_every_images=8",
    ]
    assert differences(before, load_spec(path, free)) == []
    binding = ["seed=1", "model.generator.width=8", "training.batch_size=3", "data.limit=9"]
    binding += ["optimizer.critic.clip_norm=1", "optimizer.critic.schedule.warm_up_images=5", "augmentation.cutout=0.5"]
    assert differences(before, load_spec(path, binding)) == [
        "seed: 0 -> 1",
        "data.limit: None -> 9",
        "augmentation.cutout: 0.0 -> 0.5",
        "optimizer.critic.schedule.warm_up_images: 0 -> 5",
        "optimizer.critic.clip_norm: None -> 1.0",
        "training.batch_size: 128 -> 3",
        "model.generator.width: unset -> 8",
    ]
    conditioned = load_spec(path, ["model.condition.attributes=[Smiling]"])
    assert any(line.startswith("model.condition.attributes") for line in differences(before, conditioned))


def test_the_free_fields_exist():
    tree = RunSpec(name="x", data=DataSpec(shards="y")).model_dump()
    for field in FREE_ON_RESUME:
        section, _, name = field.partition(".")
        assert name in tree[section] if name else section in tree


def test_every_field_is_documented():
    def sections(model):
        yield model
        for field in model.model_fields.values():
            inner = section_of(field.annotation)
            if inner is not None:
                yield from sections(inner)

    assert {ConditionSpec, ScheduleSpec} <= set(sections(RunSpec))
    for model in sections(RunSpec):
        assert all(field.description for field in model.model_fields.values()), model


@given(st.integers(1, 10_000), st.integers(1, 64), st.integers(1, 5))
def test_the_steps_cover_the_images(images, batch_size, n_critic):
    tree = {
        "name": "x",
        "data": {"shards": "y"},
        "training": {"images": images, "batch_size": batch_size},
        "objective": {"n_critic": n_critic},
    }
    spec = RunSpec.model_validate(tree)
    per_step = batch_size * n_critic
    assert (spec.steps - 1) * per_step < images <= spec.steps * per_step


@pytest.mark.parametrize(
    ("written", "name"), [("fp32", "float32"), ("tf32", "tfloat32"), ("bf16", "bfloat16"), ("fp64", "float64")]
)
def test_precisions_are_known_by_what_people_write(tmp_path, written, name):
    path = write(tmp_path, MINIMAL)
    assert load_spec(path, [f"training.precision={written}"]).training.precision == name
    assert differences(load_spec(path, [f"training.precision={name}"]), load_spec(path)) != []


def test_an_override_of_the_run_s_length_takes_the_place_of_the_file_s(tmp_path):
    in_images, in_epochs = MINIMAL + "training: {images: 9}\n", MINIMAL + "training: {epochs: 2}\n"
    for text in (MINIMAL, in_images, in_epochs):
        path = write(tmp_path, text)
        for override, expected in (("images=5", (5, None)), ("epochs=1.5", (None, 1.5))):
            training = load_spec(path, [f"training.{override}", "seed=1"]).training
            assert (training.images, training.epochs) == expected
        with pytest.raises(InputError, match="give one of them"):
            load_spec(path, ["training.images=5", "training.epochs=3"])
        spec = load_spec(path)
        assert load_spec(write(tmp_path, dump_spec(spec))) == spec
    assert load_spec(write(tmp_path, MINIMAL)).training.images == 5_000_000


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_epochs_are_whole_passes_and_decimal_fractions_of_them(samples, thousandths):
    spec = RunSpec.model_validate({"name": "x", "data": {"shards": "y"}, "training": {"epochs": thousandths / 1000}})
    images = spec.in_images(samples).training.images
    assert images == -(-thousandths * samples // 1000)
    assert spec.in_images(samples).in_images(5) == spec.in_images(samples)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("length", [{"images": 400}, {"epochs": 4}])
def test_a_rate_falls_until_the_run_ends_unless_it_says_until_when(kind, length):
    schedules = {"generator": {"kind": kind, "hold_images": 399}, "critic": {"kind": kind, "until_images": 7}}
    optimizer = {side: {"schedule": schedule} for side, schedule in schedules.items()}
    tree = {"name": "x", "data": {"shards": "y"}, "optimizer": optimizer, "training": length}
    spec = RunSpec.model_validate(tree).in_images(100)
    assert spec.optimizer.generator.schedule.until_images == 400
    assert spec.optimizer.critic.schedule.until_images == 7
    assert spec.in_images(5) == spec
    tree["optimizer"]["generator"]["schedule"]["hold_images"] = 400
    with pytest.raises(InputError, match=r"generator\.schedule holds .* 400 images, and the run ends at 400"):
        RunSpec.model_validate(tree).in_images(100)


finite = st.floats(-1e6, 1e6)


@given(finite, finite, st.integers(1, 10**9), st.integers(0, 2 * 10**9))
def test_a_number_that_moves_follows_half_a_cosine_and_stays(base, final, length, images):
    number = Cosine[float](base=base, final=final, images=length)
    progress = min(images / length, 1.0)
    expected = final + 0.5 * (base - final) * (1 + math.cos(math.pi * progress))
    assert value_at(number, images) == pytest.approx(expected, rel=1e-12, abs=1e-9)
    assert value_at(number, 0) == pytest.approx(base, rel=1e-12, abs=1e-9)
    assert value_at(number, length + images) == final
    assert min(base, final) - 1e-9 <= value_at(number, images) <= greatest(number) + 1e-9
    values = [value_at(number, length * part // 16) for part in range(17)]
    assert all((after - before) * (final - base) >= 0 for before, after in pairwise(values))
    assert value_at(base, images) == greatest(base) == base


def test_numbers_that_move_read_back_the_same_and_are_no_other_s(tmp_path):
    path = write(tmp_path, MINIMAL)
    overrides = [
        "training.ema_half_life_images={base: 0, final: 500_000, images: 10_000_000}",
        "objective={kind: hinge, r1: {base: 2, final: 0.2, images: 1e7}}",
        "optimizer.critic.betas=[0, {base: 0.9, final: 0.99, images: 10_000_000}]",
    ]
    spec = load_spec(path, overrides)
    assert value_at(spec.training.ema_half_life_images, 5_000_000) == 250_000
    assert load_spec(write(tmp_path, dump_spec(spec))) == spec
    other = load_spec(write(tmp_path, MINIMAL), ["training.ema_half_life_images=500_000", *overrides[1:]])
    assert differences(spec, other) == [
        "training.ema_half_life_images.base: 0 -> unset",
        "training.ema_half_life_images.final: 500000 -> unset",
        "training.ema_half_life_images.images: 10000000 -> unset",
        "training.ema_half_life_images: unset -> 500000",
    ]


def test_the_schema_is_plain_yaml():
    yaml.safe_dump(RunSpec.model_json_schema())


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ("0", "cluster.workers"),
        ("[4, 2]", r"should be \[fewest, most\], not \[4, 2\]"),
        ("[1, 2, 3]", "cluster.workers"),
        ("129", "batch_size is 128, too few for cluster.workers = 129"),
        ("[1, 129]", "too few"),
    ],
)
def test_numbers_of_workers_that_cannot_be_are_refused(tmp_path, workers, message):
    (tmp_path / "spec.yaml").write_text("name: x\ndata: {shards: x}\n")
    with pytest.raises(InputError, match=message):
        load_spec(tmp_path / "spec.yaml", [f"cluster.workers={workers}"])


def test_workers_are_a_number_or_the_fewest_and_the_most(tmp_path):
    (tmp_path / "spec.yaml").write_text("name: x\ndata: {shards: x}\n")
    for text, workers, most in (("128", 128, 128), ("[1, 8]", (1, 8), 8)):
        spec = load_spec(tmp_path / "spec.yaml", [f"cluster.workers={text}"])
        assert (spec.cluster.workers, spec.cluster.most_workers) == (workers, most)
        (tmp_path / "again.yaml").write_text(dump_spec(spec))
        assert load_spec(tmp_path / "again.yaml") == spec
