from __future__ import annotations

from pathlib import Path

import pytest

from distgan.launch import run_folder


@pytest.mark.parametrize(
    ("storage", "out", "alone", "in_a_sweep"),
    [
        (None, None, "runs/tiny", "runs/tiny-sweep/trial"),
        ("/mnt/runs", None, "/mnt/runs/tiny", "/mnt/runs/tiny-sweep/trial"),
        ("/mnt/runs", "here", "here", "here/trial"),
    ],
)
def test_a_run_s_folder_and_a_trial_s(tiny, monkeypatch, storage, out, alone, in_a_sweep):
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    spec = tiny(cluster__storage=storage)
    assert run_folder(spec, out and Path(out)) == Path(alone)
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    assert run_folder(spec, out and Path(out)) == Path(alone)  # of a person's choice, outside of any sweep
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert run_folder(spec, out and Path(out)) == Path(in_a_sweep)
