"""Training that has gone wrong is noticed, said in words, and handled as the specification asks.

Each step leaves a handful of numbers on the device (:meth:`Guard.observe`); at a log step, where the host waits for the
device anyway, they cross in one transfer and are judged (:meth:`Guard.judge`). So watching costs no wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distgan.errors import RunError
from distgan.spec import GuardSpec

Kind = Literal["nonfinite", "exploding", "won", "collapse"]

GRADIENT_GONE = 1e-3
"""Share of its earlier norm below which a generator's gradient counts as gone."""
REMEMBERED = 50
"""Log steps whose gradient norms are what later ones are compared with."""
MOST_COMPARED = 256
"""Images of a batch that diversity looks at."""
_WATCHED = ("loss/", "grad_norm/", "critic/accuracy")


class Trouble(NamedTuple):
    """Something that has gone wrong."""

    kind: Kind
    since: int
    """The first step whose weights are suspect: a checkpoint of an earlier one is good."""
    text: str


class RollBack(Exception):  # noqa: N818  (a way to go, not an error)
    """Raised where training should go back to before a trouble."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.text)
        self.trouble = trouble


def thumbnails(images: Tensor) -> Tensor:
    """Images (N, C, S, S) at 16 pixels, where it is faces that differ and not noise: rows (N, C · 256)."""
    exact = torch.promote_types(images.dtype, torch.float32)
    return F.adaptive_avg_pool2d(images.to(exact), 16).flatten(1)


def diversity(thumbnails: Tensor) -> Tensor:
    """How different images are: the mean distance of each to the nearest other.

    The nearest, because a generator with a few favourites still has distant pairs.

    Args:
        thumbnails: (N, D), N ≥ 2.

    Returns:
        A scalar on the device.
    """
    distances = torch.cdist(thumbnails, thumbnails, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(math.inf).amin(dim=1).mean()


class Guard:
    """Watches a run.

    Args:
        spec: What counts as trouble, and what to do.
        remembered: What :meth:`state` returned when the checkpoint was written that the run goes on from.
        average: Makes figures (steps, n) of this process those of the global batch, so that all processes judge alike.
    """

    def __init__(
        self,
        spec: GuardSpec,
        remembered: Mapping[str, Any] | None = None,
        average: Callable[[Tensor], Tensor] = lambda figures: figures,
    ) -> None:
        self._spec = spec
        self._average = average
        state = remembered or {}
        self._names: tuple[str, ...] = tuple(state.get("names", ()))
        self._window: list[Tensor] = []  # a row a step, on the device, of this process
        self._rows: list[list[float]] = [list(row) for row in state.get("window", ())]  # older ones, of all processes
        self._norms: dict[str, list[float]] = {name: list(norms) for name, norms in state.get("norms", {}).items()}
        self._since: dict[str, int] = dict(state.get("since", {}))
        self._streaks: dict[str, int] = dict(state.get("streaks", {}))
        self._told: list[str] = list(state.get("told", ()))

    def state(self) -> dict[str, Any]:
        """All that a resumed run's guard must know, as JSON holds it; to be asked for after :meth:`check_state`."""
        return {
            "names": list(self._names),
            "window": self._to_host(),
            "norms": self._norms,
            "since": self._since,
            "streaks": self._streaks,
            "told": self._told,
        }

    @property
    def suspect_from(self) -> int | None:
        """The first step of what may become a trouble; None while all is well."""
        return min(self._since.values(), default=None)

    def observe(self, figures: Mapping[str, Tensor]) -> None:
        """Take a step's figures, as scalars on the device; kept are losses, gradient norms and accuracy."""
        self._names = tuple(name for name in figures if name.startswith(_WATCHED))
        self._window.append(torch.stack([figures[name].detach().double() for name in self._names]))

    def judge(self, step: int, images: int, ratio: float | None) -> list[Trouble]:
        """What has gone wrong since the last log step, or has been going wrong for long enough.

        Args:
            step: Steps done.
            images: Real images shown.
            ratio: Diversity of the generated batch as a share of the real one's; None where it has only one image.
        """
        window, self._rows = self._to_host(), []
        first = step - len(window) + 1
        columns = self._columns(window)
        norms = {name.removeprefix("grad_norm/"): v for name, v in columns.items() if name.startswith("grad_norm/")}
        found = [self._nonfinite(first, columns), *(self._exploding(first, *item) for item in norms.items())]
        if images > self._spec.grace_images:
            found += [self._won(first, columns.get("critic/accuracy"), norms), self._collapse(first, ratio)]
        for name, values in norms.items():
            usable = [value for value in values if 0 < value < math.inf]
            self._norms[name] = [*self._norms.get(name, ()), *([median(usable)] if usable else [])][-REMEMBERED:]
        troubles = [trouble for trouble in found if trouble]
        news = [trouble for trouble in troubles if trouble.kind not in self._told]
        self._told = sorted({trouble.kind for trouble in troubles})
        return news

    def check_state(self, step: int, finite: bool) -> list[Trouble]:
        """Whether what would be saved is not all finite numbers, or comes of losses and gradients that were not.

        Args:
            step: Steps done.
            finite: Whether every weight is.
        """
        window = self._to_host()
        found = self._nonfinite(step - len(window) + 1, self._columns(window))
        if not found and not finite:
            text = f"step {step}: there are weights that are NaN or infinite: training has diverged"
            found = Trouble("nonfinite", step, text)
        if not found or "nonfinite" in self._told:
            return []
        self._told.append("nonfinite")
        return [found]

    def handle(self, trouble: Trouble, rollbacks: int) -> str:
        """Do what the specification asks.

        Args:
            trouble: What has gone wrong.
            rollbacks: How often the run has gone back already.

        Returns:
            What to tell the person watching; the run goes on.

        Raises:
            RunError: The run is to stop.
            RollBack: It is to go back.
        """
        action = getattr(self._spec, trouble.kind)
        if action == "warn":
            return f"{trouble.text}. Going on, as guard.{trouble.kind} is warn."
        if action == "rollback" and rollbacks < self._spec.max_rollbacks:
            raise RollBack(trouble)
        why = f"guard.{trouble.kind} is stop"
        if action == "rollback":
            why = f"{rollbacks} roll-backs have not helped, and guard.max_rollbacks allows no more"
        raise RunError(f"{trouble.text}. Stopping, as {why}. {_ADVICE[trouble.kind]}")

    def _to_host(self) -> list[list[float]]:
        """The rows since the last log step; those that are on the device come in one transfer."""
        if self._window:
            self._rows += self._average(torch.stack(self._window)).tolist()
            self._window = []
        return self._rows

    def _columns(self, window: Sequence[Sequence[float]]) -> dict[str, tuple[float, ...]]:
        """Each figure's values, a value a step."""
        return dict(zip(self._names, zip(*window, strict=True), strict=True)) if window else {}

    def _usual(self, name: str, norms: Sequence[float]) -> float:
        """What a gradient's norm has been: at earlier log steps, or at the first step. NaN if it was always 0."""
        return median(self._norms.get(name) or [norm for norm in norms if 0 < norm < math.inf][:1] or [math.nan])

    def _nonfinite(self, first: int, columns: Mapping[str, Sequence[float]]) -> Trouble | None:
        bad = [
            (i, name, value)
            for name, values in columns.items()
            for i, value in enumerate(values)
            if not math.isfinite(value)
        ]
        if not bad:
            return None
        since = min(i for i, _, _ in bad)
        what = ", ".join(f"{name} is {value}" for i, name, value in bad if i == since)
        return Trouble("nonfinite", first + since, f"step {first + since}: {what}: training has diverged")

    def _exploding(self, first: int, name: str, norms: Sequence[float]) -> Trouble | None:
        usual = self._usual(name, norms)
        over = [i for i, norm in enumerate(norms) if self._spec.explosion * usual < norm < math.inf]
        if not over:
            return None
        step, norm = first + over[0], norms[over[0]]
        return Trouble(
            "exploding",
            step,
            f"step {step}: the {name}'s gradient explodes: its norm is {norm:.3g}, {norm / usual:,.0f} times the "
            f"usual {usual:.3g}",
        )

    def _won(
        self, first: int, accuracy: Sequence[float] | None, norms: Mapping[str, Sequence[float]]
    ) -> Trouble | None:
        if not accuracy or "generator" not in norms:
            return None
        share = sum(accuracy) / len(accuracy)
        streak = self._streak("won", first, share >= self._spec.won_accuracy)
        if not streak:
            return None
        usual, now = self._usual("generator", norms["generator"]), median(norms["generator"])
        gone = now < GRADIENT_GONE * usual
        if not gone and streak < self._spec.patience:
            return None
        since = self._since["won"]
        what = f"tells {share:.1%} of the images right, since step {since + 1}"
        if gone:
            what += f", and the generator's gradient is gone (norm {now:.3g}, {usual:.3g} before)"
        return Trouble("won", since, f"step {first + len(accuracy) - 1}: the critic has won: it {what}")

    def _collapse(self, first: int, ratio: float | None) -> Trouble | None:
        streak = self._streak("collapse", first, ratio is not None and ratio < self._spec.collapse_ratio)
        if streak < self._spec.patience:
            return None
        since = self._since["collapse"]
        return Trouble(
            "collapse",
            since,
            f"the generator has collapsed: since step {since + 1} its images are all alike, "
            f"now {ratio:.1%} as diverse as the data's",
        )

    def _streak(self, kind: Kind, first: int, going_on: bool) -> int:
        """For how many log steps in a row something has been going on, this one included."""
        if not going_on:
            self._since.pop(kind, None)
            self._streaks.pop(kind, None)
            return 0
        self._since.setdefault(kind, first - 1)  # the first step's images were made by the weights of the one before
        self._streaks[kind] = self._streaks.get(kind, 0) + 1
        return self._streaks[kind]


_ADVICE: dict[Kind, str] = {
    "nonfinite": "The newest checkpoint, if there is one, is from before: go on from it with --resume, or begin again "
    "with a lower learning rate (optimizer.*.lr).",
    "exploding": "Try a lower learning rate (optimizer.*.lr) or optimizer.*.clip_norm.",
    "won": "Try a lower optimizer.critic.lr, a narrower critic, or objective.kind wasserstein_gp.",
    "collapse": "Try another seed, a lower learning rate, or objective.kind wasserstein_gp.",
}
