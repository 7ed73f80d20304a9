from __future__ import annotations

import pytest

from distgan.spec import RunSpec, load_spec
from distgan.tracking import recipes as shipped
from distgan.tracking.recipes import Departure, departure
from distgan.training.complete import complete
from jobs import recipes


def begun(name: str, *changes: str, samples: int = 1000) -> RunSpec:
    """The specification that a run writes down."""
    spec = complete(load_spec(name, changes)).in_images(samples)
    return spec.with_training(precision="float32")


def rows(spec: RunSpec, samples: int | None = 1000) -> dict[str, tuple[str, str]]:
    found = departure(spec, complete, samples)
    assert isinstance(found, Departure)
    return {field: (recipe, own) for field, recipe, own in found.rows}


@pytest.mark.parametrize("name", recipes())
def test_a_run_of_a_recipe_departs_from_it_in_nothing(name):
    """Not in how long it is, be it in epochs, nor in a learning rate that falls until then, nor where the data lies."""
    spec = begun(name, "data.shards=elsewhere", "cluster.workers=2", "tracking.wandb.mode=disabled")
    found = departure(spec, complete, 1000)
    assert found == Departure(spec.name, by_name=True, rows=[])


def test_what_it_does_otherwise_is_named_with_both_values():
    spec = begun("dcgan64", "training.batch_size=32", "optimizer.critic.eps=1e-6", "objective={kind: hinge}", "seed=5")
    found = rows(spec)
    assert found["training.batch_size"] == ("128", "32")
    assert found["optimizer.critic.eps"] == ("1.0e-08", "1.0e-06")  # which the recipe leaves to Adam
    assert found["objective.kind"] == ("bce", "hinge")
    assert found["seed"] == ("0", "5")
    assert "model.latent_dim" not in found


def test_a_run_of_another_name_is_compared_with_what_it_is_most_like():
    spec = begun("wgan_gp64", "training.batch_size=32").model_copy(update={"name": "mine"})
    assert departure(spec, complete, 1000) == Departure(
        "wgan_gp64", by_name=False, rows=[("training.batch_size", "64", "32")]
    )


def test_a_file_of_a_recipe_s_name_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "dcgan64").write_text("name: [")
    spec = begun("dcgan64", "training.batch_size=32")
    monkeypatch.chdir(tmp_path)
    shipped._shipped.cache_clear()
    assert rows(spec) == {"training.batch_size": ("128", "32")}


def test_without_the_size_of_the_set_epochs_stay_epochs():
    name = next(name for name in recipes() if load_spec(name).training.images is None)
    found = rows(begun(name), None)
    assert found["training.epochs"][1] == "–"
    assert found["training.images"][0] == "–"


def test_options_that_this_version_does_not_know_are_said():
    spec = load_spec("dcgan64", ["model.generator.depth=7"])
    assert "model.generator: unknown field 'depth'" in str(departure(spec, complete, None))
