from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from distgan.bench import gpu
from distgan.bench.gpu import Found, Measured, as_json, as_markdown
from distgan.bench.sections.base import GOOD
from tests.distgan.bench import failing

FAILING = failing.SECTIONS


@pytest.fixture
def program(monkeypatch):
    monkeypatch.setattr(gpu, "SECTIONS", FAILING)
    monkeypatch.setattr(gpu, "PROGRAM", "tests.distgan.bench.failing")


def states(found: Found) -> dict[str, str]:
    return {each.name: each.state for each in found.measured}


@pytest.mark.slow
def test_what_fails_takes_nothing_else_with_it(program, tmp_path):
    found = {each.name: each for each in gpu.bench_gpu(tmp_path / "new" / "out", 5, [], lambda text: None)}
    expected = {"one": "done", "raises": "failed", "device": "failed", "crashes": "cut off", "hangs": "cut off"}
    assert states(found["failing"]) == {**expected, "last": "done"}
    of = {each.name: each for each in found["failing"].measured}
    assert of["raises"].error == "ValueError: no | such thing"
    assert of["crashes"].rows == [{"what": "before the crash", "found": 2.5}]
    assert found["slow"].problem == "out of time"
    assert states(found["slow"]).get("last", "not begun") == "not begun"  # it may not even have got to its plan
    assert not found["never"].measured
    assert "status 7" in found["never"].problem
    assert [name for name, each in found.items() if each.good] == ["fine"]
    text = (tmp_path / "new" / "out" / "gpu.md").read_text()
    for said in ("no | such thing", "- hangs: cut off", "out of time", "before the crash"):
        assert said in text
    document = json.loads((tmp_path / "new" / "out" / "gpu.json").read_text())
    assert [section["name"] for section in document["sections"]] == list(FAILING)
    log = (tmp_path / "new" / "out" / "log.txt").read_text()
    assert "Timeout" in log  # where the one that hung was


def test_without_time_nothing_is_begun(program, tmp_path):
    said: list[str] = []
    for found in gpu.bench_gpu(tmp_path, 0, [], said.append):
        assert not found.good
        assert found.problem == "out of time"
    assert (tmp_path / "gpu.md").read_text().count("out of time") == len(FAILING)


@pytest.mark.slow
def test_a_section_s_process_and_what_it_started_are_gone_when_time_runs_out(tmp_path):
    pids = tmp_path / "pids"
    script = 'sleep 600 & echo $$ $! >"$0"; wait'
    with (tmp_path / "log").open("w") as log:
        assert gpu._run(["sh", "-c", script, str(pids)], dict(os.environ), log, 3.0) is None
    for pid in pids.read_text().split():
        status = Path("/proc", pid, "status")
        assert not status.exists() or "Z (zombie)" in status.read_text()


def test_numbers_that_are_none_and_rows_of_several_kinds_are_written():
    rows = [{"what": "x|y", "found": float("inf"), GOOD: False}, {"what": "z", "more": True}]
    found = [Found("facts", [Measured("one", "done", rows, 1.0)], 2.0)]
    assert json.loads(as_json(found, on_cpu=False))["sections"][0]["measured"][0]["rows"][0]["found"] == "inf"
    lines = as_markdown(found, on_cpu=False).splitlines()
    assert [cell.strip() for cell in lines[-2].split(" | ")] == ["| x\\|y", "inf", "", f"NO{' ' * (len(GOOD) - 2)} |"]
    assert "1 rows not as it should be" in lines[4]
    assert not found[0].good


def test_where_there_is_no_gpu_it_is_said(distgan, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, said = distgan("bench", "gpu", "--out", tmp_path / "out")
    assert status == 2
    assert len(said.splitlines()) == 1
    assert "no GPU" in said
    assert not (tmp_path / "out").exists()


def test_a_section_that_there_is_not_is_named(distgan, tmp_path):
    status, said = distgan("bench", "gpu", "--device", "cpu", "--section", "fact", "--out", tmp_path)
    assert status == 2
    assert "facts" in said


@pytest.mark.slow
def test_it_works_on_a_cpu_in_small(distgan, tmp_path):
    status, said = distgan("bench", "gpu", "--device", "cpu", "--out", tmp_path, "--section", "facts", "--json")
    assert status == 0, said + (tmp_path / "log.txt").read_text()
    (section,) = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [each["state"] for each in section["measured"]] == ["done", "done"]
    assert {"what": "GPUs", "found": 0} in section["measured"][1]["rows"]
