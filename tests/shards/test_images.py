import importlib.util
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from shards.errors import InputError
from shards.images import (
    FORMATS,
    HEAD,
    MAX_PIXELS,
    ImageError,
    Look,
    Transform,
    apply,
    decode,
    is_grey,
    look,
    readable,
    sniff,
)
from shards.sources import pictures
from shards.trees import Folder

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest puts its own filters before those of shards.images


def here(kind: str) -> Any:
    """A format as a parameter; skipped, with the reason, where it cannot be read."""
    reason = readable(kind)
    return pytest.param(kind, marks=pytest.mark.skipif(reason is not None, reason=f"{kind} images: {reason}"))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", trns: bytes = b"") -> bytes:
    """A PNG of any header, with no or the given compressed rows, and perhaps a transparent colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    before = chunk(b"IHDR", header) + (chunk(b"tRNS", trns) if trns else b"")
    return b"\x89PNG\r\n\x1a\n" + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# ---- decode: what people mean ----


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", here("JPEG2000")])
def test_lossless_formats_give_the_very_pixels(kind, channels):
    pixels = noise(9, 13, channels) // 64 * 64  # few enough colours for GIF's palette
    image = decode(encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})))
    knows_grey = kind not in ("GIF", "WEBP")  # those have palettes and colour
    assert image.mode == ("L" if channels == 1 and knows_grey else "RGB")
    np.testing.assert_array_equal(np.array(image.convert("L" if channels == 1 else "RGB")), pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", [here("AVIF"), here("HEIF")])
def test_what_phones_and_web_pages_hold(kind, mode):
    pixels = smooth(64, 96)
    image = Image.fromarray(pixels).convert(mode)
    result = decode(encoded(image, kind, quality=100))
    assert result.mode == ("L" if mode == "L" else "RGB")
    assert np.abs(np.array(result).astype(int) - np.array(image.convert(result.mode))).mean() < 3


def test_of_a_multi_picture_jpeg_the_first():
    first, second = Image.fromarray(smooth(32, 48)), Image.new("RGB", (20, 20), "red")
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
    assert sniff(data[:32]) == look(data).format == "JPEG"
    assert not look(data).several
    np.testing.assert_array_equal(np.array(decode(data)), np.array(decode(encoded(first, "JPEG", quality=95))))


def test_cmyk_jpeg_with_adobes_inverted_inks():
    pixels = smooth(32, 48)
    image = decode(encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=100, subsampling=0))
    assert image.mode == "RGB"
    assert np.abs(np.array(image).astype(int) - pixels).max() < 12


@pytest.mark.parametrize("big_endian", [False, True])
def test_16_bit_grey_is_scaled_not_clipped(big_endian):
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = np.round(values / 257)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    files = [
        png(64, 64, 16, 0, zlib.compress(rows)),
        b"P5 64 64 65535\n" + values.astype(">u2").tobytes(),
        encoded(
            Image.frombytes("I;16B" if big_endian else "I;16", (64, 64), values.astype(">u2" if big_endian else "<u2")),
            "TIFF",
        ),
    ]
    for data in files:
        image = decode(data)
        assert image.mode == "L"
        np.testing.assert_array_equal(np.array(image), expected)


def test_one_bit_images_are_black_and_white():
    bits = noise(16, 16, 1) > 127
    np.testing.assert_array_equal(np.array(decode(encoded(Image.fromarray(bits), "PNG"))), np.where(bits, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    pixels = noise(8, 8, 4)
    image = Image.fromarray(pixels).convert(mode)
    alpha = pixels[..., 3:] / 255
    colour = np.array(image)[..., :-1]
    expected = colour * alpha + 255 * (1 - alpha)
    result = decode(encoded(image, "PNG"))
    assert result.mode == mode[:-1]
    assert np.abs(np.array(result).reshape(8, 8, -1) - expected).max() <= 1


def test_a_palette_with_a_transparent_colour():
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    image.putpalette([level for i in range(256) for level in (i, 2 * i % 256, 3 * i % 256)])
    expected = np.array([[i, 2 * i, 3 * i] for i in range(16)]).reshape(4, 4, 3)
    np.testing.assert_array_equal(np.array(decode(encoded(image, "PNG"))), expected)
    expected[1, 1] = 255
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(np.array(decode(encoded(image, kind, transparency=5))), expected)


@given(depth=st.sampled_from([1, 2, 4, 8, 16]), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_transparent_colour_of_any_depth_is_laid_on_white(depth, channels, seed):
    if channels == 3 and depth < 8:
        return  # there is no such PNG
    random = np.random.default_rng(seed)
    values = random.integers(0, min(2**depth, 256), (8, 8, channels))
    values = values * 257 if depth == 16 else values
    transparent = values[tuple(random.integers(0, 8, 2))] if seed % 4 else random.integers(0, 2**depth, channels)
    bits = np.stack([values >> shift & 1 for shift in range(depth - 1, -1, -1)], -1).astype(np.uint8)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits.reshape(8, -1))
    data = png(8, 8, depth, 0 if channels == 1 else 2, zlib.compress(rows), transparent.astype(">u2").tobytes())
    expected = values * 255 // (2**depth - 1)
    if depth == 16:  # of colour, Pillow has the upper 8 bits alone
        values, transparent = (values, transparent) if channels == 1 else (values >> 8, transparent >> 8)
    expected[(values == transparent).all(-1)] = 255
    np.testing.assert_array_equal(np.array(decode(data)).reshape(8, 8, channels), expected)


def tiff(values: np.ndarray, photometric: int) -> bytes:
    """A grey TIFF of uint8 or uint16 (H, W), by its definition."""
    data, (height, width), bits = values.astype(f"<u{values.itemsize}").tobytes(), values.shape, 8 * values.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + table + bytes(4)


@given(kind=st.sampled_from([np.uint8, np.uint16]), white=st.integers(1, 65535), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_where_the_largest_value_is_black_pictures_are_no_negatives(kind, white, seed):
    white = 255 if kind is np.uint8 else white
    values = np.random.default_rng(seed).integers(0, white + 1, (8, 8)).astype(kind)
    plain, negative = (np.array(decode(tiff(values, photometric), white)).astype(int) for photometric in (1, 0))
    np.testing.assert_array_equal(negative, 255 - plain)
    # The nearest level, in whole numbers: a value half way between two is as near to both.
    assert (2 * np.abs(plain * white - values.astype(int) * 255) <= white).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert image.size == (12, 10)
    assert image.getcolors() == [(120, (255, 0, 0))]
    assert look(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)).several
    assert not look(encoded(frames[0], kind, **options)).several


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", here("AVIF")])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [  # how the camera stored a picture that is to be seen as `seen`
        (1, lambda seen: seen),
        (2, np.fliplr),
        (3, lambda seen: np.rot90(seen, 2)),
        (4, np.flipud),
        (5, lambda seen: np.swapaxes(seen, 0, 1)),
        (6, lambda seen: np.rot90(seen, 1)),
        (7, lambda seen: np.rot90(np.swapaxes(seen, 0, 1), 2)),
        (8, lambda seen: np.rot90(seen, -1)),
    ],
)
def test_exif_orientation(kind, orientation, stored):
    seen = smooth(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossy = kind in ("JPEG", "AVIF")
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if lossy else {}
    image = Image.fromarray(np.ascontiguousarray(stored(seen)))
    result = np.array(decode(encoded(image, kind, exif=exif, **options)))
    assert result.shape == seen.shape
    assert np.abs(result.astype(int) - seen).max() < (20 if lossy else 1)


@pytest.mark.parametrize("kind", [here("HEIF")])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_heif_picture_is_turned_as_its_container_says(kind, turns):
    stored, exif = smooth(64, 96), Image.Exif()
    exif[0x0112] = 6  # in this format no more than a note of how the camera was held
    data = bytearray(encoded(Image.fromarray(stored), kind, quality=100, exif=exif))
    place = data.index(b"pixi")  # a property that no reader needs becomes the one for quarter turns
    data[place : place + 5] = b"irot" + bytes([turns])
    result, seen = np.array(decode(bytes(data))), np.rot90(stored, turns)
    assert result.shape == seen.shape
    assert np.abs(result.astype(int) - seen).mean() < 3


def test_without_exif_or_profile_nothing_is_looked_for(monkeypatch):
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a cost that each picture would bear")

    files = [encoded(Image.fromarray(smooth(24, 32)), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP")]
    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    monkeypatch.setattr("shards.images._profile", fail)
    monkeypatch.setattr("PIL.Image.Image.getexif", fail)
    for data in files:
        assert decode(data).size == (32, 24)


# ---- decode: 16 bits ----


@given(white=st.integers(1, 65535), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_white_becomes_255(white, seed):
    values = np.random.default_rng(seed).integers(0, 65536, (8, 8)).astype(np.uint16)
    values[0, 0] = white
    result = np.array(decode(encoded(Image.fromarray(values), "PNG"), white))
    expected = values.astype(np.float64) * 255 / white
    assert result[0, 0] == 255
    assert np.abs(result - expected.clip(0, 255)).max() <= 0.5


needs_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="needs distgan[faces]")


def png_16(values: np.ndarray) -> bytes:
    """A PNG of uint16 (H, W, C), by its definition."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]], zlib.compress(rows))


