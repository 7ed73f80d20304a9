"""What would do better than what the run does, in words: said once, when its figures have shown it for long.

Nothing here is trouble, which the guard is for: the run goes on as it is. What counts is far from what healthy runs
show, and nothing counts before ``guard.grace_images``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distgan.networks import critic_options
from distgan.networks.dcgan import CriticOptions
from distgan.objectives import objective_options
from distgan.objectives.relativistic import RelativisticOptions
from distgan.spec import RunSpec, value_at

SMALL = 20_000
"""Images in a set from which on a critic is not expected to learn them by heart."""
HELD_REAL = 0.95
"""Mean sign of the critic's outputs for real images from which on it may know them: 97.5 % are held to be real."""
EPOCHS = 5
"""For how many epochs in a row that must have been so."""
LEAST_IMAGES = 4_000
"""Images that such a mean is of, where an epoch has fewer."""
LOOSE = 0.99, 0.05
"""A relativistic critic is not held by its penalties if it ranks this share of the pairs right, and its loss, which is
log 2 = 0.69 undecided, and the weighted penalties are both below that."""
TIGHT = 0.8, 0.005
"""It is held too tightly if it ranks this share right, and its loss is nevertheless as near to log 2 as that: free to
say what it knows so well, it would have a loss of 0.6 or less."""
ALIKE = 0.8
"""Generated images have become more alike if their diversity is this share of the most that it has been, or less."""
ALIKE_FOR = 3
"""Means of it in a row, of an epoch each, for which that must have been so."""
LEAST_LOOKS = 20
"""Log steps that such a mean is of, where an epoch has fewer: each looks at one batch."""
_ALL_KINDS = "augmentation.colour=true augmentation.translation=0.125 augmentation.cutout=0.5"


