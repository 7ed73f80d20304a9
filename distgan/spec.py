"""The run specification: every option a run has, typed, documented and validated; YAML in and out.

One YAML file describes a run completely. :func:`load_spec` reads it, applies ``--set key.path=value`` overrides and
validates; :func:`dump_spec` writes the resolved specification beside the run. What only a network or an objective
knows (its own options) is validated where that network or objective is declared, by :func:`selected_options`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from distgan.stages import Stage, Timetable
from jobs import read, recipes
from shards.errors import InputError
from shards.names import near

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1000.0)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Count = Annotated[int, Field(ge=1, le=10**15)]
Weight = Annotated[float, Field(ge=0.0, le=1e6)]
Images = Annotated[int, Field(ge=0, le=10**15)]

Latent = Literal["normal", "uniform"]
PrecisionName = Literal["auto", "float32", "tfloat32", "bfloat16", "float64"]
Switch = Literal["auto", "off", "on"]


class Options(BaseModel):
    """The base of everything a user can set: unknown keys and wrong types are errors, a docstring documents a field."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class OpenOptions(Options):
    """Options of which the rest belongs to what one of them selects, and is validated by :func:`selected_options`."""

    model_config = ConfigDict(extra="allow")

    SELECTOR: ClassVar[str] = "name"
    """The field that selects from a registry."""
    SELECTED: ClassVar[str]
    """What it selects, in a word."""

    @property
    def rest(self) -> dict[str, Any]:
        """What was written beside the declared fields."""
        return dict(self.model_extra or {})


N = TypeVar("N", int, float)


class Cosine(Options, Generic[N]):
    """A number that moves with the images shown: along half a cosine from ``base`` to ``final``, where it stays."""

    base: N
    """What it is at the beginning."""
    final: N
    """What it is in the end."""
    images: Count
    """Real images shown until then."""


def value_at(number: float | Cosine[Any], images: int) -> float:
    """A number that may move, after so many images.

    With t = images / number.images in [0, 1], it is final + (base − final) · (1 + cos πt) / 2.
    """
    if not isinstance(number, Cosine):
        return number
    return float(number.final + (number.base - number.final) * fallen(images, number.images))


def fallen(images: int, length: int) -> float:
    """Half a cosine from 1, at 0 images, to 0, where it stays: (1 + cos πt) / 2 with t = images / length in [0, 1]."""
    return 0.0 if images >= length else (1.0 + math.cos(math.pi * max(images, 0) / length)) / 2.0


def greatest(number: float | Cosine[Any]) -> float:
    """The most that a number that may move ever is."""
    return max(number.base, number.final) if isinstance(number, Cosine) else number


# A class for each: the JSON schema tells them apart by their names.
class WeightCosine(Cosine[Weight]):
    """A weight that moves."""


class FractionCosine(Cosine[Fraction]):
    """A number in [0, 1) that moves."""


class ShareCosine(Cosine[Share]):
    """A number in [0, 1] that moves."""


class ImagesCosine(Cosine[Images]):
    """A number of images that moves."""


_NUMBER, _COSINE = "a number", "a mapping"
"""The two ways to write a number that may move, as pydantic has them in an error's path. Not to be taken for keys."""
_BY_SHAPE = Discriminator(lambda value: _COSINE if isinstance(value, dict | Cosine) else _NUMBER)


def _not_moving(rate: Any) -> Any:
    """A learning rate as it is written, unless as what other numbers move by.

    Raises:
        ValueError: For a model's validation.
    """
    if isinstance(rate, dict):
        raise ValueError(
            "a learning rate is a number, and moves by its optimizer's schedule: {kind: cosine, final: 0.25}"
        )
    return rate


LearningRate = Annotated[Rate, BeforeValidator(_not_moving)]

MovingWeight = Annotated[Annotated[Weight, Tag(_NUMBER)] | Annotated[WeightCosine, Tag(_COSINE)], _BY_SHAPE]
MovingFraction = Annotated[Annotated[Fraction, Tag(_NUMBER)] | Annotated[FractionCosine, Tag(_COSINE)], _BY_SHAPE]
MovingShare = Annotated[Annotated[Share, Tag(_NUMBER)] | Annotated[ShareCosine, Tag(_COSINE)], _BY_SHAPE]
MovingImages = Annotated[Annotated[Images, Tag(_NUMBER)] | Annotated[ImagesCosine, Tag(_COSINE)], _BY_SHAPE]


class DataSpec(Options):
    """Which images the run learns from."""

    shards: str
    """Folder or URL of a packed set (``distgan shards pack``). A relative one is taken from the working directory."""
    image_size: Annotated[int, Field(ge=1, le=4096)] = 64
    """Height and width of an image in pixels; must be what the shards were packed with."""
    where: dict[str, Any] = {}
    """Train only on the samples that match: ``{Eyeglasses: -1}``, ``{class: [cat, dog]}``. Names are taken as they are
    written: 010 is no number here, and no is not false. ``{split: val}`` or ``{split: [train, val]}`` chooses among
    the splits of the set. Without it the split train is trained on, and what is in no split, where the set has a split
    train; ``{split: all}`` takes all there is."""
    limit: Count | None = None
    """Train only on the first so many of the samples that match."""
    pyramid: bool = False
    """In a run that grows, read small images where ``distgan shards pack --pyramid`` has put them, instead of reading
    large ones and averaging their pixels on the device. Their pixels are rounded, so that the numbers differ a bit."""
    flip: bool = False
    """Mirror every image left to right with probability one half."""
    block_samples: Count | None = None
    """Shuffle within blocks of this many neighbouring samples (and the blocks among themselves), for sets larger than
    a node's disk. Unset shuffles the whole set."""
    lanes: Count = 1
    """Deal the set into this many parts, each of which feeds its own slots of every batch, so that a node reads only
    its own part. Divides ``training.batch_size``."""
    prefetch_batches: Annotated[int, Field(ge=1, le=1024)] = 3
    """Batches that the prefetch thread keeps ready."""
    cache: str | None = None
    """Folder for copies of remote shards. Unset uses the user's cache folder."""

    @field_validator("where")
    @classmethod
    def _names_as_text(cls, where: dict[str, Any]) -> dict[str, Any]:
        # Checkpoints from before names were taken as written hold the numbers that YAML had made of some.
        return {name: _digits(value) if name in ("class", "split") else value for name, value in where.items()}


