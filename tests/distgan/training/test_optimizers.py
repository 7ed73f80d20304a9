from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan.checkpoint import State, save_checkpoint
from distgan.spec import OptimizerSpec, ScheduleSpec, SideOptimizerSpec
from distgan.training.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    clip_gradients,
    complete_optimizer,
    moving_options,
    rate_factor,
    steer,
)
from shards.errors import InputError

NAMES = sorted(OPTIMIZERS)
numbers = st.floats(-100, 100, width=32)


def moved(spec: SideOptimizerSpec, start: float, gradients: list[float]) -> float:
    """Where a weight ends after descending these gradients one after the other."""
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = build_optimizer(spec, [weight])
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return weight.item()


def with_gradients(*gradients: list[float] | None) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(3 if gradient is None else len(gradient)))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        parameters.append(parameter)
    return parameters


def flat(parameters: list[nn.Parameter]) -> list[float]:
    return [value for parameter in parameters if parameter.grad is not None for value in parameter.grad.tolist()]


def rates_below(most: float) -> st.SearchStrategy[float]:
    """Decay rates of moments: 0, or not so near it that 1 less the rate, which torch takes, loses its digits."""
    return st.just(0.0) | st.floats(1e-3, most)


@given(
    st.lists(numbers, min_size=1, max_size=12),
    st.floats(1e-5, 1.0),
    st.tuples(rates_below(0.99), rates_below(0.999)),
    st.floats(1e-8, 1e-2),
)
def test_adam_is_what_its_paper_says(gradients, lr, betas, eps):
    spec = SideOptimizerSpec(name="adam", lr=lr, betas=betas, eps=eps)
    theta, first, second = 0.5, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):  # algorithm 1 of Kingma and Ba 2015
        first = betas[0] * first + (1 - betas[0]) * g
        second = betas[1] * second + (1 - betas[1]) * g * g
        unbiased = first / (1 - betas[0] ** t), second / (1 - betas[1] ** t)
        theta -= lr * unbiased[0] / (math.sqrt(unbiased[1]) + eps)
    assert moved(spec, 0.5, gradients) == pytest.approx(theta, rel=1e-9, abs=1e-9)


@given(
    st.lists(numbers, min_size=1, max_size=12),
    st.tuples(rates_below(0.99), rates_below(0.99)),
    st.tuples(rates_below(0.999), rates_below(0.999)),
    st.integers(1, 100),
)
def test_adam_s_betas_and_rate_move_with_the_images(gradients, first, second, images):
    """The moments are corrected by the decay rates of the update that uses them, as R3GAN's code has it."""
    betas = [{"base": base, "final": final, "images": images} for base, final in (first, second)]
    schedule = ScheduleSpec(kind="cosine", final=0.25, until_images=60)
    spec = SideOptimizerSpec(name="adam", lr=0.1, betas=betas, schedule=schedule)
    weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    optimizer = build_optimizer(spec, [weight])
    theta, mean, square = 0.5, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        shown = 8 * (t - 1)
        weight.grad = torch.tensor(g, dtype=torch.float64)
        steer(optimizer, schedule, moving_options(spec), spec.lr / 2, shown, t - 1)
        optimizer.step()
        done = (1 - math.cos(math.pi * min(1, shown / images))) / 2
        beta1, beta2 = (base + (final - base) * done for base, final in (first, second))
        mean, square = beta1 * mean + (1 - beta1) * g, beta2 * square + (1 - beta2) * g * g
        rate = 0.1 * 0.5 * (0.25 + 0.75 * (1 + math.cos(math.pi * min(1, shown / 60))) / 2)
        theta -= rate * (mean / (1 - beta1**t)) / (math.sqrt(square / (1 - beta2**t)) + 1e-8)
    assert weight.item() == pytest.approx(theta, rel=1e-9, abs=1e-9)


