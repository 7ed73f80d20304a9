from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan import checkpoint as module
from distgan.checkpoint import (
    Checkpoint,
    State,
    checkpoints,
    drop_later,
    find_checkpoint,
    go_back,
    prune,
    save_checkpoint,
)
from distgan.networks import ImageShape, build_networks
from distgan.spec import DataSpec, RunSpec
from shards.errors import InputError
from shards.files import write_atomically


def state(step: int = 3) -> State:
    spec = RunSpec(name="tiny", data=DataSpec(shards="x"))
    return State(
        step=step, images=10, position=10, seeds={"noise": 3}, spec=spec, channels=3, fingerprint="f", wandb_run_id="w"
    )


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.9))
    for _ in range(3):
        network(torch.randn(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    return network, optimizer


def save(run: Path, step: int = 3) -> Checkpoint:
    network, optimizer = trained()
    return save_checkpoint(run, state(step), {"critic": network.state_dict()}, {"critic": optimizer})


def test_what_was_saved_is_read_back_to_the_bit(tmp_path):
    network, optimizer = trained()
    save_checkpoint(tmp_path, state(), {"critic": network.state_dict()}, {"critic": optimizer})
    read = find_checkpoint(tmp_path)
    assert (read.state.step, read.state.wandb_run_id, read.state.spec) == (3, "w", state().spec)
    for name, tensor in network.state_dict().items():
        assert torch.equal(read.tensors("critic")[name], tensor)
    other = torch.optim.Adam([torch.zeros_like(p).requires_grad_() for p in network.parameters()])
    other.load_state_dict(read.optimizer_state("critic"))
    ours, theirs = other.state_dict(), optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for index, entry in theirs["state"].items():
        for key, value in entry.items():
            assert torch.equal(ours["state"][index][key], value)


def test_a_checkpoint_is_named_by_its_step_and_found_from_its_run(tmp_path):
    for step in (9, 100_000_000, 20):
        save(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000009", "step-00000020", "step-100000000"]
    assert find_checkpoint(tmp_path).state.step == 100_000_000
    assert find_checkpoint(tmp_path / "checkpoints" / "step-00000009").state.step == 9


def test_no_checkpoint_is_said_so(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="neither a checkpoint nor a run"):
            find_checkpoint(path)


@given(st.data())
def test_every_damaged_byte_is_named(tmp_path_factory, data):
    saved = save(tmp_path_factory.mktemp("run"))
    file = saved.path / data.draw(st.sampled_from(["critic.safetensors", "optimizers.safetensors"]))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(InputError, match=file.name):
        Checkpoint(saved.path).tensors(file.stem)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": 1}', b"\xff"])
def test_a_damaged_state_is_named(tmp_path, content):
    saved = save(tmp_path)
    (saved.path / "state.json").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.json"):
        Checkpoint(saved.path)


def test_a_truncated_or_missing_file_is_named(tmp_path):
    saved = save(tmp_path)
    file = saved.path / "critic.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"critic\.safetensors"):
        saved.tensors("critic")
    file.unlink()
    with pytest.raises(InputError, match=r"critic\.safetensors"):
        saved.tensors("critic")


def test_a_pickle_is_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    saved = save(tmp_path)
    (saved.path / "critic.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError):
        saved.tensors("critic")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("files_before", [0, 1, 2])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, files_before):
    save(tmp_path, 1)
    written = 0

    def failing(path: Path) -> AbstractContextManager[BinaryIO]:
        nonlocal written
        written += 1
        if written > files_before:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_atomically(path)

    monkeypatch.setattr(module, "write_atomically", failing)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert find_checkpoint(tmp_path).tensors("critic")


@given(st.data())
def test_every_changed_number_in_the_state_is_noticed(tmp_path_factory, data):
    saved = save(tmp_path_factory.mktemp("run"))
    path = saved.path / "state.json"
    text = path.read_text()
    digits = [i for i, character in enumerate(text) if character.isdigit()]
    place = data.draw(st.sampled_from(digits))
    digit = data.draw(st.sampled_from([d for d in "123456789" if d != text[place]]))
    path.write_text(text[:place] + digit + text[place + 1 :])
    with pytest.raises(InputError, match=r"state\.json"):
        Checkpoint(saved.path)


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"critic\.safetensors"):
        save(tmp_path).load_into(nn.Linear(2, 2), "critic")


def test_what_a_kill_left_is_not_taken_for_a_checkpoint(tmp_path):
    save(tmp_path, 1)
    partial = tmp_path / "checkpoints" / ".step-00000002.partial"
    partial.mkdir()
    (partial / "critic.safetensors").write_bytes(b"half")
    assert find_checkpoint(tmp_path).state.step == 1
    save(tmp_path, 2)
    assert find_checkpoint(tmp_path).tensors("critic")
    assert not partial.exists()


def test_what_a_kill_left_goes_when_training_goes_on(tmp_path):
    save(tmp_path, 1)
    for folder in ("checkpoints", "generators", "traces"):
        (tmp_path / folder / ".step-00000002.partial").mkdir(parents=True)
    others = tmp_path / "averages" / ".step-00000001-half-life-5.partial"  # which somebody makes at this moment
    others.mkdir(parents=True)
    drop_later(tmp_path, 1)
    assert list(tmp_path.glob("*/.*")) == [others]
    assert find_checkpoint(tmp_path).state.step == 1


@given(st.sets(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 4), st.none() | st.integers(1, 20))
def test_pruning_keeps_the_newest_and_the_first_of_each_span(tmp_path_factory, steps, last, every):
    run = tmp_path_factory.mktemp("run")
    for step in steps:
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    ordered = sorted(steps)
    expected = set(ordered[-last:])
    if every:
        expected |= {min(s for s in ordered if s // every == step // every) for step in ordered}
    prune(run, last, every and (lambda step: step // every))
    assert {int(path.name[5:]) for path in checkpoints(run)} == expected


def test_pruning_as_it_goes_keeps_what_pruning_at_the_end_would(tmp_path):
    for step in range(1, 30):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        prune(tmp_path, 2, lambda step: step // 10)
    assert [int(path.name[5:]) for path in checkpoints(tmp_path)] == [1, 10, 20, 28, 29]


@pytest.mark.parametrize(
    ("suspects", "kept"), [([], [8, 9]), ([9], [8, 9]), ([7], [6, 8, 9]), ([1], [8, 9]), ([7, 4], [3, 6, 8, 9])]
)
def test_the_newest_checkpoint_from_before_a_doubt_is_kept(tmp_path, suspects, kept):
    for step in range(1, 10):
        save(tmp_path, step)
    prune(tmp_path, 2, None, suspects)
    assert [Checkpoint(path).state.step for path in checkpoints(tmp_path)] == kept


@pytest.mark.parametrize(("suspect_from", "left"), [(4, [2]), (3, [2]), (5, [2, 4]), (2, []), (9, [2, 4, 6])])
def test_going_back_removes_what_is_suspect(tmp_path, suspect_from, left):
    for step in (2, 4, 6):
        save(tmp_path, step)
    good = go_back(tmp_path, suspect_from)
    assert [Checkpoint(path).state.step for path in checkpoints(tmp_path)] == left
    assert (good.state.step if good else None) == (left[-1] if left else None)


def test_a_checkpoint_of_a_version_with_fewer_fields_is_still_whole(tmp_path):
    checkpoint = save(tmp_path)
    file = checkpoint.path / module.STATE
    state = json.loads(file.read_text())
    del state["spec"]["cluster"]["storage"]  # as if it had been written before there was this field
    others = {name: digest for name, digest in state["sha256"].items() if name != module.STATE}
    text = json.dumps({**state, "sha256": others}, sort_keys=True)
    state["sha256"][module.STATE] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(state))
    assert Checkpoint(checkpoint.path).state == checkpoint.state.model_copy(update={"sha256": state["sha256"]})
    state["step"] += 1
    file.write_text(json.dumps(state))
    with pytest.raises(InputError, match="does not say what was written"):
        Checkpoint(checkpoint.path)


@pytest.mark.parametrize(
    ("size", "width", "max_width"), [(64, 128, None), (128, 32, None), (128, 64, 1024), (256, 64, 2048), (128, 8, None)]
)
def test_a_checkpoint_of_format_2_has_the_networks_that_it_had(tmp_path, size, width, max_width):
    """They doubled their width without end. What is as wide today needs no option, and resumes without one."""
    network = {"name": "dcgan", "width": width}
    tree = {
        "name": "old",
        "data": {"shards": "x", "image_size": size},
        "model": {
            "generator": {**network, "activation": "relu"},
            "critic": {**network, "normalisation": "batch"},
        },
    }
    old = state().model_copy(update={"format": module.FORMAT_2, "spec": RunSpec.model_validate(tree)})
    model = save_checkpoint(tmp_path, old, {}).state.spec.model
    assert (model.generator.rest["max_width"], model.critic.rest["max_width"]) == (max_width, max_width)
    with torch.device("meta"):
        generator, critic = build_networks(model, ImageShape(3, size), 0)
    widest = width * size // 8
    assert [layer.in_channels for layer in generator.modules() if isinstance(layer, nn.ConvTranspose2d)][1] == widest
    assert [layer.in_channels for layer in critic.modules() if isinstance(layer, nn.Conv2d)][-1] == widest


def test_a_format_of_the_future_is_named(tmp_path):
    with pytest.raises(InputError, match="'distgan-checkpoint-9'; this version reads 'distgan-checkpoint-3' and"):
        save_checkpoint(tmp_path, state().model_copy(update={"format": "distgan-checkpoint-9"}), {})