def _digits(value: Any) -> Any:
    """Whole numbers, alone or in a list, as the text of their digits; all else as it is."""
    if isinstance(value, list):
        return [_digits(item) for item in value]
    return str(value) if type(value) is int else value  # not isinstance: a bool is an int


class NetworkSpec(OpenOptions):
    """A network by its registered name, with that network's own options beside it."""

    SELECTED: ClassVar[str] = "network"

    name: str = "dcgan"
    """The name in the registry of :mod:`distgan.networks`."""


class ConditionSpec(Options):
    """What a picture is asked to show: a label vector that the generator takes and the critic judges with."""

    attributes: list[str] = []
    """Attributes of the data set, such as ``[Smiling, Eyeglasses]``: 1 or -1 each in the label vector."""
    classes: bool = False
    """The class of a sample, one-hot in the label vector."""
    generator: Literal["concatenation", "batchnorm"] = "concatenation"
    """How the generator takes the label vector: appended to the latent, or as the scale and shift of its BatchNorm
    layers (de Vries et al. 2017). The critic projects it onto its features (Miyato and Koyama 2018)."""

    @model_validator(mode="after")
    def _on_something(self) -> ConditionSpec:
        if not self.attributes and not self.classes:
            raise ValueError("a condition needs attributes: [NAME, ...] or classes: true")
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError("an attribute is named twice")
        return self


class ModelSpec(Options):
    """The two networks and what goes into the generator."""

    generator: NetworkSpec = NetworkSpec()
    """The network from latents to images."""
    critic: NetworkSpec = NetworkSpec()
    """The network from images to one number each: the discriminator's logit or the critic's score. A variational
    autoencoder has its encoder here."""
    latent_dim: Width = 100
    """Length of a latent vector."""
    latent: Latent = "normal"
    """What each number of a latent is drawn from: N(0, 1), or ``uniform``, U(-1, 1), as the DCGAN paper has it."""
    condition: ConditionSpec | None = None
    """Attributes or classes to draw at will. Unset, the networks know of none."""


class ObjectiveSpec(OpenOptions):
    """What each side minimises, by its registered name, with that objective's own options beside it."""

    SELECTOR: ClassVar[str] = "kind"
    SELECTED: ClassVar[str] = "objective"

    kind: str = "bce"
    """The name in the registry of :mod:`distgan.objectives`."""
    n_critic: Annotated[int, Field(ge=1, le=1000)] = 1
    """Critic updates for each generator update."""


class AugmentationSpec(Options):
    """What is done at random to every image, real or generated, before the critic judges it.

    So it does not learn a small set by heart (Zhao et al. 2020, arXiv:2006.10738). Off, unless a kind is set: colour,
    translation or cutout.
    """

    colour: bool = False
    """Brightness moved by up to ±0.5, saturation 0 to 2 times and contrast 0.5 to 1.5 times what it was."""
    translation: Share = 0.0
    """Moved in each direction by up to this share of the image's side, with grey where nothing comes from; 0.125 is the
    paper's."""
    cutout: Share = 0.0
    """A square with this share of the image's side made grey; 0.5 is the paper's."""
    probability: MovingShare = 1.0
    """That an image is augmented, for each of the three kinds; with ``target``, the most that this becomes. It may
    move: ``{base: 0.0, final: 0.3, images: 10_000_000}``. At 1 it may show in what is drawn, as the critic no longer
    sees which brightness or which place is real: in short runs with batches of 16 faces came out much too bright and
    too dark, and off the middle. Karras et al. 2020 saw none of that below 0.8: set that, or ``target``."""
    target: Annotated[float, Field(gt=-1.0, lt=1.0)] | None = None
    """Let the probability, from 0 on, rise while the mean sign of the critic's outputs for real images is above this,
    and fall while it is below (Karras et al. 2020, arXiv:2006.06676, whose value is 0.6). Unset, it does not adapt."""
    speed_images: Count = 500_000
    """Images in which an adapting probability goes from 0 to 1 at most."""

    @model_validator(mode="after")
    def _of_some_kind(self) -> AugmentationSpec:
        if not self.on and (self.probability != 1.0 or self.target is not None):
            which = "target" if self.probability == 1.0 else "probability"
            raise ValueError(f"{which} is of what is done, which is nothing: set colour, translation or cutout")
        if self.target is None and self.speed_images != 500_000:
            raise ValueError("speed_images is of a probability that adapts: set target")
        return self

    @property
    def on(self) -> bool:
        """Whether anything is done."""
        return self.colour or self.translation > 0 or self.cutout > 0

    def pixels(self, size: int) -> tuple[int, int]:
        """The furthest translation and the side of a cutout in images of so many pixels, rounded as in the paper."""
        return int(size * self.translation + 0.5), int(size * self.cutout + 0.5)


FALLING = ("linear", "cosine")
"""Kinds of schedules that have an end."""