@needs_opencv
@given(white=st.integers(1, 65535), seed=st.integers(0, 99), channels=st.sampled_from([2, 3, 4]))
@settings(max_examples=20, deadline=None)
def test_white_of_16_bit_colour_becomes_255(white, seed, channels):
    values = np.random.default_rng(seed).integers(0, 65536, (6, 8, channels)).astype(np.uint16)
    colours = values[..., : 1 if channels == 2 else 3].copy()
    if channels != 3:
        values[..., -1] = 65535  # opaque
    data = png_16(values)
    expected = colours.astype(np.float64) * 255 / white
    assert np.abs(np.array(decode(data, white)) - expected.clip(0, 255)).max() <= 0.5
    assert look(data).brightest == colours.max() | 255


def test_white_of_16_bit_colour_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"distgan\[faces\]"):
        decode(png_16(smooth(16, 16).astype(np.uint16)), 4095)


def test_white_leaves_alone_what_has_one():
    grey = encoded(Image.fromarray(smooth(16, 16)[..., 0]), "PNG")
    ppm = b"P6 1 1 1023\n" + np.array([100, 500, 1023], ">u2").tobytes()
    for data in (grey, ppm):
        np.testing.assert_array_equal(np.array(decode(data)), np.array(decode(data, white=4095)))
    colour = png_16(smooth(16, 16).astype(np.uint16) * 257)
    np.testing.assert_array_equal(np.array(decode(colour)), smooth(16, 16))