@given(
    st.lists(numbers, min_size=1, max_size=12),
    st.floats(1e-5, 1.0),
    st.floats(0.0, 0.99),
    st.floats(1e-8, 1e-2),
    st.floats(0.0, 0.9),
)
def test_rmsprop_is_what_its_authors_say(gradients, lr, alpha, eps, momentum):
    spec = SideOptimizerSpec(name="rmsprop", lr=lr, alpha=alpha, eps=eps, momentum=momentum)
    theta, square, velocity = 0.5, 0.0, 0.0
    for g in gradients:  # lecture 6e of Tieleman and Hinton 2012
        square = alpha * square + (1 - alpha) * g * g
        velocity = momentum * velocity + g / (math.sqrt(square) + eps)
        theta -= lr * velocity
    assert moved(spec, 0.5, gradients) == pytest.approx(theta, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "theirs"), [("adam", partial(torch.optim.Adam, fused=True)), ("rmsprop", torch.optim.RMSprop)]
)
def test_without_the_wrapping_it_is_torch_s_own(name, theirs):
    """A bit more or less would be another run; so would gradients of an update, which the wrapping keeps out."""
    spec = SideOptimizerSpec(name=name, lr=0.01)
    options = complete_optimizer(OptimizerSpec(generator=spec)).generator.rest
    weights = [nn.Parameter(torch.linspace(-1.0, 1.0, 7)) for _ in range(2)]
    plain, wrapped = build_optimizer(spec, weights[:1]), theirs(weights[1:], lr=0.01, **options)
    for step in range(5):
        for weight, optimizer in zip(weights, (plain, wrapped), strict=True):
            optimizer.zero_grad(set_to_none=True)
            assert weight.grad is None
            (weight * torch.arange(7) - step).square().sum().backward()
            optimizer.step()
            assert weight.is_leaf
        if step == 2:
            plain.load_state_dict(deepcopy(wrapped.state_dict()))
        assert torch.equal(*weights)
    assert str(plain.state_dict()) == str(wrapped.state_dict())


def test_the_defaults_are_the_papers():
    complete = complete_optimizer(
        OptimizerSpec(generator=SideOptimizerSpec(), critic=SideOptimizerSpec(name="rmsprop", lr=5e-5))
    )
    assert complete.generator.rest == {"betas": [0.5, 0.999], "eps": 1e-8}  # DCGAN's
    assert complete.critic.rest == {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0}  # the WGAN authors' code: torch's own
    assert complete_optimizer(complete) == complete
    (group,) = build_optimizer(complete.generator, with_gradients([1.0])).param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.999), 1e-8, 0)
    (group,) = build_optimizer(complete.critic, with_gradients([1.0])).param_groups
    assert (group["alpha"], group["momentum"], group["centered"], group["lr"]) == (0.99, 0.0, False, 5e-5)


def test_what_is_declared_stays():
    schedule = ScheduleSpec(kind="linear", until_images=10)
    spec = SideOptimizerSpec(name="rmsprop", lr=0.1, schedule=schedule, clip_value=1.0, clip_norm=2.0, alpha=0.9)
    complete = complete_optimizer(OptimizerSpec(critic=spec)).critic
    assert complete.model_dump() == {**spec.model_dump(), "eps": 1e-8, "momentum": 0.0}