class ScheduleSpec(Options):
    """How a learning rate changes; it is multiplied by a factor in [0, 1]."""

    kind: Literal["constant", "linear", "cosine", "inverse_time"] = "constant"
    """``linear`` falls to 0, ``cosine`` along half a cosine to ``final``; ``inverse_time`` is
    1 / (1 + decay · updates), Keras's ``decay``."""
    warm_up_images: Images = 0
    """Rise from 0 over so many images first, whatever the kind."""
    hold_images: Images = 0
    """``linear`` and ``cosine``: images before the rate begins to fall."""
    until_images: Count | None = None
    """``linear`` and ``cosine``: images at which the fall ends. Later the rate stays where it is then. Unset, it ends
    with the run; the run's folder has the number."""
    final: Share = 0.0
    """``cosine``: the factor in the end. R3GAN (Huang et al. 2024) goes from 2e-4 to 5e-5, by 0.25."""
    decay: Weight = 0.0
    """``inverse_time``: how fast."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> ScheduleSpec:
        falls = self.kind in FALLING
        if falls and self.until_images is not None and self.until_images <= self.hold_images:
            raise ValueError(f"a {self.kind} schedule needs an until_images that is greater than hold_images")
        if not falls and (self.until_images is not None or self.hold_images):
            raise ValueError("hold_images and until_images belong to kind: linear and kind: cosine")
        if self.final and self.kind != "cosine":
            raise ValueError("final belongs to kind: cosine")
        if (self.kind == "inverse_time") != (self.decay > 0):
            raise ValueError("decay > 0 belongs to kind: inverse_time, which needs it")
        return self


class SideOptimizerSpec(OpenOptions):
    """One side's optimizer, by its registered name, with that optimizer's own options beside it."""

    SELECTED: ClassVar[str] = "optimizer"

    name: str = "adam"
    """The name in the registry of :mod:`distgan.training.optimizers`."""
    lr: LearningRate = 2e-4
    """Learning rate."""
    schedule: ScheduleSpec = ScheduleSpec()
    """How the learning rate changes."""
    clip_value: Rate | None = None
    """Cut each element of the gradient to ±this."""
    clip_norm: Rate | None = None
    """Shorten the side's whole gradient to this Euclidean norm, after ``clip_value``."""


class OptimizerSpec(Options):
    """One optimizer for each side."""

    generator: SideOptimizerSpec = SideOptimizerSpec()
    """Updates the generator."""
    critic: SideOptimizerSpec = SideOptimizerSpec()
    """Updates the critic."""


IMAGES = 5_000_000
"""The length of a run that does not say how long it is."""


class StageRates(Options):
    """Learning rates of a stage."""

    generator: LearningRate | None = None
    """In place of ``optimizer.generator.lr``."""
    critic: LearningRate | None = None
    """In place of ``optimizer.critic.lr``."""


class StageSpec(Options):
    """A stage of a run that grows."""

    size: Annotated[int, Field(ge=1, le=4096)]
    """Height and width of its images in pixels: those of the data set, each block of pixels averaged to one."""
    images: Count | None = None
    """Real images shown in it, the fade's included; its last step completes its batches. The last stage lasts until the
    run ends, and has none."""
    fade_images: Images = 0
    """So many of these pass until the layers that are new in it have faded in: give them some hundred steps, before
    which they draw next to nothing. 0 has them there at once."""
    batch_size: Annotated[int, Field(ge=1, le=2**20)] | None = None
    """In place of ``training.batch_size``."""
    lr: StageRates = StageRates()
    """In place of the optimizers' learning rates; schedules hold as they are."""


_PRECISIONS = {"fp32": "float32", "tf32": "tfloat32", "bf16": "bfloat16", "fp64": "float64"}
"""What people write, and what it is called here."""


