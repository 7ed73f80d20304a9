"""From a state of the page to its picture: everything that the page knows of a run, without a server."""

from __future__ import annotations

import shlex
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distgan.checkpoint import STATE, Checkpoint, best_of, checkpoints, find_checkpoint, generators, step_of
from distgan.errors import RunError
from distgan.evaluation.scoring import Progress
from distgan.explore.state import MIX, NUMBER, PRINCIPAL, SEED, SHOW, STRENGTH, TRUNCATION, State
from distgan.sampling import Bytes, as_png, load_labels, thumbnails
from distgan.sampling.directions import LEAST, direction, judge_for, look_at
from distgan.sampling.generator import Generator
from distgan.sampling.paths import between
from distgan.sampling.principal import principal_directions
from shards.errors import InputError
from shards.names import near

COMPONENTS = 8
"""Principal directions that are offered."""
COUNT = 2_000
"""Pictures that directions come from: half of what ``distgan arithmetic`` takes, as somebody waits for the page."""
KEPT = 4
"""Generators that are held in memory."""
BATCH = 1
"""Images a forward pass draws. One is drawn in a twentieth of the time that the 64 of ``distgan sample`` take; where a
processor's kernels for one round otherwise, the picture may differ from that command's by a level of 255."""


class GoneError(InputError):
    """A checkpoint that was asked for is not there, or no longer."""


@dataclass(frozen=True)
class Directions:
    """Where to go in the latent space of one generator.

    Attributes:
        show: The direction (latent_dim,) of each attribute or class, by name.
        principal: Principal directions (k, latent_dim).
        shares: Of the pictures' variance, (k,).
        rare: Attributes without a direction, and why they have none.
        assigned: Of how many pictures the classifier says that they show something, by name.
        drawn: How many there were.
    """

    show: dict[str, Tensor]
    principal: Tensor
    shares: Tensor
    rare: dict[str, str]
    assigned: dict[str, int]
    drawn: int


class _Kept(NamedTuple):
    """A checkpoint on disk, and which one it is: a run that was rolled back writes another under the same name."""

    step: int
    path: Path
    written: int
    inode: int


