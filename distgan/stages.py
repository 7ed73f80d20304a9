"""When a run shows what: from a step to its stage, its fade, its images and its place in the training stream, and back.

A run that grows (Karras et al. 2018, https://arxiv.org/abs/1710.10196) goes through stages, each of one image size and
one batch size; any other run is one stage. All of it follows from the number of a step alone, so that a run can go on
from any of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Stage(NamedTuple):
    """A stretch of steps.

    Attributes:
        size: Height and width of its images, in pixels.
        batch_size: Its global batch.
        n_critic: Critic updates in a step, each of which shows a batch.
        images: Real images that it is to show, the last step completing its batches. The last stage does not end.
        fade_images: So many of these pass until the layers that are new in it have faded in.
        learning_rates: By side, where they are not the run's.
        number: How many stages come before it.
        first_step: How many steps do.
        first_image: How many images do.
    """

    size: int
    batch_size: int
    n_critic: int
    images: int | None = None
    fade_images: int = 0
    learning_rates: Mapping[str, float] = {}
    number: int = 0
    first_step: int = 0
    first_image: int = 0

    @property
    def images_per_step(self) -> int:
        """Real images that a step shows to the critic."""
        return self.batch_size * self.n_critic

    @property
    def faded_in(self) -> int:
        """The first step in which its new layers are seen alone."""
        return self.first_step + max(-(-self.fade_images // self.images_per_step) - 1, 0)


class Timetable:
    """The stages of a run.

    Args:
        stages: At least one, in their order; what comes before each is filled in here.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        step = image = 0
        placed = []
        for number, stage in enumerate(stages):
            placed.append(stage._replace(number=number, first_step=step, first_image=image))
            steps = -(-(stage.images or 0) // stage.images_per_step)
            step, image = step + steps, image + steps * stage.images_per_step
        self.stages = tuple(placed)
        self._first_steps = [stage.first_step for stage in placed]
        self._first_images = [stage.first_image for stage in placed]

    def stage(self, step: int) -> Stage:
        """The stage of a step; the first step is 0."""
        return self.stages[bisect_right(self._first_steps, step) - 1]

    def fade(self, step: int) -> float:
        """How much of a stage's new layers is seen in a step, in (0, 1].

        It is the share of the fade's images that will have been shown when the step is done, so that no update is
        wasted on layers that nobody sees.
        """
        stage = self.stage(step)
        shown = self.images(step + 1) - stage.first_image
        return min(1.0, shown / stage.fade_images) if stage.fade_images else 1.0

    def last(self, steps: int) -> int:
        """The step that a state after so many steps comes from, whose stage and fade its generator is drawn in."""
        return max(steps - 1, 0)

    def images(self, steps: int, batches: int = 0) -> int:
        """Real images that the critic has been shown after so many steps, and so many batches of the next one.

        That is also the position in the training stream.
        """
        stage = self.stage(steps)
        return stage.first_image + (steps - stage.first_step) * stage.images_per_step + batches * stage.batch_size

    def steps(self, images: int) -> int:
        """The fewest steps that show so many images."""
        stage = self.stages[max(bisect_left(self._first_images, images) - 1, 0)]
        return stage.first_step - (stage.first_image - images) // stage.images_per_step
