from __future__ import annotations

import re

import pytest
from torch import nn

from distgan.networks import ImageShape
from distgan.networks.dcgan_keras import CriticOptions, keras_critic
from distgan.objectives import OBJECTIVES, build_game, complete_objective
from distgan.spec import ObjectiveSpec, load_spec
from shards.errors import InputError
from tests.distgan.networks.conftest import make_critic
from tests.distgan.objectives.conftest import (
    ADVERSARIAL,
    LATENT,
    PENALISED,
    dcgan_networks,
    small_autoencoder,
    small_networks,
)


def game(tree, networks):
    return build_game(ObjectiveSpec.model_validate(tree), *networks, LATENT)


def test_every_objective_is_tested():
    assert {tree["kind"] for tree in ADVERSARIAL} | {"elbo"} == set(OBJECTIVES)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_each_side_says_whom_it_trains(kind):
    sides = game({"kind": kind}, small_autoencoder() if kind == "elbo" else small_networks())
    trained = [name for side in sides if side is not None for name in side.trains]
    assert sorted(trained) == ["critic", "generator"]


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_completed_objective_has_every_option_and_is_the_same(kind):
    complete = complete_objective(ObjectiveSpec(kind=kind))
    assert set(complete.rest) == set(OBJECTIVES[kind].options.model_fields)
    assert complete_objective(complete) == complete


@pytest.mark.parametrize("tree", PENALISED, ids=str)
@pytest.mark.parametrize("critic", [None, "keras"])
def test_batchnorm_in_a_penalised_critic_is_refused(tree, critic):
    generator, judge = dcgan_networks("batch")
    if critic == "keras":
        judge = keras_critic(CriticOptions(width=2), ImageShape(3, 64), 0)
    with pytest.raises(InputError) as caught:
        game(tree, (generator, judge))
    for word in (tree["kind"], "BatchNorm", "model.critic.normalisation", "layer", "instance", "none"):
        assert word in str(caught.value)


@pytest.mark.parametrize("tree", [{"kind": "bce", "r1": 1.0}, {"kind": "wasserstein_gp"}], ids=str)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4)], ids=lambda norm: type(norm).__name__)
def test_every_kind_of_batchnorm_is_seen(tree, norm):
    generator, critic = small_networks()
    critic.features.append(norm)
    with pytest.raises(InputError, match="BatchNorm"):
        game(tree, (generator, critic))


@pytest.mark.parametrize("tree", PENALISED, ids=str)
@pytest.mark.parametrize("normalisation", ["layer", "instance", "none"])
def test_other_normalisations_may_be_penalised(tree, normalisation):
    assert game(tree, dcgan_networks(normalisation)).critic.penalised


@pytest.mark.parametrize("tree", [tree for tree in ADVERSARIAL if tree not in PENALISED], ids=str)
def test_without_a_penalty_batchnorm_may_stay(tree):
    assert not game(tree, dcgan_networks("batch")).critic.penalised


@pytest.mark.parametrize("tree", ADVERSARIAL, ids=str)
def test_an_encoder_is_no_critic(tree):
    with pytest.raises(InputError, match=r"needs a critic.* model\.critic"):
        game(tree, small_autoencoder())


def test_a_critic_is_no_encoder():
    with pytest.raises(InputError, match=r"elbo needs an encoder, such as dcgan_encoder, as model\.critic"):
        game({"kind": "elbo"}, small_networks())


def test_an_autoencoder_has_no_critic_updates_of_its_own():
    with pytest.raises(InputError, match=r"objective\.n_critic is 5, but elbo trains both networks at once: set 1"):
        game({"kind": "elbo", "n_critic": 5}, small_autoencoder())


def test_weights_that_are_divided_by_their_size_are_not_clipped():
    with pytest.raises(InputError, match=r"wasserstein_clip clips .* spectral .* set model\.critic\.normalisation to"):
        game({"kind": "wasserstein_clip"}, dcgan_networks("spectral"))
    for tree in ({"kind": "hinge"}, {"kind": "wasserstein_gp"}, {"kind": "relativistic", "r1": 1.0}):
        game(tree, dcgan_networks("spectral"))


def test_weights_that_are_multiplied_by_their_size_are_not_clipped():
    generator, _ = small_networks()
    with pytest.raises(InputError, match=r"wasserstein_clip clips .* equalised .* model\.critic\.layer_gain to plain"):
        game({"kind": "wasserstein_clip"}, (generator, make_critic("pggan", ImageShape(3, 16), width=2)))


@pytest.mark.parametrize("tree", [{"kind": "bce"}, {"kind": "wasserstein_gp", "penalty": 0.0}], ids=str)
def test_what_there_is_not_is_not_of_every_other_update(tree):
    with pytest.raises(InputError, match=r"objective\.penalty_every is 2, but there is no penalty: set objective\.r1"):
        game({**tree, "penalty_every": 2}, small_networks())


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"kind": "bse"}, ["objective.kind", "'bse'", "did you mean 'bce'"]),
        ({"kind": "wasserstein"}, ["objective.kind", "did you mean 'wasserstein_"]),
        ({"kind": "least_square"}, ["objective.kind", "did you mean 'least_squares'"]),
        ({"kind": "vampire"}, ["objective.kind", *OBJECTIVES]),
        ({"kind": "bce", "term": "sum"}, ["objective", "term", "did you mean 'terms'"]),
        ({"kind": "hinge", "terms": "mean"}, ["unknown field 'terms'", "an option of bce, not of hinge"]),
        ({"kind": "hinge", "r3": 1.0}, ["objective", "r3", "there are r1, r2"]),
        ({"kind": "hinge", "r1": "much"}, ["objective", "r1", "number"]),
        ({"kind": "hinge", "r1": -1.0}, ["objective", "r1", "greater than or equal to 0"]),
        ({"kind": "hinge", "r2": {"base": 1, "final": -1, "images": 9}}, ["objective", "'r2.final'", "greater than"]),
        ({"kind": "hinge", "r1": {"base": 1, "last": 1, "images": 9}}, ["unknown field 'r1.last'", "final"]),
        ({"kind": "wasserstein_gp", "penalty": {"base": 1}}, ["objective", "'penalty.final' is missing"]),
        (
            {"kind": "hinge", "r1": 1.0, "penalty_every": 0},
            ["objective", "penalty_every", "greater than"],
        ),
        ({"kind": "bce", "r1": 1.0, "penalty_evry": 2}, ["objective", "penalty_evry", "did you mean 'penalty_every'"]),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(tree, words):
    for check in (lambda spec: game(spec, small_networks()), lambda spec: complete_objective(ObjectiveSpec(**spec))):
        with pytest.raises(InputError) as caught:
            check(tree)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_option_of_another_objective_comes_with_what_to_type(kind):
    def complete(change):
        return complete_objective(load_spec("dcgan64", [change]).objective)

    if "terms" in OBJECTIVES[kind].options.model_fields:  # which dcgan64 sets
        assert complete(f"objective.kind={kind}").kind == kind
        return
    with pytest.raises(InputError) as caught:
        complete(f"objective.kind={kind}")
    advice = re.search(r"objective=\S+ \S+", str(caught.value))
    assert advice
    assert complete(advice[0]).kind == kind
