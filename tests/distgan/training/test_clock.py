import time
from contextlib import suppress

import pytest
import torch

from distgan.training import clock as module
from distgan.training.clock import Clock


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def passing(monkeypatch):
    passing = Time()
    monkeypatch.setattr(module, "time", passing)
    return passing


def test_what_is_paused_is_not_counted(passing):
    clock = Clock(torch.device("cpu"))
    passing.now += 7
    for _ in range(2):
        with clock.running():
            passing.now += 1
            with clock.paused():
                assert clock.seconds % 3 == 1
                passing.now += 50
            passing.now += 2
        passing.now += 9
    assert clock.seconds == 6


def test_an_error_stops_it(passing):
    clock = Clock(torch.device("cpu"))
    with suppress(RuntimeError), clock.running():
        passing.now += 1
        with clock.paused():
            passing.now += 5
            raise RuntimeError
    assert clock.seconds == 1
    with clock.running():
        passing.now += 1
    assert clock.seconds == 2


def test_it_counts_real_time():
    clock = Clock(torch.device("cpu"))
    began = time.perf_counter()
    with clock.running():
        time.sleep(0.01)
    assert 0.01 <= clock.seconds <= time.perf_counter() - began
