"""A trained state on disk: written by training, read by everyone.

A checkpoint is a folder ``RUN/checkpoints/step-00001234/`` of safetensors files and ``state.json``, which holds the
counters, the specification and a SHA-256 of every file. It is written beside and renamed, so a folder under a real name
is whole; loading never unpickles anything. ``RUN/generators/`` holds the same of the averaged generator alone,
``RUN/traces/`` of what averages of other lengths are made from, and ``RUN/averages/`` those that have been made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from distgan.networks import complete_model
from distgan.networks.dcgan import MAX_WIDTH, PUBLISHED
from distgan.spec import NetworkSpec, RunSpec
from shards.errors import InputError
from shards.files import write_atomically

FORMAT = "distgan-checkpoint-3"
FORMAT_2 = "distgan-checkpoint-2"
"""Written before dcgan had ``max_width`` and dcgan_keras had ``order``: see :func:`_networks_of_format_2`."""
CHECKPOINTS = "checkpoints"
GENERATORS = "generators"
TRACES = "traces"
AVERAGES = "averages"
BEST = "best.json"
"""In a run's folder: which checkpoint has scored best, and what."""
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})(-half-life-\d+)?")

Tensors = Mapping[str, Tensor]


class State(BaseModel):
    """What a checkpoint knows beside its tensors: ``state.json``."""

    # NaN stays NaN, as Python's JSON has it: the guard remembers the figures of a run that is only warned of them.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    format: str = FORMAT
    """Changes when old checkpoints could be misread."""
    step: NonNegativeInt
    """Generator steps done."""
    images: NonNegativeInt
    """Real images shown to the critic."""
    position: NonNegativeInt
    """Where the training stream goes on."""
    spec: RunSpec
    """The run. Its seed and the step are all that order and flips depend on."""
    seeds: dict[str, NonNegativeInt]
    """``noise``: what latents and all other random numbers of the updates depend on, beside the step."""
    rate_scale: float = 1.0
    """What the learning rates are multiplied by, after roll-backs."""
    rollbacks: NonNegativeInt = 0
    """How often the guard went back to an earlier checkpoint."""
    steps_undone: NonNegativeInt = 0
    """Steps that it went back by, all together. Weights & Biases, which forgets nothing, counts them too."""
    training_seconds: Annotated[float, Field(ge=0.0)] = 0.0
    """How long it has trained, without evaluations, pictures, checkpoints, starts. Earlier versions did not count."""
    guard: dict[str, Any] = {}
    """What the guard remembers."""
    label_names: tuple[str, ...] = ()
    """The entries of the label vector; how often each vector occurs in the data is in ``labels.safetensors``."""
    channels: NonNegativeInt
    """Colour channels of an image."""
    fingerprint: str
    """Of the shards that the run has learnt from."""
    wandb_run_id: str | None = None
    """The run to go on with in Weights & Biases."""
    parameter_groups: dict[str, list[dict[str, Any]]] = {}
    """Each optimizer's settings, by side."""
    sha256: dict[str, str] = {}
    """Of every tensor file, and of what this file says beside them."""

    def sealed(self, sha256: Mapping[str, str]) -> State:
        """This state with the checksums of the tensor files, and one of itself with those."""
        state = self.model_copy(update={"sha256": dict(sha256)})
        return self.model_copy(update={"sha256": {**sha256, STATE: _seal(state.model_dump(mode="json"))}})


