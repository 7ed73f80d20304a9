"""What distgan takes from inside Ray, where Ray offers nothing public: all of it, and nowhere else.

Any of these names may be gone in another version. A run then trains and recovers all the same, but does or says a
little less, as each says here. ``tests/distgan/launch/test_ray_private.py`` takes them away.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ray.train import UserCallback

_INSIDE = "ray.train.v2._internal.execution"


def _find(module: str, name: str) -> Any:
    """A name from inside Ray; None where this version has none."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return None


ControllerCallback: Any = _find(f"{_INSIDE}.callback", "ControllerCallback") or UserCallback
"""Hears of each state of Ray Train's controller.

Without it nobody says that the cluster has no room yet, workers that make room for others are ended without having
saved, and what goes wrong while workers are being started does not count as a failure.
"""

WorkerCallback: Any = _find(f"{_INSIDE}.callback", "WorkerCallback") or UserCallback
"""Runs in a worker's main thread. Without it, one that gets SIGTERM does not save before it goes."""


def preempted_ranks() -> list[int]:
    """The workers of this group whose machines are about to be taken away.

    Without what is inside, they go as if they died: the run continues from the newest checkpoint. The public
    ``ray.train.get_preemption_info`` is no way out: all workers would have to call it equally often, and wait for each
    other.
    """
    context = _find(f"{_INSIDE}.context", "get_train_context")
    try:
        info = context().preemption_context.preemption_info
    except (AttributeError, TypeError):
        return []
    return list(info.preempted_ranks) if info else []


def cluster_of_this_machine() -> str | None:
    """The host:port that "auto" stands for. None without what is inside: Ray then looks by itself, and takes longer.

    Raises:
        OSError: There is none, or there are several.
    """
    find = _find("ray._private.services", "canonicalize_bootstrap_address_or_die")
    return str(find("auto")) if find else None


def quieten_worker_deaths() -> None:
    """Keep Ray from telling of a worker's death with the last lines of its machine's log, which it else prints."""
    if _find("ray._private.worker", "_worker_logs_enabled"):
        import_module("ray._private.worker")._worker_logs_enabled = False  # type: ignore[attr-defined]


_TRAINER = _find("ray.train.v2.api.data_parallel_trainer", "DataParallelTrainer")
_START = "_initialize_and_run_controller"
_CLEANER = _find("ray.train.v2._internal.callbacks.placement_group_callback", "PlacementGroupCleanerCallback")
_DATASETS = _find("ray.train.v2._internal.callbacks.datasets", "DatasetsCallback")
_FixedScalingPolicy: Any = _find(f"{_INSIDE}.scaling_policy", "FixedScalingPolicy") or object


class _AsGiven(_FixedScalingPolicy):  # type: ignore[misc]
    """Always the number of workers that was asked for, of which no autoscaler need hear."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Would start an actor that tells the autoscaler."""

    def _maybe_send_resource_request(self) -> None:
        """Would tell it again."""


def can_spare() -> bool:
    """Whether :func:`spare` leaves nobody who asks Ray's dashboard. Without what is inside, there has to be one."""
    return hasattr(_TRAINER, _START) and _CLEANER is not None


def spare(trainer: Any, alone: bool) -> None:
    """Have Ray Train not start processes of its own that a run has no use for: 2 s of a processor each.

    Without what is inside, a run starts later.

    Args:
        trainer: A ``TorchTrainer``, before it is started.
        alone: The cluster is the run's own, on one machine, and ends with it.
    """
    start = getattr(trainer, _START, None)
    if start is None:
        return
    useless = tuple(each for each in (_DATASETS, _CLEANER if alone else None) if each)

    def lean(**parts: Any) -> Any:
        if alone and type(parts.get("scaling_policy")) is _FixedScalingPolicy:
            parts["scaling_policy"] = _AsGiven(trainer.scaling_config)
        parts["callbacks"] = [each for each in parts.get("callbacks", ()) if not isinstance(each, useless)]
        return start(**parts)

    setattr(trainer, _START, lean)
