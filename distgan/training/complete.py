"""A specification with nothing left to defaults."""

from __future__ import annotations

from distgan.networks import complete_model
from distgan.objectives import complete_objective
from distgan.spec import RunSpec
from distgan.training.optimizers import complete_optimizer


def complete(spec: RunSpec) -> RunSpec:
    """A specification with every option of its networks, objective and optimizers written out.

    Raises:
        InputError: One of them is unknown or has a wrong option.
    """
    sections = {
        "model": complete_model(spec.model),
        "objective": complete_objective(spec.objective),
        "optimizer": complete_optimizer(spec.optimizer),
    }
    return spec.model_copy(update=sections)
