"""What is done aside leaves no thread behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from distgan.threads import aside

THREADS_OF_TORCH = """
import time
from pathlib import Path
import torch
from distgan.threads import aside

def threads():
    return {path.name for path in Path("/proc/self/task").iterdir()}

big = torch.ones(4_000_000)
big.clone()  # this thread has its own from here on
before = threads()

def work():
    big.clone()
    return len(threads() - before)

assert aside(work, "checkpoint").result(60) == 2  # itself and its own one
deadline = time.monotonic() + 60
while threads() - before and time.monotonic() < deadline:
    time.sleep(0.01)
assert threads() == before
"""


def test_what_comes_of_it_and_its_thread_ends():
    thread = aside(threading.current_thread, "checkpoint").result(60)
    assert thread is not threading.current_thread()
    assert thread.name.startswith("checkpoint")
    thread.join(60)
    assert not thread.is_alive()


def test_what_goes_wrong_is_raised_where_it_is_waited_for():
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        aside(fail, "export").result(60)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lists the threads that torch has")
def test_the_threads_that_torch_has_for_it_end_too():
    done = subprocess.run(
        [sys.executable, "-c", THREADS_OF_TORCH],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
