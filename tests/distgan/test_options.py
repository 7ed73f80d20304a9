from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from distgan.networks import CRITICS, ENCODERS, GENERATORS
from distgan.objectives import OBJECTIVES
from distgan.options import every_option, json_schema, options_text
from distgan.spec import Cosine, RunSpec, load_spec
from distgan.training.complete import complete
from distgan.training.optimizers import OPTIMIZERS
from jobs import recipes
from tests.small import moving, small

JOBS = [Path(__file__).parents[2] / "jobs" / f"{name}.yaml" for name in recipes()]


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
    found = {option.path: option for option in every_option(spec)}
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
    text = options_text(every_option(small(objective={"kind": "bce", "real_label": 0.9})))
    assert "objective.real_label: 0.9\n    The critic's target for real images." in text
    assert "optimizer.critic.schedule.warm_up_images: 0\n" in text
    assert "model.condition.classes: unset\n" in text
    assert 'objective.kind: "bce"\n    The name in the registry of distgan.objectives. One of bce, ' in text
    assert "``" not in text
    assert every_option(small())[0].path == "name"


@pytest.fixture(scope="module")
def check():
    """Checks a tree against the schema, as an editor does."""
    validator = jsonschema.Draft202012Validator
    validator.check_schema(json_schema())
    return validator(json_schema())


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_schema_takes_every_shipped_specification(check, path):
    spec = load_spec(path)
    written = yaml.load(path.read_text(), Loader=_Numbers)
    for tree in (written, complete(spec).model_dump(mode="json")):
        assert [error.message for error in check.iter_errors(tree)] == []


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
    text = json.dumps(json_schema())
    for name in (*GENERATORS, *CRITICS, *ENCODERS, *OBJECTIVES, *OPTIMIZERS):
        assert f'"const": "{name}"' in text
    assert json_schema() == json_schema(), "nothing is changed in place"
