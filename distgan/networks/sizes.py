"""Image sizes that a network of strided layers can have."""

from __future__ import annotations

from collections.abc import Sequence

from shards.errors import InputError

MOST = 1024


def doublings(size: int, start: int, least: int, network: str) -> int:
    """How often ``start`` is doubled to reach ``size``.

    Args:
        size: Of the image, in pixels.
        start: Size of the smallest feature map.
        least: Smallest image that the network is made for.
        network: Its name, for the error.

    Raises:
        InputError: The network cannot have that size.
    """
    require_power(size, least, f"the {network} networks halve and double it layer by layer, and need {least} pixels")
    return (size // start).bit_length() - 1


def require_power(size: int, least: int, reason: str, field: str = "data.image_size") -> None:
    """Refuse an image size that is not 2^k, or that is less than ``least``.

    Args:
        size: In pixels.
        least: The smallest there is.
        reason: What it is refused for.
        field: Of the specification, that says it.

    Raises:
        InputError: Says the reason, and the sizes there are.
    """
    if size < least or size > MOST or size & (size - 1):
        sizes = ", ".join(str(2**k) for k in range(least.bit_length() - 1, MOST.bit_length()))
        raise InputError(f"{field} is {size}: {reason}: use one of {sizes}")


def require_smallest(smaller: Sequence[int], least: int, network: str) -> None:
    """Refuse stages that begin with an image smaller than ``least``, or with one that is not 2^k.

    Args:
        smaller: The sizes of all stages but the last, ascending.
        least: The smallest that the network can make of its 4×4 maps, or out of which it can make them.
        network: Its name, for the error.

    Raises:
        InputError: Says the field, and the sizes there are.
    """
    for size in smaller[:1]:
        require_power(size, least, f"the {network} networks have 4×4 maps at least", "training.stages.0.size")


def check_widths(width: int, max_width: int | None) -> None:
    """See that layers can be as wide as is asked.

    Raises:
        ValueError: The most channels are fewer than the least; for an options' own validator.
    """
    if max_width is not None and max_width < width:
        raise ValueError(f"max_width is {max_width}, less than width = {width}")
