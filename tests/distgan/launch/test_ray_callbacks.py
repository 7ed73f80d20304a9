from __future__ import annotations

import subprocess
import sys

import pytest
from ray import cloudpickle

from distgan.launch.ray_callbacks import Group, Losses, OnSIGTERM, Reporter


@pytest.mark.slow
def test_the_controller_has_them_without_torch(tmp_path):
    """Its process is what everybody waits for."""
    handed = [OnSIGTERM(), Losses(None), Reporter(None, {"CPU": 1.0}), Group("gloo", 1.0)]
    (tmp_path / "handed").write_bytes(cloudpickle.dumps([*handed, handed[-1].backend_cls()]))
    program = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program, tmp_path / "handed"], check=True)
