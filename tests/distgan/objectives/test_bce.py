from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan.objectives import build_game
from distgan.spec import ObjectiveSpec
from shards.errors import InputError
from tests.distgan.objectives.conftest import (
    COUNT,
    LATENT,
    Duel,
    assert_same_gradients,
    batch,
    dcgan_networks,
    draw,
    small_networks,
)

R4 = {
    "kind": "bce",
    "terms": "mean",
    "batches": "one",
    "real_label": 0.0,
    "fake_label": 1.0,
    "label_noise": 0.05,
}
"""`jobs/gan128_rmsprop.yaml`."""

outputs = st.lists(st.floats(-100, 100), min_size=1, max_size=5)
labels = st.floats(0, 1)


def cross_entropy(logit: float, label: float) -> float:
    """−t log σ(l) − (1 − t) log(1 − σ(l))."""
    log_sigmoid = -math.log1p(math.exp(-logit)) if logit > 0 else logit - math.log1p(math.exp(logit))
    return -label * log_sigmoid - (1 - label) * (log_sigmoid - logit)


def naive(logit: torch.Tensor, label: float | torch.Tensor) -> torch.Tensor:
    """As the paper writes it; good for small logits in float64."""
    probability = 1 / (1 + torch.exp(-logit))
    return -label * torch.log(probability) - (1 - label) * torch.log(1 - probability)


@given(outputs, outputs, labels, labels, st.sampled_from(["sum", "mean"]))
def test_the_critic_s_loss_is_the_cross_entropy(real, fake, real_label, fake_label, terms):
    if real_label == fake_label:
        return
    duel = Duel({"kind": "bce", "terms": terms, "real_label": real_label, "fake_label": fake_label})
    given_outputs = (torch.tensor(each, dtype=torch.float64) for each in (real, fake))
    value = duel.game.critic.loss(*given_outputs, draw())
    expected = sum(cross_entropy(logit, real_label) for logit in real) / len(real)
    expected += sum(cross_entropy(logit, fake_label) for logit in fake) / len(fake)
    assert value.item() == pytest.approx(expected / (2 if terms == "mean" else 1), rel=1e-12, abs=1e-12)


@given(outputs, labels, labels, st.sampled_from(["nonsaturating", "saturating"]))
def test_the_generator_s_target_is_a_hard_label(fake, real_label, fake_label, generator):
    if real_label == fake_label:
        return
    options = {"real_label": real_label, "fake_label": fake_label, "label_noise": 0.3, "generator": generator}
    value = Duel({"kind": "bce", **options}).game.generator.loss(torch.tensor(fake, dtype=torch.float64))
    real = 1 if real_label > fake_label else 0
    sign, target = (1, real) if generator == "nonsaturating" else (-1, 1 - real)
    expected = sign * sum(cross_entropy(logit, target) for logit in fake) / len(fake)
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("terms", "scale"), [("sum", 1.0), ("mean", 0.5)])
@pytest.mark.parametrize("batches", ["two", "one"])
def test_the_critic_s_loss_and_gradient_are_the_paper_s(terms, scale, batches):
    """With BatchNorm in both networks: it sees real and generated images together where they are one batch."""
    duel = Duel({"kind": "bce", "terms": terms, "batches": batches}, dcgan_networks())
    real = batch(size=16)
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    fake = duel.fakes(real.labels).detach()
    if batches == "two":
        logits = [duel.plain_critic(real.images, real.labels), duel.plain_critic(fake, real.labels)]
    else:
        together = duel.plain_critic(torch.cat([real.images, fake]), torch.cat([real.labels, real.labels]))
        logits = [together[:COUNT], together[COUNT:]]
    expected = sum(naive(logit, 1.0) for logit in logits[0]) + sum(naive(logit, 0.0) for logit in logits[1])
    expected = expected / COUNT * scale
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.critic, duel.plain_critic)
    for name, statistic in duel.plain_critic.named_buffers():
        torch.testing.assert_close(duel.critic.get_buffer(name), statistic)


@pytest.mark.parametrize("generator", ["nonsaturating", "saturating"])
@pytest.mark.parametrize("inverted", [False, True])
def test_the_generator_s_loss_and_gradient_are_the_paper_s(generator, inverted):
    labels = {"real_label": 0.2, "fake_label": 0.7} if inverted else {"real_label": 0.9}
    duel = Duel({"kind": "bce", "generator": generator, "label_noise": 0.5, **labels}, dcgan_networks())
    real = batch(size=16)
    loss = duel.game.generator(real, draw())
    loss.value.backward()
    logits = duel.plain_critic(duel.fakes(real.labels), real.labels)
    probabilities = 1 / (1 + torch.exp(logits if inverted else -logits))  # of being real
    terms = torch.log(probabilities) if generator == "nonsaturating" else -torch.log(1 - probabilities)
    expected = -sum(terms) / COUNT
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.generator, duel.plain_generator)


