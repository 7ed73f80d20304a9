from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan import scaling as module
from distgan.describe import describe
from distgan.scaling import as_rows, bench_scaling, predict
from shards.errors import InputError


@pytest.fixture(scope="module")
def described(tiny):
    return describe(tiny(training__batch_size=32, objective__n_critic=2))


@given(
    most=st.integers(1, 4096),
    speed=st.floats(1, 1e6),
    bandwidth=st.floats(1e6, 1e12),
    latency=st.floats(0, 1e-3),
)
def test_a_prediction_adds_up(described, most, speed, bandwidth, latency):
    found = predict(described, 32, most, speed, bandwidth, latency)
    for each in found:
        assert each.step == pytest.approx(each.compute + each.communication)
        assert each.images_per_second == pytest.approx(each.images_per_step / each.step)
        assert each.efficiency == pytest.approx(each.images_per_second / (each.workers * speed))
        assert 0 < each.efficiency <= 1 + 1e-9
        if each.workers == 1:
            assert each.communication == 0
            assert each.images_per_second == pytest.approx(speed)
    for fixed, largest in (("global batch", min(most, 32)), ("batch per worker", most)):
        counts = [each.workers for each in found if each.fixed == fixed]
        assert counts[-1] == largest
        assert counts[:-1] == [2**i for i in range(20) if 2**i < largest]


def test_it_is_the_stated_model(described, tiny):
    """By hand: a generator update moves G's gradients, each of two critic updates the critic's."""
    generator, critic = described.generator.parameters.trainable, described.critic.parameters.trainable
    norms = [sum("BatchNorm" in layer.type for layer in net.layers) for net in (described.generator, described.critic)]
    of_batch, of_worker = (each for each in predict(described, 32, 8, 100.0, 1e9, 1e-5) if each.workers == 8)
    gradients = 4 * (2 * critic + generator)
    exchanges = 2 * (1 + norms[0] + 4 * norms[1]) + (1 + 2 * norms[0] + 2 * norms[1])
    assert min(norms) > 0
    expected = 2 * 7 / 8 * gradients / 1e9 + exchanges * math.log2(8) * 1e-5
    assert of_batch.communication == pytest.approx(expected)
    assert of_batch.compute == pytest.approx(2 * 4 / 100)
    assert of_worker.compute == pytest.approx(2 * 32 / 100)
    assert of_worker.images_per_step == 8 * of_batch.images_per_step == 8 * 64


def test_batchnorm_s_sums_are_exchanged_in_each_micro_batch(described):
    """Gradients are not: one exchange for each of three updates. A micro-batch of 8 is not shared by 16 workers."""
    parts = replace(described, step=replace(described.step, micro_batches=4))
    whole, found = (predict(each, 32, 16, 100.0, 1e9, 1e-5) for each in (described, parts))
    assert found[0].exchanges - 3 == 4 * (whole[0].exchanges - 3)
    assert max(each.workers for each in found if each.fixed == "global batch") == 8


@pytest.mark.slow
def test_workers_on_this_machine_are_measured(tiny, monkeypatch):
    found = bench_scaling(tiny(objective__n_critic=2), 2)
    assert [(each.fixed, each.workers) for each in found] == [
        (fixed, workers) for fixed in ("global batch", "batch per worker") for workers in (1, 2)
    ]
    for each in found:
        assert each.step > 0
        assert min(each.compute, each.images_per_second, each.efficiency) > 0
        assert min(each.waiting, each.communication) >= 0
    assert [each.images_per_step for each in found] == [16, 16, 16, 32]
    assert as_rows(found)[0]["efficiency"] == 1.0
    assert module.ROUNDS > 1


def test_of_a_run_that_grows_the_last_stage_counts(tiny):
    with pytest.raises(InputError, match=r"training\.batch_size is 4, too few for 5 workers"):
        bench_scaling(tiny(training__stages=[{"size": 8, "images": 9}, {"size": 16, "batch_size": 4}]), 5)


def test_more_workers_than_images_are_refused(tiny):
    with pytest.raises(InputError, match="too few for 9 workers"):
        bench_scaling(tiny(), 9)
