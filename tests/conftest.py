"""What all tests share."""

from __future__ import annotations

import os

# Tests train tiny networks in several processes: more than one thread each only makes them wait for each other.
# Set before torch is imported, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

try:
    from hypothesis import settings
except ModuleNotFoundError:  # a machine with a GPU that runs the tests for GPUs alone: see distgan.bench.gpu
    pass
else:
    settings.register_profile("distgan", deadline=None)  # timings never decide a test
    settings.load_profile("distgan")
