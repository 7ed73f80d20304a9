"""A small network that tells generated images from real ones, and how often it is right: the two-sample test.

Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests" (arXiv:1610.06545): where nothing tells the two
apart, the accuracy on images that were held out is one half. It is cross-validated: each image is judged by a network
that has not learnt from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from distgan.data.order import Ids, Order
from distgan.evaluation.features.base import frozen
from distgan.evaluation.features.classifier import Classifier, Progress, fit, flipped
from distgan.evaluation.scoring import Images
from shards.errors import InputError
from shards.files import write_or_say
from shards.images import ImageError, Transform, apply, decode
from shards.sources.pictures import find_pictures
from shards.trees import open_tree

C2ST = "c2st"
"""What the test is called among scores."""
DETECTOR = "detector.safetensors"
"""What it has learnt, in the folder of the run or checkpoint."""

FOLDS = 3
SHOWN = 12_000
"""Images that the network of each fold is shown."""
MOST = 2_000
MOST_BYTES = 64 << 20
FEWEST = 16
"""Images of either side are at most ``MOST``, and take at most so much memory; but ``FEWEST`` are taken anyhow."""
FORMAT = "distgan-detector-1"
BATCH = 64


@dataclass(frozen=True)
class Detector:
    """Networks that say how likely a picture is generated.

    Attributes:
        networks: One a fold, in evaluation mode; they are asked together.
        transform: How a picture becomes what they know.
        facts: What they have learnt from, and how well they tell it apart.
    """

    networks: list[nn.Module]
    transform: Transform
    facts: dict[str, Any]

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Tensor:
        """The chance that each picture is generated, where as many are as are not.

        Args:
            pictures: uint8 (n, c, s, s), as the transform makes them.

        Returns:
            Float (n,).
        """
        return torch.stack([network(pictures)[:, 0] for network in self.networks]).mean(0).sigmoid()


def count_of(count: int, transform: Transform) -> int:
    """How many images of either side are taken, where so many are at hand."""
    return min(count, MOST, max(FEWEST, MOST_BYTES // (transform.channels * transform.size**2)))


def check_count(count: int) -> None:
    """See that there are enough images of either side.

    Raises:
        InputError: There are not.
    """
    if count < FOLDS:
        raise InputError(f"{C2ST} needs at least {FOLDS} real and as many generated images, not {count}")


def two_sample_test(
    real: Images,
    generated: Images,
    count: int,
    transform: Transform,
    facts: Mapping[str, Any],
    *,
    seed: int = 0,
    progress: Progress = lambda shown, total: None,
) -> tuple[dict[str, float], Detector]:
    """Train networks to tell real images from generated ones, and see how often they are right about others.

    Args:
        real: Real images.
        generated: Generated ones.
        count: How many of either side, from :func:`count_of`.
        transform: What both are.
        facts: What they are of, to be kept with what is learnt.
        seed: Of the networks and of the order of images.
        progress: Told how far it is.

    Returns:
        ``c2st`` (the share of held-out images that are told right: 0.5 where nobody can, 1 where anybody could) and
        ``c2st_error`` (its standard error); and what has been learnt.

    Raises:
        InputError: Too few images.
        DamageError: A real image is not what was packed.
    """
    check_count(count)
    pictures = torch.cat([images(start, min(BATCH, count - start)) for images in (real, generated)
                          for start in range(0, count, BATCH)])  # fmt: skip
    labels = torch.cat([torch.zeros(count), torch.ones(count)]).to(pictures.device)
    folds = torch.arange(2 * count) % count % FOLDS
    networks: list[nn.Module] = []
    right = 0
    for fold in range(FOLDS):
        learnt, others = (torch.nonzero(mine).flatten() for mine in (folds != fold, folds == fold))
        network = _trained(pictures, labels, learnt, seed + fold, _part(progress, fold))
        with torch.inference_mode():
            for ids in torch.split(others, BATCH):
                right += int(((network(pictures[ids])[:, 0] > 0) == (labels[ids] > 0.5)).sum())
        networks.append(network)
    accuracy = right / (2 * count)
    scores = {C2ST: accuracy, f"{C2ST}_error": math.sqrt(accuracy * (1.0 - accuracy) / (2 * count))}
    return scores, Detector(networks, transform, {**facts, f"{C2ST}_of": count, **scores})


def _trained(pictures: Tensor, labels: Tensor, learnt: Tensor, seed: int, progress: Progress) -> nn.Module:
    """A network that has learnt from some of the pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(pictures.shape[1], pictures.shape[2], 1).to(pictures.device)
    order = Order(len(learnt), seed)

    def loss(positions: Ids) -> Tensor:
        ids = learnt[torch.from_numpy(order(positions))].to(pictures.device)
        logits = network(flipped(pictures[ids], seed, positions))
        return binary_cross_entropy_with_logits(logits[:, 0], labels[ids])

    fit(network, loss, SHOWN, progress)
    return frozen(network)


