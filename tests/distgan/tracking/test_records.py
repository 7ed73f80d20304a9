from __future__ import annotations

import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgan.tracking import read_metrics
from distgan.tracking.records import Records, read_log, sample_grids
from shards.errors import InputError
from tests.distgan.tracking.conftest import draw_grid, figures, open_run

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda name: name != "step")
VALUES = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**53), 2**53)
LINES = st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=6)


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@settings(deadline=None)
@given(lines=LINES)
def test_figures_come_back_as_they_were(tmp_path_factory, lines):
    run = tmp_path_factory.mktemp("run")
    records = Records(run, resume_step=None, images_at=lambda step: 8 * step)
    for step, line in enumerate(lines):
        records.log(step, line)
    back = read_metrics(run)
    assert [line.pop("step") for line in back] == list(range(len(lines)))
    assert [list(line) for line in back] == [list(line) for line in lines]
    assert all(same(old[name], new[name]) for old, new in zip(lines, back, strict=True) for name in old)


def test_every_json_parser_reads_nan(run):
    open_run(run).log(1, {"loss/critic": math.nan, "a": math.inf, "b": -math.inf, "c": 0.5})

    def refuse(constant):
        raise AssertionError(constant)

    line = json.loads((run / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "loss/critic": "nan", "a": "inf", "b": "-inf", "c": 0.5}


@settings(deadline=None)
@given(cut=st.integers(0, 200))
def test_a_last_line_that_was_cut_is_ignored_and_gone_after_resuming(tmp_path_factory, cut):
    run = tmp_path_factory.mktemp("run")
    tracker = open_run(run)
    for step in range(1, 4):
        tracker.log(step, figures(step))
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    kept = whole[: max(0, len(whole) - cut)]
    path.write_bytes(kept)
    complete = [json.loads(line) for line in kept.split(b"\n") if line.endswith(b"}")]
    assert read_metrics(run) == complete
    open_run(run, resume_step=3).log(4, figures(4))
    assert read_metrics(run) == [*complete, {"step": 4, **figures(4)}]


@settings(deadline=None)
@given(resume_step=st.integers(0, 120))
def test_resuming_drops_what_is_newer(tmp_path_factory, resume_step):
    run = tmp_path_factory.mktemp("run")
    (run / "samples").mkdir()
    tracker = open_run(run)
    for step in range(10, 101, 10):
        tracker.log(step, figures(step))
        draw_grid(run, 8 * step)
    (run / "samples" / "notes.png").write_bytes(b"mine")
    open_run(run, resume_step=resume_step)
    expected = [step for step in range(10, 101, 10) if step <= resume_step]
    assert [line["step"] for line in read_metrics(run)] == expected
    assert [images for images, _ in sample_grids(run / "samples")] == [8 * step for step in expected]
    assert (run / "samples" / "notes.png").exists()


@pytest.mark.parametrize(
    "line", ["{", "[]", "null", '{"loss": 1}', '{"step": 1, "a": null}', '{"step": 1, "a": "x"}', "\xff\x00", ""]
)
def test_a_damaged_line_is_named_and_nothing_is_dropped(run, line):
    tracker = open_run(run)
    tracker.log(1, figures(1))
    tracker.log(2, figures(2))
    path = run / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n", encoding="latin-1")
    before = path.read_bytes()
    grid = draw_grid(run, 10_000)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_metrics(run)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        open_run(run, resume_step=1)
    assert path.read_bytes() == before
    assert grid.exists()


def test_a_new_run_does_not_write_after_an_old_one(run):
    open_run(run).log(1, figures(1))
    with pytest.raises(InputError, match="already holds"):
        open_run(run)
    assert len(read_metrics(run)) == 1


def test_no_metrics_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path)


def test_the_log_keeps_messages_with_their_time(run):
    tracker = open_run(run)
    tracker.message("two\nlines")
    tracker.message("a name of undecodable bytes: \udcff")
    tracker.close("interrupted")
    open_run(run, resume_step=7)
    entries = read_log(run)
    texts = [entry.text for entry in entries]
    assert texts == [
        "started",
        "two\nlines",
        "a name of undecodable bytes: \\udcff",
        "interrupted",
        "resumed at step 7",
    ]
    assert all(entry.time.startswith("20") and "T" in entry.time for entry in entries)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_full_disk_names_the_file(run):
    tracker = open_run(run)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        tracker.log(1, figures(1))
    assert error.value.filename == str(run / "metrics.jsonl")
    tracker.close("failed")
    assert read_log(run)[-1].text == "failed"
