"""The average of a generator's weights over any length of training, chosen after training.

Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models" (arXiv:2312.02696), section 3:
two averages are kept while training in which step s counts as s^γ. Copies of them from some moments are enough to make
an average of any other profile: the weights over training time of each copy are known, and the mixture of copies whose
weights come nearest to the wanted ones (least squares) is that average, but for what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distgan.checkpoint import CHECKPOINTS, Checkpoint, State, save_average, traces
from distgan.sampling import load_generator, load_labels
from distgan.sampling.calibration import calibrate, calibration_inputs
from distgan.spec import differences
from shards.errors import InputError

TRACES = {"trace_narrow": 16.97, "trace_wide": 6.94}
"""The averages that are kept and their γ: relative standard deviations of 0.05 and 0.10, as in the paper."""

MISFIT = 0.1
"""The largest relative distance between the wanted weights over training time and those of the mixture."""
LONGEST = 10**15
"""Images that a half-life may have at most."""
RESOLUTION = 4_096
"""Pieces of equal length that training time is cut into to compare weights."""

Weights = NDArray[np.float64]
Clock = Callable[[Weights], Weights]
"""From steps, whole or not, to time, both ascending from 0."""


@dataclass(frozen=True)
class Mixture:
    """How an average is made of kept ones.

    Attributes:
        shares: Of each kept average; their sum is 1, some are below 0.
        misfit: Euclidean distance between its weights over training time and the wanted ones, relative to the latter.
    """

    shares: Weights
    misfit: float


def mix(kept: Sequence[tuple[int, float]], end: int, half_life: float, clock: Clock = np.positive) -> Mixture:
    """The mixture of kept averages that comes nearest to an exponential one.

    Args:
        kept: Step, at most ``end``, and γ of each.
        end: The step that the average ends at.
        half_life: Time back from there by which the weight of a moment has halved.
        clock: What time it is after so many steps: time is counted in steps, or in whatever this makes of them.
    """
    edges = np.linspace(0.0, end, min(end, RESOLUTION) + 1)
    # Up to step k, the weights of an average kept at step t add up to (k / t)^(γ + 1): the updates telescope.
    sums = [np.minimum(edges / step, 1.0) ** (exponent + 1.0) for step, exponent in kept]
    columns = np.diff(np.stack(sums, axis=1), axis=0)
    times = clock(edges)
    # What an exponential average would give to the time before the first step is spread over the steps that there are.
    wanted = np.diff(np.exp2((times - times[-1]) / half_life)) / -math.expm1(-math.log(2.0) * times[-1] / half_life)
    # The shares' sum is 1: the last is what the others leave.
    others, *_ = np.linalg.lstsq(columns[:, :-1] - columns[:, -1:], wanted - columns[:, -1], rcond=None)
    shares = np.append(others, 1.0 - others.sum())
    return Mixture(shares, float(np.linalg.norm(columns @ shares - wanted) / np.linalg.norm(wanted)))


def reach(kept: Sequence[tuple[int, float]], end: int, clock: Clock = np.positive) -> tuple[float, float] | None:
    """The shortest and the longest half-life, up to the whole time, that can be had; None where none can.

    The arguments are those of :func:`mix`.
    """
    whole = float(clock(np.array([end], np.float64))[0])
    lengths = [whole * 2.0 ** (-i / 4) for i in range(4 * 14)]
    fit = [length for length in lengths if mix(kept, end, length, clock).misfit <= MISFIT]
    return (fit[-1], fit[0]) if fit else None


def has_traces(checkpoint: Checkpoint) -> bool:
    """Whether averages can be made from a checkpoint."""
    return all(f"{trace}.safetensors" in checkpoint.state.sha256 for trace in TRACES)


def average(checkpoint: Checkpoint, half_life_images: int) -> Checkpoint:
    """Write the generator of an average of another length than training's, into ``averages/`` of the run's folder.

    Args:
        checkpoint: A run's, where the average ends.
        half_life_images: Images back from there by which the weight of a step has halved.

    Returns:
        A generator alone, with statistics that match, to draw with and to be scored.

    Raises:
        InputError: The run has kept no traces, they do not reach to such a length, a file is damaged, or the folder
            cannot be written.
    """
    if not 1 <= half_life_images <= LONGEST:
        raise InputError(f"a half-life is 1 to {LONGEST:,} images, not {half_life_images:,}")
    state, path = checkpoint.state, checkpoint.path.resolve()
    run = path.parent.parent
    if path.parent.name != CHECKPOINTS or not (run / "spec.yaml").is_file():
        raise InputError(
            f"{checkpoint.path} does not lie in a run's {CHECKPOINTS}/: averages are made of a run's checkpoint and of "
            "what the run has kept beside it"
        )
    if not has_traces(checkpoint):
        raise InputError(
            f"{checkpoint.path} holds no traces: the length of an average can be chosen after training only where "
            "training.keep_traces_every_images was set"
        )
    kept = [*(each for path in traces(run) if (each := Checkpoint(path)).state.step < state.step), checkpoint]
    for each in kept:
        if each.state.fingerprint != state.fingerprint or differences(each.state.spec, state.spec):
            raise InputError(f"{each.path} is of another run than {checkpoint.path}: averages are of one run alone")
    steps = [(each.state.step, exponent) for each in kept for exponent in TRACES.values()]
    clock = _images(state)
    mixture = mix(steps, state.step, half_life_images, clock)
    if mixture.misfit > MISFIT:
        lengths = reach(steps, state.step, clock)
        raise InputError(
            f"a half-life of {half_life_images:,} images cannot be had from the traces of {run}: "
            + (
                f"they reach from {math.ceil(lengths[0]):,} to {math.floor(lengths[1]):,} images"
                if lengths
                else "there are too few; train with a smaller training.keep_traces_every_images"
            )
        )
    generator = load_generator(checkpoint)
    weights = dict(generator.named_parameters())
    total = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in weights.items()}
    for share, tensors in zip(mixture.shares, _each_trace(kept), strict=True):
        for name, sums in total.items():
            sums.add_(tensors[name].double(), alpha=float(share))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(total[name])
    dtype = next(generator.parameters()).dtype
    calibrate(generator, calibration_inputs(state.spec.model, state.spec.seed, load_labels(checkpoint), dtype))
    files = {"generator_ema": generator.state_dict()}
    if state.label_names:
        files["labels"] = checkpoint.tensors("labels")
    try:
        return save_average(run, _of_length(state, half_life_images), files)
    except OSError as error:
        raise InputError(f"cannot write into {run}: {error.strerror or error}") from None


def _images(state: State) -> Clock:
    """Real images shown after so many steps of a run, up to a state."""
    timetable = state.spec.timetable
    known = [*(stage.first_step for stage in timetable.stages if stage.first_step < state.step), state.step]
    return lambda steps: np.interp(steps, known, [timetable.images(step) for step in known])


def _each_trace(kept: Sequence[Checkpoint]) -> Iterator[dict[str, Tensor]]:
    """The tensors of one trace after the other, so that one alone is in memory."""
    for each in kept:
        for trace in TRACES:
            yield each.tensors(trace)


def _of_length(state: State, half_life_images: int) -> State:
    return state.model_copy(
        update={"spec": state.spec.with_training(ema_half_life_images=half_life_images), "parameter_groups": {}}
    )
