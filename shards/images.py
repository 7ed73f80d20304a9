"""Untrusted bytes to pixels, and any picture to size × size: the only place that decodes what was found on disk."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

from shards import faces
from shards.errors import InputError

MAX_PIXELS = 100_000_000
"""A picture that claims more than this is refused before a pixel of it is decoded."""

# What people keep photographs in. Not everything Pillow opens: some of its formats start other programs (EPS) or are
# seldom used and little tested.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Names of the formats that are recognised, which are Pillow's. A phone's multi-picture JPEG counts as JPEG."""
FILTERS = {"lanczos": Image.Resampling.LANCZOS}
FITS = ("crop", "pad")
CENTRES = ("middle", "face")
HEAD = 64
"""So many bytes of a file are enough for sniff."""

_CODECS = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}  # as Pillow calls them
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # either byte order; the latter two may exceed 4 GB
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")  # .jp2; .j2k, bare
_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))  # bytes, of one version each
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_TEXT = frozenset(b"\t\n\v\f\r") | frozenset(range(32, 127))
# Width and height, then for all but bitmaps the largest value. Where a comment takes up the head, the rest is unseen.
_PPM_BITMAP = re.compile(rb"P[14]\s+[0-9]{1,10}\s+[0-9]{1,10}\s")
_PPM = re.compile(rb"P[2356]\s+[0-9]{1,10}\s+[0-9]{1,10}\s+[0-9]{1,5}\s")
_PPM_COMMENT = re.compile(rb"P[1-6]\s[\s0-9]*#[^\r\n]*\Z")

# Where the way a picture is to be turned may stand; with none of these there is nothing to look for.
_ORIENTED = frozenset(("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"))
# Tags of TIFF: bit 0, it is but a small copy of another picture; bits of each channel; 0, the largest value is black.
_REDUCED, _BITS, _PHOTOMETRIC = 254, 258, 262
_COLOUR_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}

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
        white: The value of 16-bit pixels that becomes 255, 1 to 65535; None is 65535. Whoever decodes uses it.
        centre: With fit "crop", what the square is centred on: "middle", of the picture, or "face", the largest
            (faces.find_face), with a margin where no crop says how much.

    Raises:
        InputError: A value that makes no sense, or two that contradict each other.
    """

    size: int
    channels: int
    crop: int | None = None
    crop_top: int | None = None
    fit: str = "crop"
    filter: str = "lanczos"
    white: int | None = None
    centre: str = "middle"

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
        if self.white is not None:
            _check_whole("white", self.white, 1, 65535)
        if self.centre not in CENTRES:
            raise InputError(f"centre must be one of {', '.join(CENTRES)}, not {self.centre!r}")
        if self.centre == "face" and self.fit == "pad":
            raise InputError("fit pad cuts nothing off: give centre middle, or fit crop")
        if self.centre == "face" and self.crop_top is not None:
            raise InputError("crop_top and centre face both say where the square starts: give one of them")

    def to_json(self) -> dict[str, Any]:
        """A plain dict of numbers, strings and None.

        Fields that came after the first sets were packed are left out where they say nothing new: an index keeps its
        very bytes.
        """
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Transform:
        """The transform that to_json wrote.

        Raises:
            InputError: A field is missing, unknown or has a value that makes no sense.
        """
        names = {field.name for field in fields(cls)}
        if not names - _LATER.keys() <= values.keys() <= names:
            raise InputError(f"a transform has the fields {', '.join(sorted(names))}, not {', '.join(sorted(values))}")
        return cls(**values)


_LATER = {field.name: field.default for field in fields(Transform) if field.name in ("white", "centre")}


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


@dataclass(frozen=True)
class Look:
    """What an image file is, by its header.

    Attributes:
        format: One of FORMATS.
        width: In pixels as stored, which is before the picture is turned as its EXIF orientation says.
        height: Likewise.
        grey: Whether decode makes it grey, not colour.
        bits: 16 where a sample has more than 8 bits, as far as Pillow says so, else 8.
        brightest: The largest value, 0 to 65535, of a picture of 16 bits, of colour the largest it can be; None for all
            others.
        profile: The name of the embedded colour profile that decode converts from; None where there is none, it is
            sRGB, or it is of no use.
        several: Whether it holds more pictures than the one that decode takes: frames or pages, not a phone's previews.
    """

    format: str
    width: int
    height: int
    grey: bool
    bits: int
    brightest: int | None
    profile: str | None
    several: bool = False


def sniff(head: bytes) -> str | None:
    """The format of an image file by how it begins, whatever it is called and whether or not it can be decoded here.

    Args:
        head: The first bytes of the file: 32 or more where it has as many.

    Returns:
        One of FORMATS, or None: no image, or of a kind that distgan knows nothing of.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return None if _TEXT.issuperset(head[6:32]) else "GIF"  # a text about the format begins like that, too
    if head.startswith(b"RIFF"):
        return "WEBP" if head[8:15] == b"WEBPVP8" else None
    if head.startswith(_TIFF):
        return None if head[8:10] == b"CR" else "TIFF"  # Canon's raw pictures only look like it
    if head.startswith(b"BM"):
        return "BMP" if int.from_bytes(head[14:18], "little") in _BMP_HEADERS else None
    if head.startswith(_JPEG2000):
        return "JPEG2000"
    if head[4:8] == b"ftyp" and head.startswith(b"\0\0"):  # the latter: a list of fewer than 64 KB
        return _sniff_brands(head)
    if head.startswith(b"P") and _is_ppm(head):
        return "PPM"
    return None


