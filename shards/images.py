"""Untrusted bytes to pixels, and any picture to size × size: the only place that decodes what was found on disk."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.errors import InputError

MAX_PIXELS = 100_000_000
"""A picture that claims more than this is refused before a pixel of it is decoded."""

# What people keep photographs in. Not everything Pillow opens: some of its formats start other programs (EPS) or are
# seldom used and little tested.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
FILTERS = {"lanczos": Image.Resampling.LANCZOS}
FITS = ("crop", "pad")

# Pillow warns of what it finds odd in a file; here each file is either decoded or refused with a reason. Filtered once,
# not in catch_warnings around each image: that changes the whole process's filters and is not safe between threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """This one image cannot be used. The message is the reason, for people."""


@dataclass(frozen=True)
class Transform:
    """How any image becomes size × size; an index stores it, so that everybody knows what was done to the pixels.

    Attributes:
        size: Width and height of the result in pixels, 8 to 4096.
        channels: 1 (grey) or 3 (RGB).
        crop: With fit "crop", width and height in pixels of the square that is cut out; None is the largest there is.
        crop_top: The row where that square starts; None centres it. Columns are always centred.
        fit: "crop" cuts a square out and resizes it; "pad" centres the image on black and resamples nothing.
        filter: How pixels are resampled: "lanczos", antialiased.

    Raises:
        InputError: A value that makes no sense, or two that contradict each other.
    """

    size: int
    channels: int
    crop: int | None = None
    crop_top: int | None = None
    fit: str = "crop"
    filter: str = "lanczos"

    def __post_init__(self) -> None:
        _check_whole("size", self.size, 8, 4096)
        if type(self.channels) is not int or self.channels not in (1, 3):  # not isinstance: a bool is an int
            raise InputError(f"channels must be 1 (grey) or 3 (colour), not {self.channels!r}")
        if self.crop is not None:
            _check_whole("crop", self.crop, 1, MAX_PIXELS)
        if self.crop_top is not None:
            _check_whole("crop_top", self.crop_top, 0, MAX_PIXELS)
            if self.crop is None:
                raise InputError("crop_top says where a crop starts: give crop as well")
        if self.fit not in FITS:
            raise InputError(f"fit must be one of {', '.join(FITS)}, not {self.fit!r}")
        if self.fit == "pad" and self.crop is not None:
            raise InputError("fit pad cuts nothing off: give no crop, or fit crop")
        if self.filter not in tuple(FILTERS):
            raise InputError(f"filter must be one of {', '.join(FILTERS)}, not {self.filter!r}")

    def to_json(self) -> dict[str, Any]:
        """A plain dict of numbers, strings and None."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Transform:
        """The transform that to_json wrote.

        Raises:
            InputError: A field is missing, unknown or has a value that makes no sense.
        """
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            raise InputError(f"a transform has the fields {', '.join(sorted(names))}, not {', '.join(sorted(values))}")
        return cls(**values)


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def decode(data: bytes) -> Image.Image:
    """Decode an image file that nobody vouches for.

    The picture is turned as its EXIF orientation says; of an animation it is the first frame; transparency is laid on
    white, as on a page. 16-bit grey is scaled to 8 bits (65535 becomes 255), CMYK and palettes become RGB.

    Args:
        data: A whole JPEG, PNG, BMP, GIF, WebP, TIFF or PNM file.

    Returns:
        A loaded image of mode "L" where the file is grey, else "RGB".

    Raises:
        ImageError: Empty, broken, truncated, of another kind, of more than MAX_PIXELS, or of floating-point or 32-bit
            pixels, which have no brightness scale of their own. Nothing else, whatever the bytes.
    """
    if not data:
        raise ImageError("empty file")
    try:
        image = _open(io.BytesIO(data))
        image.load()
        with suppress(Exception):  # a photograph with a damaged EXIF block is still a photograph
            ImageOps.exif_transpose(image, in_place=True)
        return _to_grey_or_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # decoders of hostile bytes raise nearly anything: struct.error, SyntaxError…
        raise ImageError(f"broken image: {_one_line(error)}") from error


def header_channels(path: Path) -> int:
    """1 where an image file is grey by its header, else 3; no pixel is decoded.

    Raises:
        OSError, ImageError: The file or its header cannot be read.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise ImageError("not a regular file")
    with path.open("rb") as file:
        try:
            mode = _open(file).mode
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(f"broken image: {_one_line(error)}") from error
    return 1 if _is_grey(mode) else 3


def apply(image: Image.Image | np.ndarray, transform: Transform) -> np.ndarray:
    """Cut, convert and resize one image.

    Args:
        image: What decode returned, or uint8 pixels (H, W) or (H, W, 3).
        transform: What to do.

    Returns:
        uint8 (size, size, channels) in 0..255, C-contiguous. Nothing is resampled where the size is right already.

    Raises:
        ImageError: The image is too small for the crop, or too large to be padded.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    size = (transform.size, transform.size)
    mode = "L" if transform.channels == 1 else "RGB"
    image = _pad(image, size) if transform.fit == "pad" else _crop(image, transform)
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != size:
        image = image.resize(size, FILTERS[transform.filter])
    return np.array(image).reshape(transform.size, transform.size, transform.channels)


def _pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = (size[0] - image.width) // 2, (size[1] - image.height) // 2
    if left < 0 or top < 0:
        raise ImageError(f"{image.width}×{image.height} pixels do not fit into {size[0]}×{size[1]}")
    canvas = Image.new(image.mode, size)
    canvas.paste(image, (left, top))
    return canvas


def _crop(image: Image.Image, transform: Transform) -> Image.Image:
    side = transform.crop or min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    where = ""
    if transform.crop_top is not None:
        top, where = transform.crop_top, f" from row {transform.crop_top}"
    if left < 0 or top < 0 or top + side > image.height:
        raise ImageError(f"{image.width}×{image.height} pixels are too few for a crop of {side}×{side}{where}")
    # Cut first: resize(box=…) would be shorter, but lets pixels from outside the box bleed in.
    return image.crop((left, top, left + side, top + side))


def _open(file: IO[bytes]) -> Image.Image:
    """Read the header alone and refuse what is too large."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError("not an image distgan reads") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own limit, well above ours; a warning arrives here only where warnings are made errors.
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width}×{image.height} pixels is more than {MAX_PIXELS:,}")
    return image


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La", "I", "F") or mode.startswith("I;16")


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("floating-point pixels: it is not known which value is white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image))
    mode = "L" if _is_grey(image.mode) else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    image = image.convert("RGBA")
    canvas = Image.new(mode, image.size, "white")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _from_16_bit(values: np.ndarray) -> Image.Image:
    """Scale grey values of 0..65535 to 0..255, rounding to nearest. Pillow's own convert clips them at 255."""
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError("32-bit pixels: it is not known which value is white")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] if text and text.isprintable() else type(error).__name__