class TrainingSpec(Options):
    """How long and how."""

    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 128
    """The global batch: real images in one critic update, over all workers."""
    accumulate: Annotated[int, Field(ge=1, le=2**20)] = 1
    """N: each global batch is dealt with in N equal micro-batches, one after the other, and the optimizers step once,
    with the gradients of the whole: for batches that do not fit into a device's memory. A run's numbers stay the same,
    but for rounding, unless it has BatchNorm, whose statistics are then those of a micro-batch, over all workers. N
    divides every batch size, and leaves each worker an image of each micro-batch."""
    images: Count | None = None
    """Real images shown to the critic in the whole run, 5,000,000 where ``epochs`` does not say it. The last step
    completes its batches."""
    epochs: Annotated[float, Field(gt=0.0, le=1e9)] | None = None
    """In place of ``images``: how often each sample that is trained on is shown. The run's folder has it in images."""
    stages: list[StageSpec] | None = None
    """Grow from small images to ``data.image_size`` (Karras et al. 2018): ``[{size: 8, images: 20_000}, {size: 16,
    images: 20_000, fade_images: 5_000}, {size: 32, fade_images: 5_000}]``. Each size is twice the one before. Pictures
    and scores are of the final size throughout. Unset, all images have it from the beginning."""
    precision: PrecisionName = "auto"
    """``bfloat16`` runs the networks under autocast; ``auto`` does so on GPUs and processors that compute in it, else
    float32. ``tfloat32`` is float32 whose matrix products and convolutions are TF32's while training, on NVIDIA's GPUs
    from Ampere on: factors are rounded to 10 bits. ``float32`` trains without any TF32, which torch by itself has in
    convolutions. A resumed run goes on in what it began in. ``bf16``, ``tf32``, ``fp32`` and ``fp64`` are understood.
    """
    graphs: Switch = "auto"
    """On a GPU, capture each kind of update as a CUDA graph once, and launch it whole from then on, not kernel by
    kernel: for networks whose kernels take a GPU less time than the host takes to launch them. No number depends on it.
    Where an update cannot be captured, ``auto`` says so and goes on without; ``on`` is an error there."""
    compile: Switch = "auto"
    """Have torch.compile make kernels for the networks that are trained. ``on`` does so, for all but gradient
    penalties, and says how long that took: up to some minutes at the first step, less where torch has kept what it made
    before. ``auto`` is off: on processors it has gained nothing, and what it gains on GPUs is not measured yet. Numbers
    differ by rounding. Not for runs that grow, and not for dropout or BatchNorm over several workers."""
    ema_half_life_images: MovingImages = 10_000
    """Half-life, in images, of the exponential moving average (EMA) of the generator's weights; 0 is no average. It may
    move: ``{base: 0, final: 500_000, images: 10_000_000}``."""
    ema_ramp_up: Annotated[float, Field(ge=0.0)] = 0.05
    """Early on, the half-life is at most this fraction of the images seen so far; in a run that grows, of those that a
    layer has seen. 0 switches the ramp off."""
    checkpoint_every_images: Count = 100_000
    """Images between two checkpoints. One more is written when the run ends or is interrupted."""
    keep_last: Count = 2
    """Newest checkpoints to keep."""
    keep_best: str | None = None
    """Also keep the checkpoint that scores best so far, by one of the scores of ``evaluation``: frechet, kernel,
    wasserstein (the lower, the better), precision, recall, density, coverage, inception. ``--best`` draws from it."""
    keep_every_images: Count | None = None
    """Also keep, for good, the first checkpoint in every span of this many images."""
    keep_generator_every_images: Count | None = None
    """Also keep, for good, the averaged generator alone, each time that so many images have been shown: in
    ``generators/`` of the run's folder, to draw with. Nothing goes on from there."""
    keep_traces_every_images: Count | None = None
    """Also keep two further averages, twice the generator's size, each time that so many images have been shown: in
    ``traces/`` of the run's folder. ``distgan average`` makes averages of other lengths than the EMA's from them. A
    twentieth of the run is often enough."""

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        given = [name for name in ("images", "epochs") if tree.get(name) is not None]
        if len(given) == 2:
            raise ValueError("images and epochs both say how long the run is: give one of them")
        return tree if given else {**tree, "images": IMAGES}

    @field_validator("stages")
    @classmethod
    def _growing(cls, stages: list[StageSpec] | None) -> list[StageSpec] | None:
        if stages is None:
            return None
        if not stages:
            raise ValueError("names no stage: leave it out to train at one size")
        sizes = [stage.size for stage in stages]
        for before, after in pairwise(sizes):
            if after != 2 * before:
                raise ValueError(f"goes from {before} to {after} pixels: each size is twice the one before")
        if stages[0].fade_images:
            raise ValueError("the first stage has nothing to fade from: leave its fade_images out")
        for stage in stages[:-1]:
            if stage.images is None:
                raise ValueError(f"the stage of {stage.size} pixels does not say how long it is: give it images")
            if stage.fade_images > stage.images:
                raise ValueError(
                    f"the stage of {stage.size} pixels has {stage.images} images, and fade_images = "
                    f"{stage.fade_images} is more: give it at most as many"
                )
        if stages[-1].images is not None:
            raise ValueError(
                f"the stage of {sizes[-1]} pixels, the last one, lasts until the run ends: leave its images out, "
                "training.images says how many there are in all"
            )
        return stages

    @field_validator("graphs", "compile", mode="before")
    @classmethod
    def _as_yaml_has_it(cls, switch: Any) -> Any:
        """For which on and off are true and false."""
        return ("off", "on")[switch] if isinstance(switch, bool) else switch

    @field_validator("precision", mode="before")
    @classmethod
    def _by_another_name(cls, name: Any) -> Any:
        if name in ("fp16", "float16"):
            raise ValueError(f"{name} is not supported; there are auto, float32, tfloat32, bfloat16 and float64")
        return _PRECISIONS.get(name, name) if isinstance(name, str) else name


class EvaluationSpec(Options):
    """Scores while training, against real images that are held out."""

    every_images: Count | None = None
    """Images between two evaluations; one more is made at the end. Unset, there are none."""
    count: Annotated[int, Field(ge=2, le=10**7)] = 1_000
    """Images to draw; at most as many real ones are taken."""
    metrics: list[str] = ["frechet", "kernel", "neighbours", "inception", "wasserstein"]
    """Which scores: names in :data:`distgan.evaluation.metrics.METRICS`. What needs features is left out without."""
    features: str | None = None
    """What describes images, as ``distgan evaluate --features`` takes it. Unset: Inception where its weights are at
    hand, else ``lite0:112`` where it is installed, else none."""
    shards: str | None = None
    """The packed set to compare with. Unset, that of ``data.shards``."""
    where: dict[str, Any] | None = None
    """The real images, as ``data.where`` has it. Unset, those that ``data.where`` asks for, of the split test, else
    val, if there is one."""

    @field_validator("metrics")
    @classmethod
    def _some(cls, metrics: list[str]) -> list[str]:
        if not metrics:
            raise ValueError("names at least one score; to have none, leave evaluation.every_images unset")
        return metrics


class WandbSpec(Options):
    """Weights & Biases. What is written here holds; what is not, wandb's variables (``WANDB_PROJECT``, …) may say."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """``auto`` is what ``WANDB_MODE``, ``wandb offline`` or ``wandb disabled`` say; else online where there is a login
    (``wandb login``, ``WANDB_API_KEY``) and offline where there is none. Without the package it is disabled."""
    project: str = "distgan"
    """The project the run appears in."""
    entity: str | None = None
    """The team or user that owns the project. Unset uses the account's default."""
    name: str | None = None
    """What the run is called there. Unset is the specification's ``name``, or what a sweep calls its trial."""
    group: str | None = None
    """Runs of one group are shown together."""
    tags: list[str] = []
    """Labels to find the run by."""
    artifacts: Literal["best", "last", "none"] = "none"
    """Send the averaged generator, with its model card: the ``last`` when the run has finished; or the one that has
    scored ``best`` (``training.keep_best``), then and, at most once in a tenth of the run, when there is a better one.
    """


