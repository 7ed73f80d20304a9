"""What is wrong with a run, found before long work begins that would be in vain."""

from __future__ import annotations

from distgan.networks import ImageShape, build_networks
from distgan.objectives import build_game
from distgan.spec import RunSpec
from distgan.training.compilation import check_compilation
from distgan.training.complete import complete
from distgan.training.graphs import check_graphs
from distgan.training.micro_batches import check_micro_batches
from distgan.training.precision import check_precision
from distgan.training.workers import Workers


def check(spec: RunSpec, channels: int, labels: int, workers: Workers) -> RunSpec:
    """Find out whether a run can be trained, without images and without other processes.

    Args:
        spec: The run.
        channels: Colour channels of the images.
        labels: Length of the label vector that ``model.condition`` makes.
        workers: How many there will be, and what each will compute on.

    Returns:
        The run with every option of its networks, objective and optimizers written out.

    Raises:
        InputError: What :class:`~distgan.training.learner.Learner` would say of it.
    """
    spec = complete(spec)
    check_precision(spec.training.precision, workers.device)
    networks = build_networks(spec.model, ImageShape.of(spec, channels), spec.seed, labels)
    build_game(spec.objective, *networks, spec.model.latent_dim, spec.model.latent, spec.augmentation)
    check_micro_batches(spec, *networks)
    check_compilation(spec, workers, *networks)
    check_graphs(spec, workers.device)
    return spec
