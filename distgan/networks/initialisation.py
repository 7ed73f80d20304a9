"""Where weights begin."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distgan.networks.blocks import Basis
from distgan.networks.gain import Equalised, Gained
from distgan.networks.spectral import Spectral


@torch.no_grad()
def initialise_normal(network: nn.Module, random: torch.Generator) -> None:
    """DCGAN's initialisation, in place: weights N(0, 0.02), BatchNorm's scale N(1, 0.02), every bias 0.

    The paper names the weights; BatchNorm's scale is as in its authors' code. Layers that normalise single images keep
    scale 1 and shift 0; equalised layers begin as they should.

    Args:
        network: Convolutional, transposed convolutional, linear and BatchNorm layers are initialised.
        random: The CPU generator to draw from, in the order of ``network.modules()``.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if isinstance(module, Equalised):
                module.begin_weight(random)
            else:
                module.weight.normal_(0.0, 0.02, generator=random)
        elif isinstance(module, _BatchNorm):
            module.weight.normal_(1.0, 0.02, generator=random)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()
        if isinstance(module, Spectral):
            module.begin(random)


@torch.no_grad()
def initialise_glorot(network: nn.Module, random: torch.Generator) -> None:
    """Keras's default initialisation, in place: weights uniform as Glorot and Bengio (2010) have them, every bias 0.

    Args:
        network: Convolutional, transposed convolutional and linear layers are initialised.
        random: The CPU generator to draw from, in the order of ``network.modules()``.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=random)
            if module.bias is not None:
                module.bias.zero_()


@torch.no_grad()
def initialise_by_gain(network: nn.Module, random: torch.Generator) -> None:
    """Weights as their layers have it (:mod:`distgan.networks.gain`), in place, every bias 0.

    The maps that an R3GAN begins with are N(0, 1). What the labels of a conditional BatchNorm go through is Glorot's.

    Args:
        network: Convolutional and linear layers and such maps are initialised.
        random: The CPU generator to draw from, in the order of ``network.modules()``.
    """
    for module in network.modules():
        if isinstance(module, Basis):
            module.maps.normal_(generator=random)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            if isinstance(module, Gained):
                module.begin_weight(random)
            else:
                nn.init.xavier_uniform_(module.weight, generator=random)
            if module.bias is not None:
                module.bias.zero_()
            if isinstance(module, Spectral):
                module.begin(random)
