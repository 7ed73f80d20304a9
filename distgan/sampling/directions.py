"""What directions of the latent space mean: "Smiling - Male + Eyeglasses", as a way to go from any latent.

Radford et al. 2015 (https://arxiv.org/abs/1511.06434, section 6.3.2) average the latents of pictures that show
something, and of some that do not; the difference is a direction along which pictures come to show it. They picked the
pictures by hand; here a classifier does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distgan.checkpoint import Checkpoint
from distgan.evaluation.features import classifier
from distgan.evaluation.features.classifier import Classifier, Known
from distgan.evaluation.scoring import Progress
from distgan.sampling import BATCH, MOST_IN_A_GRID, Bytes
from distgan.sampling.films import FRAMES_PER_SECOND, check_film, show_ways
from distgan.sampling.generator import Generator
from shards.errors import InputError
from shards.files import ready_or_say
from shards.names import near

LEAST = 10
"""Pictures that must show something, and as many that must not, before their latents are averaged."""
STEPS = 9
STEPS_OF_A_FILM = 25
_APART_SEED = 1
"""Added to the seed of pictures that directions are tried on: others than those that they come from."""


@dataclass(frozen=True)
class Term:
    """A part of an expression.

    Attributes:
        name: An attribute, or a class.
        sign: 1 where pictures are to show it, −1 where they are not.
    """

    name: str
    sign: int


@dataclass(frozen=True)
class Arithmetic:
    """What going in a direction does.

    Attributes:
        strengths: How far.
        agrees: Of each term, by its name with its sign, and of each strength: the share of pictures of which the
            classifier says what the term asks for.
        assigned: Of each name: the pictures that the classifier says show it, of those that the direction comes from.
        drawn: How many these are.
        tried: Pictures that the shares are of.
        accuracy: Of the classifier, on held-out photographs, by name.
    """

    strengths: list[float]
    agrees: dict[str, list[float]]
    assigned: dict[str, int]
    drawn: int
    tried: int
    accuracy: dict[str, float]


def parse_expression(text: str, known: Sequence[str]) -> list[Term]:
    """The terms of "Smiling - Male + Eyeglasses".

    A name is written as the classifier knows it, in upper or lower case; one that holds spaces may, and one that holds
    + or − as well, or in double quotes.

    Args:
        text: The expression.
        known: All names.

    Raises:
        InputError: It is none, or names something unknown, or the same twice.
    """
    terms: list[Term] = []
    rest = text.replace("−", "-").strip()
    by_length = sorted(known, key=len, reverse=True)
    while rest:
        match = re.match(r"[+-]", rest)
        if terms and not match:
            raise InputError(f"{text!r}: + or - is missing before {rest!r}")
        sign = -1 if match and match.group() == "-" else 1
        rest = rest[1:].lstrip() if match else rest
        quoted = re.match(r'"([^"]*)"', rest)
        if quoted:
            word, rest = quoted.group(1), rest[quoted.end() :].lstrip()
        else:
            found = next((name for name in by_length if _begins(rest, name)), None)
            word = rest[: len(found)] if found else re.split(r"\s[+-]|[+-]\s", rest)[0].strip()
            rest = rest[len(word) :].lstrip()
        name = next((name for name in known if name == word), None)
        name = name or next((name for name in known if name.casefold() == word.casefold()), None)
        if name is None:
            raise InputError(f"{text!r}: the classifier knows no {word!r}; {near(word, list(known))}")
        terms.append(Term(name, sign))
    if not terms:
        raise InputError(f"an expression is like {known[0]!r} or {' - '.join(known[:2])!r}: names with + and -")
    if len({term.name for term in terms}) < len(terms):
        raise InputError(f"{text!r} names something twice")
    return terms


def _begins(text: str, name: str) -> bool:
    """Whether a text begins with a name, and that ends there."""
    return text[: len(name)].casefold() == name.casefold() and not re.match(r"[\w]", text[len(name) :])


class Judge:
    """A classifier that says what pictures show.

    Args:
        path: Its file.

    Attributes:
        names: What it knows: attributes, then classes.
        known: What it was trained on, and how well.

    Raises:
        InputError: It is not a classifier's.
    """

    def __init__(self, path: Path) -> None:
        self.known: Known
        self._network: Classifier
        self._network, self.known = classifier.read(path)
        self.names = (*self.known.attributes, *self.known.classes)

    @property
    def accuracy(self) -> dict[str, float]:
        """On held-out photographs, by name; of each class the accuracy of all."""
        of_classes = self.known.accuracy.get("class", 0.0)
        return {name: self.known.accuracy.get(name, of_classes) for name in self.names}

    @torch.inference_mode()
    def __call__(self, pictures: Bytes) -> Tensor:
        """Bool (n, names): whether uint8 pictures (n, H, W, C) show each."""
        known, attributes = self.known, len(self.known.attributes)
        logits = self._network(classifier.fitted(torch.from_numpy(pictures).permute(0, 3, 1, 2), known))
        of_classes = logits[:, attributes:]
        chosen = torch.zeros_like(of_classes, dtype=torch.bool)
        if known.classes:
            chosen.scatter_(1, of_classes.argmax(1, keepdim=True), value=True)
        return torch.cat([logits[:, :attributes] > 0, chosen], 1)


def judge_for(checkpoint: Checkpoint, path: Path) -> Judge:
    """The classifier that says what a run's pictures show.

    Raises:
        InputError: The file is not a classifier's, or it knows other shards than the run has learnt from.
    """
    judge = Judge(path)
    if judge.known.fingerprint != checkpoint.state.fingerprint:
        raise InputError(
            f"{path} knows other shards than those that the run was trained on; train one on those: distgan "
            f"classifier train --shards {checkpoint.state.spec.data.shards} --out FILE"
        )
    return judge


def find_directions(
    generator: Generator,
    judge: Judge,
    names: Sequence[str],
    *,
    count: int,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Directions (latent_dim,) by name: the mean latent of pictures that show it, less that of those that do not.

    Args:
        generator: What draws them.
        judge: What says what they show.
        names: Of the judge.
        count: Pictures to draw.
        seed: Of these.
        progress: Told how many are drawn.

    Returns:
        The directions, and of how many pictures the judge says that they show it.

    Raises:
        InputError: Too few pictures show something, or too few do not.
    """
    latents = generator.latents(count, seed=seed)
    shown = look_at(generator, judge, latents, generator.labels(count, seed=seed), progress)
    columns = {name: shown[:, judge.names.index(name)] for name in names}
    directions = {name: direction(name, latents, column) for name, column in columns.items()}
    return directions, {name: int(column.sum()) for name, column in columns.items()}