class TrackingSpec(Options):
    """What is written down, and how often."""

    log_every: Count = 50
    """Generator steps between two lines of metrics.jsonl."""
    sample_every_images: Count = 50_000
    """Images between two sample grids."""
    sample_count: Annotated[int, Field(ge=1, le=1024)] = 64
    """Fixed latents in a sample grid."""
    sample_scale: Rate = 1.0
    """The grid's latents are drawn as training draws them, and multiplied by this."""
    timeline: bool = False
    """Write the grids as a film when the run ends, ``RUN/timeline.gif``; ``distgan timeline`` does so at any time."""
    wandb: WandbSpec = WandbSpec()
    """Weights & Biases."""


Action = Literal["warn", "stop", "rollback"]


class GuardSpec(Options):
    """What is done when training goes wrong.

    ``warn`` says so and goes on; ``stop`` ends the run; ``rollback`` goes back to the last good checkpoint, with fresh
    noise and lower learning rates.
    """

    nonfinite: Action = "stop"
    """A loss, a gradient or a weight is NaN or infinite."""
    exploding: Action = "warn"
    """A gradient's norm has grown beyond ``explosion`` times what it was."""
    won: Action = "warn"
    """The critic has won: it tells nearly every image right, for long, or the generator's gradient is gone. A
    Wasserstein critic, which is meant to be right, has won in the second case alone."""
    drifting: Action = "warn"
    """The losses have drifted apart for two epochs: the critic's falls while the generator's climbs."""
    collapse: Action = "warn"
    """The generator's images are all (nearly) the same."""
    explosion: Annotated[float, Field(gt=1.0)] = 1000.0
    """Norm of a gradient, as a multiple of its median so far, that counts as exploding; not before five steps."""
    won_accuracy: Annotated[float, Field(gt=0.5, le=1.0)] = 0.99
    """Share of right answers from which on the critic is winning."""
    collapse_ratio: Fraction = 0.1
    """Diversity of a batch of generated images, as a share of the data's own, below which it counts as collapsed.
    Diversity is the mean distance of an image to the nearest other in its batch, at 16 pixels."""
    grace_images: Images = 20_000
    """Before the generator's updates have drawn so many images, a batch in each of its steps, nothing counts as
    collapsed, won or drifting, and no advice is given: an untrained generator draws one grey."""
    patience: Annotated[int, Field(ge=1, le=10**6)] = 10
    """Log steps in a row for which the critic must be winning, or the images collapsed, before anything is done."""
    max_rollbacks: Count = 3
    """After so many, the run stops instead."""
    rollback_lr: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """What a roll-back multiplies both learning rates by."""


