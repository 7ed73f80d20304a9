"""What holds for every adversarial objective, and the R1 penalty."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from distgan.data.noise import Noise
from distgan.objectives import build_game
from distgan.spec import ObjectiveSpec
from shards.errors import InputError
from tests.distgan.objectives.conftest import (
    ADVERSARIAL,
    COUNT,
    LATENT,
    PENALISED,
    Duel,
    assert_same_gradients,
    batch,
    dcgan_networks,
    draw,
    gradient,
    small_networks,
)

WITH_R1 = [tree for tree in PENALISED if tree.get("r1")]
R1_NETWORKS = {
    "smooth": (small_networks, 8),
    "layer": (lambda: dcgan_networks("layer"), 16),
    "instance": (lambda: dcgan_networks("instance"), 16),
    "none": (lambda: dcgan_networks("none"), 16),
}


def named(tree):
    return " ".join(str(value) for value in tree.values()) if isinstance(tree, dict) else None


every_objective = pytest.mark.parametrize("objective", ADVERSARIAL, ids=named)


@every_objective
def test_each_side_leaves_gradients_on_its_own_network_alone(objective):
    duel = Duel(objective)
    duel.game.critic(batch(), draw()).value.backward()
    assert gradient(duel.critic).abs().max() > 0
    assert all(parameter.grad is None for parameter in duel.generator.parameters())
    duel.critic.zero_grad(set_to_none=True)
    duel.game.generator(batch(), draw()).value.backward()
    assert gradient(duel.generator).abs().max() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in duel.critic.parameters())


@pytest.mark.parametrize(
    "critic",
    [{"normalisation": name} for name in ("batch", "layer", "instance", "none")] + [{"minibatch_stddev": True}],
    ids=named,
)
def test_real_and_generated_images_are_batches_of_their_own_in_one_pass(critic):
    """Outputs, gradient and running statistics are those of two passes, the real images' first."""
    duel = Duel({"kind": "hinge"}, dcgan_networks(**critic))
    calls: list[int] = []
    duel.critic.register_forward_hook(lambda *_: calls.append(1))
    real = batch(size=16)
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    assert len(calls) == 1
    fake = loss.fake
    of_real, of_fake = (duel.plain_critic(images, real.labels) for images in (real.images, fake))
    expected = torch.relu(1 - of_real).mean() + torch.relu(1 + of_fake).mean()
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(duel.critic), gradient(duel.plain_critic), rtol=1e-9, atol=1e-12)
    for ours, its in zip(duel.critic.buffers(), duel.plain_critic.buffers(), strict=True):
        torch.testing.assert_close(ours, its, rtol=1e-12, atol=1e-12)


def test_spectral_layers_come_nearer_to_their_vectors_with_real_and_with_generated_images():
    duel = Duel({"kind": "hinge"}, dcgan_networks("spectral"))
    calls: list[int] = []
    duel.critic.register_forward_hook(lambda *_: calls.append(1))
    duel.game.critic(batch(size=16), draw())
    assert len(calls) == 2


@every_objective
def test_a_side_s_parameters_are_its_own_network_s(objective):
    duel = Duel(objective)
    assert set(duel.game.critic.parameters()) == set(duel.critic.parameters())
    assert set(duel.game.generator.parameters()) == set(duel.generator.parameters())
    assert (duel.game.critic.trains, duel.game.generator.trains) == (("critic",), ("generator",))


@every_objective
def test_a_side_is_penalised_where_it_holds_gradients_of_single_images(objective):
    duel = Duel(objective)
    assert duel.game.critic.penalised == (objective in PENALISED)
    assert ("critic/penalty" in duel.game.critic(batch(), draw()).figures) == (objective in PENALISED)
    assert not duel.game.generator.penalised