@needs_opencv
def test_transparency_of_16_bits_is_not_scaled_by_white():
    values = np.full((2, 2, 4), 4095, np.uint16)
    values[..., :3] //= 2
    values[..., 3] = [[0, 65535], [65535, 0]]
    assert np.array(decode(png_16(values), 4095))[..., 0].tolist() == [[255, 127], [127, 255]]


# ---- decode: colours ----

D65, D50 = np.array([0.9504559, 1, 1.0890578]), np.array([0.9642, 1, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
TO_D50 = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ D65)) @ BRADFORD
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The matrix from linear RGB of white D65 to XYZ."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return np.asarray(columns * np.linalg.solve(columns, D65))


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def icc(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of ICC version 2."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    white = struct.pack(">3i", *np.round(D50 * 65536).astype(int))
    header = struct.pack(
        ">I4sI4s4s4s12s4s28s12s48x", start + len(body), b"", 0x02400000, kind, space, pcs, b"", b"acsp", b"", white
    )
    return header + struct.pack(">I", len(tags)) + table + body


def named(name: str) -> dict[bytes, bytes]:
    text = name.encode() + b"\0"
    return {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(D50),
    }


def xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *np.round(values * 65536).astype(int))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def table(values: np.ndarray) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + np.round(values * 65535).astype(">u2").tobytes()


def rgb_profile(name: str, primaries: tuple[tuple[float, float], ...], curve: bytes) -> bytes:
    columns = (TO_D50 @ to_xyz(primaries)).T
    tags = {f"{letter}XYZ".encode(): xyz(column) for letter, column in zip("rgb", columns, strict=True)}
    return icc(b"RGB ", b"mntr", b"XYZ ", {**named(name), **tags, **{f"{c}TRC".encode(): curve for c in "rgb"}})


SRGB_CURVE = table(srgb_to_linear(np.linspace(0, 1, 1024)))
ADOBE_RGB = rgb_profile("Adobe RGB (1998)", ADOBE_PRIMARIES, gamma(ADOBE_GAMMA))
DISPLAY_P3 = rgb_profile("Display P3", P3_PRIMARIES, SRGB_CURVE)
LINEAR_GREY = icc(b"GRAY", b"mntr", b"XYZ ", {**named("Linear grey"), b"kTRC": gamma(1)})

# What four inks look like on paper, each there or not: CIE L*, a*, b* of (c, m, y, k) in the order of counting.
INKS = np.array(
    [
        *[(100, 0, 0), (20, 0, 0), (92, -4, 60), (18, 0, 8), (55, 50, 0), (12, 9, 0), (54, 45, 35), (11, 8, 5)],
        *[(62, -20, -30), (14, -6, -8), (58, -35, 18), (12, -8, 4), (35, 15, -35), (6, 2, -6), (30, 0, 0), (0, 0, 0)],
    ],
    np.float64,
)
PRINT = icc(
    b"CMYK",
    b"prtr",
    b"Lab ",
    {
        **named("Four inks"),
        b"A2B0": b"mft2\0\0\0\0"
        + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
        + struct.pack(">HH", 2, 2)
        + struct.pack(">8H", *[0, 65535] * 4)
        + np.round((INKS + np.array([0, 128, 128])) * [652.8, 256, 256]).astype(">u2").tobytes()
        + struct.pack(">6H", *[0, 65535] * 3),
    },
)


