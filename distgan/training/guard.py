"""Training that has gone wrong is noticed, said in words, and handled as the specification asks.

Each step leaves a handful of numbers on the device (:meth:`Guard.observe`). At a log step, where the host waits for the
device anyway, they cross in one transfer and are judged (:meth:`Guard.judge`). Where a checkpoint is due, what single
steps show is judged too (:meth:`Guard.check_state`). So watching costs no wait, and nothing bad is saved unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from distgan.errors import RunError
from distgan.spec import GuardSpec
from distgan.training.advice import Advice

Kind = Literal["nonfinite", "exploding", "won", "drifting", "collapse"]

GRADIENT_GONE = 1e-3
"""Share of its earlier norm below which a generator's gradient counts as gone."""
REMEMBERED = 50
"""Log steps whose gradient norms are what later ones are compared with."""
ENOUGH = 5
"""Steps before there is a usual norm: the first ones of a run are far from it, in either direction."""
HALVES = 4
"""Half epochs (or log intervals, where these are longer) after which losses that drift apart count."""
APART = 0.1
"""Share of its value by which each loss must have moved by then."""
MOST_COMPARED = 256
"""Images of a batch that diversity looks at."""
_WATCHED = (
    "loss/",
    "grad_norm/",
    "critic/accuracy",
    "critic/ranking",
    "critic/penalty",
    "critic/sign",
    "augmentation/",
)

Row = dict[str, float]
"""A step's figures. Not every step has each: a penalty may be of some updates alone."""


class Trouble(NamedTuple):
    """Something that has gone wrong."""

    kind: Kind
    since: int
    """The first step whose weights are suspect: a checkpoint of an earlier one is good. What a step's figures show was
    done to the weights at the step before, if not earlier."""
    text: str