def _sniff_brands(head: bytes) -> str | None:
    """AVIF and HEIF are containers that say in brands what is in them."""
    brand, length = head[8:12], int.from_bytes(head[:4], "big")
    if brand in (b"mif1", b"msf1"):  # just "pictures"; of which kind, the list of compatible brands says
        brands = {head[i : i + 4] for i in range(16, min(length, len(head)), 4)}
        return "HEIF" if _AVIF_BRANDS.isdisjoint(brands) else "AVIF"
    if brand in _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brand in _HEIF_BRANDS else None


def _is_ppm(head: bytes) -> bool:
    plain = re.sub(rb"#[^\r\n]*[\r\n]", b" ", head)  # without its comments
    return any(pattern.match(plain) for pattern in (_PPM, _PPM_BITMAP, _PPM_COMMENT))


@cache
def readable(format: str) -> str | None:  # noqa: A002 (what it is)
    """What keeps a format from being read on this machine.

    Args:
        format: What sniff returned.

    Returns:
        None where decode reads it; else what to do about it, as "install distgan[heif] to read them".
    """
    if format not in FORMATS:
        return f"convert them to one of {', '.join(FORMATS)}"
    if format == "HEIF":
        try:
            import pillow_heif

            pillow_heif.register_heif_opener()
        except ImportError:
            return "install distgan[heif] to read them"
    codec = _CODECS.get(format)
    if codec is None or features.check(codec):  # not get_supported, which looks for all there are, tkinter too
        return None
    return f"install a Pillow that has {codec} to read them" + (" (11.3 and newer do)" if format == "AVIF" else "")


def look(data: bytes) -> Look:
    """Say what an image file is. No pixel is decoded but those of 16 bits, whose brightest is wanted.

    Args:
        data: A whole file.

    Raises:
        ImageError: Like decode; of broken pixels it is not aware unless they have 16 bits.
    """
    image = _open(io.BytesIO(data))
    try:
        deep = _is_16_bit(image.mode)
        deep_colour = _is_deep_colour(image, data)
        brightest = None
        if deep:
            brightest = int(_values_16_bit(image).max())
        elif deep_colour and image.format in ("PNG", "TIFF"):  # of which Pillow reads the upper 8 bits
            brightest = int(np.asarray(image)[..., :3].max()) << 8 | 255
        profile = _profile(image.info["icc_profile"], _colour_mode(image)) if image.info.get("icc_profile") else None
        kind = sniff(data[:HEAD]) or ""
        return Look(
            format=kind,
            width=image.width,
            height=image.height,
            grey=_is_grey(image.mode),
            bits=16 if deep or deep_colour else 8,
            brightest=brightest,
            profile=profile.name if profile else None,
            several=kind != "JPEG" and _is_animated(image),
        )
    except ImageError:
        raise
    except Exception as error:
        raise _broken(error) from error


