"""Training that has gone wrong is noticed and said in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from distgan.errors import RunError
from distgan.spec import GuardSpec


class Guard:
    """Looks at a run before it writes down where it is.

    Args:
        spec: What to do.
        say: Tells the person watching.
    """

    def __init__(self, spec: GuardSpec, say: Callable[[str], None]) -> None:
        self._spec = spec
        self._say = say

    def check_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Act as the specification asks when a loss, an output or a gradient norm is NaN or infinite.

        Raises:
            RunError: ``guard.nonfinite`` is ``stop``.
        """
        bad = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
        if bad:
            self._diverged(step, ", ".join(bad))

    def check_weights(self, step: int, finite: bool) -> None:
        """Act as the specification asks when the state that would be saved is not all finite numbers.

        Raises:
            RunError: ``guard.nonfinite`` is ``stop``.
        """
        if not finite:
            self._diverged(step, "there are weights that are NaN or infinite")

    def _diverged(self, step: int, what: str) -> None:
        text = f"step {step}: {what}: training has diverged"
        if self._spec.nonfinite == "stop":
            raise RunError(
                f"{text}. The newest checkpoint, if there is one, is from before: go on from it with --resume, or "
                "begin again with a lower learning rate (optimizer.*.lr)."
            )
        self._say(text)
