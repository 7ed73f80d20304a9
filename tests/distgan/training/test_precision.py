from __future__ import annotations

import pytest
import torch

from distgan.training.precision import Precision, lay_out_like


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_only_where_a_gpu_computes_in_it(monkeypatch, native, expected):
    """torch takes emulation for support unless it is told not to: V100 and T4 would be slower for it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert Precision("auto", torch.device("cuda")).name == expected
    assert Precision("auto", torch.device("cpu")).name == "float32"
    assert Precision("bfloat16", torch.device("cuda")).name == "bfloat16"


def test_a_moment_lies_as_its_parameter_and_a_count_stays():
    parameter = torch.empty(4, 3, 2, 2).to(memory_format=torch.channels_last)
    moment = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    laid = lay_out_like(moment, parameter)
    assert torch.equal(laid, moment)
    assert laid.dtype == moment.dtype
    assert laid.stride() == parameter.stride() != moment.stride()
    count = torch.tensor(3.0)
    assert lay_out_like(count, parameter) is count
