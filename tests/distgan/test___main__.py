from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_python_without_what_distgan_needs_says_which_and_why():
    """As in a Ray job, where Ray's environment is not the one on the PATH; -S leaves what is installed out."""
    command = [sys.executable, "-S", "-E", "-m", "distgan", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sys.executable} has no ")
    assert "PATH of `ray start`" in done.stderr
    assert "Traceback" not in done.stderr
