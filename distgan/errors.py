"""How a run fails. What a user got wrong, or a damaged data set, is in :mod:`shards.errors`."""

from __future__ import annotations


class RunError(RuntimeError):
    """The run itself failed. The message says at which step, why, and what to do."""
