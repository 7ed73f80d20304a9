"""Training that has gone wrong is noticed and said in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from distgan.errors import RunError
from distgan.spec import GuardSpec


class Guard:
    """Looks at the figures of a step before they reach a checkpoint."""

    def __init__(self, spec: GuardSpec) -> None:
        self._spec = spec

    def check(self, step: int, figures: Mapping[str, float], say: Callable[[str], None]) -> None:
        """Act as the specification asks when a figure is NaN or infinite.

        Args:
            step: The generator step that the figures are of.
            figures: Losses, outputs and gradient norms.
            say: Tells the person watching.

        Raises:
            RunError: ``guard.nonfinite`` is ``stop``.
        """
        bad = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
        if not bad:
            return
        text = f"step {step}: {', '.join(bad)}: training has diverged"
        if self._spec.nonfinite == "stop":
            raise RunError(
                f"{text}. The newest checkpoint is from before; resume from it, or begin again with a lower "
                "learning rate (optimizer.*.lr)."
            )
        say(text)