def _is_animated(image: Image.Image) -> bool:
    """Whether there is a second frame. One that is broken is none: the first, which decode takes, may be whole."""
    with suppress(Exception):  # Pillow's decoders look for it only now, and raise nearly anything
        return bool(getattr(image, "is_animated", False))
    return False


def decode(data: bytes, white: int | None = None) -> Image.Image:
    """Decode an image file that nobody vouches for.

    The picture is turned as its EXIF orientation says; of an animation it is the first frame; transparency is laid on
    white, as on a page. Colours come out as sRGB: an embedded profile of another kind is converted from, and one that
    is of no use is passed over. 16-bit grey is scaled to 8 bits; CMYK and palettes become RGB.

    Args:
        data: A whole file of one of FORMATS.
        white: The value of 16-bit pixels that becomes 255, 1 to 65535; what is above it is 255, too. None is 65535.
            Cameras of 10 or 12 bits store less (1023, 4095). Formats that say their own white (PPM, HEIF) keep it.

    Returns:
        A loaded image of mode "L" where the file is grey, else "RGB".

    Raises:
        ImageError: Empty, broken, truncated, of another kind, of more than MAX_PIXELS, of a format that cannot be read
            here, or of floating-point or 32-bit pixels, which have no brightness scale of their own. Nothing else,
            whatever the bytes.
        InputError: White is given for 16-bit colour, and OpenCV is missing.
    """
    file = _open(io.BytesIO(data))
    try:
        rescaled = white is not None and _is_deep_colour(file, data)  # asked before the file is let go
        file.load()
        _check_size(file)  # again: a header may lie
        _rescale_transparency(file, data)
        image = _with_white(file, data, white) if white is not None and rescaled else file
        if image.format == "TIFF" or not _ORIENTED.isdisjoint(image.info):
            with suppress(Exception):  # a photograph with a damaged EXIF block is still a photograph
                ImageOps.exif_transpose(image, in_place=True)
        return _to_grey_or_rgb(image, white)
    except (ImageError, InputError):
        raise
    except Exception as error:  # decoders of hostile bytes raise nearly anything: struct.error, SyntaxError…
        raise _broken(error) from error


def is_grey(data: bytes) -> bool:
    """Whether an image file is grey by its header; no pixel is decoded, and the beginning of a file may do.

    Raises:
        ImageError: The header cannot be read.
    """
    return _is_grey(_open(io.BytesIO(data)).mode)


def apply(image: Image.Image | np.ndarray, transform: Transform) -> np.ndarray:
    """Cut, convert and resize one image.

    Args:
        image: What decode returned, or uint8 pixels (H, W) or (H, W, 3).
        transform: What to do.

    Returns:
        uint8 (size, size, channels) in 0..255, C-contiguous. Nothing is resampled where the size is right already.

    Raises:
        ImageError: The image is too small for the crop, too large to be padded, or shows no face to be centred on.
        InputError: It is to be centred on a face, and OpenCV is missing (see faces.require).
    """
    # Not np.array(image), which goes the same way, and slowly.
    pixels = np.frombuffer(fit(image, transform).tobytes(), np.uint8)
    return pixels.reshape(transform.size, transform.size, transform.channels).copy()