def _part(progress: Progress, fold: int) -> Callable[[int, int], None]:
    return lambda shown, total: progress(fold * total + shown, FOLDS * total)


def write(detector: Detector, path: Path) -> None:
    """Write a detector as safetensors.

    Raises:
        InputError: The file cannot be written.
    """
    tensors = {
        f"{fold}.{name}": tensor.cpu().contiguous()
        for fold, network in enumerate(detector.networks)
        for name, tensor in network.state_dict().items()
    }
    about = {"transform": detector.transform.to_json(), "facts": detector.facts}
    write_or_say(path, save_tensors(tensors, {"format": FORMAT, "about": json.dumps(about)}))


def read(path: Path) -> Detector:
    """A detector from its file, or from the folder of the run or checkpoint that it was made for.

    Raises:
        InputError: There is none, it cannot be read, or it is something else.
    """
    if path.is_dir():
        path = path / DETECTOR
        if not path.exists():
            raise InputError(
                f"there is no {path}: distgan evaluate {path.parent} --metrics {C2ST} trains a detector for it"
            )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError("it is something else")
        about = json.loads(metadata["about"])
        transform = Transform.from_json(about["transform"])
        tensors = load_tensors(path.read_bytes())
        networks = []
        for fold in range(FOLDS):
            network = Classifier(transform.channels, transform.size, 1)
            own = {name.partition(".")[2]: each for name, each in tensors.items() if name.startswith(f"{fold}.")}
            network.load_state_dict(own)
            networks.append(frozen(network))
        return Detector(networks, transform, dict(about["facts"]))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or str(error).partition(': ')[0]}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a detector that distgan evaluate --metrics {C2ST} has written, or it is damaged: {error}"
        ) from None


class Verdict(NamedTuple):
    """What a detector says of a picture.

    Attributes:
        name: Of the file.
        generated: The chance that it is generated, where as many are as are not; None where it cannot be used.
        reason: Why it cannot be used; "" where it can.
    """

    name: str
    generated: float | None
    reason: str = ""


def detect(detector: Detector, paths: Sequence[Path]) -> Iterator[Verdict]:
    """Judge picture files, in the order of their names.

    Args:
        detector: Who judges.
        paths: Image files, folders, zips and tars. A picture of the size that the detector knows is taken as it is;
            others are cut and resized as its data were.

    Raises:
        InputError: There is no such path, or nothing in it is an image.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist")
    for path in paths:
        found = False
        for name, data in _files(path):
            found = True
            yield _verdict(detector, name, data)
        if not found:
            raise InputError(f"{path}: no image in it")


def _verdict(detector: Detector, name: str, data: bytes | str) -> Verdict:
    if isinstance(data, str):
        return Verdict(name, None, data)
    transform = detector.transform
    try:
        image = decode(data, transform.white)
        plain = image.size == (transform.size, transform.size)
        pixels = apply(image, Transform(transform.size, transform.channels) if plain else transform)
    except ImageError as error:
        return Verdict(name, None, str(error))
    return Verdict(name, float(detector(torch.from_numpy(pixels).permute(2, 0, 1)[None])))


def _files(path: Path) -> Iterator[tuple[str, bytes | str]]:
    """Names and bytes of the image files at a path; in place of bytes, why they cannot be read."""
    try:
        tree = open_tree(path)
        if tree is None:
            yield str(path), path.read_bytes()
            return
        names = sorted(find_pictures(tree, tree.files).names)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    for name in names:
        try:
            data: bytes | str = tree.read(name)
        except (ImageError, OSError) as error:
            data = str(error)
        yield f"{path}/{name}", data
    tree.close()