def in_srgb(pixels: np.ndarray, primaries: tuple[tuple[float, float], ...], linear: Any) -> np.ndarray:
    """An independent conversion in float64: both have the white of D65, so that nothing has to be adapted."""
    matrix = np.linalg.inv(to_xyz(SRGB_PRIMARIES)) @ to_xyz(primaries)
    return np.asarray(255 * linear_to_srgb(linear(pixels / 255) @ matrix.T))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", here("AVIF"), here("HEIF")])
def test_a_skin_tone_in_adobe_rgb_comes_out_as_that_of_srgb(kind):
    skin = np.array([205, 140, 110])
    linear = np.linalg.inv(to_xyz(ADOBE_PRIMARIES)) @ to_xyz(SRGB_PRIMARIES) @ srgb_to_linear(skin / 255)
    stored = tuple(np.round(255 * linear ** (1 / ADOBE_GAMMA)).astype(int).tolist())
    assert max(np.abs(np.array(stored) - skin)) > 8  # what ignoring the profile would cost
    options = {"lossless": True} if kind == "WEBP" else {} if kind in ("PNG", "TIFF") else {"quality": 100}
    data = encoded(Image.new("RGB", (32, 32), stored), kind, icc_profile=ADOBE_RGB, **options)
    image = decode(data)
    assert np.abs(np.array(image).astype(int) - skin).max() <= 2
    assert "icc_profile" not in image.info  # or whoever saves it would say that it is Adobe RGB still
    assert look(data).profile == "Adobe RGB (1998)"


@pytest.mark.parametrize(
    ("profile", "primaries", "linear"),
    [
        (ADOBE_RGB, ADOBE_PRIMARIES, lambda values: values**ADOBE_GAMMA),
        (DISPLAY_P3, P3_PRIMARIES, srgb_to_linear),
        (rgb_profile("dark", SRGB_PRIMARIES, gamma(3)), SRGB_PRIMARIES, lambda values: values**3),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_of_an_independent_conversion(profile, primaries, linear, mode):
    pixels = noise(32, 32) // 2 + 64
    if mode == "P":
        image = Image.fromarray(pixels).quantize(64)
        pixels = np.array(image.convert("RGB"))
    else:
        image = Image.fromarray(pixels).convert(mode)
    expected = in_srgb(pixels, primaries, linear)
    if mode == "RGBA":
        alpha = noise(32, 32, 1, seed=1)
        image.putalpha(Image.fromarray(alpha))
        opacity = alpha[..., None] / 255
        expected = expected * opacity + 255 * (1 - opacity)
    result = np.array(decode(encoded(image, "PNG", icc_profile=profile)))
    assert np.abs(result - expected).max() <= 2.5


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(mode):
    values = smooth(16, 16)[..., 0]
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    data = encoded(image, "PNG", icc_profile=LINEAR_GREY)
    result = decode(data)
    assert result.mode == "L"
    assert np.abs(np.array(result) - 255 * linear_to_srgb(values / 255)).max() <= 1
    assert look(data).profile == "Linear grey"


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks_look_as_their_profile_says(kind):
    for i, lab in enumerate(INKS):
        y = (lab[0] + 16) / 116
        f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
        adapted = np.linalg.inv(TO_D50) @ (D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)))
        expected = 255 * linear_to_srgb(np.linalg.inv(to_xyz(SRGB_PRIMARIES)) @ adapted)
        inks = tuple(255 * int(bit) for bit in f"{i:04b}")
        options = {"quality": 100} if kind == "JPEG" else {}
        data = encoded(Image.new("CMYK", (16, 16), inks), kind, icc_profile=PRINT, **options)
        assert np.abs(np.array(decode(data))[4, 4] - expected).max() <= 3, inks
        assert look(data).profile == "Four inks"


@pytest.mark.parametrize("name", ["sRGB IEC61966-2.1", "c2", "Adobe RGB (1998)"])
def test_srgb_is_known_by_what_it_does_and_changes_nothing(name):
    pixels = noise(32, 32)
    data = encoded(Image.fromarray(pixels), "PNG", icc_profile=rgb_profile(name, SRGB_PRIMARIES, SRGB_CURVE))
    np.testing.assert_array_equal(np.array(decode(data)), pixels)
    assert look(data).profile is None


@pytest.mark.parametrize(
    "profile",
    [b"rubbish", ADOBE_RGB[:200], ADOBE_RGB[:-40], bytes(4000), LINEAR_GREY, PRINT, ADOBE_RGB[:128] + bytes(400)],
)
def test_a_profile_of_no_use_does_not_cost_the_picture(profile):
    pixels = noise(8, 8)
    data = encoded(Image.fromarray(pixels), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(np.array(decode(data)), pixels)
    assert look(data).profile is None


@given(st.sampled_from([ADOBE_RGB, DISPLAY_P3, PRINT, LINEAR_GREY]), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_profile_never_costs_the_picture(profile, data):
    damaged = bytearray(profile)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(profile) - 1))] ^= data.draw(st.integers(1, 255))
    for mode in ("L", "RGB", "CMYK"):
        file = encoded(Image.new(mode, (8, 8)), "TIFF", icc_profile=bytes(damaged))
        assert decode(file).size == (8, 8)
        assert (look(file).profile or "none").isprintable()


