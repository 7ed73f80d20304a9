from __future__ import annotations

import pytest
import torch

from distgan.errors import RunError
from distgan.spec import GuardSpec
from distgan.tracking.events import Event, read_events
from distgan.tracking.records import LogEntry, read_log
from distgan.training.guard import Guard, Kind, RollBack, Trouble
from distgan.training.loop import train
from distgan.training.workers import Workers

TEXTS: dict[Kind, str] = {
    "nonfinite": "step 31: loss/critic is nan: training has diverged",
    "exploding": "step 31: the critic's gradient explodes: its norm is 3, 3,000 times the usual 0.001",
    "won": "step 31: the critic has won: it tells 99.9% of the images right, since step 11",
    "collapse": "the generator has collapsed: since step 31 its images are all alike, now 1% as diverse as the data's",
}


def images_at(step: int) -> int:
    return 8 * step


def events(*texts: str) -> list[Event]:
    return read_events([LogEntry(f"t{i}", text) for i, text in enumerate(texts)], images_at)


def places(*texts: str) -> list[tuple[str, int]]:
    return [(event.kind, event.images) for event in events(*texts)]


@pytest.mark.parametrize("kind", TEXTS)
def test_what_the_guard_says_is_understood(kind):
    trouble = Trouble(kind, 30, TEXTS[kind])
    told = Guard(GuardSpec.model_validate({kind: "warn"})).handle(trouble, 0)
    assert events("started", told) == [Event(31, 248, "warning", "t1", told)]
    with pytest.raises(RunError) as stopped:
        Guard(GuardSpec.model_validate({kind: "stop"})).handle(trouble, 0)
    assert places(f"failed: {stopped.value}", "failed") == [("failure", 248)]
    with pytest.raises(RollBack):
        Guard(GuardSpec.model_validate({kind: "rollback"})).handle(trouble, 0)


def test_what_the_loop_says_of_a_roll_back_is_understood(tiny, tmp_path, monkeypatch):
    """A run that is rolled back for real, and goes on."""
    judge, troubles = Guard.judge, [Trouble("exploding", 6, "step 7: the critic's gradient explodes: its norm is 9")]

    def trouble_once(self, step, drawn, ratio):
        return [troubles.pop()] if step == 7 and troubles else judge(self, step, drawn, ratio)

    monkeypatch.setattr(Guard, "judge", trouble_once)
    spec = tiny(guard__exploding="rollback", training__checkpoint_every_images=32)
    train(spec, tmp_path / "run", Workers.alone(torch.device("cpu")), console=False)
    (event,) = read_events(read_log(tmp_path / "run"), spec.timetable.images)
    assert (event.kind, event.step, event.images) == ("roll-back", 4, 32)
    assert "roll-back 1 of at most" in event.text


def test_what_says_no_step_is_no_event():
    assert events("started", "training on cpu in float32: 5 samples, 12 steps of 8 images", "finished") == []
    assert events("failed: No space left on device", "failed") == []


def test_stages_and_restarts_lie_where_they_were():
    stage = "step 1,201: images of 32 pixels, in batches of 8"
    assert places("started", stage, "resumed at step 1300") == [("note", 9608), ("restart", 10400)]


def test_what_was_done_again_is_said_once():
    warning = "step 9: the critic has won. Going on, as guard.won is warn."
    note = "step 10: it might know its images by heart"
    assert places(warning, note, "resumed at step 9", note) == [("warning", 72), ("restart", 72), ("note", 80)]
    back = "step 9: bad. Going back to step 6 with fresh noise"
    assert places("step 3: a", warning, back, "step 7: b") == [("note", 24), ("roll-back", 48), ("note", 56)]


def test_failures_and_roll_backs_of_steps_that_are_undone_are_not_forgotten():
    back = "step 9: bad. Going back to step 6 with fresh noise"
    failed = "failed: step 12: bad. Stopping, as guard.nonfinite is stop."
    assert places(back, failed, "failed", "resumed at step 4") == [("roll-back", 32), ("failure", 32), ("restart", 32)]