def fit(image: Image.Image | np.ndarray, transform: Transform) -> Image.Image:
    """What apply does, as an image of mode "L" or "RGB"; its tobytes are those of apply's pixels."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    size = (transform.size, transform.size)
    mode = "L" if transform.channels == 1 else "RGB"
    image = _pad(image, size) if transform.fit == "pad" else _crop(image, transform)
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != size:
        image = image.resize(size, FILTERS[transform.filter])
    return image


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
    if transform.centre == "face":
        face = faces.find_face(image)
        if face is None:
            raise ImageError("no face was found")
        left, top, side = faces.portrait(face, image.size, transform.crop)
    if image.size == (side, side):
        return image
    # Cut first: resize(box=…) would be shorter, but lets pixels from outside the box bleed in.
    return image.crop((left, top, left + side, top + side))


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    """Read the header alone and refuse what is no image, cannot be read here, or is too large."""
    head = file.read(HEAD)
    if not head:
        raise ImageError("empty file")
    kind = sniff(head)
    if kind is None:
        raise ImageError("not an image distgan reads")
    if remedy := readable(kind):
        raise ImageError(f"{kind} images: {remedy}")
    try:
        image = Image.open(file, formats=(kind,))
        if kind == "TIFF" and image.tag_v2.get(_REDUCED, 0) & 1:  # type: ignore[attr-defined]
            raise ImageError("only the preview of a camera's raw picture: develop it, to JPEG or PNG")
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"broken image: begins like {kind}, but has no such header") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own limit, well above ours; a warning arrives here only where warnings are made errors.
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:
        raise _broken(error) from error
    _check_size(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels: it is not known which value is white")
    return image


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}×{height} pixels is more than {MAX_PIXELS:,}")


def _is_grey(mode: str) -> bool:
    return mode in ("L", "1", "LA", "La") or _is_16_bit(mode)


def _is_16_bit(mode: str) -> bool:
    return mode == "I" or mode.startswith("I;16")


def _is_deep_colour(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether the samples of what Pillow makes 8-bit colour, or grey with alpha, have more bits in the file."""
    if _is_16_bit(image.mode):
        return False
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "TIFF":
        return bool(max(image.tag_v2.get(_BITS, (8,))) > 8)  # type: ignore[attr-defined]
    if image.format == "PPM":
        arguments = image.tile[0][3]
        return isinstance(arguments, tuple) and isinstance(arguments[1], int) and arguments[1] > 255
    return bool(image.info.get("bit_depth", 8) > 8)  # as the extra heif says


def _rescale_transparency(image: ImageFile.ImageFile, data: bytes) -> None:
    """Say which colour of a PNG is transparent in the values of its pixels.

    Pillow leaves it in those of the file, also where it has made 8 bits of 2, 4 or 16: another colour would be laid on
    white.
    """
    colour = image.info.get("transparency")
    if image.format != "PNG" or colour is None or image.mode not in ("1", "L", "RGB"):
        return
    depth = data[24]

    def rescaled(value: int) -> int:
        return value >> 8 if depth == 16 else value * 255 // (2**depth - 1)

    image.info["transparency"] = tuple(map(rescaled, colour)) if isinstance(colour, tuple) else rescaled(colour)


def _to_grey_or_rgb(image: Image.Image, white: int | None) -> Image.Image:
    """Reduce what was loaded to 8 bits, "L" or "RGB", without transparency and in sRGB."""
    profile = image.info.get("icc_profile")
    mode = "L" if _is_grey(image.mode) else "RGB"
    alpha = None
    if _is_16_bit(image.mode):
        values, transparent, negative = _values_16_bit(image), image.info.get("transparency"), _is_negative(image)
        image = Image.fromarray(_from_16_bit(values, white or 65535))
        if negative:
            image = ImageOps.invert(image)
        if transparent is not None:
            alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if profile:
        image = _to_srgb(image if alpha is None else image.convert(mode), profile)
        image.info.pop("icc_profile", None)  # or what is saved of it would say that it is what it was
    if image.mode != mode:
        image = image.convert(mode)
    if alpha is None:
        return image
    canvas = Image.new(mode, image.size, "white")
    canvas.paste(image, mask=alpha)
    return canvas


def _is_negative(image: Image.Image) -> bool:
    """Whether the largest value of a 16-bit picture is black, as scanners write it; of fewer bits Pillow sees to it."""
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]


