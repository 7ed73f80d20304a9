import os
import subprocess
from pathlib import Path

import pytest

from distgan.tracking import commit as module
from distgan.tracking.commit import VARIABLE, commit_of, commit_of_distgan, note_commit


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    (tmp_path / "checkout" / "jobs").mkdir(parents=True)
    git(tmp_path / "checkout", "init", "-q")
    git(tmp_path / "checkout", "commit", "-q", "--allow-empty", "-m", "first")
    git(tmp_path / "checkout", "remote", "add", "origin", "https://me:secret@example.org/runs.git")
    return tmp_path / "checkout"


def test_the_commit_of_a_checkout_and_of_none(checkout, tmp_path, monkeypatch):
    head = git(checkout, "rev-parse", "HEAD")
    assert commit_of(checkout) == commit_of(checkout / "jobs") == head
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) is None
    assert commit_of(tmp_path / "missing") is None
    monkeypatch.setenv("PATH", "")
    assert commit_of(checkout) is None


def test_an_installed_package_inside_a_checkout_has_none(checkout, monkeypatch):
    (checkout / "lib" / "distgan").mkdir(parents=True)
    monkeypatch.setattr(module.distgan, "__file__", str(checkout / "lib" / "distgan" / "__init__.py"))
    assert commit_of_distgan() is None
    monkeypatch.setattr(module.distgan, "__file__", str(checkout / "distgan" / "__init__.py"))
    assert commit_of_distgan() == commit_of(checkout)


def test_the_specification_s_commit_where_distgan_has_none(checkout, monkeypatch):
    spec = checkout / "jobs" / "mine.yaml"
    monkeypatch.setattr(module, "commit_of_distgan", lambda: None)
    note_commit(spec)
    assert VARIABLE not in os.environ  # there is no such file: the name of a recipe
    spec.touch()
    monkeypatch.setenv(VARIABLE, "theirs")
    note_commit(spec)
    assert os.environ[VARIABLE] == "theirs"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(module, "commit_of_distgan", lambda: "ours")
    note_commit(spec)
    assert VARIABLE not in os.environ
    monkeypatch.setattr(module, "commit_of_distgan", lambda: None)
    monkeypatch.setenv(VARIABLE, "")  # so that it is gone after the test
    note_commit(spec)
    assert os.environ[VARIABLE] == commit_of(checkout)