def test_a_pillow_without_colour_management_takes_pictures_as_they_are(monkeypatch):
    pixels = noise(8, 8)
    profile = rgb_profile("never seen before", ADOBE_PRIMARIES, gamma(2))  # so that none is remembered
    monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)
    monkeypatch.delattr("PIL.ImageCms", raising=False)
    np.testing.assert_array_equal(
        np.array(decode(encoded(Image.fromarray(pixels), "PNG", icc_profile=profile))), pixels
    )


# ---- decode: what is refused, and why ----


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am a text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (b"%PDF-1.4\n", "not an image"),
        (b"BM and other abbreviations of car makers", "not an image"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(60), "not an image"),
        (encoded(Image.new("RGB", (4, 4)), "TIFF", tiffinfo={254: 1}), "raw picture"),
        (png(20_000, 20_000), "more than 100,000,000"),
        (png(10_001, 10_000), "10001×10000 pixels is more than 100,000,000"),
        (png(2**31 - 1, 2**31 - 1), "more than 100,000,000"),
        (png(4, 4, data=b""), "broken image"),
        (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point"),
        (encoded(Image.new("I", (4, 4), 70_000), "TIFF"), "32-bit"),
        (encoded(Image.new("I", (4, 4), -1), "TIFF"), "32-bit"),
    ],
)
def test_refused_with_a_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", here("AVIF"), here("HEIF")])
def test_truncated_files_are_errors(kind):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    for part in (0.1, 0.5, 0.9, 0.98):
        with pytest.raises(ImageError):
            decode(data[: int(len(data) * part)])


def test_the_limit_itself_is_allowed():
    assert MAX_PIXELS == 10_000 * 10_000
    with pytest.raises(ImageError, match="broken"):  # allowed, and then found to hold no pixels
        decode(png(10_000, 10_000))


def test_nothing_global_changes_and_no_warning_leaks(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(9_999, 9_999))  # Pillow warns of this one
    exif = Image.Exif()
    exif[0x010E] = "a description"
    broken_exif = encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif.tobytes()[:-6])
    (tmp_path / "exif.jpg").write_bytes(broken_exif)
    program = (
        "import sys, pathlib\n"
        "from PIL import Image, ImageFile\n"
        "before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES\n"
        "from shards.images import ImageError, decode, is_grey\n"
        "for path in map(pathlib.Path, sys.argv[1:]):\n"
        "    is_grey(path.read_bytes())\n"
        "    try:\n"
        "        decode(path.read_bytes())\n"
        "    except ImageError:\n"
        "        pass\n"
        "assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)\n"
    )
    command = [sys.executable, "-W", "default", "-c", program, *map(str, tmp_path.iterdir())]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_damaged_exif_block_does_not_cost_the_photograph():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    image = decode(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif.tobytes()[:-6]))
    assert image.size in ((8, 4), (4, 8))


