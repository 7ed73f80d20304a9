"""Commands that start processes of their own, which tests wait for, kill and end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import command_line, descendants, kill


class Started:
    """A Python module that runs in a process of its own, all that this starts, and their output."""

    def __init__(self, log: Path, *command: object) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with log.open("w") as file:
            whole = [sys.executable, "-m", *map(str, command)]
            self.process = subprocess.Popen(whole, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def workers(self, part: str) -> list[int]:
        """The processes that it has started and whose command lines have a part."""
        return [pid for pid in descendants(self.process.pid)[1:] if part in command_line(pid)]

    def until(self, condition: Callable[[], object], seconds: float = 300.0) -> None:
        """Wait for a condition while it runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def wait(self, seconds: float = 400.0) -> tuple[int, str]:
        """Wait for its end: the exit code, and the output."""
        return self.process.wait(timeout=seconds), self.log.read_text()


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Started]]:
    """Starts a module with arguments; what is left of it ends with the test."""
    started: list[Started] = []

    def make(*command: object) -> Started:
        started.append(Started(tmp_path / f"log{len(started)}.txt", *command))
        return started[-1]

    yield make
    for each in started:
        kill(each.process)
