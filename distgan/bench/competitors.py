"""Who takes part in ``distgan bench quality``: recipes, changed or not, and the textbook's loop."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distgan.bench.textbook import BATCH, textbook_spec
from distgan.spec import Cosine, DataSpec, RunSpec, load_spec, make_spec
from shards.errors import InputError

TEXTBOOK = "textbook"
BATCHES = (BATCH, 16, 32, 64)
"""Of the textbook's loop where nobody says which: the tutorial's, and others among which its best may be."""
_KEY = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_CHANGES = re.compile(rf":(?=\s*{_KEY}\s*=)")
_NEXT_CHANGE = re.compile(rf",(?=\s*{_KEY}\s*=)")
_FIXED = {
    "seed": "--seeds says how many",
    "data.shards": "--shards says it",
    "data.image_size": "the shards have one",
    "training.epochs": "write training.images",
    "training.keep_best": "distgan evaluate scores the runs afterwards",
    "evaluation": "--metrics, --features, --count and --every say it",
    "cluster": "it trains in one process",
}
"""Fields that are the same for all competitors, and what to do instead of changing them."""


@dataclass(frozen=True)
class Competitor:
    """One that takes part.

    Attributes:
        text: As it was written; different for each competitor.
        recipe: A recipe's name or a file; "textbook" for the tutorial's loop.
        changes: ``key.path=value`` each, of a recipe.
        batch_size: Of the textbook's loop.
    """

    text: str
    recipe: str
    changes: tuple[str, ...] = ()
    batch_size: int = BATCH

    @property
    def is_textbook(self) -> bool:
        """Whether it is the tutorial's loop."""
        return self.recipe == TEXTBOOK

    @property
    def label(self) -> str:
        """A short name for tables: ``dcgan64 batch_size=32``."""
        if self.is_textbook:
            return TEXTBOOK if self.batch_size == BATCH else f"{TEXTBOOK} {self.batch_size}"
        name = Path(self.recipe).stem if self.recipe.endswith((".yaml", ".yml")) else self.recipe
        pairs = [_pair(change) for change in self.changes]
        return " ".join([name, *(f"{_shortest(key, [each for each, _ in pairs])}={value}" for key, value in pairs)])

    @property
    def folder(self) -> str:
        """A name for its files, different for each competitor."""
        plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", self.text)[:80].strip("-.")
        return plain if plain == self.text else f"{plain}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"

    @property
    def says_length(self) -> bool:
        """Whether its own changes say how long its runs are."""
        return any(_pair(change)[0] == "training.images" for change in self.changes)

    def spec(self, data: DataSpec, common: Sequence[str], seed: int, images: int, every: int | None) -> RunSpec:
        """What a run of it is.

        Args:
            data: The shards and their size; for the textbook's loop also which samples.
            common: Changes of all recipes.
            seed: Of the run.
            images: Its length, unless its own changes say another.
            every: Images between two kept generators; None for an eighth of the length.

        Raises:
            InputError: There is no such recipe, or a change is wrong.
        """
        if self.is_textbook:
            return textbook_spec(data, self.batch_size, seed, images, every or _eighth(images))
        fixed = [
            f"seed={seed}",
            f"data.shards={json.dumps(data.shards)}",
            f"data.image_size={data.image_size}",
            *([] if self.says_length else [f"training.images={images}"]),
            "training.keep_last=1",
            "training.keep_best=null",
            "evaluation.every_images=null",
            "tracking.wandb.mode=disabled",
            "cluster.workers=1",
        ]
        spec = load_spec(self.recipe, [*common, *self.changes, *fixed])
        assert spec.training.images is not None
        between = every or _eighth(spec.training.images)
        return spec.with_training(keep_generator_every_images=between, checkpoint_every_images=between)


