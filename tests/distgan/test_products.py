from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from distgan.products import has_tf32, multiply_exactly, tf32

PROGRAM = """
import torch
from distgan.products import multiply_exactly, tf32

def used():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

multiply_exactly()
print(*used())
try:
    with tf32():
        print(*used())
        raise KeyError
except KeyError:
    print(*used())
"""


def test_tf32_is_used_in_its_block_alone_and_torch_warns_of_nothing():
    """In a process of its own: the settings are the process's."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["ieee ieee", "tf32 tf32", "ieee ieee"]
    assert done.stderr == ""


@pytest.mark.parametrize("native", [True, False])
def test_the_gpu_is_asked_and_no_processor_has_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: native)
    assert has_tf32(torch.device("cuda")) == native
    assert not has_tf32(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_is_as_exact_as_it_says_on_a_gpu():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, 16, 16, generator=random, dtype=torch.float64)
    w = torch.randn(64, 64, 3, 3, generator=random, dtype=torch.float64)
    exact = torch.nn.functional.conv2d(x, w, padding=1)

    def error() -> float:
        found = torch.nn.functional.conv2d(x.cuda().float(), w.cuda().float(), padding=1)
        return float((found.cpu().double() - exact).abs().max() / exact.abs().max())

    multiply_exactly()
    assert error() < 1e-5
    if has_tf32(torch.device("cuda")):
        with tf32():
            assert 1e-5 < error() < 1e-2
