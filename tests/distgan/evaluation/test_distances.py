"""Against torchmetrics, torch-fidelity and plain loops, on the same features."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import poly_mmd

from distgan.evaluation.distances import Entropy, KernelDistance, Moments, frechet_distance
from distgan.evaluation.neighbours import neighbourhood
from shards.errors import InputError


class Identity(nn.Module):
    """Features that are given as they are, as torchmetrics takes them."""

    num_features = 16

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


def vectors(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(count, width, generator=random, dtype=torch.float64) @ mixed + shift


def moments(rows: Tensor, part: int = 10**9) -> Moments:
    found = Moments.zero(rows.shape[1])
    for some in rows.split(part):
        found.add(some)
    return found


@given(seed=st.integers(0, 999), shift=st.floats(0, 3), part=st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_frechet_is_torchmetrics(seed, shift, part):
    real, generated = vectors(400, 16, seed), vectors(300, 16, seed + 1, shift)
    reference = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    reference.update(real, real=True)
    reference.update(generated, real=False)
    ours = frechet_distance(moments(real, part), moments(generated, part))
    assert ours == pytest.approx(float(reference.compute()), rel=1e-6)


def test_frechet_of_fewer_vectors_than_entries_is_exact():
    one = torch.rand(20, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = one + 0.02 * vectors(20, 300, 1) / 17
    centred = [(each - each.mean(0)) / math.sqrt(19) for each in (one, other)]
    cross = torch.linalg.svdvals(centred[0] @ centred[1].mT).sum()  # tr (Σ₁ Σ₂)^½ from the factors
    expected = (one.mean(0) - other.mean(0)).square().sum() + sum(each.square().sum() for each in centred) - 2 * cross
    assert frechet_distance(moments(one), moments(other)) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(moments(one), moments(one)) == pytest.approx(0, abs=1e-9)


def test_frechet_of_what_cannot_be():
    with pytest.raises(InputError, match="at least two"):
        frechet_distance(moments(vectors(1, 3, 0)), moments(vectors(5, 3, 0)))
    with pytest.raises(InputError, match="not finite"):
        frechet_distance(moments(torch.full((3, 3), torch.nan)), moments(vectors(5, 3, 0)))


def test_kernel_distance_is_the_mean_of_torchmetrics_over_blocks():
    real, generated = vectors(120, 8, 0), vectors(120, 8, 1, 0.5)
    distance = KernelDistance.zero()
    for first in range(0, 120, 30):
        distance.add(real[first : first + 30], generated[first : first + 30])
    blocks = [float(poly_mmd(real[k : k + 30], generated[k : k + 30])) for k in range(0, 120, 30)]
    assert distance.value == pytest.approx(np.mean(blocks), rel=1e-12)
    assert distance.standard_error == pytest.approx(np.std(blocks, ddof=1) / 2, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_zero_within_its_error():
    values = []
    for seed in range(40):
        distance = KernelDistance.zero()
        for block in range(10):
            distance.add(vectors(20, 4, 1000 * seed + block), vectors(20, 4, 1000 * seed + 500 + block))
        values.append(distance.value / distance.standard_error)
    assert abs(np.mean(values)) < 0.6
    assert 0.7 < np.std(values) < 1.7
    assert math.isnan(KernelDistance(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).standard_error)


@given(seed=st.integers(0, 99), part=st.integers(1, 60))
@settings(max_examples=10, deadline=None)
def test_inception_score_is_torchmetrics(seed, part):
    logits = 3 * torch.randn(60, 7, generator=torch.Generator().manual_seed(seed))
    entropy = Entropy.zero(7)
    for some in logits.split(part):
        entropy.add(some)
    reference = InceptionScore(feature=Identity(), splits=1)
    reference.update(logits)
    assert entropy.value == pytest.approx(float(reference.compute()[0]), rel=1e-5)  # torchmetrics counts in float32


@pytest.mark.parametrize("seed", range(4))
def test_precision_and_recall_are_torch_fidelitys(seed):
    metric_prc = pytest.importorskip("torch_fidelity.metric_prc", reason="needs distgan[inception]")
    real, generated = vectors(300, 5, seed).float(), vectors(200, 5, seed + 9, 0.8).float()
    precision, recall = metric_prc.calculate_precision_recall_full(generated, real, 3)
    found = neighbourhood(real, generated)
    assert (found.precision, found.recall) == (pytest.approx(precision, abs=1e-6), pytest.approx(recall, abs=1e-6))


@pytest.mark.parametrize("seed", range(3))
def test_neighbourhoods_are_those_of_a_plain_loop(seed):
    real, generated = vectors(60, 3, seed), vectors(50, 3, seed + 9, 0.5)

    def radius(point: Tensor, among: Tensor, k: int) -> float:
        return sorted((among - point).norm(dim=1).tolist())[k]

    inside = covered = recalled = precise = 0
    for x in real:
        r = radius(x, real, 5)
        hits = sum(float((x - y).norm()) <= r for y in generated)
        inside, covered = inside + hits, covered + bool(hits)
        recalled += any(float((x - y).norm()) <= radius(y, generated, 3) for y in generated)
    for y in generated:
        precise += any(float((x - y).norm()) <= radius(x, real, 3) for x in real)
    found = neighbourhood(real, generated)
    assert found == pytest.approx((precise / 50, recalled / 60, inside / 250, covered / 60), abs=1e-9)


def test_neighbours_need_some():
    with pytest.raises(InputError, match="more than 5 images"):
        neighbourhood(vectors(5, 3, 0), vectors(50, 3, 1))
