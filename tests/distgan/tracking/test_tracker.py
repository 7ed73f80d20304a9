from __future__ import annotations

from pathlib import Path

import pytest

from distgan.tracking import Sink, Tracker


class Recorder(Sink):
    def __init__(self, calls: list[object]) -> None:
        self.calls = calls

    def log(self, step, figures):
        self.calls.append(("log", step, dict(figures)))

    def progress(self, step):
        self.calls.append(("progress", step))

    def picture(self, step, images, path):
        self.calls.append(("picture", step, images, path))

    def message(self, text):
        self.calls.append(("message", text))

    def alert(self, title, text):
        self.calls.append(("alert", title, text))

    def generator(self, which, step, facts, export):
        self.calls.append(("generator", which, step, facts, export))

    def film(self, step, images, path):
        self.calls.append(("film", step, images, path))

    def close(self, outcome):
        self.calls.append(("close", outcome))


def write_nothing(folder: Path) -> None:
    """Where a generator would be exported."""


def use(tracker: Tracker) -> None:
    tracker.progress(1)
    tracker.log(1, {"loss/critic": 0.5})
    tracker.picture(1, 8, Path("samples/0000000008.png"))
    tracker.message("hello")
    tracker.alert("won", "the critic has won")
    tracker.generator("best", 1, {"images": 8}, write_nothing)
    tracker.film(1, 8, Path("timeline.gif"))
    tracker.close("finished")


def test_every_sink_is_told_everything():
    first: list[object] = []
    second: list[object] = []
    use(Tracker([Recorder(first), Recorder(second)]))
    assert first == second
    assert first == [
        ("progress", 1),
        ("log", 1, {"loss/critic": 0.5}),
        ("picture", 1, 8, Path("samples/0000000008.png")),
        ("message", "hello"),
        ("alert", "won", "the critic has won"),
        ("generator", "best", 1, {"images": 8}, write_nothing),
        ("film", 1, 8, Path("timeline.gif")),
        ("close", "finished"),
    ]


def test_without_sinks_nothing_is_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker()
    use(tracker)
    assert tracker.wandb_run_id is None
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_one_sink_that_cannot_close_keeps_no_other_from_closing():
    class Broken(Sink):
        def close(self, outcome):
            raise OSError("disk full")

    before: list[object] = []
    after: list[object] = []
    with pytest.raises(OSError, match="disk full"):
        Tracker([Recorder(before), Broken(), Recorder(after)]).close("failed")
    assert before == after == [("close", "failed")]