@pytest.mark.parametrize("side", ["generator", "critic"])
@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"name": "adamm"}, [".name", "'adamm'", "did you mean 'adam'"]),
        ({"name": "lion"}, [".name", "adam, rmsprop"]),
        ({"name": "rmsprop", "betas": [0.5, 0.9]}, ["unknown field 'betas'", "alpha", "of adam, not of rmsprop"]),
        ({"beta": [0.5, 0.9]}, ["unknown field 'beta'", "did you mean 'betas'"]),
        ({"clipnorm": 3.0}, ["unknown field 'clipnorm'", "did you mean 'clip_norm'"]),
        ({"betas": [0.5, 1.0]}, ["betas.1", "less than 1"]),
        ({"betas": [0.5, {"base": 0.9, "final": 1.0, "images": 9}]}, ["'betas.1.final'", "less than 1"]),
        ({"betas": [0.5, {"base": -0.1, "final": 0.9, "images": 9}]}, ["'betas.1.base'", "greater than or equal to 0"]),
        ({"eps": 0.0}, ["eps", "greater than 0"]),
    ],
)
def test_a_wrong_optimizer_is_named(side, section, words):
    spec = OptimizerSpec.model_validate({side: section})
    with pytest.raises(InputError) as caught:
        complete_optimizer(spec)
    for word in [f"optimizer.{side}", *words]:
        assert word in str(caught.value)
    with pytest.raises(InputError):
        build_optimizer(getattr(spec, side), with_gradients([1.0]))


@given(st.floats(1e-9, 1.0), st.integers(0, 10**6))
def test_inverse_time_is_kerass_decay(decay, iterations):
    lr = 1e-4
    schedule = ScheduleSpec(kind="inverse_time", decay=decay)
    keras = lr * (1.0 / (1.0 + decay * iterations))  # keras 2, Optimizer.get_updates: iterations begins at 0
    assert lr * rate_factor(schedule, images=iterations * 16, updates=iterations) == pytest.approx(keras, rel=1e-12)
    assert rate_factor(schedule, 0, 0) == 1.0


@st.composite
def schedules(draw, longest_warm_up=10_000):
    kind = draw(st.sampled_from(["constant", "linear", "cosine", "inverse_time"]))
    options = {"kind": kind, "warm_up_images": draw(st.integers(0, longest_warm_up))}
    if kind == "cosine":
        options["final"] = draw(st.floats(0.0, 1.0))
    if kind in ("linear", "cosine"):
        options["hold_images"] = draw(st.integers(0, 10_000))
        options["until_images"] = options["hold_images"] + draw(st.integers(1, 10_000))
    if kind == "inverse_time":
        options["decay"] = draw(st.floats(1e-9, 10.0))
    return ScheduleSpec(**options)


@given(schedules(), st.integers(0, 30_000), st.integers(0, 30_000))
def test_a_factor_is_in_0_to_1_and_the_first_is_not_0(schedule, images, updates):
    assert 0.0 <= rate_factor(schedule, images, updates) <= 1.0
    assert rate_factor(schedule, 0, 0) > 0.0


@given(schedules(longest_warm_up=0), st.lists(st.integers(0, 30_000), min_size=2))
def test_without_a_warm_up_the_rate_never_rises(schedule, positions):
    factors = [rate_factor(schedule, position, position) for position in sorted(positions)]
    assert all(before >= after for before, after in pairwise(factors))


@given(st.integers(1, 10_000), st.lists(st.integers(0, 30_000), min_size=2))
def test_a_warm_up_rises_evenly_and_then_is_over(warm_up, positions):
    schedule = ScheduleSpec(warm_up_images=warm_up)
    factors = [rate_factor(schedule, position, 0) for position in sorted(positions)]
    assert all(before <= after for before, after in pairwise(factors))
    assert rate_factor(schedule, 0, 0) == 1 / (warm_up + 1)
    assert rate_factor(schedule, warm_up - 1, 0) < 1.0
    assert rate_factor(schedule, warm_up, 0) == 1.0


@given(schedules(), st.integers(0, 30_000), st.integers(0, 30_000))
def test_a_warm_up_multiplies_the_kinds_own_factor(schedule, images, updates):
    alone = schedule.model_copy(update={"warm_up_images": 0})
    warm = rate_factor(ScheduleSpec(warm_up_images=schedule.warm_up_images), images, updates)
    expected = warm * rate_factor(alone, images, updates)
    assert rate_factor(schedule, images, updates) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.integers(0, 10**15))
