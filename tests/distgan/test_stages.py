from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distgan.stages import Stage, Timetable


@st.composite
def timetables(draw) -> Timetable:
    n_critic, stages = draw(st.integers(1, 3)), []
    for power in range(draw(st.integers(1, 4))):
        images = draw(st.integers(1, 60))
        fade = draw(st.integers(0, images)) if power else 0
        stages.append(Stage(8 << power, draw(st.integers(1, 9)), n_critic, images, fade))
    stages[-1] = stages[-1]._replace(images=None)
    return Timetable(stages)


def simulated(timetable: Timetable, steps: int):
    """Of each step, by a plain loop: stage, images before, images before each batch, fade, images after."""
    number = images = shown = 0
    for _ in range(steps):
        while (stage := timetable.stages[number]).images is not None and shown >= stage.images:
            number, shown = number + 1, 0
        before, positions = images, []
        for _ in range(stage.n_critic):
            positions.append(images)
            images, shown = images + stage.batch_size, shown + stage.batch_size
        fade = 1.0 if shown >= stage.fade_images else shown / stage.fade_images
        yield stage, before, positions, fade, images


@given(timetables(), st.integers(1, 120))
def test_it_is_a_plain_loop_over_steps(timetable, steps):
    for step, (stage, before, positions, fade, after) in enumerate(simulated(timetable, steps)):
        assert timetable.stage(step) == stage
        assert timetable.images(step) == before
        assert [timetable.images(step, batches) for batches in range(stage.n_critic)] == positions
        assert timetable.fade(step) == fade
        assert timetable.images(step + 1) == after
        assert (timetable.fade(stage.faded_in), step >= stage.faded_in) == (1.0, fade == 1.0)
        assert timetable.stage(timetable.last(step + 1)) == stage


@given(timetables(), st.integers(0, 400))
def test_steps_are_the_fewest_that_show_so_many_images(timetable, images):
    fewest = 0
    while timetable.images(fewest) < images:
        fewest += 1
    assert timetable.steps(images) == fewest


@given(timetables())
def test_what_comes_before_a_stage_are_the_others(timetable):
    ends = [0, 0]
    for number, stage in enumerate(timetable.stages):
        assert (stage.number, stage.first_step, stage.first_image) == (number, *ends)
        if stage.images is not None:
            steps = -(-stage.images // stage.images_per_step)
            ends = [ends[0] + steps, ends[1] + steps * stage.images_per_step]
            assert 0 <= ends[1] - stage.first_image - stage.images < stage.images_per_step


def test_without_stages_a_run_is_one():
    timetable = Timetable([Stage(64, 128, 5)])
    assert timetable.stage(10**9) == timetable.stages[0] == timetable.stage(0)
    assert (timetable.images(3), timetable.steps(1920), timetable.steps(1921)) == (1920, 3, 4)
    assert timetable.fade(0) == timetable.fade(7) == 1.0