@every_objective
def test_both_sides_hand_out_the_generator_s_images_without_gradient(objective):
    duel = Duel(objective)
    real = batch()
    expected = duel.fakes(real.labels).detach()
    for loss in (duel.game.critic(real, draw()), duel.game.generator(real, draw())):
        assert not loss.fake.requires_grad
        torch.testing.assert_close(loss.fake, expected)


@every_objective
def test_figures_are_detached_scalars(objective):
    duel = Duel(objective)
    real = batch()
    figures = duel.game.critic(real, draw()).figures
    assert all(figure.shape == () and not figure.requires_grad for figure in figures.values())
    outputs = list(duel.judged(real.images, real.labels))
    assert figures["critic/real"].item() == pytest.approx(sum(outputs).item() / COUNT)
    outputs = list(duel.judged(duel.fakes(real.labels), real.labels))
    assert figures["critic/fake"].item() == pytest.approx(sum(outputs).item() / COUNT)


@pytest.mark.parametrize(
    ("objective", "threshold", "real_is_above"),
    [
        ({"kind": "bce"}, 0.0, True),
        ({"kind": "bce", "real_label": 0.0, "fake_label": 1.0}, 0.0, False),
        ({"kind": "hinge"}, 0.0, True),
        ({"kind": "least_squares"}, 0.5, True),
    ],
    ids=named,
)
def test_accuracy_is_the_share_of_right_answers(objective, threshold, real_is_above):
    duel = Duel(objective)
    real = batch()
    with torch.no_grad():  # far apart, on both sides of the threshold
        for critic in (duel.critic, duel.plain_critic):
            critic.head[-1].weight.mul_(20)
        outputs = duel.plain_critic(real.images, real.labels).sort().values
        for critic in (duel.critic, duel.plain_critic):
            critic.head[-1].bias.sub_((outputs[1] + outputs[2]) / 2 - threshold)
    right = 0
    for part, images in (("real", real.images), ("fake", duel.fakes(real.labels))):
        for output in duel.judged(images, real.labels):
            says_real = bool(output > threshold) == real_is_above
            right += says_real == (part == "real")
    near = torch.tensor([threshold - 0.01, threshold + 0.01])
    assert duel.game.critic.says_real(near).tolist() == [not real_is_above, real_is_above]
    accuracy = duel.game.critic(real, draw()).figures["critic/accuracy"]
    assert accuracy.item() == pytest.approx(right / (2 * COUNT))
    assert right not in (0, COUNT, 2 * COUNT)  # which a wrong threshold or a wrong side would give as well


@pytest.mark.parametrize("kind", ["wasserstein_clip", "wasserstein_gp", "relativistic"])
def test_a_score_without_threshold_has_no_accuracy(kind):
    """What it has instead is how often a real image's is above the generated one's of the same slot."""
    duel, real = Duel({"kind": kind}), batch()
    figures = duel.game.critic(real, draw()).figures
    assert "critic/accuracy" not in figures
    pairs = zip(duel.judged(real.images, real.labels), duel.judged(duel.fakes(real.labels), real.labels), strict=True)
    above = [bool(ours > theirs) for ours, theirs in pairs]
    assert 0 < sum(above) < COUNT, "else any other share would do"
    assert figures["critic/ranking"].item() == pytest.approx(sum(above) / COUNT)


@every_objective
@pytest.mark.parametrize("split", [[[0, 2, 4], [1, 3, 5]], [[0], [1], [2], [3], [4], [5]]], ids=["two", "six"])
def test_ranks_average_to_the_whole_batch(objective, split):
    """Losses, figures and gradients, dropout and label noise included: what DistributedDataParallel relies on."""
    duel = Duel(objective, small_networks(dropout=0.4))
    for side, network in ((duel.game.critic, duel.critic), (duel.game.generator, duel.generator)):

        def turn(slots, side=side, network=network):
            network.zero_grad(set_to_none=True)
            real = batch(slots)
            loss = side(real, draw(slots))
            loss.value.backward()
            return loss.value.detach(), gradient(network), loss.figures

        value, whole, figures = turn(range(COUNT))
        ranks = [turn(slots) for slots in split]
        torch.testing.assert_close(torch.stack([rank[0] for rank in ranks]).mean(), value, rtol=1e-12, atol=0)
        torch.testing.assert_close(torch.stack([rank[1] for rank in ranks]).mean(0), whole, rtol=1e-9, atol=1e-14)
        for name, figure in figures.items():
            torch.testing.assert_close(torch.stack([rank[2][name] for rank in ranks]).mean(), figure)


