"""A small painter: a float picture with coordinates that start between the eyes, and soft masks to paint through."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Colour = tuple[float, float, float]

WIDTH, HEIGHT = 178, 218
EYES = (88.5, 111.0)
"""The point between the eyes of an aligned CelebA image, in pixels: origin of all coordinates of the drawing."""
MARGIN = 13
"""Pixels drawn beyond each border, so that the picture can be turned and shifted without showing an edge."""


class Canvas:
    """A picture, or a rectangular view of one, and where its pixels are.

    Attributes:
        pixels: float32 (3, h, w), colours in 0..1.
        x: float32 (1, w), pixels to the right of the point between the eyes.
        y: float32 (h, 1), pixels below it.
    """

    def __init__(self, pixels: Array, x: Array, y: Array) -> None:
        self.pixels, self.x, self.y = pixels, x, y

    @classmethod
    def blank(cls) -> Canvas:
        """A black picture of CelebA's size plus the margin all around."""
        x = np.arange(WIDTH + 2 * MARGIN, dtype=np.float32)[None, :] - MARGIN - EYES[0]
        y = np.arange(HEIGHT + 2 * MARGIN, dtype=np.float32)[:, None] - MARGIN - EYES[1]
        return cls(np.zeros((3, y.size, x.size), np.float32), x, y)

    def part(self, left: float, right: float, top: float, bottom: float) -> Canvas:
        """The view of the rectangle between these coordinates; painting on it paints on this canvas.

        Left and right may be swapped, so that what is on both sides of a face can be drawn by one expression.
        """
        columns = slice(*np.searchsorted(self.x[0], sorted((left, right))))
        rows = slice(*np.searchsorted(self.y[:, 0], (top, bottom)))
        return Canvas(self.pixels[:, rows, columns], self.x[:, columns], self.y[rows])

    def paint(self, colour: Colour | Array, alpha: Array) -> None:
        """Lay a colour, (3,) or (3, h, w), over the picture where alpha (h, w) is 1."""
        self.pixels *= 1 - alpha
        self.pixels += planes(colour) * alpha

    def tint(self, factor: float | Colour, alpha: Array) -> None:
        """Multiply the picture by a factor, one or one a channel, where alpha (h, w) is 1: shadows and glazes."""
        colour = (factor, factor, factor) if isinstance(factor, float) else factor
        self.pixels *= 1 + (planes(colour) - 1) * alpha

    def glow(self, colour: Colour, amount: Array) -> None:
        """Add light of a colour, amount (h, w) times."""
        self.pixels += planes(colour) * amount


def planes(colour: Colour | Array) -> Array:
    """A colour as float32 (3, 1, 1); a picture stays as it is."""
    field = np.asarray(colour, np.float32)
    return field[:, None, None] if field.ndim == 1 else field


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """The colour that lies `amount` of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * amount, a[1] + (b[1] - a[1]) * amount, a[2] + (b[2] - a[2]) * amount)


def scaled(colour: Colour, factor: float) -> Colour:
    """The colour made brighter or darker."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def edge(distance: Array, softness: float = 1.2) -> Array:
    """Coverage 0..1 from a signed distance in pixels, positive inside; the border is `softness` pixels wide."""
    covered: Array = np.clip(distance * (1 / softness) + 0.5, 0, 1)
    return covered


def bump(distance: Array, sigma: float) -> Array:
    """A Gaussian of height 1."""
    return np.exp(distance * distance * (-0.5 / sigma**2))


def ramp(value: Array, start: float, stop: float) -> Array:
    """0 before `start`, 1 after `stop`, smooth between."""
    t = np.clip((value - start) * (1 / (stop - start)), 0, 1)
    return t * t * (3 - 2 * t)


def dome(t: Array, power: float) -> Array:
    """Half-width 1..0 of a superellipse at height t = 0..1 above its middle."""
    return (1 - np.clip(t, 0, 1) ** power) ** (1 / power)


def ellipse(view: Canvas, x: float, y: float, a: float, b: float) -> Array:
    """Signed distance (h, w) to an ellipse of half-axes a, b around (x, y)."""
    radius: Array = np.sqrt(((view.x - x) / a) ** 2 + ((view.y - y) / b) ** 2)
    return (1 - radius) * min(a, b)


def column(view: Canvas, centre: Array | float, half: Array) -> Array:
    """Signed distance (h, w) to the shape that reaches `half` (h, 1) to either side of `centre` in each row."""
    slope = np.gradient(half[:, 0])[:, None]
    # A row of no width is outside, however near its middle.
    reach = np.where(half > 0, half, -4)
    distance: Array = (reach - np.abs(view.x - centre)) * (1 / np.sqrt(1 + slope * slope))
    return distance


class Noise:
    """Random curves, drawn once for a picture, so that toggling one trait leaves all other details as they were."""

    LENGTH = 256

    def __init__(self, rng: np.random.Generator) -> None:
        white = rng.standard_normal((12, self.LENGTH)).astype(np.float32)
        smooth = white.copy()
        for shift, weight in ((1, 0.8), (2, 0.4), (3, 0.1)):
            smooth += weight * (np.roll(white, shift, 1) + np.roll(white, -shift, 1))
        self.curves = smooth / smooth.std(axis=1, keepdims=True)
        self.grain = rng.integers(-128, 128, (HEIGHT + 2 * MARGIN) * (WIDTH + 2 * MARGIN), np.int8)

    def along(self, curve: int, position: Array) -> Array:
        """Values around 0 with deviation 1 of one curve; features are about three units of `position` long."""
        values: Array = self.curves[curve].take(position.astype(np.int32) & (self.LENGTH - 1))
        return values

    def smooth(self, curve: int, position: Array) -> Array:
        """The same curve without steps, for positions that change by less than one a pixel."""
        floor = np.floor(position)
        low, high = self.along(curve, floor), self.along(curve, floor + 1)
        between: Array = low + (high - low) * (position - floor)
        return between
