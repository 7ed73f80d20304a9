"""The two ways a data set disappoints: the user named something wrong, or bytes on disk are not what was written."""

from __future__ import annotations


class InputError(ValueError):
    """The user's input is wrong. The message is for people: what was wrong, where, and what to do about it."""


class DamageError(RuntimeError):
    """Bytes of a packed set are missing or not the bytes that were packed. The message names shard and sample."""
