from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distgan.checkpoint import find_checkpoint
from distgan.launch.local import train_locally
from distgan.spec import dump_spec
from tests.curves import assert_same, curve, steps
from tests.processes import command_line, descendants, kill

pytestmark = pytest.mark.slow


@pytest.fixture
def channel():
    """What the actor is made of, without Ray's part."""
    pytest.importorskip("ray")
    from distgan.launch.ray import _Channel

    return _Channel


def test_failures_in_a_row_end_a_run_and_a_new_checkpoint_begins_a_new_row(channel):
    driver = channel(max_failures=2)
    assert driver.begin(0) == 0
    for start, step in enumerate((0, 20, 20, 20), start=1):
        driver.lose([], {0: "cut off"})
        assert not driver.failed()
        assert driver.begin(step) == start
    driver.lose([], {0: "cut off"})
    kind, text = driver.news(stop=False).failure
    assert kind == "RunError"
    assert "3 times in a row" in text
    assert "after step 20" in text
    assert driver.news(stop=False).given_up


def test_no_number_of_failures_ends_a_run_that_shall_not_end(channel):
    driver = channel(max_failures=-1)
    for _ in range(100):
        driver.begin(0)
        driver.lose([0], {0: "died"})
    assert not driver.failed()


def test_who_died_is_said_and_not_who_could_not_go_on_without_them(channel):
    driver = channel(max_failures=9)
    driver.arrive(1, "two")
    driver.lose([1], {0: "Connection reset", 1: "died"})
    driver.lose([], {0: "Connection reset"})
    died, broken = driver.news(stop=False).lines
    assert died.startswith("worker 1 on two has died: ")
    assert "reset" not in died
    assert broken.startswith("worker 0: Connection reset: ")
    assert driver.news(stop=False).lines == []


def test_a_machine_that_is_taken_away_is_said_once(channel):
    driver = channel(max_failures=9)
    driver.arrive(1, "two")
    driver.take([1])
    driver.lose([0], {0: "died", 1: "a machine is being taken away"})
    driver.lose([0], {0: "died"})
    taken, died = driver.news(stop=False).lines
    assert taken.startswith("worker 1 on two: its machine is being taken away: ")
    assert died.startswith("worker 0 has died: ")


def test_after_an_error_that_no_start_would_mend_nothing_is_started(channel):
    driver = channel(max_failures=9)
    driver.fail("InputError", "no such shards")
    driver.fail("RunError", "a consequence")
    driver.lose([], {0: "no such shards"})
    news = driver.news(stop=True)
    assert news == ([], ("InputError", "no such shards"), True)
    assert driver.leaving()


def test_workers_make_room_for_others_without_that_being_the_run_s_end(channel):
    driver = channel(max_failures=9)
    driver.begin(0)
    assert not driver.leaving()
    driver.resize()
    assert driver.leaving()
    assert driver.resizing()
    assert not driver.left()
    assert not driver.resizing()
    driver.resize()
    driver.begin(20)  # those of before were ended before they could leave
    assert not driver.leaving()
    driver.news(stop=True)
    assert driver.leaving()
    assert driver.left()
    assert not driver.resizing()


class Started:
    """A ``distgan`` command in a process of its own, and all that it starts."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with log.open("w") as file:
            command = [sys.executable, "-m", "distgan", *map(str, arguments)]
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def workers(self) -> list[int]:
        return [pid for pid in descendants(self.process.pid) if "RayTrainWorker" in command_line(pid)]

    def wait(self, seconds: float = 400.0) -> tuple[int, str]:
        return self.process.wait(timeout=seconds), self.log.read_text()


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def make(*arguments: object) -> Started:
        started.append(Started(tmp_path / f"log{len(started)}.txt", *arguments))
        return started[-1]

    yield make
    for each in started:
        kill(each.process)


def until(condition: Callable[[], object], started: Started, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert started.process.poll() is None, started.log.read_text()
        assert time.monotonic() < deadline, started.log.read_text()
        time.sleep(0.1)


@pytest.fixture
def spec(tiny):
    return tiny(training__images=3200, training__precision="float64", training__checkpoint_every_images=160)


def test_a_run_whose_workers_are_killed_is_the_run_of_one_worker(spec, start, tmp_path):
    train_locally(spec, tmp_path / "alone", console=False)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    run, offline = tmp_path / "run", "tracking.wandb.mode=offline"
    training = start("train", tmp_path / "spec.yaml", "--workers", 2, "--out", run, "--set", offline)
    until(lambda: len(steps(run)) >= 30, training)
    os.kill(training.workers()[0], signal.SIGKILL)  # as the kernel does when memory runs out
    until(lambda: "resumed at step" in (run / "log.txt").read_text(), training)
    again = len(steps(run))
    until(lambda: len(steps(run)) > again, training)  # so that all workers there are work
    os.kill(training.workers()[-1], signal.SIGTERM)  # as a machine does that is taken away
    status, text = training.wait()
    assert status == 0, text
    assert "finished at step 400" in text
    assert re.search(r"^worker \d on \S+ has died: workers start again, from the newest checkpoint$", text, re.M)
    assert "Traceback" not in text
    assert (run / "log.txt").read_text().count("resumed at step") == 2
    assert len(steps(run)) == 400
    assert_same(curve(tmp_path / "alone")[:100], curve(run))
    folders = [path.name for path in (run / "wandb").glob("offline-run-*")]
    assert len(folders) == 3  # one each time that rank 0 began
    assert len({name.rpartition("-")[2] for name in folders}) == 1  # of one run


def test_sigterm_saves_and_one_worker_goes_on(spec, start, tmp_path):
    train_locally(spec, tmp_path / "alone", console=False)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    run = tmp_path / "run"
    training = start("train", tmp_path / "spec.yaml", "--workers", "1-2", "--out", run)
    until(lambda: len(steps(run)) >= 7, training)
    training.process.terminate()
    status, text = training.wait()
    assert status == 0, text
    assert "interrupted at step" in text
    step = find_checkpoint(run).state.step
    assert step == steps(run)[-1]
    alone = start(
        "train", tmp_path / "spec.yaml", "--out", run, "--resume", "--set", f"training.images={(step + 9) * 8}"
    )
    status, text = alone.wait()
    assert status == 0, text
    assert len(steps(run)) == step + 9
    assert_same(curve(tmp_path / "alone"), curve(run))


def test_what_workers_find_wrong_is_said_once_and_is_the_user_s_to_mend(spec, start, tmp_path):
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.doc").write_text("important")
    status, text = start("train", tmp_path / "spec.yaml", "--workers", 2, "--out", run).wait()
    assert status == 2, text
    assert "error: rank 0 on " in text
    assert "add --resume" in text
    assert "Traceback" not in text
    assert (run / "thesis.doc").read_text() == "important"
