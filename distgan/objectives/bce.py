"""Binary cross-entropy on logits: the original game (Goodfellow et al. 2014), as DCGAN plays it, and its variants.

With l the critic's logit, t the label and softplus(x) = log(1 + eˣ), the cross-entropy is softplus(l) − t·l, which is
−log σ(l) for t = 1 and −log(1 − σ(l)) for t = 0. The critic's side has the means of it over real and over generated
images. The generator's side has, towards the label of real images, the mean over generated ones (non-saturating,
section 3 of the paper), or minus the mean towards their own label (saturating).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from distgan.objectives.adversarial import AdversarialOptions, CriticSide, GeneratorSide
from distgan.objectives.side import Batch, Draw
from distgan.spec import Weight

Label = Annotated[float, Field(ge=0.0, le=1.0)]


class BCEOptions(AdversarialOptions):
    """Options of the ``bce`` objective."""

    terms: Literal["sum", "mean"] = "sum"
    """Whether the critic's loss is the sum or the mean of its real and its fake term. Undecided, the critic's loss is
    2·log 2 = 1.386 or log 2 = 0.693."""
    generator: Literal["nonsaturating", "saturating"] = "nonsaturating"
    """Whether the generator makes its images likely to be held real, or unlikely to be held generated."""
    batches: Literal["two", "one"] = "two"
    """Whether the critic judges real and generated images in two batches or in one, where BatchNorm mixes them."""
    real_label: Label = 1.0
    """The critic's target for real images. 0.9 is one-sided smoothing (Salimans et al. 2016)."""
    fake_label: Label = 0.0
    """The critic's target for generated images."""
    label_noise: Weight = 0.0
    """Each of the critic's targets gets this times U[0, 1) added."""

    @model_validator(mode="after")
    def _labels_differ(self) -> BCEOptions:
        if self.real_label == self.fake_label:
            raise ValueError("real_label and fake_label must differ")
        return self

    @property
    def real(self) -> float:
        """1 or 0: what real images are called."""
        return float(self.real_label > self.fake_label)


class BCECritic(CriticSide):
    """Real images towards their label, generated ones towards theirs."""

    options: BCEOptions
    threshold = 0.0

    def both(self, real: Batch, fake: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Logits (N,) for the real and for the generated images."""
        return super().both(real, fake, draw) if self.options.batches == "two" else self.at_once(real, fake, draw)

    def loss(self, real: Tensor, fake: Tensor, draw: Draw) -> Tensor:
        """The scalar to go down."""
        value = self._term(real, "real", draw) + self._term(fake, "fake", draw)
        return value / 2 if self.options.terms == "mean" else value

    def says_real(self, outputs: Tensor) -> Tensor:
        """Which images (bool, (N,)) are held to be real."""
        return super().says_real(outputs) == bool(self.options.real)

    def _term(self, logits: Tensor, part: Literal["real", "fake"], draw: Draw) -> Tensor:
        target = self.options.real_label if part == "real" else self.options.fake_label
        if not self.options.label_noise:
            return _cross_entropy(logits, target)
        return _cross_entropy(logits, target + self.options.label_noise * draw.uniform(f"label_noise/{part}", ()))


class BCEGenerator(GeneratorSide):
    """Generated images towards what real ones are called, or away from what they are called."""

    options: BCEOptions

    def loss(self, fake: Tensor) -> Tensor:
        """The scalar to go down."""
        real = self.options.real
        return (
            _cross_entropy(fake, real) if self.options.generator == "nonsaturating" else -_cross_entropy(fake, 1 - real)
        )


def _cross_entropy(logits: Tensor, targets: Tensor | float) -> Tensor:
    if not isinstance(targets, Tensor):
        targets = torch.full_like(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets)