class RollBack(Exception):  # noqa: N818  (a way to go, not an error)
    """Raised where training should go back to before a trouble."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.text)
        self.trouble = trouble


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
        average: Makes figures (n,) of this process those of the global batch, so that all processes judge alike.
        epoch_steps: Steps in which each sample is shown once; None where that is not known.
        advice: What else there is to say, if anything.
    """

    def __init__(
        self,
        spec: GuardSpec,
        remembered: Mapping[str, Any] | None = None,
        average: Callable[[Tensor], Tensor] = lambda figures: figures,
        epoch_steps: int | None = None,
        advice: Advice | None = None,
    ) -> None:
        self._spec = spec
        self._average = average
        self._epoch_steps = epoch_steps
        self._advice = advice
        state = remembered or {}
        # Names and values of a step each, on the device, of this process.
        self._window: list[tuple[list[str], Tensor]] = []
        names = state.get("names")  # states of earlier versions have them apart
        self._rows: list[Row] = [  # older ones, of all processes
            dict(row if names is None else zip(names, row, strict=True)) for row in state.get("window", ())
        ]
        self._norms: dict[str, list[float]] = {name: list(norms) for name, norms in state.get("norms", {}).items()}
        # Of how many steps these are; states of an earlier version, which do not say it, are of a log step at least.
        self._seen: dict[str, int] = dict(state.get("seen", dict.fromkeys(self._norms, ENOUGH)))
        self._judged: int = state.get("judged", 0)
        self._checked = 0
        self._half = _Losses(*state.get("half", ()))
        self._drift: list[_Losses] = [_Losses(*losses) for losses in state.get("drift", ())]
        self._since: dict[str, int] = dict(state.get("since", {}))
        self._streaks: dict[str, int] = dict(state.get("streaks", {}))
        self._told: list[str] = list(state.get("told", ()))

    def begin_stage(self, epoch_steps: int) -> None:
        """Forget what was usual in a run's stage that is over: images of another size have other gradients and losses.

        Args:
            epoch_steps: As when it was made, in the stage that begins.
        """
        self._epoch_steps = epoch_steps
        self._to_host()  # figures of the stage that is over, which are shares of its batches
        self._norms, self._seen, self._half, self._drift = {}, {}, _Losses(), []
        if self._advice:
            self._advice.begin_stage()

    def state(self) -> dict[str, Any]:
        """All that a resumed run's guard must know, as JSON holds it; to be asked for after :meth:`check_state`."""
        return {
            "window": self._to_host(),
            "norms": self._norms,
            "seen": self._seen,
            "judged": self._judged,
            "half": list(self._half),
            "drift": [list(losses) for losses in self._drift],
            "since": self._since,
            "streaks": self._streaks,
            "told": self._told,
            **({"advice": self._advice.state()} if self._advice else {}),
        }

    @property
    def suspects(self) -> set[int]:
        """Steps that a trouble may turn out to have begun at: the newest checkpoint from before each may be wanted.

        To be asked for after :meth:`check_state`, and only of what the run would be rolled back for. The weights of the
        step just done may be bad already, which only the next one shows; other troubles show at a log step, or later.
        """
        begun: dict[Kind, int] = {
            "nonfinite": self._checked,
            "exploding": self._checked,
            "won": self._since.get("won", self._judged),
            "collapse": self._since.get("collapse", self._judged),
        }
        if self._drift:
            begun["drifting"] = self._drift[0].end + 1
        return {step for kind, step in begun.items() if getattr(self._spec, kind) == "rollback"}

    def observe(self, figures: Mapping[str, Tensor]) -> None:
        """Take a step's figures, as scalars on the device; kept are those that are watched."""
        names = [name for name in figures if name.startswith(_WATCHED)]
        self._window.append((names, torch.stack([figures[name].detach() for name in names]).double()))

    def means(self) -> dict[str, float]:
        """The mean of each figure over the steps since the last log step that have it, as ``mean/NAME``.

        To be asked for before :meth:`judge`, with which the next interval begins.
        """
        return {f"mean/{name}": value for name, value in self._means().items()}

    def advise(self, images: int, drawn: int, ratio: float | None) -> list[str]:
        """What would do better than what the run does, in sentences; nobody has to do anything about it.

        To be asked for before :meth:`judge`, at each log step.

        Args:
            images: Real images shown so far.
            drawn: Images that the generator's updates have drawn.
            ratio: As :meth:`judge` takes it.
        """
        diversity = {} if ratio is None else {"diversity": ratio}
        return self._advice.hear(images, drawn, self._means() | diversity) if self._advice else []

    def judge(self, step: int, drawn: int, ratio: float | None) -> list[Trouble]:
        """What has gone wrong since the last log step, or has been going wrong for long enough.

        Args:
            step: Steps done.
            drawn: Images that the generator's updates have drawn.
            ratio: Diversity of the generated batch as a share of the real one's; None where it has only one image.
        """
        window, self._rows = self._to_host(), []
        first = step - len(window) + 1
        columns = _columns(window)
        found = self._of_steps(first, window)
        drifting = self._drifting(step, columns)
        if drawn > self._spec.grace_images:
            found += [self._won(first, columns), drifting, self._collapse(first, ratio)]
        for name, values in _norms(columns).items():
            usable = _usable(values)
            self._norms[name] = [*self._norms.get(name, ()), *([median(usable)] if usable else [])][-REMEMBERED:]
            self._seen[name] = self._seen.get(name, 0) + len(usable)
        self._judged = step
        troubles = [trouble for trouble in found if trouble]
        news = [trouble for trouble in troubles if trouble.kind not in self._told]
        self._told = sorted({trouble.kind for trouble in troubles})
        return news

    def check_state(self, step: int, finite: bool) -> list[Trouble]:
        """What single steps since the last log step show to be wrong with what would be saved.

        Args:
            step: Steps done.
            finite: Whether every weight is.
        """
        self._checked = step
        window = self._to_host()
        found = [trouble for trouble in self._of_steps(step - len(window) + 1, window) if trouble]
        if not finite and all(trouble.kind != "nonfinite" for trouble in found):
            text = f"step {step}: there are weights that are NaN or infinite: training has diverged"
            found.append(Trouble("nonfinite", step, text))
        news = [trouble for trouble in found if trouble.kind not in self._told]
        self._told = sorted({*self._told, *(trouble.kind for trouble in news)})
        return news

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

    def _means(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in _columns(self._to_host()).items()}

    def _to_host(self) -> list[Row]:
        """The rows since the last log step; those that are on the device come in one transfer."""
        if self._window:
            numbers = iter(self._average(torch.cat([values for _, values in self._window])).tolist())
            self._rows += [{name: next(numbers) for name in names} for names, _ in self._window]
            self._window = []
        return self._rows

    def _of_steps(self, first: int, window: Sequence[Row]) -> list[Trouble | None]:
        """What single steps show."""
        norms = _norms(_columns(window))  # which every step has
        return [self._nonfinite(first, window), *(self._exploding(first, *item) for item in norms.items())]

    def _nonfinite(self, first: int, window: Sequence[Row]) -> Trouble | None:
        for step, row in enumerate(window, start=first):
            what = ", ".join(f"{name} is {value}" for name, value in row.items() if not math.isfinite(value))
            if what:
                return Trouble("nonfinite", step - 1, f"step {step}: {what}: training has diverged")
        return None

    def _exploding(self, first: int, name: str, norms: Sequence[float]) -> Trouble | None:
        known, seen = self._norms.get(name, []), self._seen.get(name, 0)
        before: list[float] = []  # the first steps of a run can only be compared with each other
        for step, norm in enumerate(norms, start=first):
            if seen + len(before) >= ENOUGH:
                usual = median(known if seen >= ENOUGH else [*known, *before])
                if self._spec.explosion * usual < norm < math.inf:
                    return Trouble(
                        "exploding",
                        step - 1,
                        f"step {step}: the {name}'s gradient explodes: its norm is {norm:.3g}, {norm / usual:,.0f} "
                        f"times the usual {usual:.3g}",
                    )
            before += _usable([norm])
        return None

    def _won(self, first: int, columns: Mapping[str, Sequence[float]]) -> Trouble | None:
        """Of a critic that can be right; of one that ranks, which is meant to do so well, by the gradient too."""
        ranks = "critic/ranking" in columns
        shares, norms = columns.get("critic/ranking" if ranks else "critic/accuracy"), _norms(columns).get("generator")
        if not shares or not norms:
            return None
        share, known = sum(shares) / len(shares), self._norms.get("generator")
        usual, now = median(known) if known else math.nan, median(norms)
        gone = now < GRADIENT_GONE * usual
        streak = self._streak("won", first, share >= self._spec.won_accuracy and (gone or not ranks))
        if not streak or (not gone and streak < self._spec.patience):
            return None
        since = self._since["won"]
        what = f"ranks {share:.1%} of the pairs" if ranks else f"tells {share:.1%} of the images"
        what += f" right, since step {since + 1}"
        if gone:
            what += f", and the generator's gradient is gone (norm {now:.3g}, {usual:.3g} before)"
        return Trouble("won", since, f"step {first + len(shares) - 1}: the critic has won: it {what}")

    def _drifting(self, step: int, columns: Mapping[str, Sequence[float]]) -> Trouble | None:
        """Of losses that say who is ahead: a Wasserstein critic's are no share of anything, and drift as they like."""
        if self._epoch_steps is None or "critic/accuracy" not in columns or "loss/generator" not in columns:
            return None
        critic, generator = columns["loss/critic"], columns["loss/generator"]
        self._half = _Losses(
            step,
            self._half.steps + len(critic),
            self._half.critic + sum(critic),
            self._half.generator + sum(generator),
        )
        if 2 * self._half.steps >= self._epoch_steps:
            now, self._half = self._half.mean(), _Losses()
            if self._drift and now.critic < self._drift[-1].critic and now.generator > self._drift[-1].generator:
                self._drift.append(now)
            else:
                self._drift = [now]
        if len(self._drift) <= HALVES:
            return None
        before, now = self._drift[0], self._drift[-1]
        if before.critic - now.critic < APART * before.critic:
            return None
        if now.generator - before.generator < APART * max(abs(before.generator), before.critic):
            return None
        return Trouble(
            "drifting",
            before.end + 1,
            f"step {step}: the losses have drifted apart for {(now.end - before.end) / self._epoch_steps:.0f} epochs, "
            f"since step {before.end + 1}: the critic's fell from {before.critic:.3g} to {now.critic:.3g}, the "
            f"generator's climbed from {before.generator:.3g} to {now.generator:.3g}",
        )

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