def _values_16_bit(image: Image.Image) -> np.ndarray:
    """Integer (H, W) in 0..65535."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("32-bit pixels: it is not known which value is white")
    return values


def _with_white(image: ImageFile.ImageFile, data: bytes, white: int) -> Image.Image:
    """A picture of 16-bit colour from all of its bits, of which Pillow reads the upper 8, scaled to its white."""
    if image.format not in ("PNG", "TIFF"):  # the others say what their white is, and were scaled by it
        return image
    try:
        import cv2
    except ImportError:
        raise InputError("--white of 16-bit colour needs OpenCV: pip install 'distgan[faces]'") from None
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] not in (3, 4):
        raise ImageError(f"16-bit {image.format} of a kind that cannot be given a white: convert it to a plain PNG")
    parts = [_from_16_bit(values[..., 2::-1], white), _from_16_bit(values[..., 3:], 65535)]
    scaled = Image.fromarray(np.concatenate(parts, axis=-1))
    scaled.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return scaled


def _from_16_bit(values: np.ndarray, white: int) -> np.ndarray:
    """Scale values of 0..white to uint8 0..255, rounding to nearest. Pillow's own convert clips them at 255."""
    values = np.minimum(values.astype(np.uint32), white)
    return ((values * 510 + white) // (2 * white)).astype(np.uint8)


class _Profile(NamedTuple):
    """A colour profile that is not sRGB.

    Attributes:
        name: Its description.
        convert: From pixels that it describes to sRGB, "L" or "RGB".
    """

    name: str
    convert: Callable[[Image.Image], Image.Image]


def _colour_mode(image: Image.Image) -> str:
    """The mode in which a picture's colours are converted: its own, or what palettes and the like stand for."""
    return "L" if _is_grey(image.mode) else "CMYK" if image.mode == "CMYK" else "RGB"


def _to_srgb(image: Image.Image, data: bytes) -> Image.Image:
    mode = _colour_mode(image)
    profile = _profile(data, mode)
    if profile is None:
        return image
    with suppress(Exception):
        return profile.convert(image if image.mode == mode else image.convert(mode))
    return image


@lru_cache(maxsize=16)  # to make one takes longer than a small picture, and most sets have one or two
def _profile(data: bytes, mode: str) -> _Profile | None:
    """What to do about an embedded profile.

    Args:
        data: The profile as a file holds it.
        mode: "L", "RGB" or "CMYK", of the pixels it comes with.

    Returns:
        None where the pixels are to be taken as they are: the profile is sRGB (whatever its name: it is sRGB if it
        changes nothing), broken, meant for pixels of another kind, or this Pillow knows nothing of colour.
    """
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if source.profile.xcolor_space.strip() != _COLOUR_SPACES[mode]:
            return None
        # Relative colorimetric: colours that sRGB has keep their place, the few that it has not move to its border.
        # Perceptual would move all of them, by a recipe of each profile's own. Black is made black, as in photo
        # editors: in print it is a dark grey.
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        name = _one_line(ImageCms.getProfileDescription(source)) or "unnamed"
        probe = _probe(mode)
        result = transform.apply(probe)
        if mode == "L":  # 256 values in, 256 out: a table does it
            result = result.convert("L")
            table = result.tobytes()
        if mode != "CMYK" and np.abs(np.asarray(result).astype(int) - np.asarray(probe)).max() <= _SAME:
            return None
    except Exception:
        return None
    return _Profile(name, (lambda image: image.point(table)) if mode == "L" else transform.apply)


_SAME = 2  # levels by which profiles differ that were all meant to be sRGB


def _probe(mode: str) -> Image.Image:
    """Each grey value once, or colours from all over the cube."""
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)).convert(mode)


def _broken(error: Exception) -> ImageError:
    return ImageError(f"broken image: {_one_line(str(error)) or type(error).__name__}")


def _one_line(text: str) -> str:
    """A foreign text fit to be shown: at most 200 characters, or none where it is not printable."""
    text = " ".join(text.split())[:200]
    return text if text.isprintable() else ""
