"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all), from the thread that started the work."""

Bars = Callable[[str], AbstractContextManager[Progress]]
"""Makes a progress bar with a title, that is there within a block."""
