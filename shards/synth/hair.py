"""The hair of the head: one lit mass of strands, laid once behind the shoulders and once around the face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shards.synth.canvas import Array, Canvas, Noise, bump, column, dome, edge, ellipse, planes, ramp
from shards.synth.head import TOP, Head
from shards.synth.traits import Traits

MIDDLE = -6.0
"""Above this row hair is a dome, below it falls."""


@dataclass(frozen=True)
class Hair:
    """Hair ready to be painted.

    Attributes:
        view: The part of the canvas that holds all of it.
        colour: (3, h, w), shaded.
        mass: Coverage (h, w) of all hair.
        front: Coverage (h, w) of what is nearer than the face.
        shadow: Coverage (h, w) of the shadow it throws on the face.
    """

    view: Canvas
    colour: Array
    mass: Array
    front: Array
    shadow: Array


def comb(canvas: Canvas, t: Traits, head: Head, noise: Noise) -> Hair:
    """Shape and shade the hair of these traits."""
    falls = t.style in ("bob", "long")
    top = TOP - t.volume
    highest = top - 24 if t.style == "updo" else top - 4
    view = canvas.part(head.x - 82, head.x + 82, highest, t.length + 10 if falls else 26)
    x, y = view.x, view.y
    outline = _outline(t, head, y, top, noise)
    sway = t.wave * np.sin(y / (6.5 + t.wave) + 6 * t.part) * ramp(y, -30, 30) if falls else 0 * y
    mass = edge(column(view, head.x + 0.6 * sway, outline), 1.6)
    if falls:
        tips = noise.smooth(0, x * 0.35) * 2.2 + noise.along(1, x * 2) * 1.2
        mass = mass * edge(t.length + tips - y, 5)
    else:
        mass = mass * edge((16.0 if t.male else 8.0) - y, 7)
    if t.style == "updo":
        mass = np.maximum(mass, edge(ellipse(view, head.x + 5 * t.part, top - 5, 15 + t.volume, 13), 2))

    face = _opening(view, t, head, noise)
    share = (x - head.x - sway) / np.maximum(outline, 20)
    if t.fringe in ("side", "centre"):
        # Parted hair lies around the face.
        flow = 1.9 * (face - 0.7 * sway)
    else:
        # Else strands are meridians: lines at a constant share of the way from the middle to the border.
        flow = 95 * (share - 0.5 * t.part * (1 - ramp(y, -60, 0)))
    strands = 0.6 * noise.along(6, flow + 400) + 0.4 * noise.along(7, 0.6 * flow + 0.16 * y + 400)

    above = np.clip((MIDDLE - y) / (MIDDLE - top), 0, 1)
    nx, ny = np.clip(share, -1, 1) * 0.85, -0.8 * above**2
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0.1))
    lx, ly, lz = t.light
    lambert = np.clip(nx * lx + ny * ly + nz * lz, 0, 1)
    band = bump(y - (top + 0.42 * (MIDDLE - top)) - 16 * (share - 0.35 * lx) ** 2, 8.5)
    if falls:
        band = band + 0.55 * bump(y - 38 - 9 * share * share - 1.5 * sway, 12)
    gloss = band * (0.55 + 0.3 * strands) * (0.30 if t.hair in ("black", "brown") else 0.22)
    shade = (0.42 + 0.62 * lambert) * (1 + 0.17 * strands) * (1 - 0.12 * ramp(y, 10, 90))
    if t.wave and falls:
        shade = shade * (1 + 0.11 * np.sin(y / (6.5 + t.wave) + 6 * t.part + 5 * np.abs(share)) * ramp(y, -40, 10))
    sheen = planes((0.9, 0.85, 0.78)) if t.hair != "gray" else planes((0.9, 0.9, 0.92))
    colour = planes(t.hair_colour) * shade
    colour += sheen * (np.maximum(gloss, 0) * (0.35 + 0.65 * max(t.hair_colour)))

    if t.fringe in ("side", "centre"):
        scalp = share - (0.8 * t.part if t.fringe == "side" else 0.0)
        colour *= 1 - 0.4 * bump(scalp, 0.022) * ramp(-y, 30, 50)
    softness = 2.4 if t.fringe in ("bangs", "swept") else 4.5
    front = mass * (1 - edge(face, softness))
    if falls and not t.in_front:
        front = front * (1 - ramp(y, 52, 74))
    shadow = edge(face + 1, 2) * edge(7 - face, 13)
    return Hair(view, colour, mass, front, shadow)


def _outline(t: Traits, head: Head, y: Array, top: float, noise: Noise) -> Array:
    """Half-width (h, 1) of the hair in each row."""
    side = 0.45 * t.volume
    half = (t.width + side) * dome((MIDDLE - y) / (MIDDLE - top), 2.12)
    if t.style == "long":
        half = half + (4 + 0.7 * t.volume) * ramp(y, MIDDLE, 95)
    elif t.style == "bob":
        half = half + (2 + 0.6 * t.volume) * ramp(y, MIDDLE, 0.7 * t.length) - 7 * ramp(y, t.length - 16, t.length + 4)
    else:
        half = half - (side - 1.5) * ramp(y, MIDDLE, 10)
    rough = 0.5 + 0.25 * t.wave if t.style in ("bob", "long") else 0.7
    half = half + rough * noise.smooth(8, y * 0.5) * ramp(half, 5, 30)
    if t.wave and t.style in ("bob", "long"):
        half = half + 0.7 * t.wave * np.sin(y / (7.5 + t.wave) + 4 * t.part) * ramp(y, -20, 40)
    return np.maximum(half, 0)


def _opening(view: Canvas, t: Traits, head: Head, noise: Noise) -> Array:
    """Signed distance (h, w) to the part of the mass through which the face is seen."""
    x, y = view.x, view.y
    u = np.clip((x - head.x) / t.width, -1.1, 1.1)
    jag = noise.smooth(9, x * 0.9 + 300)
    temple = 20 * np.abs(u) ** 5
    part = np.abs(u - t.part)
    if t.fringe == "bangs":
        line = -19.5 + 3 * np.abs(u) + 1.5 * jag + 1.2 * noise.along(10, x * 2 + 300)
    elif t.fringe == "swept":
        toward = 1.0 if t.part < 0 else -1.0
        line = -24 + 11 * u * toward + 16 * np.abs(u) ** 5 + 1.3 * jag
        line = np.where(toward * (u - t.part) < 0.08, line - 12 * ramp(-toward * (u - t.part), -0.08, 0.25), line)
    elif t.fringe == "side":
        line = -51 + (11 if t.style == "short" else 22) * np.minimum(part, 1.2) ** 1.3 + temple + 0.6 * jag
    elif t.fringe == "centre":
        line = -53 + 30 * np.abs(u) ** 1.2 + temple + 0.6 * jag
    else:
        line = -52 + 7 * u * u + temple + 1.1 * jag
    if t.receding:
        line = line - 6 - 7.5 * bump(np.abs(u) - 0.5, 0.2) + 2.5 * bump(u, 0.18)
    # How much of the cheeks the hair covers, and how far from the neck it hangs.
    cover = 5.0 if t.style == "long" else 4.0 if t.style == "bob" else 1.0 if t.male else -1.0
    jaw = head.rows(view)[0]
    at_lips = float(jaw[np.argmin(np.abs(y - 38)), 0])
    side = np.where(y < 38, jaw, np.interp(y, (38, 110), (at_lips, 32))) - cover
    if t.style in ("bob", "long"):
        side = side - 4 * bump(y + 12, 22) + 0.8 * t.wave * np.sin(y / 8 + 6 * t.part) * ramp(y, -5, 30)
    else:
        side = side + 10 * ramp(y, -6, 8)
    opening: Array = np.minimum(y - line, side - np.abs(x - head.x - 2 * t.yaw))
    return opening


def draw_behind(t: Traits, hair: Hair) -> None:
    """The hair behind the neck, in its own shade."""
    if t.hair_shows:
        hair.view.paint(hair.colour * (1 - 0.35 * ramp(hair.view.y, 10, 60)), hair.mass)


def draw_front(canvas: Canvas, t: Traits, head: Head, hair: Hair) -> None:
    """The hair around the face, after its shadow on the skin."""
    if t.hair_shows:
        skin = edge(head.at(hair.view))
        hair.view.tint((0.62, 0.52, 0.50), hair.shadow * skin * (0.35 + 0.4 * t.contrast))
        hair.view.paint(hair.colour, hair.front)


def draw_bald(canvas: Canvas, t: Traits, head: Head) -> None:
    """A bald head shines, and keeps a trace of what was shaven."""
    view = canvas.part(head.x - t.width - 2, head.x + t.width + 2, TOP - 2, 10)
    inside = head.at(view)
    view.glow((1.0, 0.98, 0.94), bump(view.x - head.x - 16 * t.light[0], 12) * bump(view.y - TOP - 14, 6) * 0.2)
    side = ramp(np.abs(view.x - head.x) / t.width, 0.8, 1.0) * bump(view.y + 16, 14)
    view.tint((0.72, 0.68, 0.68), side * edge(inside) * 0.5)