class ClusterSpec(Options):
    """On how many workers the run is spread. No number of the run depends on this section, but for rounding."""

    workers: Count | Annotated[tuple[Count, Count], Field(strict=False)] = 1
    """Processes that share each global batch: 1 is the local mode, more are Ray's. ``[1, 8]`` begins with as many as
    there is room for, goes on with fewer when machines are lost, and takes more as they come."""
    storage: str | None = None
    """A folder that every machine of the cluster sees. Without ``--out``, the run's folder is the one in it that has
    the run's name."""
    cpus_per_worker: Annotated[float, Field(gt=0.0)] | None = None
    """Cores that Ray reserves for a worker, which computes with so many threads, unless ``OMP_NUM_THREADS`` says
    otherwise. Unset is 1 on a cluster; without one, workers share this machine's cores evenly."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    """1, or 0 to compute on CPUs. Unset is 1 where the cluster has GPUs."""
    max_failures: Annotated[int, Field(ge=-1)] = 10
    """How often in a row the run goes on from the same checkpoint, after workers have died, until it gives up; -1 is
    without limit."""
    start_timeout_s: Rate = 30.0
    """Seconds to wait for room for all workers before trying again; an elastic run then takes what is there."""
    resize_every_s: Rate = 60.0
    """Seconds between looks whether an elastic run can have more workers."""
    collective_timeout_s: Rate = 300.0
    """Seconds after which a worker that hears nothing from the others gives up; more than a checkpoint takes."""

    @field_validator("workers")
    @classmethod
    def _in_order(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError(f"should be [fewest, most], not [{workers[0]}, {workers[1]}]")
        return workers

    @property
    def most_workers(self) -> int:
        """The most that there will be."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class RunSpec(Options):
    """One run: what ``distgan train`` reads and writes beside its results."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Names the run folder and the dashboards' run: letters, digits, '.', '_' and '-'."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random number of the run follows from it: weights, order, latents, flips."""
    data: DataSpec
    """The images."""
    model: ModelSpec = ModelSpec()
    """The networks."""
    objective: ObjectiveSpec = ObjectiveSpec()
    """What each side minimises."""
    augmentation: AugmentationSpec = AugmentationSpec()
    """What is done at random to the images that the critic judges."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """How each side follows its gradient."""
    training: TrainingSpec = TrainingSpec()
    """How long and how."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How good the pictures are."""
    tracking: TrackingSpec = TrackingSpec()
    """What is written down."""
    guard: GuardSpec = GuardSpec()
    """What is done when training goes wrong."""
    cluster: ClusterSpec = ClusterSpec()
    """Where it runs."""

    @model_validator(mode="after")
    def _an_image_each(self) -> RunSpec:
        if reason := self.cannot_share(self.cluster.most_workers, f"cluster.workers = {self.cluster.most_workers}"):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _grown(self) -> RunSpec:
        stages, size = self.training.stages, self.data.image_size
        if stages and stages[-1].size != size:
            raise ValueError(
                f"training.stages end at {stages[-1].size} pixels, but data.image_size is {size}: add stages, or leave "
                f"some out, until the last one has {size}"
            )
        return self

    @model_validator(mode="after")
    def _pyramid_for_growing(self) -> RunSpec:
        if self.data.pyramid and not self.training.stages:
            raise ValueError("data.pyramid is for runs that grow: set training.stages, or leave it out")
        return self

    @model_validator(mode="after")
    def _best_by_a_score(self) -> RunSpec:
        if self.training.keep_best is not None and self.evaluation.every_images is None:
            raise ValueError("training.keep_best needs scores: set evaluation.every_images")
        if self.tracking.wandb.artifacts == "best" and self.training.keep_best is None:
            raise ValueError("tracking.wandb.artifacts is best, of which there is none: set training.keep_best")
        return self

    @model_validator(mode="after")
    def _something_left(self) -> RunSpec:
        asked, size = self.augmentation, self.data.image_size
        for name, pixels in zip(("translation", "cutout"), asked.pixels(size), strict=True):
            if getattr(asked, name) and not pixels:
                raise ValueError(f"augmentation.{name} is less than half a pixel of {size}: set it higher, or to 0")
        for each in (size, *(stage.size for stage in self.training.stages or ())):  # rounded in each by itself
            if sum(asked.pixels(each)) >= each:
                raise ValueError(
                    f"augmentation.translation = {asked.translation} and augmentation.cutout = {asked.cutout} leave "
                    f"nothing of some images of {each} pixels: set them lower, as 0.125 and 0.5"
                )
        return self

    @property
    def timetable(self) -> Timetable:
        """What each step (``n_critic`` critic updates, then one generator update) shows to the critic."""
        return Timetable(
            [
                Stage(
                    stage.size,
                    stage.batch_size or self.training.batch_size,
                    self.objective.n_critic,
                    stage.images,
                    stage.fade_images,
                    stage.lr.model_dump(exclude_none=True),
                )
                for stage in self.training.stages or [StageSpec(size=self.data.image_size)]
            ]
        )

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Each global batch that the run has, by the field that says it."""
        found: dict[str, int] = {}
        for place, stage in enumerate(self.training.stages or [None]):
            if stage is not None and stage.batch_size is not None:
                found[f"training.stages.{place}.batch_size"] = stage.batch_size
            else:
                found["training.batch_size"] = self.training.batch_size
        return found

    def cannot_share(self, workers: int, called: str | None = None) -> str | None:
        """Why so many workers, and any fewer, cannot share each micro-batch, in a sentence; None where they can.

        Args:
            workers: How many.
            called: What the sentence calls them.
        """
        called = called or f"{workers} worker{'s' if workers > 1 else ''}"
        for name, batch_size in self.batch_sizes.items():
            if workers > batch_size:
                return f"{name} is {batch_size}, too few for {called}: each needs an image"
        accumulate, whole = self.training.accumulate, math.gcd(*self.batch_sizes.values())
        most = min(self.batch_sizes.values()) // workers
        if whole % accumulate == 0 and accumulate <= most:
            return None
        fits = [n for n in range(1, most + 1) if whole % n == 0]
        near_by = [max((n for n in fits if n < accumulate), default=1), *(n for n in fits if n > accumulate)][:2]
        batches = " and ".join(f"{name} = {batch_size}" for name, batch_size in self.batch_sizes.items())
        return (
            f"training.accumulate is {accumulate}, but {batches} should make so many equal micro-batches, with an "
            f"image for each worker ({called}): set it to {' or '.join(map(str, near_by))}"
        )

    @property
    def steps(self) -> int:
        """Generator steps in the whole run, whose length is known in images."""
        assert self.training.images is not None, "see in_images"
        return self.timetable.steps(self.training.images)

    @property
    def cut_short(self) -> str | None:
        """What should be known of a run that ends before it has grown, in a sentence."""
        last = self.timetable.stages[-1]
        if self.training.images is None or self.steps > last.faded_in:
            return None
        stage = self.timetable.stage(self.timetable.last(self.steps))
        return (
            f"training.images is {self.training.images:,}: the run ends in the stage of {stage.size} pixels, before "
            f"the layers of {last.size} pixels have faded in"
        )

    def full_size(self) -> RunSpec:
        """The last stage of a run that grows, as a run of its own."""
        last = self.timetable.stages[-1]
        return self.with_training(stages=None, batch_size=last.batch_size)

    def in_images(self, samples: int) -> RunSpec:
        """The run with its length in images, and that of its schedules, if so many samples are trained on.

        Raises:
            InputError: A learning rate that falls until the run ends would not have begun to by then.
        """
        images = self.training.images
        if images is None:
            # Decimal fractions of an epoch are what was written: 0.1 epochs of 10 samples are one image, not two.
            images = math.ceil(Decimal(str(self.training.epochs)) * samples)
        sides = {side: _until(getattr(self.optimizer, side), images, side) for side in OptimizerSpec.model_fields}
        run = self.with_training(images=images, epochs=None)
        return run.model_copy(update={"optimizer": self.optimizer.model_copy(update=sides)})

    def with_training(self, **fields: Any) -> RunSpec:
        """The run with other fields of its ``training`` section, which are not validated."""
        return self.model_copy(update={"training": self.training.model_copy(update=fields)})


def _until(own: SideOptimizerSpec, images: int, side: str) -> SideOptimizerSpec:
    """One side's optimizer, with a schedule that says where it ends.

    Raises:
        InputError: It would end before it begins.
    """
    schedule = own.schedule
    if schedule.kind not in FALLING or schedule.until_images is not None:
        return own
    if schedule.hold_images >= images:
        raise InputError(
            f"optimizer.{side}.schedule holds the learning rate for {schedule.hold_images:,} images, and the run ends "
            f"at {images:,}: set hold_images lower, or until_images"
        )
    return own.model_copy(update={"schedule": schedule.model_copy(update={"until_images": images})})


FREE_ON_RESUME = (
    "name",
    "training.accumulate",
    "training.graphs",
    "training.images",
    "training.epochs",
    "training.checkpoint_every_images",
    "training.keep_last",
    "training.keep_best",
    "training.keep_every_images",
    "training.keep_generator_every_images",
    "training.keep_traces_every_images",
    "data.shards",
    "data.cache",
    "data.prefetch_batches",
    "evaluation",
    "tracking",
    "guard",
    "cluster",
)
"""Fields (or whole sections) that a resumed run may change, because no number depends on them. Where the shards lie is
free too: that they are the same shards is checked by their fingerprint. ``training.accumulate`` is not where a network
has BatchNorm, which :func:`distgan.training.folder.open_run` is told."""


_NAMES = (
    *((section, "where", name) for section in ("data", "evaluation") for name in ("class", "split")),
    ("model", "condition", "attributes"),
)
"""Where names of the data set stand, alone or in a list. YAML would take 010 for 8, no for false and 1e3 for 1000."""

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML as people write it.

    2e-4 is a number (YAML 1.2), a key is the text that it is written as, and so is a name of the data set; a key given
    twice is an error, not the last one.
    """

    path: tuple[str, ...] = ()
    """Where in a specification the document belongs."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        return node and _with_names(node, self.path)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"line {key.start_mark.line + 1}: a key is a word, not a list or a mapping")
            if key.value in seen:
                raise InputError(f"line {key.start_mark.line + 1}: the key {key.value!r} is given twice")
            seen.add(key.value)
        self.flatten_mapping(node)
        node.value = [(_text(key), value) for key, value in node.value]
        return super().construct_mapping(node, deep)


def _with_names(node: yaml.Node, path: tuple[str, ...]) -> yaml.Node:
    """A copy of a node, which stands at a path of the specification, in which names are text. Others are shared."""
    if not any(names[: len(path)] == path for names in _NAMES):
        return node
    if isinstance(node, yaml.SequenceNode):  # of names; or of mappings that are merged into one
        return yaml.SequenceNode(node.tag, [_with_names(item, path) for item in node.value], node.start_mark)
    if isinstance(node, yaml.MappingNode):
        pairs = [
            (key, _with_names(value, path if key.tag == _MERGE else (*path, key.value))) for key, value in node.value
        ]
        return yaml.MappingNode(node.tag, pairs, node.start_mark)
    return _text(node) if path in _NAMES else node


def _text(node: yaml.Node) -> yaml.Node:
    """A scalar that YAML would take for a number, a date or the like, as the text that it is written as."""
    return yaml.ScalarNode(_TEXT, node.value, node.start_mark) if node.tag in _GUESSED else node


class _Dumper(yaml.SafeDumper):
    """Writes what _Loader reads as the same.

    Quotes a text that it would take for a number, and escapes line breaks, of which PyYAML knows more than it keeps.
    """

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar(_TEXT, data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
_GUESSED = {tag for resolvers in _Loader.yaml_implicit_resolvers.values() for tag, _ in resolvers}
"""The types that YAML takes a text for by its looks; who writes another one with !! means it."""

T = TypeVar("T", bound=Options)


def load_spec(path: Path | str, overrides: Sequence[str] = ()) -> RunSpec:
    """Read a specification.

    Args:
        path: The YAML file; or, where there is no such file, the name of a shipped one: ``dcgan64``.
        overrides: ``key.path=value`` each; the value is YAML.

    Raises:
        InputError: The file cannot be read, is not YAML, or a field is unknown, missing or of the wrong type. The
            message names the file and every such field.
    """
    known = recipes() if not Path(path).is_file() else ()
    try:
        text = read(str(path)) if str(path) in known else Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = near(Path(path).stem, known)
        raise InputError(f"there is no file {path}, and no recipe of that name (distgan recipes): {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the specification {path}: {getattr(error, 'strerror', None) or error}") from None
    return parse_spec(text, str(path), overrides)


def parse_spec(text: str, where: str, overrides: Sequence[str] = ()) -> RunSpec:
    """A specification from the text of its file.

    Args:
        text: The YAML.
        where: What errors are about: the file, for example.
        overrides: As in :func:`load_spec`.

    Raises:
        InputError: As :func:`load_spec` does of what the file holds.
    """
    tree = _parse(text, where)
    if not isinstance(tree, dict):
        raise InputError(f"{where}: a specification is a mapping of name, data, model, …; this file holds none")
    return make_spec(tree, overrides, where)


def make_spec(tree: dict[str, Any], overrides: Sequence[str], where: str) -> RunSpec:
    """A specification from its fields.

    Args:
        tree: The fields; overrides change it.
        overrides: As in :func:`load_spec`.
        where: What errors are about: a file, for example.

    Raises:
        InputError: A field is unknown, missing or of the wrong type; the message names every such field.
    """
    _make_room(tree, overrides)
    for override in overrides:
        _override(tree, override)
    return validate(RunSpec, tree, where)


def dump_spec(spec: RunSpec) -> str:
    """The complete specification as YAML, defaults included, in the order of declaration."""
    return yaml.dump(spec.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def dump_value(value: object) -> str:
    """The value of a field as YAML on one line."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return str(text).removesuffix("\n").removesuffix("\n...")


