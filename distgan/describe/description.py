"""What there is to say of a specification: as data, which is also the shape of ``distgan describe --json``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A layer of a network; its shape is that of its output for one image, (C, H, W) or (C,)."""

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Parameters:
    """Numbers in a network: ``total`` counts BatchNorm's statistics, as Keras does."""

    total: int
    trainable: int


@dataclass(frozen=True)
class Network:
    """A network; its FLOPs are those of one image's forward pass."""

    name: str
    layers: list[Layer]
    parameters: Parameters
    flops_per_image: int


@dataclass(frozen=True)
class Step:
    """A step over all workers: critic updates, then a generator update; forward, backward and penalties.

    Of a run that grows, one at the final size. A penalty that is not of every update counts by its share.
    """

    critic_updates: int
    generator_updates: int
    micro_batches: int
    """Of each update's batch."""
    images: int
    critic_update_flops: int
    generator_update_flops: int
    flops: int
    flops_per_image: float


@dataclass(frozen=True)
class Growth:
    """A stage of a run that grows. What its fade costs beside it, which is little, is not counted."""

    size: int
    batch_size: int
    images: int | None
    """None in the last stage of a run whose length depends on a data set that could not be opened."""
    fade_images: int
    first_step: int
    steps: int | None
    flops_per_image: float
    share: float | None
    """Of the whole run's FLOPs."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each worker's device; of a run that grows, in the stage that takes the most."""

    precision: str
    images: int
    """Of each batch: this worker's."""
    images_at_once: int
    """Of each micro-batch: all of them without ``training.accumulate``."""
    weights: int
    gradients: int
    optimizer_state: int
    ema: int
    """Averages of the generator: the EMA and, where they are kept, two traces."""
    batch: int
    activations: dict[str, int]
    """What an update of each side takes at its fullest moment beside all these: what it keeps for the backward pass of
    a micro-batch, what it needs in passing, and the generated images of the updates before."""
    total: int
    """All of these, with the greater of the two sides' activations: what tensors take."""
    unused: int
    """On a CPU: what the C library holds between tensors."""
    prefetched: int
    """Batches that were read ahead, on the host."""
    process: int
    """On a CPU: Python, torch and the libraries, once they have trained a step."""
    on_cpu: int
    """What a worker's process on a CPU takes: ``total`` and the three. Processes were found to take 1 to 15 % more."""
    checkpoint: int
    """The copy on the host that a checkpoint is written from, for as long as that takes."""


@dataclass(frozen=True)
class Run:
    """The whole run; what depends on the data set is None where that could not be opened."""

    images: int | None
    images_per_step: int
    steps: int | None
    flops: int | None
    samples: int | None
    steps_per_epoch: float | None
    """As ``images_per_step``, of the last stage where the run grows."""
    epochs: float | None


@dataclass(frozen=True)
class Description:
    """What a specification asks for."""

    name: str
    image: dict[str, int]
    labels: int
    """Length of the label vector."""
    generator: Network
    critic: Network
    step: Step
    stages: list[Growth]
    """Empty where the run has one image size."""
    memory: Memory
    run: Run
    notes: list[str]
    """What had to be assumed."""
