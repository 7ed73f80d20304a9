from __future__ import annotations

import pytest

from distgan.describe import describe
from tests.small import GENERATOR, conv, small


def depthwise(channels: int, places: int) -> int:
    """FLOPs of the bilinear filter at so many places of the smaller map."""
    return 2 * 4**2 * channels * places


def grouped(channels: int, width: int, places: int) -> int:
    """FLOPs of a 3×3 convolution in groups of so many channels."""
    return 2 * 3**2 * width * channels * places


BOTTLENECK = {"name": "resnet", "block": "bottleneck", "width": 4, "max_width": 8, "group_width": 2, "image_stride": 1}


@pytest.mark.slow
@pytest.mark.parametrize("layer_gain", ["plain", "equalised"])
@pytest.mark.parametrize("resampling", ["box", "bilinear"])
def test_flops_of_grouped_and_equalised_layers_and_of_filters(layer_gain, resampling):
    """A backward pass takes twice the forward's, less the first layer's input and what filters have no weights for."""
    critic = {**BOTTLENECK, "layer_gain": layer_gain, "resampling": resampling}
    model = {"generator": {"width": 3}, "critic": critic, "latent_dim": 7}
    found = describe(small(model=model, objective={"kind": "hinge"}))
    blocks = [
        conv(channels, 2 * channels, 1, places)
        + grouped(2 * channels, 2, places)
        + conv(2 * channels, channels, 1, places)
        for channels, places in ((4, 16**2), (8, 8**2), (8, 4**2))
    ]
    first, head = conv(3, 4, 1, 16**2), 2 * 4**2 * 8 + 2 * 8
    weighted = first + sum(blocks) + conv(4, 8, 1, 8**2) + head
    filters = depthwise(4, 8**2) + depthwise(8, 4**2) if resampling == "bilinear" else 0
    assert found.critic.flops_per_image == weighted + filters
    of_update = sum(GENERATOR) + 2 * (3 * weighted - first + 2 * filters)
    assert found.step.critic_update_flops == 4 * of_update
    penalised = describe(small(model=model, objective={"kind": "hinge", "r1": 1.0}))
    # A pass, its gradient, and that gradient's; at the score, which it does not depend on, there is half of the last.
    of_penalty = 4 * weighted + 3 * filters - 2 * 8
    assert penalised.step.critic_update_flops == 4 * (of_update + of_penalty)


def test_flops_of_maps_that_change_size_within_a_convolution():
    """With 4×4 weights at stride 2: 4 of 9 products of a 3×3 convolution on the larger map."""
    model = {
        "generator": {"name": "resnet", "width": 3, "image_stride": 1},
        "critic": {"name": "resnet", "width": 3, "image_stride": 1},
        "latent_dim": 7,
    }
    found = describe(small(model=model))
    generator = 2 * 7 * 12 * 16 + conv(3, 3, 3, 16**2)
    for before, after, places in ((12, 6, 4**2), (6, 3, 8**2)):
        generator += conv(before, after, 4, places) + conv(after, after, 3, 4 * places) + conv(before, after, 1, places)
    critic = conv(3, 3, 3, 16**2) + conv(3, 3, 4, 8**2) + conv(3, 3, 1, 8**2) + 2 * 6
    for before, after, places in ((3, 6, 8**2),):
        critic += (
            conv(before, before, 3, places) + conv(before, after, 4, places // 4) + conv(before, after, 1, places // 4)
        )
    critic += 2 * conv(6, 6, 3, 4**2)
    assert found.generator.flops_per_image == generator
    assert found.critic.flops_per_image == critic
