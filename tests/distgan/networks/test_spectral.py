from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from distgan.checkpoint import find_checkpoint
from distgan.launch.local import train_locally
from distgan.networks import ImageShape, build_networks
from distgan.networks.spectral import SpectralConv2d, SpectralLinear
from distgan.spec import ModelSpec
from tests.curves import assert_same, curve


def layer(seed: int = 0, channels: tuple[int, int] = (3, 5)) -> SpectralConv2d:
    random = torch.Generator().manual_seed(seed)
    made = SpectralConv2d(*channels, 4, stride=2, padding=1).double()
    with torch.no_grad():
        made.weight.normal_(generator=random)
    made.begin(random)
    return made


def exact(module: SpectralConv2d) -> torch.Tensor:
    return torch.linalg.matrix_norm(module.weight.flatten(1), ord=2)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_the_largest_singular_value_is_that_of_the_decomposition(seed, before, after):
    made = layer(seed, (before, after))
    for _ in range(500):
        made.largest_singular_value(iterate=True)
    # However near the next largest value is, so many iterations leave less than (1 − r²)/2 · r¹⁰⁰⁰ < 4e-4.
    torch.testing.assert_close(made.largest_singular_value(), exact(made), rtol=5e-4, atol=0)


def test_a_fresh_layer_is_near_it():
    made = layer()
    torch.testing.assert_close(made.largest_singular_value(), exact(made), rtol=1e-2, atol=0)


def test_it_is_the_paper_s_iteration_and_torch_s_layer():
    """Algorithm 1 of the paper gives the vectors; given these, torch's layer has the same outputs and gradients."""
    ours = layer()
    plain = nn.Conv2d(3, 5, 4, stride=2, padding=1).double()
    plain.load_state_dict({name: value for name, value in ours.state_dict().items() if name != "left"})
    theirs = spectral_norm(plain).eval()  # in evaluation mode it takes the vectors as they are
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = (ours.weight, theirs.parametrizations.weight.original)
    for _ in range(3):
        matrix = ours.weight.detach().flatten(1)
        right = matrix.T @ ours.left / torch.linalg.norm(matrix.T @ ours.left)
        left = matrix @ right / torch.linalg.norm(matrix @ right)
        theirs.parametrizations.weight[0]._u.copy_(left)
        theirs.parametrizations.weight[0]._v.copy_(right)
        outputs = [each(images) for each in (ours, theirs)]
        torch.testing.assert_close(ours.left, left, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
        for each in outputs:
            each.square().sum().backward()
        torch.testing.assert_close(weights[0].grad, weights[1].grad, rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            for weight in weights:
                weight -= 0.1 * weight.grad
                weight.grad = None


def test_the_vectors_move_in_training_alone():
    made = layer().eval()
    before = made.left.clone()
    made(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    assert torch.equal(made.left, before)
    made.train()(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    assert not torch.equal(made.left, before)


def test_the_second_derivative_is_that_of_finite_differences():
    made = layer()
    made.eval()  # the vectors are constants there, too
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def slope_of(module: SpectralConv2d) -> torch.Tensor:
        points = images.clone().requires_grad_(True)
        (slopes,) = torch.autograd.grad(module(points).pow(3).sum(), points, create_graph=True)
        return slopes.square().sum()

    slope_of(made).backward()
    index, step = (2, 1, 0, 3), 1e-6
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(made)
        with torch.no_grad():
            moved.weight[index] += sign * step
            moved.left.copy_(made.left)
        values.append(slope_of(moved).item())
    # One power iteration away from constants: at the fixed point of the iteration the difference is of second order.
    assert made.weight.grad[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-2)


def test_every_layer_of_the_critic_is_normalised_and_none_else_changes():
    image = ImageShape(3, 16)
    plain, spectral = (
        build_networks(ModelSpec.model_validate({"critic": {"width": 2, "normalisation": name}}), image, 0)[1]
        for name in ("none", "spectral")
    )
    convolutions = [module for module in spectral.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions
    assert all(isinstance(module, SpectralConv2d) for module in convolutions)
    assert {name: weight.shape for name, weight in spectral.named_parameters()} == {
        name: weight.shape for name, weight in plain.named_parameters()
    }
    for module in convolutions:
        torch.testing.assert_close(module.largest_singular_value(), exact(module), rtol=2e-2, atol=0)


def test_the_projection_of_labels_is_normalised_too():
    model = {"critic": {"width": 2, "normalisation": "spectral"}, "condition": {"classes": True}}
    critic = build_networks(ModelSpec.model_validate(model), ImageShape(3, 16), 0, labels=3)[1]
    assert isinstance(critic.projection, SpectralLinear)
    with torch.no_grad():
        critic.projection.weight.mul_(50)
    critic.projection.begin(torch.Generator().manual_seed(0))
    stretched = torch.linalg.matrix_norm(critic.projection.normalised(), ord=2)
    torch.testing.assert_close(stretched, torch.tensor(1.0), rtol=2e-2, atol=0)


def spec(tiny, **changes):
    return tiny(
        model__critic={"width": 2, "normalisation": "spectral"},
        objective={"kind": "hinge"},
        training__precision="float64",
        **changes,
    )


def test_a_resumed_run_is_one_that_never_ended(tiny, tmp_path):
    train_locally(spec(tiny), tmp_path / "whole", console=False)
    train_locally(spec(tiny, training__images=40), tmp_path / "parts", console=False)
    train_locally(spec(tiny), tmp_path / "parts", resume=True, console=False)
    whole, parts = (find_checkpoint(tmp_path / name).tensors("critic") for name in ("whole", "parts"))
    assert any(name.endswith("left") for name in whole)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert_same(curve(tmp_path / "whole"), curve(tmp_path / "parts"))
