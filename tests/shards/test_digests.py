from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import pytest

from shards.digests import file_crc32, file_digests


@pytest.mark.parametrize("size", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 20) + 5])
def test_checksums_are_those_of_the_whole_file(tmp_path: Path, size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "x").write_bytes(data)
    assert file_crc32(tmp_path / "x") == zlib.crc32(data)
    assert file_digests(tmp_path / "x", "md5", "sha256") == [
        hashlib.new(name, data).hexdigest() for name in ("md5", "sha256")
    ]