@every_objective
def test_shared_fakes_are_those_that_the_critic_has_learnt_from(objective):
    """The generator loses what it would if it drew the critic's latents again; the critic's side does not notice."""
    turns = []
    for shared, seed in ((False, 0), (True, 1)):
        duel = Duel({**objective, "share_fakes": shared})
        losses = [duel.game.critic(batch(), draw()), duel.game.generator(batch(), draw(seed=seed))]
        for loss, network in zip(losses, (duel.critic, duel.generator), strict=True):
            loss.value.backward()
            turns.append((loss.value.detach(), loss.fake, gradient(network)))
    torch.testing.assert_close(turns[2:], turns[:2], rtol=1e-12, atol=1e-14)


def test_fakes_are_shared_once_and_with_one_critic_update_alone():
    duel = Duel({"kind": "bce", "share_fakes": True})
    duel.game.critic(batch(), draw())
    duel.game.generator(batch(), draw())
    with pytest.raises(AssertionError):
        duel.game.generator(batch(), draw())
    with pytest.raises(InputError, match=r"objective\.n_critic is 2: set 1, or leave share_fakes out"):
        Duel({"kind": "bce", "share_fakes": True, "n_critic": 2})


@every_objective
def test_random_numbers_are_keyed_by_what_they_are_for(objective):
    """The keys are a contract: a run that is resumed by a newer version must draw the same numbers."""

    class Recorder(Noise):
        def uniform(self, purpose, shape=()):
            asked.append(purpose)
            return super().uniform(purpose, shape)

    duel = Duel(objective, small_networks(dropout=0.4))
    asked: list[str] = []
    recorder = Recorder(0, torch.arange(COUNT), "update", torch.float64)
    duel.game.critic(batch(), recorder)
    expected = ["dropout/0/real", "dropout/0/fake"]
    if objective.get("r1"):
        expected += ["dropout/0/real"]  # the slope of the very D(x) that is judged
    if objective.get("r2"):
        expected += ["dropout/0/fake"]
    if objective["kind"] == "wasserstein_gp":
        expected += ["epsilon", "dropout/0/between"]
    if objective.get("label_noise"):
        expected += ["label_noise/real", "label_noise/fake"]
    assert sorted(asked) == sorted(expected)
    asked.clear()
    duel.game.generator(batch(), recorder)
    assert asked == (["dropout/0/real"] if objective["kind"] == "relativistic" else []) + ["dropout/0/fake"]


@every_objective
def test_dropout_is_drawn_anew_for_each_update(objective):
    duel = Duel(objective, small_networks(dropout=0.4))
    values = []
    for update in ("critic/0", "critic/1"):
        noise = Noise(0, torch.arange(COUNT), update, torch.float64)
        outputs = duel.game.critic.judge(duel.critic, *batch(), noise, "real")
        values.append(outputs.mean().item())
    assert values[0] != values[1]


