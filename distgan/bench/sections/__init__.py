"""What ``distgan bench gpu`` measures, section by section.

To add one: a file with what makes its measurements, and a line below. A section's measurements are made by a process of
its own, see :mod:`distgan.bench.measurements`.
"""

from __future__ import annotations

from collections.abc import Mapping

from distgan.bench.sections import equality, facts, memory, processes, profile, run, speed, switches, tests
from distgan.bench.sections.base import Section

SECTIONS: Mapping[str, Section] = {
    "facts": Section("The machine", 60, 30, facts.measurements),
    "untried": Section("Training steps, images a second, with cuDNN's algorithms untried", 50, 20, speed.untried),
    "tests": Section("Tests for GPUs", 120, 90, tests.measurements),
    "speed": Section("Training steps, images a second", 150, 60, speed.measurements),
    "equality": Section(
        "The same steps, computed elsewhere, again and in other precisions", 80, 60, equality.measurements
    ),
    "switches": Section("A step with CUDA graphs and torch.compile, and without", 100, 60, switches.measurements),
    "run": Section("A whole run from shards", 100, 60, run.measurements),
    "memory": Section("Too little memory", 60, 40, memory.measurements),
    "processes": Section("Several processes", 70, 40, processes.measurements),
    "profile": Section("Where a step's time goes", 80, 40, profile.measurements),
}
"""The most valuable first: the last ones are lost when time runs out."""
