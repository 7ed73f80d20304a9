from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from distgan.products import float32_products, has_tf32

PROGRAM = """
import torch
from distgan.products import float32_products

def used():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

print(*used())
for tf32 in (True, False):
    try:
        with float32_products(tf32=tf32):
            print(*used())
            raise KeyError
    except KeyError:
        print(*used())
with torch.backends.cudnn.flags(enabled=True):  # which older settings are read for
    pass
"""


def test_products_are_as_asked_in_the_block_and_then_as_before_and_torch_warns_of_nothing():
    """In a process of its own: the settings are the process's."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, *found = done.stdout.splitlines()
    assert found == ["tf32 tf32", before, "ieee ieee", before]
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

    with float32_products(tf32=False):
        assert error() < 1e-5
    if has_tf32(torch.device("cuda")):
        with float32_products(tf32=True):
            assert 1e-5 < error() < 1e-2