@every_objective
@pytest.mark.parametrize("networks", [small_networks, lambda: dcgan_networks("none")], ids=["appended", "batchnorm"])
def test_labels_reach_both_networks(objective, networks):
    duel = Duel(objective, networks())
    real = batch(size=8 if networks is small_networks else 16)
    other = real._replace(labels=-real.labels)
    images = [duel.game.critic(each, draw()).fake for each in (real, other)]
    assert (images[0] - images[1]).abs().max() > 1e-3

    deaf = Duel(objective, networks())  # its generator: only the critic hears the labels
    for name, parameter in deaf.generator.named_parameters():
        if name == "layers.0.weight":
            parameter.data[:, LATENT:] = 0
        elif name.endswith(("scale.weight", "shift.weight")):
            parameter.data.zero_()
    fakes = [deaf.game.critic(each, draw()).fake for each in (real, other)]
    assert torch.equal(*fakes)
    values = [deaf.game.generator(each, draw()).value for each in (real, other)]
    assert (values[0] - values[1]).abs() > 1e-6


@every_objective
def test_without_a_condition_labels_are_empty(objective):
    duel = Duel(objective, small_networks(labels=0))
    real = batch(labels=0)
    assert real.labels.shape == (COUNT, 0)
    for loss in (duel.game.critic(real, draw()), duel.game.generator(real, draw())):
        assert torch.isfinite(loss.value)


@every_objective
@pytest.mark.parametrize("output", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_outputs_stay_finite(objective, output, dtype):
    duel = Duel(objective, tuple(network.to(dtype) for network in small_networks()))
    with torch.no_grad():
        duel.critic.head[-1].bias.fill_(output)
    real, noise = batch(dtype=dtype), draw(dtype=dtype)
    for loss, network in (
        (duel.game.critic(real, noise), duel.critic),
        (duel.game.generator(real, noise), duel.generator),
    ):
        assert torch.isfinite(loss.value)
        loss.value.backward()
        assert torch.isfinite(gradient(network)).all()


@every_objective
@pytest.mark.parametrize("state", ["zero weights", "dead units"])
def test_a_critic_that_is_flat_has_finite_gradients(objective, state):
    """Where ∇D(x) is exactly 0, the square root of its square has no derivative."""
    generator, critic = small_networks(labels=0)
    if state == "zero weights":
        nn.init.zeros_(critic.head[-1].weight)
    else:
        critic.features[2] = critic.features[4] = nn.ReLU()
        nn.init.constant_(critic.features[3].bias, -1e3)
    duel = Duel(objective, (generator, critic))
    loss = duel.game.critic(batch(labels=0), draw())
    assert torch.isfinite(loss.value)
    loss.value.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in duel.critic.parameters())
    if objective["kind"] == "wasserstein_gp":
        assert loss.figures["critic/penalty"].item() == pytest.approx(1, abs=1e-5)  # (0 − 1)²
    elif objective in PENALISED:
        assert loss.figures["critic/penalty"].item() == 0


