from __future__ import annotations

import os
import signal

import pytest

from distgan.checkpoint import find_checkpoint
from distgan.launch.local import train_locally
from distgan.launch.torchrun import train_under_torchrun
from distgan.spec import dump_spec
from shards.errors import InputError
from tests.curves import assert_same, curve, steps

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.mark.slow
def test_a_run_under_torchrun_is_the_run_of_one_process_through_kills_and_signals(tiny, start, tmp_path):
    spec = tiny(training__images=3200, training__precision="float64", training__checkpoint_every_images=160)
    train_locally(spec, tmp_path / "alone", console=False)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    run = tmp_path / "run"
    train = ("-m", "distgan", "train", tmp_path / "spec.yaml", "--out", run)
    training = start(*TORCHRUN, "--max-restarts=2", *train)
    training.until(lambda: len(steps(run)) >= 30)
    os.kill(training.workers("-m distgan")[-1], signal.SIGKILL)
    training.until(lambda: "resumed at step" in (run / "log.txt").read_text())
    again = len(steps(run))
    training.until(lambda: len(steps(run)) > again)
    training.process.terminate()
    training.process.wait(timeout=100)
    saved = find_checkpoint(run).state.step
    assert saved == steps(run)[-1]
    status, text = start(*TORCHRUN, *train, "--resume").wait()
    assert status == 0, text
    assert text.count("finished at step 400") == 1  # one process speaks
    assert f"resumed at step {saved}\n" in (run / "log.txt").read_text()
    assert len(steps(run)) == 400
    assert_same(curve(tmp_path / "alone")[:100], curve(run))


@pytest.mark.slow
def test_wrong_input_is_said_once(tiny, start, tmp_path):
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny(data__image_size=32)))
    train = ("-m", "distgan", "train", tmp_path / "spec.yaml", "--out", tmp_path / "run")
    status, text = start(*TORCHRUN, *train).wait()
    assert status != 0
    assert text.count("error: data.image_size is 32, but the shards in ") == 1
    assert not (tmp_path / "run").exists()


def test_several_machines_that_would_not_find_each_other_again_are_told_so_at_once(tiny, monkeypatch, tmp_path):
    of_torchrun = {
        "LOCAL_RANK": "0",
        "GROUP_WORLD_SIZE": "2",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in of_torchrun.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        train_under_torchrun(tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