class Checkpoint:
    """A checkpoint on disk.

    Args:
        path: The checkpoint's folder.

    Raises:
        InputError: There is none, or its state cannot be read; the message says which file and what to do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            written = (path / STATE).read_bytes()
            self.state = State.model_validate_json(written)
        except OSError as error:
            raise InputError(f"{path} is not a checkpoint: cannot read {STATE}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise self._damaged(STATE, f"{where}: {first['msg']}" if where else first["msg"]) from None
        if self.state.format not in (FORMAT, FORMAT_2):
            raise InputError(
                f"{path}/{STATE}: format {self.state.format!r}; this version reads {FORMAT!r} and {FORMAT_2!r}"
            )
        # Of what was written, not of what it means today: a later version's specification has fields more.
        if self.state.sha256.get(STATE) != _seal(json.loads(written)):
            raise self._damaged(STATE, "it does not say what was written")
        if self.state.format == FORMAT_2:
            self.state = self.state.model_copy(update={"spec": _networks_of_format_2(self.state.spec)})

    def load_into(self, network: nn.Module, name: str) -> None:
        """Give a network the weights and statistics of one file.

        Raises:
            InputError: The file is damaged, or of another network.
        """
        try:
            network.load_state_dict(self.tensors(name))
        except RuntimeError as error:
            raise self._damaged(f"{name}.safetensors", str(error).splitlines()[-1].strip()) from None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file, such as ``generator_ema``, on the CPU.

        Raises:
            InputError: The file is missing or its bytes are not what was written; or the generator was kept alone.
        """
        file = f"{name}.safetensors"
        if file not in self.state.sha256:
            raise InputError(
                f"{self.path} holds no {file}: it was kept alone (training.keep_generator_every_images or "
                f"keep_traces_every_images); take one of the run's {CHECKPOINTS}/"
            )
        try:
            data = (self.path / file).read_bytes()
            if hashlib.sha256(data).hexdigest() != self.state.sha256.get(file):
                raise self._damaged(file, "its SHA-256 is not the one in state.json")
            tensors: dict[str, Tensor] = load_tensors(data)
            return tensors
        except OSError as error:
            raise self._damaged(file, error.strerror or str(error)) from None
        except SafetensorError as error:
            raise self._damaged(file, str(error)) from None

    def optimizer_state(self, side: str) -> dict[str, Any]:
        """What ``Optimizer.load_state_dict`` takes, for a side."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self.tensors("optimizers").items():
            whose, index, key = name.split(".", 2)
            if whose == side:
                state.setdefault(int(index), {})[key] = tensor
        groups = [
            {key: tuple(value) if key == "betas" else value for key, value in group.items()}  # JSON has no tuples
            for group in self.state.parameter_groups[side]
        ]
        return {"state": state, "param_groups": groups}

    def _damaged(self, file: str, reason: str) -> InputError:
        remedy = {
            CHECKPOINTS: "Remove its folder to go on from the checkpoint before it.",
            AVERAGES: "Make it again with distgan average.",
        }.get(self.path.resolve().parent.name, "Remove its folder.")
        return InputError(f"the checkpoint {self.path} is damaged: {file}: {reason}. {remedy}")


def save_checkpoint(
    run: Path,
    state: State,
    modules: Mapping[str, Tensors],
    optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
    *,
    kind: str = CHECKPOINTS,
    suffix: str = "",
) -> Checkpoint:
    """Write a checkpoint; when this returns it is on disk, whole.

    Args:
        run: The run's folder.
        state: The counters; ``parameter_groups`` and ``sha256`` are filled in here.
        modules: ``state_dict``s by file name.
        optimizers: By side. Without them nothing can go on from it.
        kind: Which folder of the run's it lies in.
        suffix: Of its name, for several of one step.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    return Snapshot.of(state, modules, optimizers).write(run, kind=kind, suffix=suffix)