@every_objective
def test_under_autocast_losses_are_float32_and_near_the_exact_ones(objective):
    exact = Duel(objective)
    duel = Duel(objective, tuple(network.float() for network in small_networks()))
    real, noise = batch(dtype=torch.float32), draw(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        losses = duel.game.critic(real, noise), duel.game.generator(real, noise)
    expected = exact.game.critic(batch(), draw()), exact.game.generator(batch(), draw())
    for loss, there, network in zip(losses, expected, (duel.critic, duel.generator), strict=True):
        assert loss.value.dtype == torch.float32
        assert loss.value.item() == pytest.approx(there.value.item(), rel=0.05, abs=0.02)
        loss.value.backward()
        assert torch.isfinite(gradient(network)).all()
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("objective", [{"kind": "hinge", "r1": 1.0}, {"kind": "wasserstein_gp"}], ids=named)
def test_the_penalty_is_exact_under_autocast(objective):
    duel = Duel(objective, tuple(network.float() for network in small_networks()))
    real, noise = batch(dtype=torch.float32), draw(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = duel.game.critic(real, noise)
    points = real.images.double()
    if objective["kind"] == "wasserstein_gp":
        epsilon = draw().uniform("epsilon", ())[:, None, None, None]
        points = epsilon * points + (1 - epsilon) * loss.fake.double()
    duel.plain_critic.double()
    norms = torch.stack([slope.norm() for slope in duel.slopes(points, real.labels.double())])
    expected = (norms**2).mean() if objective["kind"] == "hinge" else ((norms - 1) ** 2).mean()
    assert loss.figures["critic/penalty"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("networks", R1_NETWORKS)
@pytest.mark.parametrize("objective", [tree for tree in WITH_R1 if tree["kind"] != "wasserstein_gp"], ids=named)
def test_r1_adds_half_the_mean_squared_slope_at_real_images(objective, networks):
    build, size = R1_NETWORKS[networks]
    duel = Duel(objective, build())
    without = Duel({**objective, "r1": 0.0}, build())
    real = batch(size=size)
    loss = duel.game.critic(real, draw())
    loss.value.backward()
    value = without.game.critic(real, draw()).value
    value.backward()
    squares = sum((slope**2).sum() for slope in duel.slopes(real.images, real.labels)) / COUNT
    assert loss.figures["critic/penalty"].item() == pytest.approx(squares.item(), rel=1e-10)
    penalty = objective["r1"] / 2 * squares
    torch.testing.assert_close(loss.value, value + penalty, rtol=1e-12, atol=0)
    penalty.backward()
    for plain, base in zip(duel.plain_critic.parameters(), without.critic.parameters(), strict=True):
        plain.grad = base.grad if plain.grad is None else plain.grad + base.grad
    assert_same_gradients(duel.critic, duel.plain_critic)
    assert gradient(duel.critic).sub(gradient(without.critic)).abs().max() > 1e-6


def test_r1_s_second_derivative_agrees_with_finite_differences():
    """The slopes by differences in the pixels, their change by differences in the weights: no autograd anywhere."""
    objective = {"kind": "hinge", "r1": 2.0}
    duel, without = Duel(objective, small_networks(labels=0)), Duel({"kind": "hinge"}, small_networks(labels=0))
    real = batch([0, 1], labels=0)
    for each in (duel, without):
        each.game.critic(real, draw([0, 1])).value.backward()
    ours = gradient(duel.critic) - gradient(without.critic)
    h = 1e-4

    @torch.no_grad()
    def penalty() -> float:
        steps = h * torch.eye(real.images[0].numel(), dtype=torch.float64).view(-1, *real.images.shape[1:])
        squares = 0.0
        for image in real.images:
            rise = duel.plain_critic(image + steps) - duel.plain_critic(image - steps)
            squares += ((rise / (2 * h)) ** 2).sum().item()
        return 2.0 / 2 * squares / 2

    offset = 0
    for weight in duel.plain_critic.parameters():
        for place in {0, weight.numel() // 2}:
            flat = weight.data.view(-1)
            before = flat[place].item()
            flat[place] = before + h
            above = penalty()
            flat[place] = before - h
            below = penalty()
            flat[place] = before
            assert ours[offset + place].item() == pytest.approx((above - below) / (2 * h), rel=1e-4, abs=1e-7)
        offset += weight.numel()


def test_r1_of_a_quadratic_critic_is_known():
    """D(x) = ½‖x‖² + bias has the slope x."""

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scale * images.square() / 2

    generator, critic = small_networks(labels=0)
    critic.features, critic.head = Quadratic(), nn.Sequential(nn.Flatten(), _Sum())
    game = build_game(ObjectiveSpec.model_validate({"kind": "bce", "r1": 1.0}), generator, critic, LATENT)
    real = batch(labels=0)
    figure = game.critic(real, draw()).figures["critic/penalty"]
    assert figure.item() == pytest.approx(sum(pixel**2 for pixel in real.images.flatten().tolist()) / COUNT)


class _Sum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1, keepdim=True)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("objective", PENALISED, ids=named)
def test_lazy_penalties_are_of_every_so_manieth_update_and_count_as_many_times(objective, every):
    """Loss and gradient; in between they are those of the game without penalties, and as cheap."""
    free = {**objective, "r1": 0.0, "r2": 0.0, **({"penalty": 0.0} if objective["kind"] == "wasserstein_gp" else {})}
    calls: list[int] = []
    for updates in range(4):
        lazy, eager, without = (Duel(tree) for tree in ({**objective, "penalty_every": every}, objective, free))
        losses = []
        calls.clear()
        lazy.critic.register_forward_hook(lambda *_: calls.append(1))
        for duel in (lazy, eager, without):
            duel.game.critic.at(updates, 6 * updates)
            losses.append(duel.game.critic(batch(), draw()))
            losses[-1].value.backward()
        ours, its, plain = losses
        due = updates % every == 0
        assert ours.figures.keys() == (its if due else plain).figures.keys()
        if not due:
            assert len(calls) == 1
            assert torch.equal(ours.value, plain.value)
            assert torch.equal(gradient(lazy.critic), gradient(without.critic))
            continue
        torch.testing.assert_close(ours.value, plain.value + every * (its.value - plain.value), rtol=1e-12, atol=1e-14)
        penalty = gradient(eager.critic) - gradient(without.critic)
        expected = gradient(without.critic) + every * penalty
        torch.testing.assert_close(gradient(lazy.critic), expected, rtol=1e-9, atol=1e-12)
        assert penalty.abs().max() > 1e-6
        for name, figure in its.figures.items():
            assert torch.equal(ours.figures[name], figure), "figures are without weights"


@pytest.mark.parametrize("name", ["r1", "r2", "penalty"])
def test_the_weight_of_a_penalty_may_move(name):
    """Down to nothing, which then costs nothing; BatchNorm is refused from the beginning."""
    kind = "wasserstein_gp" if name == "penalty" else "hinge"
    tree = {"kind": kind, name: {"base": 3.0, "final": 0.0, "images": 60}}
    figure = "critic/penalty_fake" if name == "r2" else "critic/penalty"
    for images, weight in ((0, 3.0), (20, 2.25), (30, 1.5), (60, 0.0), (900, 0.0)):
        duel, fixed = Duel(tree), Duel({"kind": kind, name: weight})
        for each in (duel, fixed):
            each.game.critic.at(0, images)
        loss, expected = (each.game.critic(batch(), draw()) for each in (duel, fixed))
        torch.testing.assert_close(loss.value, expected.value, rtol=1e-12, atol=0)
        assert loss.figures == expected.figures
        assert (figure in loss.figures) == (weight > 0)
        assert duel.game.critic.penalised
    rising = Duel({"kind": kind, name: {"base": 0.0, "final": 1.0, "images": 60}})
    assert rising.game.critic.penalised
    assert figure not in rising.game.critic(batch(), draw()).figures


def test_r1_costs_nothing_where_it_is_off():
    duel = Duel({"kind": "bce", "r1": 0.0})
    calls = []
    duel.critic.register_forward_hook(lambda *_: calls.append(1))
    duel.game.critic(batch(), draw())
    assert len(calls) == 1


def test_the_losses_of_an_undecided_game_are_what_theory_says():
    generator, critic = small_networks()
    nn.init.zeros_(critic.head[-1].weight)
    nn.init.zeros_(critic.head[-1].bias)
    nn.init.zeros_(critic.projection.weight)
    for kind, ours, theirs in (
        ("bce", 2 * math.log(2), math.log(2)),
        ("hinge", 2.0, 0.0),
        ("least_squares", 0.5, 0.5),
        ("wasserstein_clip", 0.0, 0.0),
        ("wasserstein_gp", 10.0, 0.0),
    ):
        game = build_game(ObjectiveSpec(kind=kind), generator, critic, LATENT)
        assert game.critic(batch(), draw()).value.item() == pytest.approx(ours, abs=1e-4)
        assert game.generator(batch(), draw()).value.item() == pytest.approx(theirs)
