"""Inception-v3 of 2015, as the Fréchet Inception distance was defined with it: torch-fidelity's port and weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from distgan.evaluation.features.base import Described, Features, frozen, in_parts
from shards.digests import file_digests
from shards.errors import InputError

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
_SHA256_BEGINS = "6726825d"
HELP = "pip install 'distgan[inception]'"


def at_hand() -> Path | None:
    """The weights, where torch-fidelity or torchmetrics has fetched them before and is installed."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        return None
    return path if path.is_file() else None


def load(argument: str) -> Features:
    """Inception with the standard weights: from a file that the user has, or fetched by torch-fidelity.

    Args:
        argument: The file; "" for the one at hand, which is fetched where there is none.

    Raises:
        InputError: torch-fidelity is missing, the weights cannot be fetched, or the file is another.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise InputError(f"features inception need torch-fidelity: {HELP}") from None
    path = Path(argument) if argument else _fetched()
    try:
        (sha256,) = file_digests(path, "sha256")
    except OSError as error:
        raise InputError(f"features inception: cannot read {path}: {error.strerror}") from None
    if not sha256.startswith(_SHA256_BEGINS):  # torch-fidelity unpickles it: nothing else may get there
        raise InputError(f"features inception: {path} is not {WEIGHTS}: its sha256 begins with {sha256[:8]}")
    network = frozen(FeatureExtractorInceptionV3("inception", ["2048", "logits"], str(path)))

    def describe(images: Tensor) -> Described:
        vectors, logits = network(images)
        return Described(vectors, logits)

    return Features(
        "inception",
        "FID",
        sha256,
        network,
        in_parts(describe, 64 * 147**2),
        {"input": 299, "resize": "bilinear, as TensorFlow 1"},
    )


def _fetched() -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=_SHA256_BEGINS, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"features inception: the weights cannot be fetched from {URL_INCEPTION_V3}: {error}. Fetch the file where "
            "there is a network, and give it as inception:FILE"
        ) from None
    return path
