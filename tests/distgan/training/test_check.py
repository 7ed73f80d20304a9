from __future__ import annotations

import pytest
import torch

from distgan.networks import ImageShape
from distgan.training.check import check
from distgan.training.complete import complete
from distgan.training.learner import Learner
from distgan.training.workers import Workers
from shards.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"data__image_size": 48},
        {"model__generator": {"name": "nope"}},
        {"model__critic": {"width": "abc"}},
        {"objective": {"kind": "nope"}},
        {"objective": {"kind": "bce", "penalty_every": 4}},
        {"objective": {"kind": "wasserstein_gp"}},
        {"objective": {"kind": "bce", "share_fakes": True}, "training__accumulate": 2},
        {"optimizer": {"critic": {"beta": 1}}},
        {"training__precision": "tfloat32"},
        {"training__graphs": "on"},
        {"training__compile": "on", "training__stages": [{"size": 8, "images": 24}, {"size": 16}]},
    ],
)
def test_it_says_what_training_would(tiny, changes):
    spec = tiny(**changes)
    with pytest.raises(InputError) as found:
        check(spec, 3, 0, Workers.alone(CPU))
    with pytest.raises(InputError) as said:
        Learner(complete(spec), ImageShape.of(spec, 3), Workers.alone(CPU))
    assert str(found.value) == str(said.value)


def test_workers_need_not_be_there(tiny):
    spec = tiny(training__compile="on")
    check(tiny(), 3, 0, Workers(0, 2, CPU))
    with pytest.raises(InputError, match="several workers"):
        check(spec, 3, 0, Workers(0, 2, CPU))


def test_all_options_are_written_out(tiny):
    assert check(tiny(), 3, 0, Workers.alone(CPU)) == complete(tiny())
