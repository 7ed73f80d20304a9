"""Normalisation layers of critics."""

from __future__ import annotations

from typing import Literal

from torch import nn

Normalisation = Literal["batch", "layer", "instance", "none"]


def normalisation_layer(
    name: Normalisation, channels: int, *, eps: float = 1e-5, momentum: float = 0.1
) -> list[nn.Module]:
    """The layer for maps (N, channels, H, W), each with a scale and a shift for every channel; [] for none.

    ``layer`` normalises each image over channels, height and width (Ba, Kiros and Hinton 2016), ``instance`` over
    height and width (Ulyanov et al. 2016). ``momentum`` is BatchNorm's alone.
    """
    layers: dict[str, list[nn.Module]] = {
        "batch": [nn.BatchNorm2d(channels, eps, momentum)],
        "layer": [nn.GroupNorm(1, channels, eps)],
        "instance": [nn.GroupNorm(channels, channels, eps)],
        "none": [],
    }
    return layers[name]
