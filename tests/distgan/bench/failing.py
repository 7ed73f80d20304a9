"""Sections whose measurements fail in each way that one can; a program as distgan.bench.measurements is."""

from __future__ import annotations

import os
import sys
import time

from distgan.bench import measurements
from distgan.bench.sections.base import GOOD, Section


def good():
    yield {"what": "a", "found": 1, GOOD: True}


def raises():
    yield {"what": "before", "found": float("nan")}
    raise ValueError("no | such thing")


def breaks_the_device():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
    yield


def crashes():
    yield {"what": "before the crash", "found": 2.5}
    os._exit(9)


def hangs():
    time.sleep(600)
    yield


def never(place):
    os._exit(7)


SECTIONS = {
    "failing": Section(
        "All that fails",
        300,
        2,
        lambda place: {
            **{"one": good, "raises": raises, "device": breaks_the_device, "crashes": crashes, "hangs": hangs},
            "last": good,
        },
    ),
    "slow": Section("Too slow", 3, 60, lambda place: {"hangs": hangs, "last": good}),
    "never": Section("Never begins", 300, 60, never),
    "fine": Section("All is well", 300, 60, lambda place: {"one": good}),
}

if __name__ == "__main__":
    measurements.main(*sys.argv[1:], sections=SECTIONS)