SAVED: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (24, 20))]}),
    ("WEBP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("BMP", {}),
    ("PPM", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}),
]
SAVED += [(kind, {}) for kind in ("JPEG2000", "AVIF", "HEIF") if readable(kind) is None]
SEEDS = [
    encoded(image, kind, **options)
    for image in (Image.fromarray(smooth(20, 24)), Image.fromarray(noise(20, 24, 1)), Image.fromarray(noise(20, 24, 4)))
    for kind, options in SAVED
    if image.mode != "RGBA" or kind != "JPEG"
] + [
    encoded(Image.fromarray(smooth(20, 24)).convert("CMYK"), "JPEG"),
    encoded(Image.fromarray(smooth(20, 24)).quantize(16), "PNG", transparency=3),
    encoded(Image.new("I;16", (20, 24), 999), "PNG"),
    encoded(Image.new("1", (20, 24), 1), "TIFF", compression="group4"),
    encoded(Image.fromarray(smooth(20, 24)), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
    *(
        encoded(Image.fromarray(smooth(20, 24)).convert(profile_mode), kind, icc_profile=profile)
        for kind in ("JPEG", "TIFF")
        for profile_mode, profile in (("RGB", ADOBE_RGB), ("L", LINEAR_GREY), ("CMYK", PRINT))
    ),
    b"P2 3 2 999\n1 2 3\n4 5 6\n",
    b"P1 3 2\n1 0 1\n0 1 0\n",
    b"Pf 2 2\n-1.0\n" + bytes(16),
]


def test_what_is_broken_after_the_first_frame_is_no_second_one():
    """decode takes the first, which is whole, and look does not refuse the file for the others."""
    frames, file = [Image.new("L", (8, 8), level) for level in (10, 200)], io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    whole = file.getvalue()
    assert look(whole).several
    ends = [end for end in range(1, len(whole)) if _decodes(whole[:end])]
    assert len(ends) > 10
    for end in ends:
        assert look(whole[:end]).format == "GIF"


def _decodes(data: bytes) -> bool:
    try:
        decode(data)
    except ImageError:
        return False
    return True


@settings(max_examples=600, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
    header=st.lists(st.tuples(st.integers(0, 80), st.integers(1, 255)), max_size=3),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
    tail=st.binary(max_size=8),
)
@example(seed=b"", flips=[], header=[], keep=1.0, tail=b"")
def test_any_bytes_give_an_image_or_an_image_error(seed, flips, header, keep, tail):
    data = bytearray(seed)
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    for position, mask in header:
        data[position % len(data)] ^= mask
    data = bytes(data[: int(keep * len(data))]) + tail
    try:
        image = decode(data)
    except ImageError as error:
        reason = str(error)
    else:
        reason = "none"
        assert image.mode in ("L", "RGB")
        assert 0 < image.width * image.height <= MAX_PIXELS
        image.tobytes()
        assert look(data).grey == (image.mode == "L")
    assert sniff(data[:HEAD]) in (None, *FORMATS)
    assert reason.isprintable()
    assert 0 < len(reason) < 300


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([seed[:8] for seed in SEEDS]), st.binary(max_size=200))
def test_a_magic_number_and_rubbish(magic, rubbish):
    with pytest.raises(ImageError):
        decode(magic + b"\xff" + rubbish)


# ---- sniff, readable, look ----


@pytest.mark.parametrize("seed", SEEDS)
def test_sniff_and_pillow_agree(seed):
    with Image.open(io.BytesIO(seed)) as image:
        expected = "JPEG" if image.format == "MPO" else image.format
        if image.mode != "F":
            assert {sniff(seed[:length]) for length in (32, HEAD, 1000)} == {expected}


@pytest.mark.parametrize(
    ("head", "format_"),
    [
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0mif1avif", "HEIF"),  # what is past the box is not in the list
        (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", None),  # a film
        (b"\xff\x4f\xff\x51" + bytes(30), "JPEG2000"),
        (b"P5\n# " + b"a long comment " * 5, "PPM"),
        (b"P5\n# made by hand\n64 64\n255\n", "PPM"),
        (b"P5 of the plan is the fifth", None),
        (b"P4 10 apples and 12 pears", None),
        (b"P6 1024 1024 of them", None),
        (b"P5 64 64", None),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"\x89PNG", None),
        (b"", None),
    ],
)
def test_sniff_reads_what_it_needs_and_no_more(head, format_):
    assert sniff(head) == format_


@given(
    st.sampled_from(["BM", "GIF89a", "GIF87a", "RIFF", "II*", "MM", "P5 ", "P6\n", "    ftypheic", "jP  "]),
    st.text(st.sampled_from("\t\n\r" + "".join(map(chr, range(32, 127)))), min_size=30),
)
def test_a_text_is_no_picture(start, text):
    text = start + text.replace("#", "")
    if not re.match(r"P[56]\s+\d+\s+\d+\s+\d+\s", text):
        assert sniff(text.encode()[:HEAD]) is None


