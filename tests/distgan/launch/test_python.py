from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distgan.checkpoint import find_checkpoint
from distgan.launch.python import train
from distgan.spec import dump_spec, load_spec
from shards.errors import InputError

SHORT = {"training.images": np.int64(16), "optimizer.generator.lr": np.float32(0.5)}


@pytest.mark.parametrize("form", ["a file", "its name as text", "a specification", "its fields"])
def test_a_run_is_given_in_any_form(tiny, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(dump_spec(tiny()))
    spec = {
        "a file": Path("spec.yaml"),
        "its name as text": "spec.yaml",
        "a specification": tiny(),
        "its fields": {**tiny().model_dump(), "data": {"shards": Path(tiny().data.shards), "image_size": 16}},
    }[form]
    trained = train(spec, overrides=SHORT, console=False)
    assert trained == (Path("runs/tiny"), "finished", 2, 16)
    written = load_spec("runs/tiny/spec.yaml")
    assert (written.training.images, written.optimizer.generator.lr) == (16, 0.5)
    assert find_checkpoint(trained.run).state.step == 2


def test_what_nobody_wrote_stays_a_default_when_another_field_is_set(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    spec = tiny(tracking__wandb={"mode": "offline"})
    train(spec, out=tmp_path / "run", overrides={"training.images": 8}, console=False)
    assert load_spec(tmp_path / "run" / "spec.yaml").tracking.wandb.project == "theirs"


def test_an_error_of_the_listener_is_the_caller_s(tiny, tmp_path):
    def pruned(step, figures):
        raise KeyError("pruned")

    with pytest.raises(KeyError, match="pruned"):
        train(tiny(), out=tmp_path / "run", on_log=pruned, console=False)


def test_what_is_wrong_is_an_input_error(tiny, tmp_path):
    for spec, overrides, word in [
        ("dcgan46", {}, "did you mean 'dcgan64'"),
        (tiny(), {"training.imagse": 3}, "did you mean 'images'"),
        ({"name": "x"}, {}, "the specification: the field 'data' is missing"),
    ]:
        with pytest.raises(InputError, match=word):
            train(spec, out=tmp_path / "run", overrides=overrides)
    with pytest.raises(InputError, match="on_log hears a run of one worker"):
        train(tiny(cluster__workers=2), out=tmp_path / "run", on_log=print)
    assert not (tmp_path / "run").exists()
