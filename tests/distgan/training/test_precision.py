from __future__ import annotations

import pytest
import torch

from distgan.training.precision import Precision, lay_out_like

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_only_where_a_gpu_computes_in_it(monkeypatch, native, expected):
    """torch takes emulation for support unless it is told not to: V100 and T4 would be slower for it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert Precision("auto", CUDA).name == expected
    assert Precision("bfloat16", CUDA).name == "bfloat16"


@pytest.mark.parametrize(
    ("capabilities", "library", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, True, "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, True, "float32"),
        ({"avx512_bf16": True}, False, "float32"),
        ({"neon": True}, True, "float32"),
    ],
)
def test_auto_is_bfloat16_only_where_a_processor_computes_in_it(monkeypatch, capabilities, library, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: library)
    assert Precision("auto", CPU).name == expected
    assert Precision("float32", CPU).name == "float32"


def test_a_torch_that_cannot_say_what_the_processor_has_stays_with_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert Precision("auto", CPU).name == "float32"


def test_a_moment_lies_as_its_parameter_and_a_count_stays():
    parameter = torch.empty(4, 3, 2, 2).to(memory_format=torch.channels_last)
    moment = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    laid = lay_out_like(moment, parameter)
    assert torch.equal(laid, moment)
    assert laid.dtype == moment.dtype
    assert laid.stride() == parameter.stride() != moment.stride()
    count = torch.tensor(3.0)
    assert lay_out_like(count, parameter) is count