@pytest.fixture
def without_heif(monkeypatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    readable.cache_clear()
    yield
    readable.cache_clear()


def test_heif_without_its_extra(without_heif, tmp_path):
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    (tmp_path / "a").write_bytes(data)
    assert sniff(data) == "HEIF"
    assert readable("HEIF") == "install distgan[heif] to read them"
    for refuse in (decode, look, is_grey):
        with pytest.raises(ImageError, match=r"HEIF images: install distgan\[heif\] to read them"):
            refuse(data)


def test_avif_with_a_pillow_that_has_none(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda codec: codec in ("jpg", "zlib"))
    readable.cache_clear()
    try:
        with pytest.raises(ImageError, match=r"AVIF images: install a Pillow .*11\.3"):
            decode(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(100))
        assert readable("JPEG") is None
        assert readable("BMP") is None
    finally:
        readable.cache_clear()
    assert "JPEG" in (readable("PSD") or "")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(Image.new("RGB", (13, 9)), "JPEG"), Look("JPEG", 13, 9, False, 8, None, None)),
        (encoded(Image.new("L", (13, 9)), "PNG"), Look("PNG", 13, 9, True, 8, None, None)),
        (encoded(Image.new("1", (13, 9)), "TIFF"), Look("TIFF", 13, 9, True, 8, None, None)),
        (encoded(Image.new("P", (13, 9)), "GIF"), Look("GIF", 13, 9, False, 8, None, None)),
        (encoded(Image.new("I;16", (13, 9), 4095), "PNG"), Look("PNG", 13, 9, True, 16, 4095, None)),
        (encoded(Image.new("I;16", (13, 9), 1023), "TIFF"), Look("TIFF", 13, 9, True, 16, 1023, None)),
        (b"P5 1 1 65535\n\x01\x02", Look("PPM", 1, 1, True, 16, 258, None)),
        (png(13, 9, 8, 6), Look("PNG", 13, 9, False, 8, None, None)),  # no pixel is decoded: there is none
        (b"P6 1 1 1023\n" + bytes(6), Look("PPM", 1, 1, False, 16, None, None)),
        (b"P6 1 1 255\n" + bytes(3), Look("PPM", 1, 1, False, 8, None, None)),
    ],
)
def test_look(data, expected):
    assert look(data) == expected


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([], None),
        ([Look("PNG", 9, 9, True, 16, 4095, None)], "--white 4095"),
        ([Look("PNG", 9, 9, True, 16, 0, None)], None),  # black is black, whatever is white
        ([Look("GIF", 9, 9, False, 8, None, None, True)] * 2, "2 of the pictures looked at are animations"),
    ],
)
def test_what_is_said_of_looks(seen, said):
    notes = pictures.look_notes(seen)
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not an image"),
        (png(10_001, 10_000), "10001×10000"),
        (png(4, 4, 16, 0), "broken"),
        (png(4, 4, 16, 2), "broken"),
        (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point"),
        (encoded(Image.new("I", (4, 4), 70_000), "TIFF"), "32-bit"),
    ],
)
def test_look_refuses_what_decode_does(data, reason):
    for refuse in (look, decode):
        with pytest.raises(ImageError, match=reason):
            refuse(data)


# ---- is_grey ----


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [
        ("L", "JPEG", 1),
        ("RGB", "JPEG", 3),
        ("CMYK", "JPEG", 3),
        ("1", "PNG", 1),
        ("LA", "PNG", 1),
        ("I;16", "PNG", 1),
        ("P", "PNG", 3),
    ],
)
def test_a_header_tells_grey_as_decode_does(mode, kind, channels):
    data = encoded(Image.new(mode, (8, 8)), kind)
    assert is_grey(data) == (channels == 1)
    assert decode(data).mode == ("L" if channels == 1 else "RGB")


def test_what_is_no_image_is_not_grey_either(tmp_path):
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe")  # must not be waited for
    for name in ("text", "pipe", "missing"):
        with pytest.raises((ImageError, OSError)):
            pictures.is_grey(Folder(tmp_path), name)


# ---- apply ----


def lanczos(pixels: np.ndarray, size: int) -> np.ndarray:
    """An independent reference: float64, one weight matrix an axis, support widened when it shrinks."""

    def weights(old: int, new: int) -> np.ndarray:
        scale = old / new
        width = max(scale, 1.0)
        centres = (np.arange(new) + 0.5) * scale
        distance = (np.arange(old) + 0.5 - centres[:, None]) / width
        matrix = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
        return np.asarray(matrix / matrix.sum(1, keepdims=True))

    height, width = pixels.shape[:2]
    result = np.einsum("ih,hwc,jw->ijc", weights(height, size), pixels.astype(np.float64), weights(width, size))
    return np.asarray(result.clip(0, 255))


@pytest.mark.parametrize(("side", "size"), [(178, 64), (20, 32), (100, 99)])
def test_resizing_is_antialiased_lanczos(side, size):
    pixels = 64 + noise(side, side) // 2  # far enough from black and white: Pillow also clips after each axis
    result = apply(Image.fromarray(pixels), Transform(size, 3))
    assert np.abs(result - lanczos(pixels, size)).max() <= 1.5  # Pillow rounds after each axis


def test_celeba_is_cut_at_row_20():
    pixels = noise(218, 178)
    expected = apply(pixels[20:198], Transform(64, 3))
    np.testing.assert_array_equal(apply(pixels, Transform(64, 3, crop=178)), expected)
    np.testing.assert_array_equal(apply(pixels, Transform(64, 3)), expected)
    np.testing.assert_array_equal(
        apply(pixels, Transform(64, 3, crop=178, crop_top=0)), apply(pixels[:178], Transform(64, 3))
    )


