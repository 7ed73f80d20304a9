from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.spec import RunSpec
from distgan.training.advice import EPOCHS, LEAST_IMAGES, SMALL, Advice
from distgan.training.complete import complete

CALM = {"loss/critic": 0.7, "loss/generator": 0.7, "critic/accuracy": 0.8, "critic/sign": 0.6}
KNOWN = {**CALM, "critic/sign": 0.97}
AUGMENTED = {"colour": True, "translation": 0.125, "cutout": 0.5}


def spec(**sections: Any) -> RunSpec:
    tree = {"name": "x", "data": {"shards": "x"}, "guard": {"grace_images": 0, "patience": 3}, **sections}
    return complete(RunSpec.model_validate(tree))


def hear(advice: Advice, *intervals: dict[str, float], images: int = 0, each: int = 1_000) -> list[tuple[int, str]]:
    """What is said, and after how many images, at log steps of so many images each."""
    said = []
    for number, figures in enumerate(intervals, start=1):
        shown = images + number * each
        said += [(shown, text) for text in advice.hear(shown, shown, figures)]
    return said


# A critic that has learnt a small set by heart


@pytest.mark.parametrize("samples", [100, 4_000, 9_000])
def test_a_critic_that_knows_its_real_images_for_epochs_is_said_once(samples):
    advice = Advice(spec(), samples)
    ((images, text),) = hear(advice, *[KNOWN] * 100)
    assert images == EPOCHS * max(samples, LEAST_IMAGES)
    for word in (f"{samples:,}", "98.5%", "augmentation.colour=true", "augmentation.target=0.6"):
        assert word in text


def test_the_settings_that_it_names_can_be_typed():
    ((_, text),) = hear(Advice(spec(), 100), *[KNOWN] * 20)
    words = [word.partition("=") for word in text.split() if word.startswith("augmentation.")]
    tree: dict[str, Any] = {path.removeprefix("augmentation."): json.loads(value) for path, _, value in words}
    assert spec(augmentation=tree).augmentation.target == 0.6


@pytest.mark.parametrize(
    ("sections", "samples", "figures"),
    [
        ({}, 1_000, {**CALM, "critic/sign": 0.94}),
        ({}, SMALL, KNOWN),
        ({"augmentation": AUGMENTED}, 1_000, KNOWN),
        ({}, 1_000, {name: value for name, value in KNOWN.items() if name != "critic/sign"}),
        ({}, 1_000, {**KNOWN, "loss/critic": math.nan}),
        ({"guard": {"grace_images": 10**6}}, 1_000, KNOWN),
    ],
    ids=["unsure", "large set", "augmented", "ranks", "diverged", "untrained"],
)
def test_other_critics_hear_nothing_of_it(sections, samples, figures):
    assert hear(Advice(spec(**sections), samples), *[figures] * 200) == []


def test_an_epoch_in_between_in_which_it_is_less_sure_counts_from_the_beginning():
    unsure = [{**CALM, "critic/sign": 0.5}] * 4
    intervals = [*[KNOWN] * 16, *unsure, *[KNOWN] * 16, *unsure]
    assert hear(Advice(spec(), 4_000), *intervals * 3) == []
    assert len(hear(Advice(spec(), 4_000), *intervals, *[KNOWN] * 20)) == 1


# Augmentation at its limit


def adapting(**options: Any) -> Advice:
    return Advice(spec(augmentation={**AUGMENTED, "target": 0.6, **options}), 500)


def test_a_probability_that_can_go_no_further_is_said_after_patience():
    there = {**CALM, "critic/sign": 0.9, "augmentation/probability": 0.9995}
    ((images, text),) = hear(adapting(), CALM | {"augmentation/probability": 0.9}, *[there] * 10)
    assert images == 4_000
    for word in ("probability 1)", "95.0%", "500", "more images", "narrower critic"):
        assert word in text
    assert "higher" not in text
    assert "colour" not in text
    ((_, text),) = hear(adapting(probability=0.5, cutout=0.0), *[{**there, "augmentation/probability": 0.5}] * 3)
    for word in ("probability 0.5)", "a higher augmentation.probability", "augmentation.cutout=0.5"):
        assert word in text


@pytest.mark.parametrize(
    ("probability", "sign"), [(0.98, 0.9), (1.0, 0.6), (0.0, 0.9)], ids=["still rising", "coming down", "beginning"]
)
def test_a_probability_that_moves_is_not_at_its_limit(probability, sign):
    assert hear(adapting(), *[{**CALM, "critic/sign": sign, "augmentation/probability": probability}] * 50) == []


# Generated images that become more alike


def diverse(*ratios: float, times: int = 40) -> list[dict[str, float]]:
    """As many log steps of each, a thousand images apart."""
    return [{**CALM, "diversity": ratio} for ratio in ratios for _ in range(times)]


def test_a_spread_that_falls_and_stays_low_is_said_once():
    ((images, text),) = hear(Advice(spec(), 40_000), *diverse(0.5, 0.9, 0.7, 0.7, 0.7, 0.6, 0.5))
    assert images == 200_000
    for word in ("70%", "90% before", "40,000 images", "training.keep_best", "augmentation.colour=true"):
        assert word in text
    ((_, text),) = hear(Advice(spec(augmentation=AUGMENTED), 1_000), *diverse(0.9, 0.6, 0.6, 0.6, times=20))
    assert "augmentation" not in text


@pytest.mark.parametrize(
    ("critic", "blind"),
    [
        ({}, True),
        ({"image_bias": 0.1}, False),
        ({"normalisation": "spectral"}, False),
        ({"name": "dcgan_keras"}, False),
    ],
    ids=str,
)
def test_a_critic_that_cannot_see_contrast_fade_is_told_of(critic, blind):
    ((_, text),) = hear(Advice(spec(model={"critic": critic}), 1_000), *diverse(0.9, 0.5, times=80))
    assert ("model.critic.image_bias=0.1" in text) == blind
    assert "what may help is more images" in text


