from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.errors import InputError
from shards.files import ready_or_say, refuse_inside, write_atomically, write_or_say


@pytest.mark.parametrize("lasting", [True, False])
def test_whole_or_not_there(tmp_path: Path, lasting: bool) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), write_atomically(path, lasting=lasting) as file:  # noqa: PT012
        file.write(b"ne")
        raise KeyError
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("x", b"old")]
    with write_atomically(path, lasting=lasting) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("x", b"new")]


def test_two_may_write_what_is_shared_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with write_atomically(path, shared=True) as first:
        first.write(b"first")
        with write_atomically(path, shared=True) as second:
            second.write(b"2nd")
        assert path.read_bytes() == b"2nd"
    with pytest.raises(KeyError), write_atomically(path, shared=True) as file:  # noqa: PT012
        file.write(b"third")
        raise KeyError
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("x", b"first")]


def test_a_file_that_was_asked_for_may_be_written_by_many_at_once(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    pages = [bytes([i]) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(lambda page: write_or_say(path, page), pages))
            assert path.read_bytes() in pages
    assert list(tmp_path.iterdir()) == [path]


def test_inside_whatever_the_way_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faces" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "faces")
    monkeypatch.chdir(tmp_path)
    for out in ("faces", "faces/new/set", "./faces/../faces/a", "link/new", tmp_path / "faces" / "x"):
        with pytest.raises(InputError, match="lies in"):
            refuse_inside(out, "faces/")
    for out in ("faces2", "faces/../new", ".", tmp_path):
        refuse_inside(out, "faces")


def test_what_is_written_after_long_work_is_looked_at_before(tmp_path: Path) -> None:
    ready_or_say(tmp_path / "new" / "folder" / "a.png")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_bytes(b"")
    for out, reason in ((tmp_path / "file" / "a.png", "exists|directory"), (tmp_path / "new", "directory")):
        with pytest.raises(InputError, match=f"cannot write {out}: .*(?i:{reason})"):
            ready_or_say(out)
        with pytest.raises(InputError, match=f"cannot write {out}: .*(?i:{reason})"):
            write_or_say(out, b"x")
    write_or_say(tmp_path / "other" / "b", b"x")
    assert (tmp_path / "other" / "b").read_bytes() == b"x"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match="Permission denied"):
        ready_or_say(tmp_path / "a")