@pytest.mark.parametrize("batches", ["two", "one"])
def test_the_rmsprop_recipe_s_loss_is_its_source_s(batches):
    """Two vectors of labels, ones for generated and zeros for real images, each + 0.05·U, and one mean over both."""
    duel = Duel({**R4, "batches": batches})
    real = batch()
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    noise = [draw().uniform(f"label_noise/{part}", ()) for part in ("fake", "real")]
    targets = torch.cat([torch.ones(COUNT) + 0.05 * noise[0], torch.zeros(COUNT) + 0.05 * noise[1]])
    assert len(set(targets.tolist())) == 2 * COUNT
    assert targets.max() > 1  # outside of [0, 1], as in the source
    images = torch.cat([duel.fakes(real.labels).detach(), real.images])
    logits = duel.judged(images, torch.cat([real.labels, real.labels]))
    expected = sum(naive(logit, target) for logit, target in zip(logits, targets, strict=True)) / (2 * COUNT)
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=0)
    assert_same_gradients(duel.critic, duel.plain_critic)


def test_label_noise_belongs_to_the_slot():
    """∂ loss / ∂ logit = σ(l) − t shows an image's label: the same whatever other slots there are."""
    duel = Duel({"kind": "bce", "label_noise": 0.5})

    def shown(slots):
        logits = torch.zeros(2, len(slots), dtype=torch.float64, requires_grad=True)
        duel.game.critic.loss(logits[0], logits[1], draw(slots)).backward()
        return 0.5 - logits.grad * len(slots)

    whole = shown(range(COUNT))
    for slots in ([4, 1], [3], [5, 4, 3]):
        torch.testing.assert_close(shown(slots), whole[:, slots])
    noise = whole - torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    assert ((noise >= 0) & (noise < 0.5)).all()
    assert len(set(noise.flatten().tolist())) == 2 * COUNT


def test_in_two_batches_batchnorm_sees_real_images_apart_from_generated_ones():
    """Nothing else depends on it: dropout and labels are keyed by the image."""
    for objective in ({"kind": "bce"}, R4):
        losses = [
            Duel({**objective, "batches": batches}, small_networks(dropout=0.4)).game.critic(batch(), draw())
            for batches in ("two", "one")
        ]
        assert losses[0].value.item() == pytest.approx(losses[1].value.item(), rel=1e-12)
    values = {}
    for batches in ("two", "one"):
        for normalisation in ("batch", "layer"):
            duel = Duel({"kind": "bce", "batches": batches}, dcgan_networks(normalisation))
            values[batches, normalisation] = duel.game.critic(batch(size=16), draw()).value.item()
    assert values["one", "layer"] == pytest.approx(values["two", "layer"], rel=1e-12, abs=1e-12)
    assert values["one", "batch"] != pytest.approx(values["two", "batch"], rel=1e-3)


def test_an_undecided_critic_costs_what_theory_says():
    generator, critic = small_networks(labels=0)
    nn.init.zeros_(critic.head[-1].weight)
    nn.init.zeros_(critic.head[-1].bias)
    for terms, expected in (("sum", 2 * math.log(2)), ("mean", math.log(2))):
        game = build_game(ObjectiveSpec(kind="bce", terms=terms), generator, critic, LATENT)
        assert game.critic(batch(labels=0), draw()).value.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"real_label": 0.0}, ["real_label", "fake_label", "must differ"]),
        ({"real_label": 0.5, "fake_label": 0.5}, ["must differ"]),
        ({"real_label": 1.1}, ["real_label", "less than or equal to 1"]),
        ({"fake_label": -0.1}, ["fake_label", "greater than or equal to 0"]),
        ({"label_noise": -1.0}, ["label_noise", "greater than or equal to 0"]),
        ({"terms": "max"}, ["terms", "'sum' or 'mean'"]),
        ({"batches": "three"}, ["batches", "'two' or 'one'"]),
        ({"generator": "saturated"}, ["generator", "'nonsaturating' or 'saturating'"]),
        ({"label_nose": 0.1}, ["label_nose", "did you mean 'label_noise'"]),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(InputError) as caught:
        Duel({"kind": "bce", **options})
    for word in ("objective", *words):
        assert word in str(caught.value)
