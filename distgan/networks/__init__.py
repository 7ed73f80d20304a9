"""The networks, by name.

A generator maps latents (N, latent_dim), drawn from N(0, 1), to images (N, C, S, S) in [-1, 1]; a critic maps such
images to one number each, (N,). To add one: a file with the network and its options, and one line in a registry below.
A generator is made with (options, image, latent_dim), a critic with (options, image).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distgan.networks import dcgan
from distgan.networks.image import ImageShape
from distgan.networks.initialisation import initialise_normal
from distgan.spec import ModelSpec, NetworkSpec, Options, validate
from shards.errors import InputError
from shards.names import near

__all__ = ["CRITICS", "GENERATORS", "ImageShape", "build_networks", "complete_model"]

Registry = dict[str, tuple[type[Options], Callable[..., nn.Module]]]
"""By name: a network's options, and what makes it."""

GENERATORS: Registry = {
    "dcgan": (dcgan.GeneratorOptions, dcgan.DCGANGenerator),
}
CRITICS: Registry = {
    "dcgan": (dcgan.CriticOptions, dcgan.DCGANCritic),
}


def build_networks(spec: ModelSpec, image: ImageShape, seed: int) -> tuple[nn.Module, nn.Module]:
    """The generator and the critic of a specification, initialised: equal seeds give equal weights on every machine.

    Args:
        spec: The ``model`` section.
        image: What the images of the data set are.
        seed: The run's seed.

    Returns:
        (generator, critic), float32, on the CPU, in training mode.

    Raises:
        InputError: An unknown network, a wrong option, or an image size that the network cannot have.
    """
    generator = _build(spec.generator, GENERATORS, "model.generator", image, spec.latent_dim)
    critic = _build(spec.critic, CRITICS, "model.critic", image)
    for name, network in (("generator", generator), ("critic", critic)):
        digest = hashlib.blake2b(f"{seed}/weights/{name}".encode(), digest_size=8).digest()
        initialise_normal(network, torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1))
    return generator, critic


def complete_model(spec: ModelSpec) -> ModelSpec:
    """The ``model`` section with every option of its networks written out.

    Raises:
        InputError: An unknown network or a wrong option.
    """
    generator = _options(spec.generator, GENERATORS, "model.generator").model_dump()
    critic = _options(spec.critic, CRITICS, "model.critic").model_dump()
    return spec.model_copy(
        update={
            "generator": NetworkSpec(name=spec.generator.name, **generator),
            "critic": NetworkSpec(name=spec.critic.name, **critic),
        }
    )


def _build(spec: NetworkSpec, registry: Registry, where: str, *shape: Any) -> nn.Module:
    options = _options(spec, registry, where)
    return registry[spec.name][1](options, *shape)


def _options(spec: NetworkSpec, registry: Registry, where: str) -> Options:
    if spec.name not in registry:
        raise InputError(f"{where}.name: no network is called {spec.name!r}; {near(spec.name, registry)}")
    return validate(registry[spec.name][0], spec.rest, where)