def competitors(texts: Iterable[str]) -> list[Competitor]:
    """Those that somebody names, the textbook's loop first, at all of BATCHES where it is not among them.

    Args:
        texts: A recipe's name or a file, which may be followed by a colon and changes: ``dcgan64``,
            ``mine.yaml:training.batch_size=32,optimizer.critic.betas=[0, 0.9]``. Or ``textbook``, ``textbook:32`` with
            another batch than the tutorial's.

    Raises:
        InputError: One is named twice, or is not written like that.
    """
    found = [_parse(text) for text in texts]
    if not any(each.is_textbook for each in found):
        found = [*(_parse(TEXTBOOK if size == BATCH else f"{TEXTBOOK}:{size}") for size in BATCHES), *found]
    found.sort(key=lambda each: not each.is_textbook)
    for i, each in enumerate(found):
        if each.label in [other.label for other in found[:i]]:
            raise InputError(f"two competitors are called {each.label!r}: name each once, files differently")
    return found


def check_changes(changes: Iterable[str]) -> None:
    """See that changes are of what may differ between competitors.

    Raises:
        InputError: One is of a field that is the same for all.
    """
    for change in changes:
        key, _ = _pair(change)
        for field, instead in _FIXED.items():
            if key == field or key.startswith(f"{field}."):
                raise InputError(f"{change}: {field} is the same for all competitors; {instead}")


def data_of(shards: str, size: int, common: Sequence[str]) -> DataSpec:
    """The data of all competitors: that of the shards, of which ``data.where`` and the like may choose.

    Args:
        shards: The packed set.
        size: Of its images.
        common: Changes of all recipes.

    Raises:
        InputError: A change is wrong.
    """
    of_data = [change for change in common if change.startswith("data.")]
    return make_spec({"name": "quality", "data": {"shards": shards, "image_size": size}}, of_data, "--set").data


def schedules_that_end_elsewhere(spec: RunSpec) -> list[str]:
    """The schedules and the numbers of a run that move for another length than it has, in sentences."""

    def ends(value: Any, path: str) -> Iterator[tuple[str, int]]:
        if isinstance(value, list):
            for place, item in enumerate(value):
                yield from ends(item, f"{path}.{place}")
        elif isinstance(value, dict):
            end = value["images"] if value.keys() == Cosine.model_fields.keys() else value.get("until_images")
            if end is not None:
                yield path.removeprefix("."), end
            for name, inner in value.items():
                yield from ends(inner, f"{path}.{name}")

    images = spec.training.images
    return [
        f"{path} ends at {end:,} images, the run at {images:,}"
        for path, end in ends(spec.model_dump(mode="json"), "")
        if end != images
    ]


def _parse(text: str) -> Competitor:
    recipe, *rest = _CHANGES.split(text, maxsplit=1)
    if recipe == TEXTBOOK or recipe.startswith(f"{TEXTBOOK}:"):
        batch = re.fullmatch(rf"{TEXTBOOK}(?::([1-9]\d{{0,5}}))?", text)
        if not batch:
            raise InputError(f"{text}: of the textbook's loop the batch alone can be chosen: {TEXTBOOK}:32")
        return Competitor(text, TEXTBOOK, batch_size=int(batch[1] or BATCH))
    changes = tuple(_split(rest[0])) if rest else ()
    check_changes(changes)
    return Competitor(text, recipe, changes)


def _split(text: str) -> list[str]:
    """Changes with commas between them. A comma in brackets or quotes, or without ``key=`` after it, is the value's."""
    parts, first = [], 0
    for comma in _NEXT_CHANGE.finditer(text):
        if _closed(text[first : comma.start()]):
            parts.append(text[first : comma.start()].strip())
            first = comma.end()
    return [*parts, text[first:].strip()]


def _closed(value: str) -> bool:
    """Whether all brackets and quotes of YAML on one line are closed. A quote opens only where a scalar begins."""
    without = re.sub(r"""(?<=[=,\[{:\s])(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')""", "", value)
    opened, closed = (sum(map(without.count, brackets)) for brackets in ("[{", "]}"))
    return opened <= closed and not re.search(r"""[=,\[{:\s]["']""", without)


def _pair(change: str) -> tuple[str, str]:
    key, _, value = change.partition("=")
    return key.strip(), value.strip()


def _shortest(key: str, keys: Sequence[str]) -> str:
    """The end of a dotted key that no other ends with."""
    parts = key.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((end for end in ends if sum(f".{each}".endswith(f".{end}") for each in keys) == 1), key)


def _eighth(images: int) -> int:
    return -(-images // 8)
