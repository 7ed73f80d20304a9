"""Memory that tensors leave stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from distgan.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(20 * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
print(keep_freed_memory(), faults() < given_back / 5)
"""
CHOSEN = {"GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_TRIM_THRESHOLD_": "4096"}], ids=["default", "the user's"])
def test_what_is_freed_is_used_again(chosen):
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN} | chosen
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    kept, fewer = done.stdout.split()
    assert kept == "False" if chosen else (kept == "False" or fewer == "True")
