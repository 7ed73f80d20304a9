"""A small network for the attributes or classes of one's own shards: trained in minutes, and features for scores.

Its file is safetensors: weights, and in the header what it knows and how well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from distgan.data.noise import Noise
from distgan.data.order import Ids, Order
from distgan.evaluation.features.base import Described, Features, frozen
from distgan.evaluation.pictures import enlarged
from shards.digests import file_digests
from shards.errors import InputError
from shards.files import ready_or_say, write_or_say
from shards.index import Index
from shards.reader import Reader

FORMAT = "distgan-classifier-1"
BATCH = 64
WIDTH = 32
LEARNING_RATE = 2e-3
HELD_OUT = 0.1
"""The share of samples that accuracy is measured on where the shards have no split for it."""

Progress = Callable[[int, int], None]
"""Called with images seen and images in all."""


class Trunk(nn.Sequential):
    """Convolutions that halve a picture until it has 4 pixels, then the mean: float (n, c, s, s) to (n, features).

    Args:
        channels: c.
        size: s, from 8.
    """

    def __init__(self, channels: int, size: int) -> None:
        layers: list[nn.Module] = []
        width, before = WIDTH, channels
        while size > 4:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before, width, size = width, min(2 * width, 256), (size + 1) // 2
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.features = before


@dataclass(frozen=True)
class Known:
    """What a classifier is of.

    Attributes:
        attributes: Its first outputs, a logit each.
        classes: The others, logits of one choice.
        channels: Of the pictures that it was trained on.
        size: Of these, in pixels; others are brought to it.
        accuracy: On held-out data, by attribute, and "class".
        chance: What saying the most frequent always would reach, likewise.
        held_out: Samples that these are of.
        fingerprint: Of the shards.
    """

    attributes: tuple[str, ...]
    classes: tuple[str, ...]
    channels: int
    size: int
    accuracy: dict[str, float]
    chance: dict[str, float]
    held_out: int
    fingerprint: str


class Classifier(nn.Module):
    """A trunk, and a logit for each attribute and class."""

    def __init__(self, channels: int, size: int, outputs: int) -> None:
        super().__init__()
        self.trunk = Trunk(channels, size)
        self.head = nn.Linear(self.trunk.features, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, outputs) of pictures uint8 or float (n, c, s, s) in 0..255."""
        logits: Tensor = self.head(self.trunk(normalised(images)))
        return logits


def normalised(images: Tensor) -> Tensor:
    """Pictures of 0..255 as float in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def train(
    index: Index, out: Path, *, images: int = 60_000, seed: int = 0, progress: Progress = lambda seen, total: None
) -> Known:
    """Train a classifier for the attributes and classes of a packed set, and write it.

    Held-out data are the split test, else val, else a tenth of the samples.

    Args:
        index: The set.
        out: A ``.safetensors`` file.
        images: How many it is shown; flipped at random.
        seed: Of weights, order and flips.
        progress: Told how far it is.

    Raises:
        InputError: The set has neither attributes nor classes, or the file cannot be written.
        DamageError: A sample is not what was packed.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: give a file that ends in .safetensors")
    if not index.attribute_names and len(index.class_names) < 2:
        raise InputError(f"{index.root} has neither attributes nor classes to learn: pack a set that has")
    ready_or_say(out)
    transform = index.transform
    learnt, held_out = _divided(index, seed)
    classes = index.class_names if len(index.class_names) > 1 else ()
    torch.manual_seed(seed)
    network = Classifier(transform.channels, transform.size, len(index.attribute_names) + len(classes))
    order = Order(len(learnt), seed)
    with Reader(index) as reader:

        def loss(positions: Ids) -> Tensor:
            ids = learnt[order(positions)]
            pictures = flipped(_pictures(reader, ids), seed, positions)
            return _loss(network(pictures), index, ids, classes)

        fit(network, loss, images, progress)
        accuracy = _accuracy(frozen(network), reader, index, held_out, classes)
    chance = _chance(index, held_out, classes)
    known = Known(
        index.attribute_names,
        classes,
        transform.channels,
        transform.size,
        accuracy,
        chance,
        len(held_out),
        index.fingerprint,
    )
    data = save_tensors(network.state_dict(), {"format": FORMAT, "known": json.dumps(asdict(known))})
    write_or_say(out, data)
    return known


