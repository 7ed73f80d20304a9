"""What is known of the runs of ``distgan bench quality``, a JSON file each, so that none is made twice."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from distgan.bench.leaderboard import Point, Result
from shards.errors import InputError
from shards.files import write_or_say


class Evaluation(BaseModel):
    """The scores of one kept generator."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    step: NonNegativeInt
    """Generator updates until then."""
    images: NonNegativeInt
    """Real images shown to the critic until then."""
    minutes: float
    """Of training alone."""
    scores: dict[str, float]
    """By name."""


class Record(BaseModel):
    """One run of a competitor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    competitor: str
    """The label in tables."""
    baseline: bool
    """Whether it is there to be beaten."""
    seed: NonNegativeInt
    """Of the run."""
    run: str
    """Its folder, relative to the benchmark's."""
    evaluations: tuple[Evaluation, ...] = ()
    """In the order of steps."""
    failure: str = ""
    """Why it ended before its time."""
    complete: bool = False
    """Whether it has been trained to its end, or has failed, and all its generators are scored."""

    @property
    def result(self) -> Result:
        """What the leaderboard is drawn up from."""
        points = tuple(Point(each.images, each.minutes, each.scores) for each in self.evaluations)
        return Result(self.competitor, self.seed, points, self.failure)


def read_record(path: Path) -> Record | None:
    """What is known of a run; None where that is nothing.

    Raises:
        InputError: The file is damaged.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}. Remove it") from None


def write_record(path: Path, record: Record) -> None:
    """Write down what is known of a run.

    Raises:
        InputError: It cannot be written.
    """
    write_or_say(path, record.model_dump_json(indent=1).encode() + b"\n")