class Advice:
    """What there is to say of a run.

    Args:
        spec: The run, every option written out.
        samples: Images that it trains on.
        remembered: What :meth:`state` returned when the checkpoint was written that the run goes on from.
    """

    def __init__(self, spec: RunSpec, samples: int, remembered: Mapping[str, Any] | None = None) -> None:
        self._spec = spec
        self._critic, self._objective = critic_options(spec.model.critic), objective_options(spec.objective)
        self._samples = samples
        state = remembered or {}
        self._heard: int = state.get("heard", 0)  # images, at the last log step
        self._counted: tuple[int, float] = tuple(state.get("counted", (0, 0.0)))  # images, and the sum of their signs
        self._looked: tuple[int, int, float] = tuple(state.get("looked", (0, 0, 0.0)))  # images, looks, their sum
        self._most: float = state.get("most", 0.0)  # diversity that an epoch has had
        self._streaks: dict[str, int] = dict(state.get("streaks", {}))
        self._said: list[str] = list(state.get("said", ()))

    def state(self) -> dict[str, Any]:
        """All that a resumed run must know, as JSON holds it."""
        return {
            "heard": self._heard,
            "counted": list(self._counted),
            "looked": list(self._looked),
            "most": self._most,
            "streaks": self._streaks,
            "said": self._said,
        }

    def begin_stage(self) -> None:
        """Forget how diverse the images of a run's stage were that is over: those of another size are otherwise so."""
        self._looked, self._most = (0, 0, 0.0), 0.0
        self._streaks.pop("alike", None)

    def hear(self, images: int, drawn: int, figures: Mapping[str, float]) -> list[str]:
        """What is to be said at a log step.

        Args:
            images: Real images shown so far.
            drawn: Images that the generator's updates have drawn.
            figures: Their means since the last log step, by name; the diversity is of this step alone.
        """
        since, self._heard = images - self._heard, images
        if drawn <= self._spec.guard.grace_images or not all(map(math.isfinite, figures.values())):
            return []
        found = {
            "small set": self._of_small_set(since, figures),
            "augmentation": self._of_augmentation(images, figures),
            "penalties": self._of_penalties(images, figures),
            "alike": self._of_spread(since, figures),
        }
        news = {name: text for name, text in found.items() if text and name not in self._said}
        self._said += news
        return list(news.values())

    def _of_small_set(self, since: int, figures: Mapping[str, float]) -> str | None:
        """A critic knows its real images."""
        if "critic/sign" not in figures or self._spec.augmentation.on or self._samples >= SMALL:
            return None
        images, signs = self._counted
        images, signs = self._counted = images + since, signs + since * figures["critic/sign"]
        if images < max(self._samples, LEAST_IMAGES):
            return None
        self._counted = 0, 0.0
        if self._streak("small set", signs / images >= HELD_REAL) < EPOCHS:
            return None
        return (
            f"the critic has long held nearly all real images to be real, now {_held_real(signs / images)}: it may "
            f"have learnt these {self._samples:,} by heart. A run that changes at random what it sees would go on "
            f"learning: {_ALL_KINDS} augmentation.target=0.6"
        )

    def _of_augmentation(self, images: int, figures: Mapping[str, float]) -> str | None:
        """A probability that adapts would go on if it might."""
        asked = self._spec.augmentation
        if asked.target is None or "critic/sign" not in figures:
            return None
        limit, sign = value_at(asked.probability, images), figures["critic/sign"]
        at_limit = figures["augmentation/probability"] >= 0.99 * limit > 0 and sign > asked.target
        if self._streak("augmentation", at_limit) < self._spec.guard.patience:
            return None
        remedies = [
            "more images",
            *(["a higher augmentation.probability"] if limit < 1 else []),
            *([] if asked.colour and asked.translation and asked.cutout else [f"all kinds of it ({_ALL_KINDS})"]),
            "a narrower critic",
        ]
        return (
            f"augmentation is as frequent as it may be (probability {limit:g}), and the critic still holds "
            f"{_held_real(sign)} of the real images to be real: these {self._samples:,} are few for it. What would "
            f"help: {', '.join(remedies[:-1])} or {remedies[-1]}"
        )

    def _of_penalties(self, images: int, figures: Mapping[str, float]) -> str | None:
        """R1 and R2 hold a relativistic critic too little or too much."""
        objective = self._objective
        if not isinstance(objective, RelativisticOptions):
            return None
        r1, r2 = value_at(objective.r1, images), value_at(objective.r2, images)
        weighted = r1 / 2 * figures.get("critic/penalty", 0.0) + r2 / 2 * figures.get("critic/penalty_fake", 0.0)
        ranked, loss = figures["critic/ranking"], figures["loss/critic"] - weighted
        patience, shown = self._spec.guard.patience, f"objective.r1 = {r1:g}, objective.r2 = {r2:g}"
        if self._streak("loose", ranked >= LOOSE[0] and max(loss, weighted) < LOOSE[1]) >= patience:
            return (
                f"the critic has long ranked nearly all pairs right, now {ranked:.1%}, with a loss of {loss:.2g}: its "
                f"penalties ({shown}) do not hold it. Make both ten times as large (from 1, where they are 0), or "
                "optimizer.critic.lr lower, in a new run"
            )
        if self._streak("tight", ranked >= TIGHT[0] and abs(loss - math.log(2)) < TIGHT[1]) >= patience and weighted:
            return (
                f"the critic ranks {ranked:.1%} of the pairs right, but its loss has long been that of one which "
                f"cannot tell: its penalties ({shown}) hold it flat. Make both a tenth as large in a new run"
            )
        return None

    def _of_spread(self, since: int, figures: Mapping[str, float]) -> str | None:
        """The generator draws less and less of what there is. More diverse than the data is only noisier."""
        if "diversity" not in figures:
            return None
        images, looks, total = self._looked
        images, looks, total = self._looked = images + since, looks + 1, total + min(figures["diversity"], 1.0)
        if images < self._samples or looks < LEAST_LOOKS:
            return None
        self._looked, mean = (0, 0, 0.0), total / looks
        self._most = max(self._most, mean)
        if self._streak("alike", mean <= ALIKE * self._most) < ALIKE_FOR:
            return None
        remedy = "a narrower critic" if self._spec.augmentation.on else f"augmentation ({_ALL_KINDS})"
        said = (
            f"the generated images become more alike: {mean:.0%} as diverse as the data's over the last {images:,} "
            f"images, and {self._most:.0%} before. An earlier generator may be the better one (training.keep_best and "
            "training.keep_generator_every_images keep some); "
        )
        if isinstance(self._critic, CriticOptions) and self._critic.blind_to_contrast:
            return (
                f"{said}if their contrast fades, which this critic cannot see, a new run with "
                f"model.critic.image_bias=0.1 keeps it; else what may help is more images, or {remedy}"
            )
        return f"{said}what may help is more images, or {remedy}"

    def _streak(self, what: str, going_on: bool) -> int:
        """For how many times in a row something has been so, this one included."""
        self._streaks[what] = self._streaks.get(what, 0) + 1 if going_on else 0
        return self._streaks[what]


def _held_real(sign: float) -> str:
    """The share of images whose outputs have a positive sign, given the mean sign."""
    return f"{(1 + sign) / 2:.1%}"
