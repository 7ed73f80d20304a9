from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan.networks.blocks import Basis, Blocks
from distgan.networks.gain import GAINS, KINDS, Gained, Linear
from distgan.networks.initialisation import initialise_by_gain
from distgan.networks.normalisation import normalisation_layer
from shards.errors import InputError
from tests.distgan.networks.conftest import enlarged, noise
from tests.tables import ResidualTable


def blocks(norm: str = "none", resampling: str = "box", unnormalised: int | None = None, **options: Any) -> Blocks:
    return Blocks(
        **{"role": "critic", "kind": KINDS["plain"], "activation": "leaky_relu", **options},
        norm=lambda channels: normalisation_layer(norm, channels),  # type: ignore[arg-type]
        resampling=resampling,  # type: ignore[arg-type]
        unnormalised=unnormalised,
    )


@given(
    change=st.sampled_from([None, "double", "halve"]),
    resampling=st.sampled_from(["box", "bilinear"]),
    widths=st.tuples(*[st.integers(1, 4)] * 3),
    activated=st.booleans(),
    norm=st.sampled_from(["none", "layer"]),
)
def test_a_plain_block_is_two_paths_row_by_row(change, resampling, widths, activated, norm):
    """The shortcut resamples first and last as SNGAN's does, which our order does not: the maps are the same."""
    before, after, hidden = widths
    made = enlarged(blocks(norm, resampling).plain(before, after, hidden, change, activated=activated))
    x = noise(2, before, 6, 4)

    def resample(rows: ResidualTable) -> None:
        if resampling == "bilinear":
            rows.tent(change)
        else:
            rows.nearest() if change == "double" else rows.average()

    def activate(rows: ResidualTable) -> None:
        if norm == "layer":
            rows.layer_norm()
        rows.leaky()

    def residual(rows: ResidualTable) -> None:
        if activated:
            activate(rows)
        if change == "double":
            resample(rows)
        rows.convolve(hidden, 3, 1)
        activate(rows)
        rows.convolve(after, 3, 1)
        if change == "halve":
            resample(rows)

    def shortcut(rows: ResidualTable) -> None:
        if change == "double":
            resample(rows)
        if change or before != after:
            rows.convolve(after, 1)
        if change == "halve":
            resample(rows)

    # 1×1 convolutions have a bias, which a filter with zeros beyond the border leaves less of there: only inside.
    inside = slice(1, -1) if resampling == "bilinear" and change else slice(None)
    with torch.no_grad():
        expected = ResidualTable(made, x).add(residual, shortcut).out()
        torch.testing.assert_close(made(x)[:, :, inside, inside], expected[:, :, inside, inside])


@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([None, 1, 2]))
def test_a_bottleneck_is_three_convolutions(channels, expansion, group_width):
    hidden = 2 * expansion * channels
    made = enlarged(blocks().bottleneck(2 * channels, expansion, group_width))
    x = noise(2, 2 * channels, 4, 5)

    def residual(rows: ResidualTable) -> None:
        rows.convolve(hidden, 1).leaky()
        rows.convolve(hidden, 3, 1, groups=hidden // (group_width or hidden)).leaky()
        rows.convolve(2 * channels, 1, bias=False)

    with torch.no_grad():
        torch.testing.assert_close(made(x), ResidualTable(made, x).add(residual).out())


@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 64))
def test_groups_that_do_not_divide_are_refused(channels, expansion, group_width):
    make = blocks().bottleneck
    if expansion * channels % group_width == 0:
        assert make(channels, expansion, group_width).residual[2].groups == expansion * channels // group_width
        return
    words = (
        rf"model\.critic\.group_width is {group_width}, which does not divide {expansion * channels}, .* × {channels}"
    )
    with pytest.raises(InputError, match=words):
        make(channels, expansion, group_width)


@pytest.mark.parametrize("kind", ["plain", "equalised"])
@pytest.mark.parametrize("count", [1, 10])
def test_without_normalisation_a_block_begins_as_its_shortcut(kind, count):
    made = blocks(unnormalised=count, kind=KINDS[kind])
    x = noise(2, 6, 4, 4).float()
    for block in (made.plain(6, 6, 6), made.bottleneck(6, 2, 4), made.plain(6, 4, 6, "double"), made.plain(6, 4, 6)):
        initialise_by_gain(block, torch.Generator().manual_seed(0))
        assert torch.equal(block(x), block.shortcut(x))
        block(x).square().sum().backward()  # and learns: its last convolution has a gradient
        assert block.residual[-1].weight.grad.abs().max() > 0
    for identity in (made.plain(6, 6, 6), made.bottleneck(6, 2, 4)):
        initialise_by_gain(identity, torch.Generator().manual_seed(0))
        assert torch.equal(identity(x), x)


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
@pytest.mark.parametrize("count", [1, 16])
def test_the_other_convolutions_are_fixup_s(name, count):
    """√(2/(1 + slope²)) · L^(−1/(2m − 2)): L^(−1/2) for two convolutions, L^(−1/4) for three."""
    made = blocks(unnormalised=count, activation=name)
    gains = {
        block: [layer.gain for layer in block.residual if isinstance(layer, Gained)]
        for block in (made.plain(2, 2, 2), made.bottleneck(2, 2, None))
    }
    assert list(gains.values()) == [
        pytest.approx([GAINS[name] * count**-0.5, 0.0]),
        pytest.approx([GAINS[name] * count**-0.25] * 2 + [0.0]),
    ]


def test_with_normalisation_blocks_begin_as_sngan_s():
    """Glorot's uniform times √2, the shortcut's times 1; no convolution begins at 0."""
    block = blocks("batch", activation="relu").plain(32, 64, 64, "double")
    initialise_by_gain(block, torch.Generator().manual_seed(0))
    first, last = (layer for layer in block.residual if isinstance(layer, nn.Conv2d))
    for layer, gain, fans in ((first, 2**0.5, 96 * 9), (last, 2**0.5, 128 * 9), (block.shortcut[0], 1.0, 96)):
        limit = gain * (6 / fans) ** 0.5
        assert 0.99 * limit < layer.weight.abs().max() <= limit
        assert abs(layer.weight.std() / limit * 3**0.5 - 1) < 0.05


@pytest.mark.parametrize("change", [None, "double", "halve"])
@pytest.mark.parametrize("norm", ["none", "layer", "batch", "instance"])
def test_what_comes_in_is_not_changed(change, norm):
    x = noise(2, 4, 4, 4)
    before = x.clone()
    for block in (blocks(norm).plain(4, 2, 4, change), blocks(norm).bottleneck(4, 2, None)):
        block.double()(x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("change", ["double", "halve"])
def test_a_transition_has_a_convolution_where_the_channels_change(change):
    made = blocks(resampling="bilinear")
    assert [type(layer).__name__ for layer in made.transition(4, 4, change)] == [change.capitalize()]
    layers = nn.Sequential(*made.transition(4, 2, change)).double()
    (convolution,) = (layer for layer in layers if isinstance(layer, nn.Conv2d))
    assert convolution.bias is None
    assert layers(noise(1, 4, 8, 8)).shape == ((1, 2, 16, 16) if change == "double" else (1, 2, 4, 4))


def test_a_basis_is_maps_times_numbers():
    basis = enlarged(Basis(Linear(3, 5)))
    z = noise(2, 3)
    numbers = z @ basis.linear.weight.T + basis.linear.bias
    torch.testing.assert_close(basis(z), torch.einsum("nc,chw->nchw", numbers, basis.maps))
