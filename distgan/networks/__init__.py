"""The networks, by name.

To add one: a file with the network and its options, and one line in a registry below. What networks are to the rest of
distgan is said in :mod:`distgan.networks.base`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from distgan.networks import dcgan, dcgan_keras, gan_rmsprop, pggan, resnet
from distgan.networks.base import Critic, Encoder, Generator, GeneratorInput, ImageShape
from distgan.networks.initialisation import initialise_by_gain, initialise_glorot, initialise_normal
from distgan.networks.layers import ConditionalBatchNorm2d
from distgan.spec import ModelSpec, NetworkSpec, Options, selected_options
from shards.errors import InputError

__all__ = [
    "CRITICS",
    "ENCODERS",
    "GENERATORS",
    "Critic",
    "Encoder",
    "Generator",
    "ImageShape",
    "build_networks",
    "complete_model",
    "critic_options",
]

N = TypeVar("N", bound=nn.Module, covariant=True)


class Entry(NamedTuple, Generic[N]):
    """A network: its options, what makes it of them, and what its weights begin as."""

    options: type[Options]
    build: Callable[..., N]
    initialise: Callable[[nn.Module, torch.Generator], None]
    grows: bool = False
    """Whether it can begin with smaller images: see :mod:`distgan.networks.growing`."""


GENERATORS: dict[str, Entry[Generator]] = {
    "dcgan": Entry(dcgan.GeneratorOptions, dcgan.DCGANGenerator, initialise_normal, grows=True),
    "dcgan_keras": Entry(dcgan_keras.GeneratorOptions, dcgan_keras.KerasGenerator, initialise_glorot),
    "gan_rmsprop": Entry(gan_rmsprop.GeneratorOptions, gan_rmsprop.RMSpropGenerator, initialise_glorot),
    "pggan": Entry(pggan.GeneratorOptions, pggan.PGGANGenerator, initialise_by_gain, grows=True),
    "resnet": Entry(resnet.GeneratorOptions, resnet.ResNetGenerator, initialise_by_gain, grows=True),
}
"""Made with (options, ImageShape, GeneratorInput)."""

CRITICS: dict[str, Entry[Critic]] = {
    "dcgan": Entry(dcgan.CriticOptions, dcgan.dcgan_critic, initialise_normal, grows=True),
    "dcgan_keras": Entry(dcgan_keras.CriticOptions, dcgan_keras.keras_critic, initialise_glorot),
    "gan_rmsprop": Entry(gan_rmsprop.CriticOptions, gan_rmsprop.rmsprop_critic, initialise_glorot),
    "pggan": Entry(pggan.CriticOptions, pggan.pggan_critic, initialise_by_gain, grows=True),
    "resnet": Entry(resnet.CriticOptions, resnet.resnet_critic, initialise_by_gain, grows=True),
}
"""Made with (options, ImageShape, labels)."""

ENCODERS: dict[str, Entry[Encoder]] = {
    "dcgan_encoder": Entry(dcgan.CriticOptions, dcgan.dcgan_encoder, initialise_normal, grows=True),
}
"""They stand where a critic would, in ``model.critic``. Made with (options, ImageShape, labels, latent_dim)."""


def build_networks(
    spec: ModelSpec, image: ImageShape, seed: int, labels: int = 0
) -> tuple[Generator, Critic | Encoder]:
    """The generator and the critic of a specification, initialised: equal seeds give equal weights on every machine.

    Args:
        spec: The ``model`` section.
        image: What the images of the data set are.
        seed: The run's seed.
        labels: Length of the label vector that ``spec.condition`` makes; 0 without a condition.

    Returns:
        (generator, critic), float32, on the CPU, in training mode. The critic of an autoencoder is its encoder.

    Raises:
        InputError: An unknown network, a wrong option, an image size that the network cannot have, or a condition that
            it cannot take.
    """
    by_batchnorm = spec.condition is not None and spec.condition.generator == "batchnorm"
    given = GeneratorInput(spec.latent_dim, labels, by_batchnorm)
    generator = _build(spec.generator, GENERATORS, "generator", seed, image, given)
    if labels and by_batchnorm and not any(isinstance(m, ConditionalBatchNorm2d) for m in generator.modules()):
        raise InputError(
            f"model.condition.generator is batchnorm, but the {spec.generator.name} generator has no BatchNorm; "
            "set it to concatenation"
        )
    if spec.critic.name in ENCODERS:
        encoder = _build(spec.critic, ENCODERS, "critic", seed, image, labels, spec.latent_dim)
        return generator, encoder
    return generator, _build(spec.critic, CRITICS, "critic", seed, image, labels)


def complete_model(spec: ModelSpec) -> ModelSpec:
    """The ``model`` section with every option of its networks written out.

    Raises:
        InputError: An unknown network or a wrong option.
    """
    generator = selected_options(spec.generator, GENERATORS, "model.generator").model_dump()
    critic = critic_options(spec.critic).model_dump()
    return spec.model_copy(
        update={
            "generator": NetworkSpec(name=spec.generator.name, **generator),
            "critic": NetworkSpec(name=spec.critic.name, **critic),
        }
    )


def critic_options(spec: NetworkSpec) -> Options:
    """The options of ``model.critic``, an encoder's where that is what it is.

    Raises:
        InputError: An unknown network or a wrong option.
    """
    return selected_options(spec, {**CRITICS, **ENCODERS}, "model.critic")


def _build(
    spec: NetworkSpec, registry: Mapping[str, Entry[N]], role: str, seed: int, image: ImageShape, *shape: Any
) -> N:
    options = selected_options(spec, registry, f"model.{role}")
    if image.smaller and not registry[spec.name].grows:
        able = ", ".join(name for name, entry in registry.items() if entry.grows)
        raise InputError(
            f"training.stages: model.{role} is {spec.name}, which has one image size and cannot grow: "
            f"leave the stages out, or take another network ({able})"
        )
    network = registry[spec.name].build(options, image, *shape)
    digest = hashlib.blake2b(f"{seed}/weights/{role}".encode(), digest_size=8).digest()
    registry[spec.name].initialise(network, torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1))
    return network