@given(height=st.integers(1, 40), width=st.integers(1, 40), crop=st.integers(1, 40), top=st.none() | st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_a_crop_of_the_size_is_a_slice(height, width, crop, top):
    pixels = noise(height, width, seed=height * width)
    size = max(crop, 8)
    transform = Transform(size, 3, crop=size, crop_top=top)
    start = (height - size) // 2 if top is None else top
    if size > width or start < 0 or start + size > height:
        with pytest.raises(ImageError, match=f"{width}×{height} .*{size}×{size}"):
            apply(pixels, transform)
    else:
        left = (width - size) // 2
        np.testing.assert_array_equal(apply(pixels, transform), pixels[start : start + size, left : left + size])


@given(height=st.integers(1, 40), width=st.integers(1, 40), channels=st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_padding_keeps_every_pixel(height, width, channels):
    pixels = noise(height, width, channels) | 1
    transform = Transform(32, channels, fit="pad")
    if height > 32 or width > 32:
        with pytest.raises(ImageError, match=f"{width}×{height}"):
            apply(pixels, transform)
        return
    result = apply(pixels, transform)
    top, left = (32 - height) // 2, (32 - width) // 2
    inside = result[top : top + height, left : left + width]
    np.testing.assert_array_equal(inside, pixels.reshape(height, width, channels))
    assert np.count_nonzero(result) == pixels.size


@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    source=st.sampled_from([1, 3]),
    channels=st.sampled_from([1, 3]),
    size=st.integers(8, 40),
)
@settings(max_examples=100, deadline=None)
def test_the_result_is_always_a_plain_array(height, width, source, channels, size):
    pixels = noise(height, width, source)
    result = apply(pixels, Transform(size, channels))
    assert result.shape == (size, size, channels)
    assert result.dtype == np.uint8
    assert result.flags["C_CONTIGUOUS"]
    assert result.flags["WRITEABLE"]
    np.testing.assert_array_equal(result, apply(Image.fromarray(pixels), Transform(size, channels)))
    if source == 1 and channels == 3:
        assert (result == result[..., :1]).all()


def test_grey_is_the_luma_of_bt_601():
    pixels = noise(16, 16)
    grey = apply(pixels, Transform(16, 1))[..., 0]
    assert np.abs(grey - pixels @ np.array([0.299, 0.587, 0.114])).max() <= 1


# ---- Transform ----


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"size": 7}, "size"),
        ({"size": 10**9}, "size"),
        ({"size": 64.0}, "size"),
        ({"size": True}, "size"),
        ({"channels": 2}, "channels"),
        ({"channels": 4}, "channels"),
        ({"crop": 0}, "crop"),
        ({"crop": "178"}, "crop"),
        ({"crop_top": 3}, "crop_top"),
        ({"crop": 9, "crop_top": -1}, "crop_top"),
        ({"fit": "stretch"}, "fit"),
        ({"fit": ["pad"]}, "fit"),
        ({"fit": "pad", "crop": 9}, "pad"),
        ({"filter": "nearest"}, "filter"),
        ({"white": 0}, "white"),
        ({"white": 65536}, "white"),
        ({"white": True}, "white"),
        ({"centre": "nose"}, "centre"),
        ({"centre": ["face"]}, "centre"),
        ({"centre": "face", "fit": "pad"}, "pad"),
        ({"centre": "face", "crop": 9, "crop_top": 3}, "crop_top and centre"),
    ],
)
def test_a_transform_that_makes_no_sense_is_refused(values, word):
    with pytest.raises(InputError, match=word):
        Transform(**{"size": 64, "channels": 3, **values})


@given(
    st.builds(
        Transform,
        size=st.integers(8, 4096),
        channels=st.sampled_from([1, 3]),
        crop=st.integers(1, 5000),
        crop_top=st.none() | st.integers(0, 500),
        white=st.none() | st.integers(1, 65535),
    )
    | st.builds(
        Transform,
        size=st.integers(8, 4096),
        channels=st.sampled_from([1, 3]),
        crop=st.none() | st.integers(1, 5000),
        centre=st.sampled_from(["middle", "face"]),
    )
    | st.builds(
        Transform, size=st.integers(8, 4096), channels=st.sampled_from([1, 3]), fit=st.sampled_from(["crop", "pad"])
    )
)
def test_a_transform_survives_json(transform):
    assert Transform.from_json(transform.to_json()) == transform


def test_sets_packed_before_white_and_centre_keep_their_bytes():
    known = {"size": 64, "channels": 3, "crop": None, "crop_top": None, "fit": "crop", "filter": "lanczos"}
    assert list(Transform(64, 3).to_json().items()) == list(known.items())
    assert Transform.from_json(known) == Transform.from_json({**known, "white": None, "centre": "middle"})
    assert Transform(64, 1, white=4095, centre="face").to_json() == {
        **known,
        "channels": 1,
        "white": 4095,
        "centre": "face",
    }


@pytest.mark.parametrize("change", [{"colour": 1}, {"filter": ["lanczos"]}, {"size": None}])
def test_from_json_refuses_foreign_fields(change):
    with pytest.raises(InputError):
        Transform.from_json({**Transform(64, 3).to_json(), **change})
    with pytest.raises(InputError):
        Transform.from_json({"size": 64})
