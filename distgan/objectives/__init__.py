"""What each side minimises, by name.

To add an objective: a file with its options and its sides (:class:`~distgan.objectives.side.Side`), and one line in the
registry below.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from distgan.networks import Critic, Encoder
from distgan.networks.gain import Equalised
from distgan.networks.normalisation import has_batchnorm
from distgan.networks.spectral import Spectral
from distgan.objectives.adversarial import CriticSide, GeneratorSide
from distgan.objectives.augmentation import Augmentation
from distgan.objectives.bce import BCECritic, BCEGenerator, BCEOptions
from distgan.objectives.elbo import ELBO, ELBOOptions
from distgan.objectives.hinge import HingeCritic, HingeGenerator, HingeOptions
from distgan.objectives.least_squares import LeastSquaresCritic, LeastSquaresGenerator, LeastSquaresOptions
from distgan.objectives.relativistic import RelativisticCritic, RelativisticGenerator, RelativisticOptions
from distgan.objectives.side import Batch, Draw, Loss, Side, draw_latents
from distgan.objectives.wasserstein import (
    ClippedCritic,
    ClippedOptions,
    PenalisedCritic,
    PenalisedOptions,
    WassersteinGenerator,
)
from distgan.spec import AugmentationSpec, Latent, ObjectiveSpec, Options, selected_options
from shards.errors import InputError

__all__ = [
    "OBJECTIVES",
    "Batch",
    "Draw",
    "Game",
    "Loss",
    "Side",
    "build_game",
    "complete_objective",
    "draw_latents",
    "objective_options",
]


class Game(NamedTuple):
    """The two sides: ``critic(batch, draw)`` and ``generator(batch, draw)`` are their losses.

    Where the critic's side trains both networks there is no other.
    """

    critic: Side
    generator: Side | None


class _Entry(NamedTuple):
    options: type[Options]
    critic: type[Side]
    generator: type[Side] | None
    judge: type[nn.Module] = Critic
    """What ``model.critic`` must be."""


OBJECTIVES: dict[str, _Entry] = {
    "bce": _Entry(BCEOptions, BCECritic, BCEGenerator),
    "hinge": _Entry(HingeOptions, HingeCritic, HingeGenerator),
    "relativistic": _Entry(RelativisticOptions, RelativisticCritic, RelativisticGenerator),
    "least_squares": _Entry(LeastSquaresOptions, LeastSquaresCritic, LeastSquaresGenerator),
    "wasserstein_clip": _Entry(ClippedOptions, ClippedCritic, WassersteinGenerator),
    "wasserstein_gp": _Entry(PenalisedOptions, PenalisedCritic, WassersteinGenerator),
    "elbo": _Entry(ELBOOptions, ELBO, None, Encoder),
}


def build_game(
    spec: ObjectiveSpec,
    generator: nn.Module,
    critic: nn.Module,
    latent_dim: int,
    latent: Latent = "normal",
    augmentation: AugmentationSpec | None = None,
) -> Game:
    """The game that a specification has two networks play.

    Args:
        spec: The ``objective`` section.
        generator: From latents and labels to images.
        critic: What ``spec.kind`` has judge them; an encoder for an autoencoder.
        latent_dim: Length of a latent.
        latent: As in ``model.latent``.
        augmentation: The ``augmentation`` section; None is one that does nothing.

    Raises:
        InputError: An unknown objective, a wrong option, or a network or an augmentation that the objective has no use
            for.
    """
    options, entry = objective_options(spec), OBJECTIVES[spec.kind]
    if not isinstance(critic, entry.judge):
        wanted = "an encoder, such as dcgan_encoder" if entry.judge is Encoder else "a critic, such as dcgan"
        raise InputError(f"objective.kind {spec.kind} needs {wanted}, as model.critic")
    if entry.generator is None and spec.n_critic != 1:
        raise InputError(f"objective.n_critic is {spec.n_critic}, but {spec.kind} trains both networks at once: set 1")
    if entry.judge is Encoder and latent != "normal":
        raise InputError(
            f"model.latent is {latent}, but {spec.kind} holds an autoencoder's latents to N(0, 1): set it to normal"
        )
    augmentation = augmentation or AugmentationSpec()
    if entry.judge is Encoder and augmentation.on:
        raise InputError(
            f"augmentation is of what a critic judges, but {spec.kind} has no critic: leave augmentation.colour, "
            "augmentation.translation and augmentation.cutout unset"
        )
    shared: dict[str, Any] = {
        "latent_dim": latent_dim,
        "latent": latent,
        "augmentation": Augmentation(augmentation, next(critic.parameters()).device),
    }
    critic_side = entry.critic(options, trained=critic, opponent=generator, **shared)
    if augmentation.target is not None and getattr(critic_side, "threshold", None) is None:
        raise InputError(
            f"augmentation.target is the mean sign of the critic's outputs for real images, which says nothing in "
            f"objective.kind {spec.kind}: leave it unset and set augmentation.probability, or take bce or hinge"
        )
    if critic_side.penalised and has_batchnorm(critic):
        raise InputError(
            f"objective {spec.kind} penalises the critic's gradient for each image, which BatchNorm mixes with the "
            "other images of the batch; set model.critic.normalisation to layer, instance, none or, for dcgan and "
            "resnet, spectral"
        )
    if entry.critic is ClippedCritic and any(isinstance(module, Spectral) for module in critic.modules()):
        raise InputError(
            f"objective.kind {spec.kind} clips weights that spectral normalisation divides by their size again; set "
            "model.critic.normalisation to batch, layer, instance or none, or objective.kind to hinge"
        )
    if entry.critic is ClippedCritic and any(isinstance(module, Equalised) for module in critic.modules()):
        raise InputError(
            f"objective.kind {spec.kind} clips weights that equalised layers hold at size 1 and multiply by what they "
            "should be; set model.critic.layer_gain to plain (pggan has no other), or objective.kind to wasserstein_gp"
        )
    if spec.rest.get("penalty_every", 1) != 1 and not critic_side.penalised:
        raise InputError(
            f"objective.penalty_every is {spec.rest['penalty_every']}, but there is no penalty: set objective.r1 "
            "or r2, or leave it at 1"
        )
    if entry.generator is None:
        return Game(critic_side, None)
    generator_side = entry.generator(options, trained=generator, opponent=critic, **shared)
    if spec.rest.get("share_fakes"):
        if spec.n_critic != 1:
            raise InputError(
                f"objective.share_fakes is for one batch of generated images a step, and objective.n_critic is "
                f"{spec.n_critic}: set 1, or leave share_fakes out"
            )
        assert isinstance(critic_side, CriticSide)
        assert isinstance(generator_side, GeneratorSide)
        generator_side.share(critic_side)
    return Game(critic_side, generator_side)


def complete_objective(spec: ObjectiveSpec) -> ObjectiveSpec:
    """The ``objective`` section with every option written out.

    Raises:
        InputError: An unknown objective or a wrong option.
    """
    return ObjectiveSpec(kind=spec.kind, n_critic=spec.n_critic, **objective_options(spec).model_dump())


def objective_options(spec: ObjectiveSpec) -> Options:
    """What only the objective that a specification names knows, validated.

    Raises:
        InputError: An unknown objective or a wrong option.
    """
    return selected_options(spec, OBJECTIVES, "objective")