class Snapshot(NamedTuple):
    """What a checkpoint holds, before it is written.

    Attributes:
        state: But for the checksums.
        files: Tensors by file and name.
    """

    state: State
    files: dict[str, dict[str, Tensor]]

    @classmethod
    def of(
        cls,
        state: State,
        modules: Mapping[str, Tensors],
        optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
        *,
        copied: bool = False,
    ) -> Snapshot:
        """Gather it; arguments are those of :func:`save_checkpoint`.

        With ``copied`` it is a copy on the host, which stays as it is while training goes on.
        """
        groups: dict[str, list[dict[str, Any]]] = {}
        files: dict[str, dict[str, Tensor]] = {name: dict(tensors) for name, tensors in modules.items()}
        if optimizers is not None:
            moments = files["optimizers"] = {}
            for side, optimizer in optimizers.items():
                saved = optimizer.state_dict()
                groups[side] = saved["param_groups"]
                for index, entry in saved["state"].items():
                    moments.update({f"{side}.{index}.{key}": tensor for key, tensor in entry.items()})
        for tensors in files.values():
            for name, tensor in tensors.items():
                tensors[name] = tensor.detach().to("cpu", copy=copied)
        return cls(state.model_copy(update={"parameter_groups": groups}, deep=copied), files)

    def write(self, run: Path, *, kind: str = CHECKPOINTS, suffix: str = "") -> Checkpoint:
        """Write it into a run's folder, as :func:`save_checkpoint` does."""
        final = run / kind / f"{_step_name(self.state.step)}{suffix}"
        if final.exists():  # the same step of the same run holds the same state
            return Checkpoint(final)
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a kill
        try:
            partial.mkdir(parents=True)
            sha256 = {}
            for name, tensors in self.files.items():
                data = save_tensors({key: tensor.contiguous() for key, tensor in tensors.items()})
                sha256[f"{name}.safetensors"] = hashlib.sha256(data).hexdigest()
                with write_atomically(partial / f"{name}.safetensors") as file:
                    file.write(data)
            with write_atomically(partial / STATE) as file:
                file.write(self.state.sealed(sha256).model_dump_json(indent=1).encode() + b"\n")
            partial.rename(final)
            _sync_names(final.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return Checkpoint(final)


def checkpoints(run: Path) -> list[Path]:
    """The folders of a run's whole checkpoints, oldest first."""
    return _folders(run / CHECKPOINTS)


def generators(run: Path) -> list[Path]:
    """The folders of the averaged generators that a run has kept alone, oldest first."""
    return _folders(run / GENERATORS)


def traces(run: Path) -> list[Path]:
    """The folders of what averages of other lengths can be made from, oldest first."""
    return _folders(run / TRACES)


def step_of(path: Path) -> int:
    """The step after which one of these folders was written."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def save_average(run: Path, state: State, modules: Mapping[str, Tensors]) -> Checkpoint:
    """Write a generator whose weights are averaged over another length than training's.

    Raises:
        OSError: It could not be written; nothing is left behind.
    """
    suffix = f"-half-life-{state.spec.training.ema_half_life_images}"
    shutil.rmtree(run / AVERAGES / f"{_step_name(state.step)}{suffix}", ignore_errors=True)  # it may be damaged
    return save_checkpoint(run, state, modules, kind=AVERAGES, suffix=suffix)


def drop_later(run: Path, step: int) -> None:
    """Remove what was kept beside checkpoints at steps later than one that training goes on from.

    Those steps are done again, and may come otherwise. What training was killed in the middle of writing goes as well.
    """
    for kind in (GENERATORS, TRACES, AVERAGES):
        for path in _folders(run / kind):
            if step_of(path) > step:
                shutil.rmtree(path)
    for kind in (CHECKPOINTS, GENERATORS, TRACES):  # not averages, which others may be making meanwhile
        for path in (run / kind).glob(".step-*.partial"):
            shutil.rmtree(path)


class Best(NamedTuple):
    """The checkpoint of a run that has scored best.

    Attributes:
        path: Its folder.
        metric: The score's name.
        value: The score.
        of: A digest of what the score is computed from: others cannot be compared with it.
    """

    path: Path
    metric: str
    value: float
    of: str

    @property
    def step(self) -> int:
        """That it was written after."""
        return step_of(self.path)


def mark_best(run: Path, best: Best) -> None:
    """Write down which checkpoint of a run has scored best.

    Raises:
        OSError: The folder cannot be written.
    """
    with write_atomically(run / BEST) as file:
        document = {"checkpoint": best.path.name, "metric": best.metric, "value": best.value, "of": best.of}
        file.write(json.dumps(document).encode() + b"\n")


def best_of(run: Path) -> Best | None:
    """The checkpoint of a run that has scored best, if it is known and still there: a roll-back may have removed it."""
    try:
        document = json.loads((run / BEST).read_bytes())
        name, metric, value, of = (document[key] for key in ("checkpoint", "metric", "value", "of"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    path = run / CHECKPOINTS / str(name)
    return Best(path, str(metric), float(value), str(of)) if path in checkpoints(run) else None


def find_checkpoint(path: Path, *, best: bool = False) -> Checkpoint:
    """The checkpoint that a path names: its own folder, or a run's folder for the newest of the run, or its best.

    It may be a generator alone, if that is named, or if the run has nothing else.

    Raises:
        InputError: There is none.
    """
    if best and (path / STATE).exists():
        raise InputError(f"{path} is a checkpoint: --best is asked of the run's folder")
    if best:
        found_best = best_of(path)
        if found_best is None:
            raise InputError(f"{path} knows of no best checkpoint: train with training.keep_best")
        return Checkpoint(found_best.path)
    if (path / STATE).exists():
        return Checkpoint(path)
    found = checkpoints(path) or generators(path)
    if not found:
        raise InputError(f"{path} is neither a checkpoint nor a run that has one")
    return Checkpoint(found[-1])


def prune(run: Path, keep_last: int, span_of: Callable[[int], int] | None, suspects: Collection[int] = ()) -> None:
    """Remove checkpoints that nobody will want. The best one is wanted.

    Args:
        run: The run's folder.
        keep_last: How many of the newest to keep.
        span_of: From a step to the span that it lies in; of each span the first checkpoint is kept.
        suspects: Steps from which on the guard has or may come to have doubts: the newest from before each is kept, to
            go back to.
    """
    found = checkpoints(run)
    kept = set(found[-keep_last:])
    if best := best_of(run):
        kept.add(best.path)
    for suspect in suspects:
        kept.update([path for path in found if step_of(path) < suspect][-1:])
    if span_of is not None:
        spans: dict[int, Path] = {}
        for path in found:
            spans.setdefault(span_of(step_of(path)), path)
        kept.update(spans.values())
    for path in found:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def go_back(run: Path, suspect_from: int) -> Checkpoint | None:
    """Remove the checkpoints of a step and later, and return the newest from before, if there is one.

    What was kept beside checkpoints and is newer than that one goes too.

    Raises:
        InputError: That one is damaged.
    """
    found = checkpoints(run)
    for path in found:
        if step_of(path) >= suspect_from:
            shutil.rmtree(path)
    good = [path for path in found if step_of(path) < suspect_from]
    drop_later(run, step_of(good[-1]) if good else 0)
    return Checkpoint(good[-1]) if good else None


def _networks_of_format_2(spec: RunSpec) -> RunSpec:
    """A run whose networks had fewer options than today's, with those options as the networks were."""
    model = complete_model(spec.model)

    def as_it_was(role: str) -> NetworkSpec:
        network: NetworkSpec = getattr(model, role)
        options = network.rest
        if (role, network.name) == ("generator", "dcgan_keras"):
            options["order"] = "regular"
        if network.name in ("dcgan", "dcgan_encoder") and spec.data.image_size > PUBLISHED:
            widest = options["width"] * spec.data.image_size // 8
            if widest > max(MAX_WIDTH, options["width"]):
                options["max_width"] = widest
        return NetworkSpec(name=network.name, **options)

    networks = {role: as_it_was(role) for role in ("generator", "critic")}
    return spec.model_copy(update={"model": model.model_copy(update=networks)})


def _folders(parent: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    return sorted((path for path in parent.glob("step-*") if _NAME.fullmatch(path.name)), key=step_of)


def _seal(state: Mapping[str, Any]) -> str:
    """The SHA-256 of what a state says, but for the one of itself."""
    others = {name: digest for name, digest in state["sha256"].items() if name != STATE}
    return hashlib.sha256(json.dumps({**state, "sha256": others}, sort_keys=True).encode()).hexdigest()


def _step_name(step: int) -> str:
    return f"step-{step:08d}"


def _sync_names(folder: Path) -> None:
    """Have the file system put the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