def fit(network: nn.Module, loss: Callable[[Ids], Tensor], images: int, progress: Progress) -> None:
    """Train a small network: AdamW, the learning rate of one cycle (Smith and Topin 2018, arXiv:1708.07120).

    Args:
        network: In training mode, on any device.
        loss: From positions int64 (n,) in the stream of images to the mean loss of those.
        images: How many it is shown.
        progress: Told how far it is.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    steps = max(1, images // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        value = loss(np.arange(step * BATCH, (step + 1) * BATCH))
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress((step + 1) * BATCH, steps * BATCH)


def is_classifier(path: Path) -> bool:
    """Whether a file is what :func:`train` writes, by its header."""
    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get("format") == FORMAT)
    except (SafetensorError, OSError):
        return False


def read(path: Path) -> tuple[Classifier, Known]:
    """A classifier from its file.

    Raises:
        InputError: It cannot be read, or is not a classifier's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path} is not a classifier that distgan classifier train has written")
        fields: dict[str, Any] = json.loads(metadata["known"])
        known = Known(**{**fields, "attributes": tuple(fields["attributes"]), "classes": tuple(fields["classes"])})
        network = Classifier(known.channels, known.size, len(known.attributes) + len(known.classes))
        network.load_state_dict(load_tensors(path.read_bytes()))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or str(error).partition(': ')[0]}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    frozen(network)
    return network, known


def fitted(images: Tensor, known: Known) -> Tensor:
    """Pictures (n, 1 or 3, s, s) of 0..255, whatever s, as a classifier was trained on them: float32."""
    pictures = images.float()
    if pictures.shape[1] != known.channels:
        pictures = pictures.mean(1, keepdim=True) if known.channels == 1 else pictures.expand(-1, 3, -1, -1)
    return enlarged(pictures, known.size)


def load(argument: str) -> Features:
    """The trunk of a classifier as features.

    Raises:
        InputError: As :func:`read`.
    """
    path = Path(argument)
    network, known = read(path)
    (sha256,) = file_digests(path, "sha256")

    def describe(images: Tensor) -> Described:
        vectors: Tensor = network.trunk(normalised(fitted(images, known)))
        logits: Tensor = network.head(vectors)
        return Described(vectors, logits[:, len(known.attributes) :] if known.classes else None)

    facts = {"input": known.size, "resize": "bilinear, antialias"}
    return Features(path.stem, f"FD-{path.stem}", sha256, network, describe, facts)


def _divided(index: Index, seed: int) -> tuple[Ids, Ids]:
    """The ids to learn from and those to be judged on."""
    names = index.split_names
    for split in ("test", "val"):
        if split in names and "train" in names:
            there = index.split == names.index(split)
            if there.any():
                return np.flatnonzero(index.split == names.index("train")), np.flatnonzero(there)
    shuffled = Order(len(index), seed)(np.arange(len(index)))
    count = max(1, round(HELD_OUT * len(index)))
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


def _pictures(reader: Reader, ids: Ids) -> Tensor:
    return torch.from_numpy(reader.read(ids)).permute(0, 3, 1, 2)


def flipped(pictures: Tensor, seed: int, positions: Ids) -> Tensor:
    """Pictures (n, c, s, s) that stand at positions of the stream, each mirrored with probability one half."""
    turn = Noise(seed, torch.from_numpy(positions).to(pictures.device), "classifier").uniform("flip")
    return torch.where((turn < 0.5)[:, None, None, None], pictures, pictures.flip(-1))


def _targets(index: Index, ids: Ids) -> Tensor:
    """Float (n, A) of 0 and 1."""
    columns = [index.attribute(name)[ids] for name in index.attribute_names]
    return torch.from_numpy(np.stack(columns, axis=1)).float() if columns else torch.zeros(len(ids), 0)


def _loss(logits: Tensor, index: Index, ids: Ids, classes: tuple[str, ...]) -> Tensor:
    count = len(index.attribute_names)
    loss = logits.new_zeros(())
    if count:
        loss = loss + binary_cross_entropy_with_logits(logits[:, :count], _targets(index, ids))
    if classes:
        labels = torch.from_numpy(index.label[ids]).long()
        if (labels >= 0).any():
            loss = loss + cross_entropy(logits[:, count:], labels, ignore_index=-1)
    return loss


def _accuracy(network: nn.Module, reader: Reader, index: Index, ids: Ids, classes: tuple[str, ...]) -> dict[str, float]:
    count = len(index.attribute_names)
    right = torch.zeros(count + 1, dtype=torch.float64)
    labelled = 0
    for part in np.array_split(ids, max(1, len(ids) // BATCH)):
        with torch.inference_mode():
            logits = network(_pictures(reader, part))
        right[:count] += ((logits[:, :count] > 0) == (_targets(index, part) > 0.5)).sum(0)
        if classes:
            labels = torch.from_numpy(index.label[part]).long()
            right[count] += int((logits[:, count:].argmax(1) == labels)[labels >= 0].sum())
            labelled += int((labels >= 0).sum())
    found = dict(zip(index.attribute_names, (right[:count] / len(ids)).tolist(), strict=True))
    return found | ({"class": float(right[count]) / labelled} if labelled else {})


def _chance(index: Index, ids: Ids, classes: tuple[str, ...]) -> dict[str, float]:
    shares = {name: float(index.attribute(name)[ids].mean()) for name in index.attribute_names}
    found = {name: max(share, 1 - share) for name, share in shares.items()}
    labels = index.label[ids]
    if classes and (labels >= 0).any():
        found["class"] = float(np.bincount(labels[labels >= 0]).max() / (labels >= 0).sum())
    return found