def test_linear_holds_falls_and_ends(hold, fall, later):
    schedule = ScheduleSpec(kind="linear", hold_images=hold, until_images=hold + fall)
    assert rate_factor(schedule, hold, 0) == 1.0
    assert rate_factor(schedule, hold + fall - 1, 0) > 0.0
    assert rate_factor(schedule, hold + fall + later, 0) == 0.0
    middle = rate_factor(schedule, hold + fall // 2, 0)
    assert middle == pytest.approx(1 - (fall // 2) / fall, rel=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.floats(0.0, 1.0), st.integers(0, 30_000))
def test_cosine_holds_falls_and_stays(hold, fall, final, images):
    """As R3GAN's code computes it, whose base value is the rate and whose final one the rate times our factor."""
    schedule = ScheduleSpec(kind="cosine", hold_images=hold, until_images=hold + fall, final=final)
    decay = 0.5 * (1 + math.cos(math.pi * (images - hold) / fall))
    expected = 1.0 if images <= hold else final if images > hold + fall else 1.0 + (1 - decay) * (final - 1.0)
    assert rate_factor(schedule, images, 0) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert rate_factor(schedule, hold, 7) == 1.0
    assert rate_factor(schedule, hold + fall + images, 7) == final


gradients = st.lists(
    st.none() | st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)
limits = st.none() | st.floats(1e-3, 1e3)


@given(gradients, limits, limits)
def test_clipping_cuts_elements_then_the_whole(values, clip_value, clip_norm):
    parameters = with_gradients(*values)
    spec = SideOptimizerSpec(clip_value=clip_value, clip_norm=clip_norm)
    norm = clip_gradients(spec, parameters)

    expected = [value for gradient in values if gradient is not None for value in gradient]
    assert norm.item() == pytest.approx(math.hypot(*expected), rel=1e-5)
    if clip_value is not None:
        expected = [max(-clip_value, min(clip_value, value)) for value in expected]
    length = math.hypot(*expected)
    if clip_norm is not None and length > clip_norm:
        expected = [value * clip_norm / length for value in expected]
    assert flat(parameters) == pytest.approx(expected, rel=1e-5)
    for parameter, value in zip(parameters, values, strict=True):
        assert (parameter.grad is None) == (value is None)


@given(gradients)
def test_without_limits_not_a_bit_changes(values):
    parameters = with_gradients(*values)
    before = flat(parameters)
    clip_gradients(SideOptimizerSpec(), parameters)
    assert flat(parameters) == before


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("limits", [{}, {"clip_value": 1.0}, {"clip_norm": 1.0}, {"clip_value": 1.0, "clip_norm": 1.0}])
def test_what_is_not_finite_is_not_masked(broken, limits):
    parameters = with_gradients([1.0, broken], [2.0])
    norm = clip_gradients(SideOptimizerSpec(**limits), parameters)
    assert not norm.isfinite()
    assert not all(map(math.isfinite, flat(parameters)))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_brings_an_optimizer_back(name, tmp_path, tiny):
    def step(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.full((2, 3), 0.7)).square().sum().backward()
        optimizer.step()

    own = {"rmsprop": {"momentum": 0.5}}
    spec = SideOptimizerSpec(name=name, lr=0.1, **own.get(name, {}))
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(spec, layer.parameters())
    for _ in range(3):
        step(layer, optimizer)
    state = State(step=3, images=3, position=3, spec=tiny(), seeds={}, channels=3, fingerprint="")
    checkpoint = save_checkpoint(tmp_path, state, {"critic": layer.state_dict()}, {"critic": optimizer})

    again = nn.Linear(3, 2)
    checkpoint.load_into(again, "critic")
    restored = build_optimizer(spec, again.parameters())
    restored.load_state_dict(checkpoint.optimizer_state("critic"))
    for _ in range(2):
        step(layer, optimizer)
        step(again, restored)
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(again.bias, layer.bias)
