import io
import os
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.errors import InputError
from shards.images import MAX_PIXELS, ImageError, Transform, apply, decode, header_channels

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest puts its own filters before those of shards.images


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


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG of any header, with no or the given compressed rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# ---- decode: what people mean ----


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP"])
def test_lossless_formats_give_the_very_pixels(kind, channels):
    pixels = noise(9, 13, channels) // 64 * 64  # few enough colours for GIF's palette
    image = decode(encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})))
    knows_grey = kind not in ("GIF", "WEBP")  # those have palettes and colour
    assert image.mode == ("L" if channels == 1 and knows_grey else "RGB")
    np.testing.assert_array_equal(np.array(image.convert("L" if channels == 1 else "RGB")), pixels)


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


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert image.size == (12, 10)
    assert image.getcolors() == [(120, (255, 0, 0))]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
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
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = Image.fromarray(np.ascontiguousarray(stored(seen)))
    result = np.array(decode(encoded(image, kind, exif=exif, **options)))
    assert result.shape == seen.shape
    assert np.abs(result.astype(int) - seen).max() < (12 if kind == "JPEG" else 1)


# ---- decode: what is refused, and why ----


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am a text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (b"%PDF-1.4\n", "not an image"),
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF"])
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
        "from shards.images import ImageError, decode, header_channels\n"
        "for path in map(pathlib.Path, sys.argv[1:]):\n"
        "    header_channels(path)\n"
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
    b"P2 3 2 999\n1 2 3\n4 5 6\n",
    b"P1 3 2\n1 0 1\n0 1 0\n",
    b"Pf 2 2\n-1.0\n" + bytes(16),
]


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
    assert reason.isprintable()
    assert 0 < len(reason) < 300


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([seed[:8] for seed in SEEDS]), st.binary(max_size=200))
def test_a_magic_number_and_rubbish(magic, rubbish):
    with pytest.raises(ImageError):
        decode(magic + b"\xff" + rubbish)


# ---- header_channels ----


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
def test_header_channels_agree_with_decode(tmp_path, mode, kind, channels):
    data = encoded(Image.new(mode, (8, 8)), kind)
    path = tmp_path / "image"
    path.write_bytes(data)
    assert header_channels(path) == channels
    assert decode(data).mode == ("L" if channels == 1 else "RGB")


def test_header_channels_of_what_is_no_image(tmp_path):
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe")  # must not be waited for
    for name in ("text", "pipe", "missing"):
        with pytest.raises((ImageError, OSError)):
            header_channels(tmp_path / name)


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
    )
    | st.builds(
        Transform, size=st.integers(8, 4096), channels=st.sampled_from([1, 3]), fit=st.sampled_from(["crop", "pad"])
    )
)
def test_a_transform_survives_json(transform):
    assert Transform.from_json(transform.to_json()) == transform


@pytest.mark.parametrize("change", [{"colour": 1}, {"filter": ["lanczos"]}, {"size": None}])
def test_from_json_refuses_foreign_fields(change):
    with pytest.raises(InputError):
        Transform.from_json({**Transform(64, 3).to_json(), **change})
    with pytest.raises(InputError):
        Transform.from_json({"size": 64})
