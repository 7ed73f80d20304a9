from __future__ import annotations

from contextlib import contextmanager, suppress

import pytest
import torch

from distgan.networks import ImageShape
from distgan.objectives import Batch
from distgan.training import precision as precision_module
from distgan.training.learner import Learner
from distgan.training.precision import Precision, lay_out_like
from distgan.training.workers import Workers
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


def products() -> list[str]:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return [backend.fp32_precision for backend in backends]


@pytest.mark.parametrize(("name", "used"), [("float32", "ieee"), ("tfloat32", "tf32")])
def test_float32_is_trained_in_as_it_is_and_tfloat32_in_tf32(monkeypatch, name, used):
    """torch by itself has TF32 in convolutions and not in matrix products."""
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
    precision, before = Precision(name, CUDA), products()
    assert (precision.name, precision.dtype) == (name, torch.float32)
    with precision.products():
        assert products() == [used, used]
    assert products() == before


@pytest.mark.parametrize(("name", "device"), [("bfloat16", CUDA), ("float64", CUDA), ("float32", CPU)])
def test_other_settings_stay_as_torch_has_them(name, device):
    before = products()
    with Precision(name, device).products():
        assert products() == before


@pytest.mark.parametrize("benchmarked", [False, True])
@pytest.mark.parametrize(("name", "device"), [("bfloat16", CUDA), ("float32", CUDA), ("float32", CPU)])
def test_a_gpu_has_cudnn_choose_by_trying_while_it_trains(monkeypatch, name, device, benchmarked):
    """Also where an error ends it, and whatever somebody has set for the rest of the process."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", benchmarked)
    with suppress(KeyError), Precision(name, device).products():
        assert torch.backends.cudnn.benchmark == (benchmarked or device == CUDA)
        raise KeyError
    assert torch.backends.cudnn.benchmark == benchmarked


def test_all_that_trains_is_computed_in_these_products(tiny, monkeypatch):
    """Forward and backward passes of both sides, and the average's statistics."""
    learner = Learner(tiny(), ImageShape(3, 16), Workers.alone(CPU))
    inside, seen = [False], []

    @contextmanager
    def entered():
        inside[0] = True
        yield
        inside[0] = False

    def noted(*_):
        seen.append(inside[0])

    monkeypatch.setattr(learner.precision, "products", entered)
    for network in (learner.generator, learner.critic, learner._ema.network):
        network.register_forward_hook(noted)
    for parameter in (*learner.generator.parameters(), *learner.critic.parameters()):
        parameter.register_hook(noted)
    real = Batch(torch.rand(8, 3, 16, 16), torch.zeros(8, 0))
    learner.update_critic(real, 0)
    learner.update_generator(real)
    learner.averaged_generator()
    assert len(seen) > 20
    assert all(seen)


@pytest.mark.parametrize(
    ("bfloat16", "device", "words"),
    [
        (True, CPU, ["this processor", "bfloat16 or float32"]),
        (False, CPU, ["this processor", "set it to float32"]),
        (False, CUDA, ["Tesla T4", "set it to float32"]),
    ],
)
def test_tfloat32_is_refused_where_there_is_none(monkeypatch, bfloat16, device, words):
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
