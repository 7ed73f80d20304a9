"""One invented face: traits in, picture, attributes and landmarks out."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

from shards.synth import dress, hair, head
from shards.synth.canvas import EYES, HEIGHT, MARGIN, WIDTH, Canvas, Noise, planes
from shards.synth.traits import Traits, sample

Landmarks = dict[str, tuple[int, int]]


def draw_face(seed: int, i: int) -> tuple[Image.Image, dict[str, int], Landmarks]:
    """Draw face i of the set with this seed: a pure function, the same on every call.

    Args:
        seed: Which set, 0 … 2**64 - 1.
        i: Which face of it, 0 … 2**64 - 1.

    Returns:
        The picture (RGB, 178×218); CelebA's 40 attributes by name, in CelebA's order, each -1 or 1; and the landmarks
        lefteye, righteye, nose, leftmouth and rightmouth as (x, y) in pixels.
    """
    traits = person(seed, i)
    return paint(traits, Noise(_generator(seed, i, stream=1))), traits.attributes(), landmarks(traits)


def person(seed: int, i: int) -> Traits:
    """The traits of face i, without drawing it."""
    return sample(_generator(seed, i, stream=0))


def _generator(seed: int, i: int, stream: int) -> np.random.Generator:
    # As a list, numbers of 2**63 and more would be rounded to floats.
    key = np.array([seed, i], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def paint(t: Traits, noise: Noise) -> Image.Image:
    """The picture of these traits, from back to front."""
    canvas = Canvas.blank()
    skull = head.Head.of(canvas, t)
    locks = hair.comb(canvas, t, skull, noise)

    dress.draw_background(canvas, t, noise)
    hair.draw_behind(t, locks)
    dress.draw_body(canvas, t, skull, noise)
    dress.draw_necklace(canvas, t, skull, noise)
    head.draw_ears(canvas, t, skull)
    head.draw_skin(canvas, t, skull)
    head.draw_age(canvas, t, skull)
    head.draw_nose(canvas, t, skull)
    head.draw_facial_hair(canvas, t, skull, noise)
    head.draw_mouth(canvas, t, skull)
    head.draw_eyes(canvas, t, skull)
    head.draw_brows(canvas, t, noise)
    if t.style == "bald":
        hair.draw_bald(canvas, t, skull)
    hair.draw_front(canvas, t, skull, locks)
    dress.draw_earrings(canvas, t, skull, noise)
    dress.draw_glasses(canvas, t, skull)
    dress.draw_hat(canvas, t, skull, noise)
    return _photograph(canvas, t, noise)


def _photograph(canvas: Canvas, t: Traits, noise: Noise) -> Image.Image:
    """Exposure, colour of the light, grain, and the camera's view of the drawing."""
    balance = (1 + 0.045 * t.warmth, 1.0, 1 - 0.06 * t.warmth)
    pixels = canvas.pixels
    pixels *= planes(balance) * (255 * t.exposure)
    pixels += noise.grain.reshape(pixels.shape[1:]) * np.float32(0.022)
    np.clip(pixels, 0, 255, out=pixels)
    picture = Image.merge("RGB", [Image.fromarray(plane) for plane in pixels.astype(np.uint8)])
    if t.blurry:
        picture = picture.filter(ImageFilter.GaussianBlur(2.8))
    (a, b), (c, d), (x, y) = _camera(t)
    # Pillow counts from pixel corners: half a pixel in, half a pixel out.
    x, y = x + 0.5 - (a + b) / 2, y + 0.5 - (c + d) / 2
    return picture.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, (a, b, x, c, d, y), Image.Resampling.BILINEAR)


def _camera(t: Traits) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """The matrix and the offset that lead from a pixel of the picture to a pixel of the canvas."""
    cos, sin = math.cos(math.radians(t.roll)) / t.scale, math.sin(math.radians(t.roll)) / t.scale
    x, y = EYES[0] + t.shift[0], EYES[1] + t.shift[1]
    return (cos, sin), (-sin, cos), (EYES[0] + MARGIN - cos * x - sin * y, EYES[1] + MARGIN + sin * x - cos * y)


def landmarks(t: Traits) -> Landmarks:
    """Where eyes, nose and mouth are in the picture of these traits."""
    left_mouth, right_mouth = head.mouth_corners(t)
    points = {
        "lefteye": (-head.EYE, 0.0),
        "righteye": (head.EYE, 0.0),
        "nose": head.nose_tip(t),
        "leftmouth": left_mouth,
        "rightmouth": right_mouth,
    }
    (cos, sin), _, _ = _camera(t)
    # The way back of `_camera`: the transpose, scaled twice.
    cos, sin = cos * t.scale**2, sin * t.scale**2
    return {
        name: (round(EYES[0] + t.shift[0] + cos * x - sin * y), round(EYES[1] + t.shift[1] + sin * x + cos * y))
        for name, (x, y) in points.items()
    }
