"""Random numbers by key: (seed, purpose, update, slot in the global batch) → number, on any device.

Every rank computes just its own slots, and gets the numbers that one worker with the whole batch would have there.
The generator is SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195) used as a hash of a
counter; normal numbers are Box and Muller's. All of it runs on the device in int64 and float64, so that rounding to
float32 hides how a device's logarithm and cosine differ in their last bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distgan.moving import moving_key

# SplitMix64's constants as signed 64-bit integers: int64 arithmetic in torch wraps, which is what the hash wants.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


class Noise:
    """The random numbers of one update, for some slots of the global batch.

    Args:
        seed: The run's seed.
        slots: int64 (n,) on the device that the numbers are wanted on.
        update: Which update of which side, such as ``critic/17``; or what says it, if a CUDA graph is to draw again.
        dtype: Floating point type of what is drawn.
    """

    def __init__(
        self, seed: int, slots: Tensor, update: str | Callable[[], str], dtype: torch.dtype = torch.float32
    ) -> None:
        self._seed = seed
        self._slots = slots
        self._update = update if callable(update) else lambda: update
        self._dtype = dtype

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """U[0, 1), (n, *shape): multiples of 2⁻²⁴, so that float32 holds them exactly."""
        high, _ = self._words(purpose, math.prod(shape))
        return (high >> 8).to(self._dtype).mul_(2.0**-24).view(-1, *shape)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """N(0, 1), (n, *shape)."""
        high, low = self._words(purpose, math.prod(shape))
        radius = (high.double() + 1).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()  # u in (0, 1]: the logarithm is finite
        return (radius * low.double().mul_(2.0 * math.pi * 2.0**-32).cos_()).to(self._dtype).view(-1, *shape)

    def _key(self, purpose: str) -> int:
        digest = hashlib.blake2b(f"{self._seed}/{purpose}/{self._update()}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    def _words(self, purpose: str, count: int) -> tuple[Tensor, Tensor]:
        """Two independent words in [0, 2³²) for each slot and element: int64 (n, count) each."""
        streams = _mix(self._slots * _GAMMA + moving_key(lambda: self._key(purpose)))
        elements = torch.arange(1, count + 1, device=self._slots.device) * _GAMMA
        word = _mix(streams[:, None] + elements)
        return _shift(word, 32), word & 0xFFFFFFFF


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64-bit words whose output looks random for any input."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)
