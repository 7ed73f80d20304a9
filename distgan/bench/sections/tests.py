"""The tests for GPUs."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from distgan.bench.sections.base import CHECKOUT, GOOD, Measurement, Place, Row, output_of
from distgan.devices import local_device

TESTS = CHECKOUT / "tests"


def measurements(place: Place) -> dict[str, Measurement]:
    """Each file of tests for GPUs, in a pytest of its own."""

    def run(path: Path) -> Iterator[Row]:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider", "-vv"]
        own = {"COLUMNS": "1000", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # no line broken, nothing of others
        with output_of([*command, "-rs", "--tb=short", str(path)], cwd=CHECKOUT, more=own) as lines:
            count = 0
            for line in lines:
                if found := re.match(r"(\S+\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED)", line):
                    may_skip = "needs two GPUs" in line or local_device().type == "cpu"
                    good = found[2] == "PASSED" or (found[2] == "SKIPPED" and may_skip)
                    yield {"test": found[1].removeprefix("tests/"), "result": found[2].lower(), GOOD: good}
                    count += 1
        if not count:
            raise RuntimeError("pytest has run none: the log says why")

    files = [path for path in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text("utf-8")]
    return {path.relative_to(TESTS).as_posix(): functools.partial(run, path) for path in files}