class Explorer:
    """A run that pictures are asked of.

    Args:
        run: Its folder, or a checkpoint's own.
        classifier: What ``distgan classifier train`` has written for the run's shards, for attribute directions.
        attributes: Which of the classifier's; None for all that enough pictures show.
        count: Pictures that directions come from.
        ema: The averaged weights, else those that training goes on with.
        device: By name; None for a GPU where there is one. Another device rounds differently.

    Attributes:
        stop: When it is set, finding directions ends with an error.

    Raises:
        InputError: There is no checkpoint, the classifier is of other shards or knows no such attribute, or a number
            is out of range.
    """

    def __init__(
        self,
        run: Path,
        *,
        classifier: Path | None = None,
        attributes: Sequence[str] | None = None,
        count: int = COUNT,
        ema: bool = True,
        device: str | None = None,
    ) -> None:
        if count < 2 * LEAST:
            raise InputError(f"--count is at least {2 * LEAST}, not {count}")
        newest = find_checkpoint(run)
        self.stop = threading.Event()
        self._run, self._classifier, self._count, self._ema, self._device = run, classifier, count, ema, device
        self._spec = newest.state.spec
        self._judge = judge_for(newest, classifier) if classifier else None
        known = self._judge.names if self._judge else ()
        for name in attributes or ():
            if self._judge is None:
                raise InputError(f"--attribute {name} needs --classifier FILE, which tells what shows it")
            if name not in known:
                raise InputError(f"--attribute {name}: the classifier knows no {name!r}; {near(name, known)}")
        self._wanted = tuple(dict.fromkeys(attributes or ()))
        labels = load_labels(newest)
        self._conditions: dict[str, list[str]] = {"attributes": labels.attributes, "classes": labels.classes}
        self._generators: OrderedDict[_Kept, Generator] = OrderedDict()
        self._directions: dict[_Kept, Directions] = {}
        self._first: tuple[int, Directions] | None = None

    def begin(self, progress: Progress = lambda done, total: None) -> Directions:
        """Find the directions of the newest checkpoint, which the page begins with.

        Args:
            progress: Told how many pictures are drawn.

        Raises:
            InputError: Too few pictures show one of the attributes that were asked for.
        """
        kept = self._find(None)
        found = self.directions(kept.step, progress)
        self._first = kept.step, found
        return found

    def steps(self) -> dict[int, Path]:
        """The steps that pictures can be drawn of now, ascending, and the folder of each.

        Of a step that is kept twice it is that in ``generators/``, which training does not remove.
        """
        if (self._run / STATE).is_file():
            return {Checkpoint(self._run).state.step: self._run}
        found = [*checkpoints(self._run), *(generators(self._run) if self._ema else [])]
        return dict(sorted((step_of(path), path) for path in found))

    def describe(self) -> dict[str, Any]:
        """What the page needs to know, for JSON; it asks again now and then, as training may go on.

        Only after :meth:`begin`.
        """
        assert self._first is not None
        step, found = self._first
        best, images = best_of(self._run), self._spec.timetable.images
        bounds = {"seed": SEED, "number": NUMBER, "truncation": TRUNCATION, "mix": MIX, "strength": STRENGTH}
        return {
            "name": self._spec.name,
            "latent": self._spec.model.latent,
            "steps": [
                {"step": step, "images": images(step), "best": best is not None and best.step == step}
                for step in self.steps()
            ],
            "bounds": {name: each._asdict() for name, each in bounds.items()},
            "conditions": self._conditions,
            "directions": step,
            "attributes": [self._slider(name, found) for name in self._wanted or found.show],
            "principal": [
                {"key": f"{PRINCIPAL}{place}", "name": f"Principal {place}", "note": f"{share:.0%} of the variance"}
                for place, share in enumerate(found.shares.tolist(), 1)
            ],
            "rare": list(found.rare.values()),
        }

    def directions(self, step: int | None = None, progress: Progress = lambda done, total: None) -> Directions:
        """The directions of a checkpoint; they are found once, which takes as long as drawing ``count`` pictures.

        Args:
            step: Of the checkpoint; None for the newest.
            progress: Told how many pictures are drawn.

        Raises:
            GoneError: It is not there.
            InputError: It is damaged, or too few pictures show one of the attributes that were asked for.
            RunError: ``stop`` was set.
        """
        kept = self._find(step)
        if kept not in self._directions:
            self._directions[kept] = self._survey(self._generator(kept), progress)
        return self._directions[kept]

    def draw(self, state: State) -> bytes:
        """The picture of a state, as a PNG. The same state gives the same bytes.

        Raises:
            GoneError: A checkpoint is not there.
            InputError: It is damaged, or the run or the classifier does not know what is asked for.
        """
        generator = self._generator(self._find(state.step))
        where = {name: self._asked(name, value) for name, value in state.where.items()}

        def face(seed: int, number: int) -> tuple[Tensor, Tensor]:
            return (
                generator.latents(1, seed=seed, truncation=state.truncation, first=number),
                generator.labels(1, seed=seed, where=where, first=number),
            )

        latents, labels = face(state.seed, state.number)
        if state.mix:
            other = face(state.other_seed, state.other_number)
            (latents,) = between(latents, other[0], torch.tensor([state.mix]), generator.spec.model.latent)
            labels = torch.lerp(labels, other[1], state.mix)  # of what is not asked for: as far as the face
        if state.moves:
            found = self.directions(state.step if state.directions is None else state.directions)
            ways = [strength * _of(name, found.show, found.rare) for name, strength in state.show.items()]
            ways += [strength * _numbered(place, found.principal) for place, strength in state.principal.items()]
            latents = latents + torch.stack(ways).sum(0)
        (image,) = generator.draw_with(latents, labels, BATCH)
        return as_png(image)

    def command(self, state: State) -> str:
        """The command that draws the picture of a state, and always the same one.

        Raises:
            GoneError: The checkpoint is not there.
        """
        step = self._find(state.step).step
        directions = step if state.directions is None else state.directions
        state = replace(state, step=step, directions=directions if state.moves else None)
        words = ["distgan", "explore", str(self._run), "--draw", state.to_query(), "--out", f"{self._spec.name}.png"]
        if state.show:
            words += ["--classifier", str(self._classifier)]
        if state.moves and self._count != COUNT:
            words += ["--count", str(self._count)]
        if not self._ema:
            words += ["--weights", "training"]
        return shlex.join(words)

    def _slider(self, name: str, found: Directions) -> dict[str, str]:
        assert self._judge is not None
        shown, right = found.assigned[name] / found.drawn, self._judge.accuracy[name]
        note = f"in {shown:.0%} of pictures; the classifier is right about {right:.0%} of photographs"
        return {"key": f"{SHOW}{name}", "name": name, "note": note}

    def _find(self, step: int | None) -> _Kept:
        """The checkpoint of a step, or the newest, as it is on disk now.

        Raises:
            GoneError: It is not there.
        """
        steps = self.steps()
        wanted = max(steps, default=0) if step is None else step
        try:
            status = (steps[wanted] / STATE).stat()
        except (KeyError, OSError):
            there = ", ".join(f"{each:,}" for each in steps) or "none"
            raise GoneError(
                f"the checkpoint of step {wanted:,} is not there, or no longer; there are {there}"
            ) from None
        return _Kept(wanted, steps[wanted], status.st_mtime_ns, status.st_ino)

    def _generator(self, kept: _Kept) -> Generator:
        if kept not in self._generators:
            try:
                self._generators[kept] = Generator(Checkpoint(kept.path), ema=self._ema, device=self._device)
            except InputError:
                if (kept.path / STATE).exists():
                    raise
                raise GoneError(f"{kept.path} is no longer there") from None
            if len(self._generators) > KEPT:
                self._generators.popitem(last=False)
        self._generators.move_to_end(kept)
        return self._generators[kept]

    def _survey(self, generator: Generator, progress: Progress) -> Directions:
        judge = self._judge
        names = judge.names if judge else ()

        def see(pictures: Bytes) -> Tensor:
            small = thumbnails(torch.from_numpy(pictures).permute(0, 3, 1, 2))
            return torch.cat([judge(pictures).to(small), small], 1) if judge else small

        def ahead(done: int, total: int) -> None:
            if self.stop.is_set():
                raise RunError("stopped while directions were being found")
            progress(done, total)

        latents, labels = generator.latents(self._count), generator.labels(self._count)
        seen = look_at(generator, see, latents, labels, ahead)
        show, rare, assigned = {}, {}, {}
        for name, column in zip(names, seen.T, strict=False):
            shown = column > 0.5
            assigned[name] = int(shown.sum())
            try:
                show[name] = direction(name, latents, shown)
            except InputError as error:
                if name in self._wanted:
                    raise
                rare[name] = str(error)
        small = seen[:, len(names) :]
        principal, shares = principal_directions(latents, small, COMPONENTS, generator.spec.model.latent)
        return Directions(show, principal, shares, rare, assigned, self._count)

    def _asked(self, name: str, value: str) -> object:
        """A condition, as a generator takes it: attributes by number, classes by name."""
        if name == "class" and self._conditions["classes"]:
            return value
        return {"1": 1, "-1": -1}.get(value, value)


def _of(name: str, show: dict[str, Tensor], rare: dict[str, str]) -> Tensor:
    """The direction of an attribute.

    Raises:
        InputError: There is none.
    """
    if name in rare:
        raise InputError(rare[name])
    if name not in show:
        raise InputError(
            f"the classifier knows no {name!r}; {near(name, show)}"
            if show
            else f"{name}: directions of attributes need --classifier FILE, which tells what shows them"
        )
    return show[name]


def _numbered(place: int, principal: Tensor) -> Tensor:
    """A principal direction, from 1.

    Raises:
        InputError: There is none.
    """
    if place > len(principal):
        raise InputError(f"there is no principal direction {place}; there are {len(principal)}")
    return principal[place - 1]
