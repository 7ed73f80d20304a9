"""Each name from inside Ray is taken away in turn, in all processes: a run trains and recovers without them."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy

from distgan.checkpoint import find_checkpoint
from distgan.launch import ray_private
from distgan.launch.local import train_locally
from distgan.spec import dump_spec
from tests.curves import assert_same, curve, steps

NAMES = [
    "ControllerCallback",
    "DataParallelTrainer",
    "DatasetsCallback",
    "FixedScalingPolicy",
    "PlacementGroupCleanerCallback",
    "WorkerCallback",
    "_worker_logs_enabled",
    "canonicalize_bootstrap_address_or_die",
    "get_train_context",
]
TAKE_AWAY = """
import importlib, os, sys
from types import SimpleNamespace

taken, real = os.environ["TAKEN"].split(","), importlib.import_module

def import_module(name, package=None):
    if sys._getframe(1).f_globals.get("__name__") != "distgan.launch.ray_private":
        return real(name, package)
    module = real(name, package)
    return SimpleNamespace(**{key: value for key, value in vars(module).items() if key not in taken})

importlib.import_module = import_module
"""


def test_these_are_all_the_names():
    """And ray_private.py is the only file that looks inside Ray."""
    tree = ast.parse(Path(ray_private.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_find"]
    assert sorted(call.args[1].value for call in calls) == NAMES
    for path in Path(ray_private.__file__).parents[1].rglob("*.py"):
        if path != Path(ray_private.__file__):
            assert not re.search(r"ray\.[\w.]*\b_\w+", path.read_text()), path


@pytest.fixture
def without(tmp_path, monkeypatch) -> Callable[[Sequence[str]], None]:
    """Takes names away from all processes that are started afterwards."""

    def take(names: Sequence[str]) -> None:
        (tmp_path / "sitecustomize.py").write_text(TAKE_AWAY)
        monkeypatch.setenv("TAKEN", ",".join(names))
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(ray_private.__file__).parents[2]}")

    return take


@pytest.mark.slow
def test_without_one_the_others_are_what_they_were(without, tmp_path):
    """What a run is made of is there, whichever is missing. In a process of its own, in which all is imported anew."""
    without([])
    program = """
import importlib, sys
import sitecustomize
import distgan.launch.ray
import distgan.launch.ray_worker
from distgan.launch import ray_private
inside = f"{ray_private._INSIDE}.context", "ray._private.services", "ray._private.worker"
names = "get_train_context", "canonicalize_bootstrap_address_or_die", "_worker_logs_enabled"
for taken in sys.argv[1:]:
    sitecustomize.taken[:] = [taken]
    importlib.reload(ray_private)
    importlib.reload(distgan.launch.ray_callbacks)
    importlib.reload(distgan.launch.ray_worker)
    importlib.reload(distgan.launch.ray)
    found = {each.__name__ for each in vars(ray_private).values() if getattr(each, "__module__", "").startswith("ray.")}
    found -= {"UserCallback"}  # which is public, and taken instead
    found |= {name for module, name in zip(inside, names) if ray_private._find(module, name) is not None}
    assert ray_private.can_spare() == (taken not in ("DataParallelTrainer", "PlacementGroupCleanerCallback")), taken
    ray_private.quieten_worker_deaths()
    print(*sorted(found))
"""
    command = [sys.executable, "-c", program, *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [[name for name in NAMES if name != taken] for taken in NAMES]


@pytest.mark.slow
def test_without_all_of_them_a_run_trains_and_recovers(tiny, start, without, tmp_path):
    spec = tiny(training__images=1600, training__precision="float64")
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    without(NAMES)
    train_locally(spec, tmp_path / "alone", console=False)
    run = tmp_path / "run"
    training = start("distgan", "train", tmp_path / "spec.yaml", "--workers", 2, "--out", run)
    training.until(lambda: len(steps(run)) >= 20)
    os.kill(training.workers("RayTrainWorker")[0], signal.SIGKILL)
    status, text = training.wait()
    assert status == 0, text
    assert "Traceback" not in text
    assert find_checkpoint(run).state.step == spec.steps
    assert re.search(r"^worker \d on \S+ has died: workers start again, from the newest checkpoint$", text, re.M)
    assert_same(curve(tmp_path / "alone")[:100], curve(run))


def test_without_them_nothing_is_known(monkeypatch):
    monkeypatch.setattr(ray_private, "_find", lambda module, name: None)
    assert ray_private.preempted_ranks() == []
    assert ray_private.cluster_of_this_machine() is None
    ray_private.spare(SimpleNamespace(), alone=True)
    ray_private.quieten_worker_deaths()


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("workers", "fixed"), [(2, True), ((1, 2), False)])
def test_only_processes_that_a_run_has_no_use_for_are_spared(alone, workers, fixed):
    trainer = ray_private._TRAINER(print, scaling_config=ScalingConfig(num_workers=workers))
    before = [type(each).__name__ for each in trainer._create_default_callbacks()]
    handed: dict[str, Any] = {}
    trainer._initialize_and_run_controller = handed.update  # as fit does, which needs a cluster
    ray_private.spare(trainer, alone)
    policy = (FixedScalingPolicy if fixed else ElasticScalingPolicy)(trainer.scaling_config)
    trainer._initialize_and_run_controller(scaling_policy=policy, callbacks=trainer._create_default_callbacks())
    gone = {"DatasetsCallback", *(["PlacementGroupCleanerCallback"] if alone else [])}
    assert gone <= set(before)
    assert [type(each).__name__ for each in handed["callbacks"]] == [name for name in before if name not in gone]
    assert (handed["scaling_policy"] is policy) == (not (alone and fixed))
    if handed["scaling_policy"] is not policy:
        handed["scaling_policy"].after_controller_start(None)  # asks nobody
        decision = handed["scaling_policy"].make_decision_for_non_running_worker_group()
        assert decision.num_workers == workers
