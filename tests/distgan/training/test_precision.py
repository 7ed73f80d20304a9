from __future__ import annotations

import pytest
import torch

from distgan.training import precision as precision_module
from distgan.training.precision import Precision, lay_out_like
from shards.errors import InputError

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


@pytest.fixture
def products():
    """Sets the process's settings back, which other tests should find as they were."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [backend.fp32_precision for backend in backends]
    yield lambda: [backend.fp32_precision for backend in backends]
    for backend, precision in zip(backends, before, strict=True):
        backend.fp32_precision = precision


def test_tfloat32_has_tf32_in_training_s_products_alone(monkeypatch, products):
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
    precision = Precision("tfloat32", CUDA)
    assert (precision.name, precision.dtype) == ("tfloat32", torch.float32)
    assert products() == ["ieee", "ieee"]
    with precision.products():
        assert products() == ["tf32", "tf32"]
    assert products() == ["ieee", "ieee"]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float64"])
def test_nothing_else_has_tf32_on_a_gpu(name, products):
    """torch has it in convolutions, unless it is told not to."""
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    precision = Precision(name, CUDA)
    assert products() == ["ieee", "ieee"]
    with precision.products():
        assert products() == ["ieee", "ieee"]


@pytest.mark.parametrize(
    ("bfloat16", "device", "words"),
    [
        (True, CPU, ["this processor", "bfloat16 or float32"]),
        (False, CPU, ["this processor", "set it to float32"]),
        (False, CUDA, ["Tesla T4", "set it to float32"]),
    ],
)
def test_tfloat32_is_refused_where_there_is_none(monkeypatch, products, bfloat16, device, words):
    monkeypatch.setattr(precision_module, "computes_in_bfloat16", lambda device: bfloat16)
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(InputError) as caught:
        Precision("tfloat32", device)
    for word in ["training.precision is tfloat32", "Ampere", *words]:
        assert word in str(caught.value)


def test_a_moment_lies_as_its_parameter_and_a_count_stays():
    parameter = torch.empty(4, 3, 2, 2).to(memory_format=torch.channels_last)
    moment = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    laid = lay_out_like(moment, parameter)
    assert torch.equal(laid, moment)
    assert laid.dtype == moment.dtype
    assert laid.stride() == parameter.stride() != moment.stride()
    count = torch.tensor(3.0)
    assert lay_out_like(count, parameter) is count
