from __future__ import annotations

from pathlib import Path

import pytest

from shards import bench
from shards.errors import InputError


@pytest.mark.slow
def test_packing_is_measured_beside_a_bare_loop(tmp_path: Path) -> None:
    figures = bench.bench_pack(None, counts=(20, 10), rounds=1)
    for name in ("64×64 ", "178×218 "):
        for figure in ("bare loop, images/s", "pack / bare loop", "pack, 2 processes / bare loop"):
            assert float(figures[name + figure]) > 0
    folder = bench.invent_files(tmp_path / "mine", 5, 64, 64)
    assert float(bench.bench_pack(folder, rounds=1)["pack / bare loop"]) > 0
    assert len(list(folder.iterdir())) == 5


def test_what_cannot_be_packed_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set was found"):
        bench.bench_pack(tmp_path)
