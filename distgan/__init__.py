"""Train face GANs, in one process or many.

From Python::

    import distgan

    generator = distgan.load("runs/faces")              # a run's folder, or a checkpoint's
    images = generator.sample(16, seed=7)               # uint8 (16, H, W, C)
    trained = distgan.train("dcgan64", out="runs/x", on_log=print)
    losses = [line["loss/critic"] for line in distgan.read_metrics("runs/x")]

What is named in ``__all__`` is for programs; all else may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distgan.errors import RunError
    from distgan.launch.python import Trained, train
    from distgan.sampling.generator import Generator, load
    from distgan.spec import RunSpec, load_spec
    from distgan.tracking.records import read_metrics
    from shards.errors import DamageError, InputError

__all__ = [
    "DamageError",
    "Generator",
    "InputError",
    "RunError",
    "RunSpec",
    "Trained",
    "load",
    "load_spec",
    "read_metrics",
    "train",
]

_HOMES = {
    "DamageError": "shards.errors",
    "Generator": "distgan.sampling.generator",
    "InputError": "shards.errors",
    "RunError": "distgan.errors",
    "RunSpec": "distgan.spec",
    "Trained": "distgan.launch.python",
    "load": "distgan.sampling.generator",
    "load_spec": "distgan.spec",
    "read_metrics": "distgan.tracking.records",
    "train": "distgan.launch.python",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: every worker process imports this package, and few need torch at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distgan' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
