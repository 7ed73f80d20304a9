from __future__ import annotations

import pytest
import torch

from distgan.devices import device_for, local_device
from shards.errors import InputError


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_gpu_is_taken_where_there_is_one(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    best = torch.device("cuda", 0) if gpus else torch.device("cpu")
    assert local_device() == device_for(None) == best
    assert device_for("cpu") == torch.device("cpu")
    if gpus:
        assert device_for("cuda") == torch.device("cuda")
        assert device_for("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("asked", "word"), [("gpu", "write cpu, cuda"), ("cuda:2", "sees 2 GPUs"), ("", "write cpu"), ("meta", "write cpu")]
)
def test_a_device_that_is_not_there_is_named(monkeypatch, asked, word):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=word):
        device_for(asked)