@pytest.mark.parametrize(
    "ratios",
    [
        (0.1, 0.3, 0.5, 0.7, 0.9),
        (0.9, 0.8, 0.9, 0.75, 0.9, 0.78),
        (0.9, 0.7, 0.7, 0.9, 0.7, 0.7, 0.9),  # never three in a row
        (1.4, 1.2, 1.0, 0.9, 0.85, 0.9),  # noise that goes
    ],
)
def test_a_spread_that_rises_or_comes_back_is_none_to_speak_of(ratios):
    assert hear(Advice(spec(), 40_000), *diverse(*ratios)) == []


@given(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60), st.floats(0.81, 1.0))
def test_no_noise_about_a_steady_spread_is_taken_for_its_fall(noise, spread):
    """Means over many looks are what counts."""
    steady = [{**CALM, "diversity": spread} for _ in range(200)]
    assert hear(Advice(spec(), 1_000), *diverse(*(each / 2 for each in noise), times=1), *steady, *steady) == []


def test_a_stage_is_not_compared_with_the_one_before():
    advice = Advice(spec(), 1_000)
    assert hear(advice, *diverse(0.9, times=60)) == []
    advice.begin_stage()
    assert hear(advice, *diverse(0.3, 0.4, times=100), images=60_000) == []


def test_a_batch_of_one_image_has_no_spread():
    assert hear(Advice(spec(), 1_000), *[CALM] * 200) == []


# Penalties of a relativistic critic


def pairs(ranking: float, loss: float, penalty: float | None = None, fake: float | None = None) -> dict[str, float]:
    found = {"loss/critic": loss, "loss/generator": 0.7, "critic/ranking": ranking}
    if penalty is not None:
        found |= {"critic/penalty": penalty, "critic/penalty_fake": fake or penalty}
    return found


def relativistic(**weights: Any) -> Advice:
    options = {"kind": "relativistic", **weights}
    return Advice(spec(objective=options, model={"critic": {"normalisation": "none"}}), 500)


def test_a_critic_that_nothing_holds_is_said():
    ((images, text),) = hear(relativistic(r1=0.01, r2=0.01), *[pairs(0.995, 0.01, 0.5)] * 9)
    assert images == 3_000
    for word in ("99.5%", "objective.r1 = 0.01, objective.r2 = 0.01", "ten times as large", "optimizer.critic.lr"):
        assert word in text
    assert len(hear(relativistic(), *[pairs(0.995, 0.01)] * 9)) == 1


def test_a_critic_that_is_held_flat_is_said():
    """As measured with r1 = r2 = 1000 on grey faces of 32 pixels."""
    ((images, text),) = hear(relativistic(r1=1000.0, r2=1000.0), *[pairs(0.92, 0.6931, 1e-7)] * 9)
    assert images == 3_000
    for word in ("92.0%", "objective.r1 = 1000", "a tenth"):
        assert word in text


@pytest.mark.parametrize(
    "figures",
    [  # (ranking, loss, R1, R2) as measured: grey faces, 32 pixels, r1 = r2 = 1, then 0.001; and r1 = r2 = 0.5
        *[(0.99, 0.6701, 0.0002, 0.0), (0.8525, 0.526, 0.0196, 0.0186), (1.0, 0.2597, 0.136, 0.0164)],
        *[(0.5775, 0.6991, 0.05, 0.0413), (0.9975, 0.2064, 0.207, 0.0061), (0.995, 0.1101, 0.6551, 0.136)],
        *[(0.63, 0.6522, 0.1946, 0.1585), (0.5519, 0.6895, 0.002, 0.002), (0.7025, 0.687, 0.0016, 0.0017)],
    ],
    ids=str,
)
@pytest.mark.parametrize("weight", [0.001, 0.5, 1.0])
def test_healthy_pairs_hear_nothing(figures, weight):
    assert hear(relativistic(r1=weight, r2=weight), *[pairs(*figures)] * 50) == []


def test_weights_that_move_are_taken_as_they_are_then():
    """Of the penalties, 50 · 0.0012 after the first thousand images is no little, and nothing later."""
    falling = {"base": 100.0, "final": 0.0, "images": 2_000}
    for penalty, expected in ((0.0004, 3_000), (0.0012, 4_000)):
        ((images, _),) = hear(relativistic(r1=falling, r2=falling), *[pairs(0.995, 0.04, penalty)] * 9)
        assert images == expected


@given(st.floats(0.5, 1.0), st.floats(0.0, 5.0))
def test_a_wasserstein_critic_may_rank_as_it_likes(ranking, loss):
    advice = Advice(spec(objective={"kind": "wasserstein_gp"}, model={"critic": {"normalisation": "layer"}}), 500)
    assert hear(advice, *[pairs(ranking, loss, 0.001)] * 50) == []


figures = st.sampled_from([KNOWN, CALM, {**KNOWN, "augmentation/probability": 1.0}])


@given(st.lists(figures, max_size=60), st.integers(0, 59), st.booleans())
def test_taken_up_again_it_says_what_it_would_have_said(intervals, at, adaptive):
    make = spec(augmentation={**AUGMENTED, "target": 0.6} if adaptive else {})
    intervals = [{"augmentation/probability": 0.5, **each} for each in intervals]
    whole = hear(Advice(make, 3_000), *intervals)
    first = Advice(make, 3_000)
    said = hear(first, *intervals[:at])
    again = Advice(make, 3_000, json.loads(json.dumps(first.state())))
    assert said + hear(again, *intervals[at:], images=1_000 * len(intervals[:at])) == whole