def differences(before: RunSpec, after: RunSpec, bound: Collection[str] = ()) -> list[str]:
    """The fields in which two specifications would give other numbers, one line each: ``field: before -> after``.

    Args:
        before: One.
        after: The other.
        bound: Fields that are not free for these two, although they are for others.
    """
    found = fields_that_differ([before, after])
    return [f"{key}: {old} -> {new}" for key, (old, new) in found.items() if key in bound or not is_free(key)]


UNSET = "unset"


def fields_that_differ(specs: Sequence[RunSpec]) -> dict[str, list[Any]]:
    """The fields, such as ``training.batch_size``, in which some specifications are not all alike.

    Returns:
        By field its value in each, as JSON has it; :data:`UNSET` where one does not have it: an option of another
        network.
    """
    return entries_that_differ([spec.model_dump(mode="json") for spec in specs])


def entries_that_differ(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What :func:`fields_that_differ` returns, of mappings, and mappings within them, as JSON has them."""
    flat = [_flatten(tree) for tree in trees]
    keys = dict.fromkeys(key for each in flat for key in each)
    return {
        key: [each.get(key, UNSET) for each in flat]
        for key in keys
        if any(each.get(key) != flat[0].get(key) for each in flat)
    }


def is_free(key: str) -> bool:
    """Whether a field is, or lies in, one of :data:`FREE_ON_RESUME`."""
    return any(key == field or key.startswith(field + ".") for field in FREE_ON_RESUME)


class Registered(Protocol):
    """An entry of a registry, with options of its own."""

    @property
    def options(self) -> type[Options]:
        """What is validated as them."""


def selected_options(section: OpenOptions, registry: Mapping[str, Registered], where: str) -> Options:
    """What only that entry of a registry knows which a section selects, validated.

    Args:
        section: What was written.
        registry: By name, what may be selected.
        where: The section's path, for errors.

    Raises:
        InputError: Nothing in the registry is called so, or an option is wrong.
    """
    chosen = getattr(section, section.SELECTOR)
    if chosen not in registry:
        said = f"{where}.{section.SELECTOR}: no {section.SELECTED} is called {chosen!r}"
        raise InputError(f"{said}; {near(chosen, registry)}")

    def hint(name: str, known: Iterable[str]) -> str:
        owners = [other for other, entry in registry.items() if name in entry.options.model_fields]
        if not owners:
            return near(name, [*known, *type(section).model_fields])
        return (
            f"it is an option of {', '.join(owners)}, not of {chosen}, which has {', '.join(known) or 'none'}: "
            f"leave it out, or give {where}={{{section.SELECTOR}: {chosen}}} on the command "
            f"line, which replaces all of {where}"
        )

    return validate(registry[chosen].options, section.rest, where, hint)


def validate(
    model: type[T], tree: Mapping[str, Any], where: str, hint: Callable[[str, Iterable[str]], str] = near
) -> T:
    """Validate a mapping, with errors for people.

    Args:
        model: What the mapping should be.
        tree: The mapping.
        where: What the errors are about: a file, or a field such as ``model.generator``.
        hint: What is said of an unknown field of the mapping itself, given the known ones.

    Raises:
        InputError: Names every wrong field and, for an unknown one, the known one it resembles.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, detail, hint) for detail in error.errors(include_url=False)]
        raise InputError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain(model: type[BaseModel], detail: ErrorDetails, hint: Callable[[str, Iterable[str]], str]) -> str:
    path = [str(part) for part in detail["loc"] if part not in (_NUMBER, _COSINE)]
    field = ".".join(path)
    if detail["type"] == "extra_forbidden":
        inside = Cosine.model_fields if _COSINE in detail["loc"] else _fields(model, path[:-1])
        return f"unknown field '{field}'; {(hint if len(path) == 1 else near)(path[-1], inside)}"
    if detail["type"] == "missing":
        return f"the field '{field}' is missing"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if detail["type"] == "model_type":  # pydantic names our class
        message = "should be a mapping of fields"
    if detail["type"] == "value_error":  # of a model's own validator: about several fields, in a sentence of its own
        return f"'{field}': {message}" if field else message
    shown = "nothing" if detail["input"] is None else repr(detail["input"])
    return f"'{field}' {message}, not {shown}" if field else message