class _Losses(NamedTuple):
    """Losses summed over the steps of half an epoch, or their means."""

    end: int = 0
    """The last of these steps."""
    steps: int = 0
    critic: float = 0.0
    generator: float = 0.0

    def mean(self) -> _Losses:
        """Of sums over steps."""
        return _Losses(self.end, self.steps, self.critic / self.steps, self.generator / self.steps)


def _columns(window: Sequence[Row]) -> dict[str, list[float]]:
    """Each figure's values, of the steps that have it."""
    columns: dict[str, list[float]] = {}
    for row in window:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns


def _norms(columns: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The gradient norms among figures, by network."""
    return {name.removeprefix("grad_norm/"): v for name, v in columns.items() if name.startswith("grad_norm/")}


def _usable(norms: Sequence[float]) -> list[float]:
    """Norms that others can be compared with."""
    return [norm for norm in norms if 0 < norm < math.inf]


_ADVICE: dict[Kind, str] = {
    "nonfinite": "The newest checkpoint, if there is one, is from before: go on from it with --resume, or begin again "
    "with a lower learning rate (optimizer.*.lr).",
    "exploding": "Try a lower learning rate (optimizer.*.lr) or optimizer.*.clip_norm.",
    "won": "Try a lower optimizer.critic.lr, a narrower critic, or objective.kind wasserstein_gp.",
    "drifting": "Try a lower optimizer.critic.lr, a narrower critic, or objective.kind wasserstein_gp.",
    "collapse": "Try another seed, a lower learning rate, or objective.kind wasserstein_gp.",
}
