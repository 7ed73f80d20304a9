from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from distgan.checkpoint import find_checkpoint
from distgan.launch.demo import demo
from shards.errors import InputError
from shards.index import Index
from shards.progress import Progress

SMALL = ["model.generator.width=2", "model.critic.width=2", "training.batch_size=8", "tracking.log_every=1"]


@contextmanager
def silent(title: str) -> Iterator[Progress]:
    yield lambda done, total: None


def test_it_goes_all_the_way_and_again_on_from_where_it_was(tmp_path):
    said: list[str] = []
    outcome = demo(tmp_path, [*SMALL, "training.images=16"], said.append, silent, faces=12)
    assert (outcome.ended, outcome.images) == ("finished", 16)
    assert (tmp_path / "run" / "report.html").exists()
    assert len(list((tmp_path / "faces" / "img_align_celeba").glob("*.jpg"))) == 12
    index = Index.load(tmp_path / "shards")
    assert len(index) == 12
    assert "Smiling" in index.attribute_names
    assert find_checkpoint(tmp_path / "run").state.step == 2
    assert len(said) == 3

    said.clear()
    demo(tmp_path, [*SMALL, "training.images=32"], said.append, silent, faces=12)
    assert find_checkpoint(tmp_path / "run").state.step == 4
    assert len(said) == 1  # faces and shards are there


def test_no_account_is_needed(tmp_path):
    demo(tmp_path, [*SMALL, "training.images=8"], lambda text: None, silent, faces=12)  # some of them are for testing
    assert not (tmp_path / "run" / "wandb").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.image_size=48", "image_size"),
        ("objective.kind=nope", r"objective\.kind"),
        ("optimizer.critic.beta=1", r"optimizer\.critic: unknown field 'beta'"),
        ("objective.penalty_every=4", r"objective\.penalty_every"),
        ("training.graphs=on", r"training\.graphs"),
        ("training.precision=tfloat32", r"training\.precision"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_drawn(tmp_path, monkeypatch, change, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=said):
        demo(tmp_path / "demo", [change], lambda text: None, silent, faces=4)
    assert not (tmp_path / "demo").exists()