def _fields(model: type[BaseModel], path: Sequence[str]) -> Iterable[str]:
    """The field names at a path of nested models."""
    for part in path:
        if part.isdecimal():  # a place in a list of models
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = section_of(annotation) or item_of(annotation)
        if inner is None:
            return ()
        model = inner
    return model.model_fields


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field of this type holds, if it holds one: of ``ConditionSpec | None``, ``ConditionSpec``."""
    for candidate in (annotation, *get_args(annotation)):
        # Python 3.10 takes list[str] for a type, and then refuses to say what it is a subclass of.
        if isinstance(candidate, type) and get_origin(candidate) is None and issubclass(candidate, BaseModel):
            return candidate
    return None


def item_of(annotation: Any) -> type[BaseModel] | None:
    """The model of which a field of this type holds a list: of ``list[StageSpec] | None``, ``StageSpec``."""
    lists = (each for each in (annotation, *get_args(annotation)) if get_origin(each) is list)
    return next((section_of(get_args(each)[0]) for each in lists), None)


def _parse(text: str, where: str, path: tuple[str, ...] = ()) -> Any:
    """Read YAML that stands at a path of the specification."""
    try:
        loader = _Loader(text)
        loader.path = path
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{where}: not valid YAML: {line}{error.problem}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply") from None
    except Exception as error:  # what PyYAML's constructors let through: a month 99, an int of 5,000 digits, !!int foo
        raise InputError(f"{where}: not valid YAML: {error}") from None


def _make_room(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Take the run's length out of the file where an override says it, be it in images there and in epochs here."""
    training = tree.get("training")
    if not isinstance(training, dict):
        return
    for override in overrides:
        path, _, value = (part.strip() for part in override.partition("="))
        if path in ("training.images", "training.epochs") and value != "null":
            training.pop("images", None)
            training.pop("epochs", None)


def _override(tree: dict[str, Any], text: str) -> None:
    """Apply one ``key.path=value`` in place."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {text}: write it as key.path=value, for example training.batch_size=64")
    for depth, key in enumerate(keys[:-1], start=1):
        inner = tree.setdefault(key, {})
        if inner is None:  # `model:` with nothing under it
            inner = tree[key] = {}
        if not isinstance(inner, dict):
            raise InputError(f"--set {text}: '{'.'.join(keys[:depth])}' is a value and has no fields")
        tree = inner
    tree[keys[-1]] = _parse(value, f"--set {text}", tuple(keys))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