def direction(name: str, latents: Tensor, shown: Tensor) -> Tensor:
    """The mean latent (latent_dim,) of pictures that show something, less that of those that do not.

    Args:
        name: What they show, for messages.
        latents: Of the pictures, (n, latent_dim).
        shown: Bool (n,).

    Raises:
        InputError: Too few show it, or too few do not.
    """
    count, yes = len(shown), int(shown.sum())
    if min(yes, count - yes) < LEAST:
        which = "show" if yes < LEAST else "do not show"
        raise InputError(
            f"{name}: only {min(yes, count - yes)} of {count:,} generated pictures {which} it, as the classifier "
            f"sees them, and {LEAST} are the least; draw more with --count"
        )
    return latents[shown].mean(0) - latents[~shown].mean(0)


def arithmetic(
    checkpoint: Checkpoint,
    expression: str,
    out: Path,
    *,
    classifier: Path,
    strength: tuple[float, float] = (-2.0, 2.0),
    steps: int | None = None,
    rows: int = 4,
    count: int = 4_000,
    tried: int = 200,
    seed: int = 0,
    ema: bool = True,
    frames_per_second: float = FRAMES_PER_SECOND,
    device: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Arithmetic:
    """Show what going in a direction of the latent space does to pictures, and how often a classifier agrees.

    Args:
        checkpoint: The trained state.
        expression: As :func:`parse_expression` takes it.
        out: A ``.png`` with a row for each picture and a column for each strength, or a ``.gif`` or ``.mp4`` in which
            they go there and back.
        classifier: What ``distgan classifier train`` has written for the shards that the run was trained on.
        strength: The least and the most: 1 is the whole way between the mean of pictures that do not show something
            and the mean of those that do.
        steps: Strengths, from the least to the most; None for a number that suits the file.
        rows: Pictures in the strip: the first of the seed.
        count: Pictures that directions come from.
        tried: Other pictures, in which the classifier looks for what was asked.
        seed: Of the pictures.
        ema: The averaged weights, else those that training goes on with.
        frames_per_second: Of a film.
        device: By name; None for a GPU where there is one. Another device rounds differently.
        progress: Told how many pictures are drawn.

    Raises:
        InputError: The classifier is of other shards, the expression names what it does not know, too few pictures
            show it, a number is out of range, or something cannot be written.
    """
    check_film(out)
    film = out.suffix.lower() != ".png"
    steps = steps if steps is not None else STEPS_OF_A_FILM if film else STEPS
    if rows < 1 or steps < 2 or tried < 1 or count < 2 * LEAST:
        raise InputError(f"--rows is at least 1, --steps 2, --tried 1 and --count {2 * LEAST}")
    if rows * steps > MOST_IN_A_GRID:
        raise InputError(f"at most {MOST_IN_A_GRID:,} pictures are drawn, not {rows} × {steps}")
    judge = judge_for(checkpoint, classifier)
    terms = parse_expression(expression, judge.names)
    ready_or_say(out)
    generator = Generator(checkpoint, ema=ema, device=device)
    strengths = torch.linspace(*strength, steps)
    total, before = count + tried * steps, 0

    def ahead(done: int, _: int) -> None:
        progress(before + done, total)

    names = [term.name for term in terms]
    directions, assigned = find_directions(generator, judge, names, count=count, seed=seed, progress=ahead)
    towards = torch.stack([term.sign * directions[term.name] for term in terms]).sum(0)
    agrees: dict[str, list[float]] = {f"{'+' if term.sign > 0 else '-'} {term.name}": [] for term in terms}
    latents, labels = (of(tried, seed=seed + _APART_SEED) for of in (generator.latents, generator.labels))
    before = count
    for each in strengths:
        shown = look_at(generator, judge, latents + each * towards, labels, ahead)
        before += tried
        for term, shares in zip(terms, agrees.values(), strict=True):
            wanted = shown[:, judge.names.index(term.name)] == (term.sign > 0)
            shares.append(float(wanted.float().mean()))
    faces, labels = generator.latents(rows, seed=seed), generator.labels(rows, seed=seed)
    way = faces + strengths.view(-1, 1, 1) * towards
    images = list(generator.draw_with(way.flatten(0, 1), labels.repeat(steps, 1)))
    show_ways(np.stack(images).reshape(steps, rows, *images[0].shape), out, frames_per_second)
    return Arithmetic(
        strengths=[round(each, 4) + 0.0 for each in strengths.tolist()],
        agrees=agrees,
        assigned=assigned,
        drawn=count,
        tried=tried,
        accuracy={name: judge.accuracy[name] for name in names},
    )


def look_at(
    generator: Generator, judge: Callable[[Bytes], Tensor], latents: Tensor, labels: Tensor, progress: Progress
) -> Tensor:
    """What a judge says of pictures of latents and labels (n, …): (n, …) from uint8 (batch, H, W, C) to (batch, …)."""
    found = []
    for start in range(0, len(latents), BATCH):
        part = slice(start, start + BATCH)
        found.append(judge(np.stack(list(generator.draw_with(latents[part], labels[part])))))
        progress(min(start + BATCH, len(latents)), len(latents))
    return torch.cat(found)
