"""Training from a program, a notebook or a tuner: ``distgan.train("dcgan64", out="runs/x", on_log=print)``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distgan.launch import launch, run_folder
from distgan.launch.home import ensure_home
from distgan.spec import RunSpec, load_spec, make_spec
from distgan.tracking import Sink

OnLog = Callable[[int, Mapping[str, float]], object]


class Trained(NamedTuple):
    """What came of a run."""

    run: Path
    """Its folder."""
    ended: Literal["finished", "interrupted"]
    step: int
    """Generator steps done."""
    images: int
    """Real images shown to the critic."""


def train(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_log: OnLog | None = None,
    console: bool = True,
) -> Trained:
    """Train a run as ``distgan train`` does.

    Ctrl-C, a notebook's interrupt, ends it after the current step, with a checkpoint. In another thread than the main
    one, only ``on_log`` can do that.

    Args:
        spec: A YAML file, the name of a recipe, its fields, or a specification.
        out: The run's folder; NAME in ``cluster.storage``, or in ``runs``, when not given.
        overrides: Fields by path: ``{"training.batch_size": 64, "data.shards": "data/faces"}``.
        resume: Go on from the run's newest checkpoint; begin where there is none yet.
        on_log: Called with the step and its figures at every log step, in the thread that trains. When it returns
            False, the run saves and ends after the next step. For runs of one worker: of others,
            :func:`distgan.read_metrics` reads the figures.
        console: Show progress on standard error.

    Raises:
        InputError: Something that the caller can mend.
        RunError: Training went wrong.
        DamageError: A sample is not what was packed.
        OSError: The run's folder could not be written.
    """
    ensure_home()
    run_spec = _read(spec, overrides or {})
    run = run_folder(run_spec, None if out is None else Path(out))
    stop = threading.Event()
    listener = _Listener(on_log, stop) if on_log else None
    outcome = launch(run_spec, run, resume=resume, stop=stop, console=console, listener=listener)
    return Trained(run, *outcome)


class _Listener(Sink):
    """Calls a function with the figures."""

    def __init__(self, on_log: OnLog, stop: threading.Event) -> None:
        self._on_log = on_log
        self._stop = stop

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Call it, and end the run where it says so."""
        if self._on_log(step, dict(figures)) is False:
            self._stop.set()


def _read(spec: RunSpec | Mapping[str, Any] | str | Path, overrides: Mapping[str, Any]) -> RunSpec:
    texts = [f"{path}={json.dumps(value, ensure_ascii=False, default=_plain)}" for path, value in overrides.items()]
    if isinstance(spec, (str, Path)):
        return load_spec(spec, texts)
    if isinstance(spec, RunSpec):
        if not texts:
            return spec
        spec = spec.model_dump(mode="json", exclude_unset=True)  # what nobody wrote stays a default
    return make_spec(json.loads(json.dumps(spec, default=_plain)), texts, "the specification")


def _plain(value: Any) -> Any:
    """A path, or a number of NumPy or torch, as JSON has it."""
    return value.item() if hasattr(value, "item") else str(value)
