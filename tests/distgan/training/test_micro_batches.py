from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgan.data.noise import Noise
from distgan.data.order import rank_slots
from distgan.networks import ImageShape, build_networks
from distgan.objectives import Batch, build_game
from distgan.training.micro_batches import (
    add_gradients,
    check_micro_batches,
    micro_batch_note,
    micro_batch_sizes,
)
from distgan.training.precision import Precision
from shards.errors import InputError

PLAIN = {"model__generator__normalisation": "none", "model__critic__normalisation": "none"}


def networks(spec):
    return build_networks(spec.model, ImageShape(3, 16), spec.seed)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_all_workers_make_micro_batches_of_the_same_stretches(accumulate, size, workers):
    """Whoever deals with them, micro-batch k is the slots from k·size on; each worker has an image of each."""
    workers = min(workers, size)
    batch_size = accumulate * size
    found: list[list[int]] = [[] for _ in range(accumulate)]
    for rank in range(workers):
        slots = rank_slots(batch_size, rank, workers)
        sizes = micro_batch_sizes(slots, batch_size, accumulate)
        assert len(sizes) == accumulate
        assert sum(sizes) == len(slots)
        assert min(sizes) >= 1
        for micro_batch, part in zip(found, np.split(slots, np.cumsum(sizes)[:-1]), strict=True):
            micro_batch += part.tolist()
    assert [sorted(part) for part in found] == np.arange(batch_size).reshape(accumulate, size).tolist()


def test_gradients_are_added_by_weight_to_those_that_are_there(tiny):
    spec = tiny(**PLAIN)
    side = build_game(spec.objective, *networks(spec), spec.model.latent_dim).critic
    side.at(0, 0)
    parameters = list(side.parameters())
    draw, real = Noise(0, torch.arange(3), "update"), Batch(torch.rand(3, 3, 16, 16), torch.empty(3, 0))
    plain = side(real, draw).value
    gradients = torch.autograd.grad(plain, parameters)
    for total, weight in ((1, 1), (3.5, 2.5)):
        loss = add_gradients(side, real, draw, Precision("float32", torch.device("cpu")), weight)
        assert loss.value.item() == plain.item()
        assert not loss.value.requires_grad
        for parameter, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(parameter.grad, total * gradient)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model__critic": {"name": "dcgan", "width": 2, "normalisation": "none", "minibatch_stddev": True}},
            ["training.accumulate is 2", "model.critic.minibatch_stddev", "false"],
        ),
        (
            {"objective": {"kind": "bce", "share_fakes": True}},
            ["training.accumulate is 2", "objective.share_fakes", "false"],
        ),
    ],
)
def test_what_needs_the_whole_batch_is_refused(tiny, changes, words):
    check_micro_batches(tiny(**changes), *networks(tiny(**changes)))
    spec = tiny(**changes, training__accumulate=2)
    with pytest.raises(InputError) as caught:
        check_micro_batches(spec, *networks(spec))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("training", "field"),
    [
        ({"batch_size": 1}, "training.batch_size"),
        ({"stages": [{"size": 8, "images": 8, "batch_size": 1}, {"size": 16}]}, "training.stages.0.batch_size"),
    ],
)
def test_one_image_does_not_differ_from_others(tiny, training, field):
    changes = {f"training__{name}": value for name, value in training.items()}
    critic = {"name": "dcgan", "width": 2, "normalisation": "none"}
    spec = tiny(model__critic=critic, **changes)
    check_micro_batches(spec, *networks(spec))
    spec = tiny(model__critic=critic | {"minibatch_stddev": True}, **changes)
    with pytest.raises(InputError, match=rf"{field} is 1, .*minibatch_stddev .* {field} to 2 or more"):
        check_micro_batches(spec, *networks(spec))


def test_what_batchnorm_makes_of_them_is_said(tiny):
    def note(**changes) -> str | None:
        spec = tiny(**changes)
        return micro_batch_note(spec, *networks(spec))

    assert note() is None
    assert note(**PLAIN, training__accumulate=4) is None
    for network in ("generator", "critic"):
        said = note(**PLAIN | {f"model__{network}__normalisation": "batch"}, training__accumulate=4)
        assert said is not None
        assert "BatchNorm's statistics are those of micro-batches of 2 images" in said
    stages = [{"size": 8, "images": 24, "batch_size": 4}, {"size": 16}]
    assert "of 2 or 4 images" in str(note(training__accumulate=2, training__stages=stages))
