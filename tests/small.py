"""Small runs without shards, and the FLOPs of their layers by hand."""

from __future__ import annotations

from distgan.spec import RunSpec


def conv(inputs: int, outputs: int, kernel: int, positions: int) -> int:
    """FLOPs of a convolution at so many places of its output, or of a transposed one at so many of its input."""
    return 2 * kernel**2 * inputs * outputs * positions


def small(**sections: object) -> RunSpec:
    """A DCGAN for 16 pixels, batch 4, without shards."""
    tree = {
        "name": "small",
        "data": {"shards": "nowhere", "image_size": 16},
        "model": {
            "generator": {"width": 3},
            "critic": {"width": 5, "normalisation": "layer"},
            "latent_dim": 7,
        },
        "training": {"batch_size": 4, "images": 100, "precision": "float32"},
    }
    return RunSpec.model_validate({**tree, **sections})


GENERATOR = [conv(7, 6, 4, 1), conv(6, 3, 4, 4**2), conv(3, 3, 4, 8**2)]
CRITIC = [conv(3, 5, 4, 8**2), conv(5, 10, 4, 4**2), conv(10, 1, 4, 1)]
"""FLOPs of each layer of the small networks, by hand."""
AUTOENCODER = {"generator": {"width": 3}, "critic": {"name": "dcgan_encoder", "width": 5}, "latent_dim": 7}
"""A model of the same widths."""


def growing(**training: object) -> RunSpec:
    """Of 32 pixels, in three stages: 10 steps of 8 images, 25 of 4, and what is left."""
    stages = [
        {"size": 8, "images": 80, "batch_size": 8},
        {"size": 16, "images": 98, "fade_images": 40},
        {"size": 32, "fade_images": 20},
    ]
    tree = {"batch_size": 4, "images": 300, "precision": "float32", "stages": stages}
    return small(
        data={"shards": "nowhere", "image_size": 32},
        model={"generator": {"width": 3}, "critic": {"width": 5, "normalisation": "layer"}, "latent_dim": 7},
        training={**tree, **training},
    )


def moving(base: float, final: float) -> dict[str, float]:
    """A number that moves, as a specification has it."""
    return {"base": base, "final": final, "images": 10}
