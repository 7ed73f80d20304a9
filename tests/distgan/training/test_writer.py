from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from distgan.checkpoint import Checkpoint
from distgan.training.writer import Writer

WRITTEN = cast("Checkpoint", object())


def look(writer: Writer, until_done: bool) -> None:
    """Look until something is raised, as a thread may be done a moment after its work is."""
    while True:
        writer.wait(until_done=until_done)


def fail_while_writing(writer: Writer, write: Callable[[], Checkpoint], then: Callable[[Checkpoint], None]) -> None:
    with writer:
        writer.begin(write, then)
        raise RuntimeError("of training")


def test_what_was_begun_is_waited_for_and_told_of_in_the_thread_that_waits():
    told: list[Any] = []
    may_write = threading.Event()

    def write() -> Checkpoint:
        assert may_write.wait(60)
        told.append(threading.current_thread())
        return WRITTEN

    with Writer() as writer:
        writer.wait()  # nothing is
        writer.begin(write, lambda saved: told.extend([saved, threading.current_thread()]))
        writer.wait(until_done=False)
        assert told == []
        may_write.set()
        writer.wait()
        assert told[1:] == [WRITTEN, threading.current_thread()]
        assert told[0] is not threading.current_thread()
        writer.wait()
        assert len(told) == 3


@pytest.mark.parametrize("until_done", [True, False])
def test_what_went_wrong_is_raised_once_where_training_looks(until_done):
    failed = threading.Event()

    def write() -> Checkpoint:
        failed.set()
        raise OSError(28, "No space left on device")

    with Writer() as writer:
        writer.begin(write, lambda saved: pytest.fail("nothing was written"))
        failed.wait(60)
        with pytest.raises(OSError, match="No space left"):
            look(writer, until_done)
        writer.wait()
        writer.begin(lambda: WRITTEN, lambda saved: None)


def test_no_thread_is_left_to_take_processors_from_training():
    written: list[threading.Thread] = []

    def write() -> Checkpoint:
        written.append(threading.current_thread())
        return WRITTEN

    with Writer() as writer:
        for _ in range(3):
            writer.begin(write, lambda saved: None)
            writer.wait()
            written[-1].join(60)
            assert not written[-1].is_alive()


def test_when_the_block_ends_nothing_is_being_written():
    ended: list[str] = []

    def write() -> Checkpoint:
        ended.append("written")
        return WRITTEN

    with pytest.raises(RuntimeError, match="of training"):
        fail_while_writing(Writer(), write, lambda saved: ended.append("told"))
    assert ended == ["written"]
