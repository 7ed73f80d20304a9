from __future__ import annotations

import pytest

from distgan.bench import measurements
from distgan.bench.measurements import DEVICE_ERROR, read_record
from tests.distgan.bench.failing import SECTIONS as FAILING


def test_a_device_that_can_no_more_ends_the_process_and_the_next_goes_on_behind(tmp_path):
    with pytest.raises(SystemExit) as ended:
        measurements.main("failing", str(tmp_path), str(tmp_path), sections=FAILING)
    assert ended.value.code == DEVICE_ERROR
    lines = read_record(tmp_path / "failing.jsonl")
    assert lines[0] == {"planned": ["one", "raises", "device", "crashes", "hangs", "last"]}
    assert [line["began"] for line in lines if "began" in line] == ["one", "raises", "device"]
    assert [line["failed"] for line in lines if "failed" in line] == ["raises", "device"]
    with (tmp_path / "failing.jsonl").open("a") as file:
        file.write(
            '{"began": "crashes"}\n{"began": "hangs"}\n{"of": "han'
        )  # and its process was killed in the middle of a line
    measurements.main("failing", str(tmp_path), str(tmp_path), sections=FAILING)
    lines = read_record(tmp_path / "failing.jsonl")
    assert [line["began"] for line in lines if "began" in line] == lines[0]["planned"]
    assert [line["ended"] for line in lines if "ended" in line] == ["one", "last"]
