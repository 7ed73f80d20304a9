"""What is around the head: background, neck and clothes, jewellery, glasses and hats."""

from __future__ import annotations

import numpy as np

from shards.synth.canvas import (
    Array,
    Canvas,
    Colour,
    Noise,
    bump,
    column,
    dome,
    edge,
    ellipse,
    mix,
    planes,
    ramp,
    scaled,
)
from shards.synth.head import EYE, TOP, Head
from shards.synth.traits import Traits


def draw_background(canvas: Canvas, t: Traits, noise: Noise) -> None:
    """A gradient between two colours, soft lights and perhaps a blurred upright edge."""
    shape = noise.curves[11]
    angle = 3 * float(shape[0])
    along = (np.cos(angle) * canvas.x + np.sin(angle) * canvas.y) / 220 + 0.5
    light = np.ones_like(along)
    for i in range(1, 5):
        x, y, size, strength = (float(v) for v in shape[4 * i : 4 * i + 4])
        rows = 0.3 * max(-1.5, min(1.5, strength)) * bump(canvas.y + 40 - 55 * y, 14 + 20 * abs(size))
        light += rows * bump(canvas.x - 60 * x, 14 + 12 * abs(size))
    if shape[30] > 0.2:
        light *= 1 - 0.3 * edge((canvas.x - 75 * shape[31]) * float(np.sign(shape[32])), 14)
    near, far = planes(t.backdrop[0]), planes(t.backdrop[1])
    np.multiply(far - near, ramp(along, 0, 1) * light, out=canvas.pixels)
    canvas.pixels += near * light


def draw_body(canvas: Canvas, t: Traits, head: Head, noise: Noise) -> None:
    """Neck, shoulders and what they wear."""
    neck = (26.0 if t.male else 20.0) + (5.0 if t.chubby else 0.0)
    view = canvas.part(-200, 200, 30, 200)
    x, y = view.x, view.y
    # The chin is above the neck, and the neck leads to wherever the shoulders are.
    middle = 3 * t.yaw + t.lean * ramp(y, 50, 110)
    slope = 0.32 if t.male else 0.24
    half = neck + 2 * ramp(y, 60, 84) + (78 if t.male else 62) * np.clip((y - 80) / 32, 0, 1) ** (1.1 - slope)
    shape = column(view, middle, half.astype(np.float32))
    across = np.clip((x - middle) / half, -1, 1)
    lit = np.clip(0.72 + 0.5 * across * t.light[0] - 0.25 * across * across, 0.3, 1.05)

    shadow = np.asarray(mix(scaled(t.skin, 0.5), (0.35, 0.12, 0.08), 0.15), np.float32)[:, None, None]
    view.paint(shadow + (planes(t.skin) - shadow) * lit, edge(shape))
    # The head keeps the light from the neck.
    below = ramp(y, head.chin + 24, head.chin - 6) * bump(x - middle + 8 * t.light[0], 26)
    view.tint((0.60, 0.47, 0.44), below * edge(shape) * (0.55 + 0.35 * t.contrast))
    collar = ramp(y, 74, 100) * bump(np.abs(x - middle) - 0.25 * (108 - y) - 3, 2.2)
    view.tint((0.82, 0.74, 0.72), collar * edge(shape) * 0.5)

    _draw_clothes(view, t, noise, shape, np.abs(x - middle), neck, lit)


def _draw_clothes(view: Canvas, t: Traits, noise: Noise, shape: Array, out: Array, neck: float, lit: Array) -> None:
    """Cloth over the body `shape` (h, w), which is `out` (h, w) pixels from its middle and `lit` (h, w) bright."""
    x, y = view.x, view.y
    shade = lit * 0.95 + 0.1 + 0.08 * noise.smooth(3, x * 0.12 + y * 0.10 + 300)
    garment = planes(t.cloth_colour) * shade
    if t.clothes in ("crew", "scoop", "vee"):
        if t.clothes != "vee" and noise.curves[11, 40] > 0.8:
            garment = np.where(np.sin(y * 0.8 + 0.006 * x * x) > 0.2, garment, planes(t.accent_colour) * shade)
        wide, start, deep = {"crew": (4, 86, 6), "scoop": (20, 84, 20), "vee": (10, 80, 30)}[t.clothes]
        u = np.clip(out / (neck + wide), 0, 1)
        neckline = y - start - deep * (1 - u if t.clothes == "vee" else 1 - u * u)
        view.paint(garment, edge(np.minimum(shape + 2, neckline), 1.4))
        view.tint(0.78, bump(neckline - 2.6, 1.0) * edge(shape) * 0.6)
        return

    shirt = planes((0.93, 0.94, 0.96)) * shade if t.clothes == "suit" else garment
    view.paint(shirt, edge(np.minimum(shape + 2, y - 76 - 22 * (1 - out / (neck + 3))), 1.4))
    # Two flaps of a collar, lighter than their own shadow.
    flap = np.minimum(0.75 * (out - 0.85 * (100 - y)), np.minimum(106 - 0.55 * out - y, neck + 4 - out))
    view.tint(0.72, edge(flap + 1.6, 2.5) * 0.8)
    view.paint(shirt * 1.06, edge(flap))
    if t.clothes == "suit":
        lapel = out - 0.62 * (122 - y)
        view.paint(garment, edge(np.minimum(shape + 3, lapel), 1.6))
        view.tint(0.6, bump(lapel - 11, 1.1) * ramp(y, 86, 92) * 0.7)
    if t.necktie:
        half = np.where(y < 92, 6.5 - 0.22 * (y - 80), 4.2 + 0.11 * (y - 92))
        tie = edge(np.minimum(half - out, y - 80), 1.3)
        stripes = 1 + 0.22 * np.sign(np.sin((x + y) * 0.75)) * float(noise.curves[11, 41] > 0)
        view.paint(planes(t.accent_colour) * stripes * shade, tie)
        view.tint(0.6, bump(y - 92, 0.9) * tie)


def draw_necklace(canvas: Canvas, t: Traits, head: Head, noise: Noise) -> None:
    """A chain around the neck, with a pendant more often than not."""
    if not t.necklace:
        return
    middle = 3 * t.yaw + 0.7 * t.lean
    view = canvas.part(middle - 26, middle + 26, 74, 110)
    chain = 97 - 17 * ((view.x - middle) / 22) ** 2
    beads = 0.75 + 0.25 * np.sin(view.x * 2.2)
    view.tint(0.6, bump(view.y - chain - 2, 1.3) * edge(22.5 - np.abs(view.x - middle)) * 0.6)
    view.paint(planes(t.metal) * beads, edge(1.7 - np.abs(view.y - chain), 1.3) * edge(22.5 - np.abs(view.x - middle)))
    if noise.curves[11, 42] > -0.5:
        view.paint(scaled(t.metal, 0.95), edge(ellipse(view, middle, 100.0, 3.2, 4.0)))


def draw_earrings(canvas: Canvas, t: Traits, head: Head, noise: Noise) -> None:
    """A pair of drops or rings below the ears."""
    if not t.earrings:
        return
    ring = noise.curves[11, 43] > 0
    for side in (-1, 1):
        x = head.x + side * (t.width + 1.5)
        view = canvas.part(x - 10, x + 10, 14, 42)
        shape = ellipse(view, x, 26.5, 4.8, 7.0) if ring else ellipse(view, x, 25.0, 3.2, 6.0)
        cover = edge(1.1 - np.abs(shape - 1), 1.2) if ring else edge(shape)
        view.tint(0.55, edge(shape + 1.5, 3) * 0.5)
        view.paint(t.metal, cover)
        view.glow((1.0, 1.0, 1.0), bump(view.x - x + 1, 1.2) * bump(view.y - 23, 1.5) * cover * 0.5)


def draw_glasses(canvas: Canvas, t: Traits, head: Head) -> None:
    """Frames and lenses: clear ones with a reflection, or dark ones."""
    if t.glasses == "none":
        return
    a, b, roundness, rim = t.frame
    y = 1.5
    view = canvas.part(head.x - t.width - 4, head.x + t.width + 4, -18, 22)
    for side in (-1, 1):
        x = side * (EYE + 0.5) + 0.6 * t.yaw
        radius = (np.abs((view.x - x) / a) ** roundness + np.abs((view.y - y) / b) ** roundness) ** (1 / roundness)
        lens = (1 - radius) * b
        view.tint((0.7, 0.62, 0.6), bump(lens + 2.2, 1.8) * (view.y > y) * 0.4)
        if t.glasses == "sun":
            dark = mix((0.05, 0.05, 0.06), t.frame_colour, 0.15)
            view.paint(planes(dark) * (1 + 1.3 * ramp(view.y, y - b, y + b)), edge(lens) * 0.94)
        streak = bump((view.x - x) * 0.8 + (view.y - y) + 3 - 4 * t.light[0], 2.2)
        view.glow((0.85, 0.92, 1.0), streak * edge(lens, 3) * (0.22 if t.glasses == "sun" else 0.13))
        view.paint(t.frame_colour, edge(rim - np.abs(lens), 1.2))
        # The arm runs from the outer rim to the ear.
        start, stop = sorted((x + side * a * 0.94, head.x + side * t.width))
        arm = edge(1.1 - np.abs(view.y - y + 0.45 * b), 1.2) * edge(np.minimum(view.x - start, stop - view.x))
        view.paint(t.frame_colour, arm * 0.95)
    bridge = y - 0.3 * b - 2.2 * np.cos(np.clip(view.x / 7, -1.5, 1.5))
    half = EYE - a + 1.5
    view.paint(t.frame_colour, edge(0.8 * rim + 0.2 - np.abs(view.y - bridge), 1.2) * edge(half - np.abs(view.x), 1.5))


def draw_hat(canvas: Canvas, t: Traits, head: Head, noise: Noise) -> None:
    """A knitted hat, a cap or a hat with a brim all around, and its shadow on the forehead."""
    if t.hat == "none":
        return
    canvas = canvas.part(head.x - 95, head.x + 95, TOP - 26, 0)
    x, y = canvas.x, canvas.y
    low = -27.0 if t.hat == "beanie" else -30.0
    wide = t.width + (5.0 if t.hat == "beanie" else 4.0)
    top = TOP - (16.0 if t.hat == "beanie" else 13.0 if t.hat == "cap" else 22.0)
    power = 2.2 if t.hat != "brim" else 4.0
    rise = (low - y) / (low - top)
    half = (wide * (1 - (0.16 * np.clip(rise, 0, 1) if t.hat == "brim" else 0)) * dome(rise, power)).astype(np.float32)
    across = np.clip((x - head.x) / np.maximum(half, 10), -1, 1)
    hem = low + 6 * (1 - across * across) - 4
    shape = np.minimum(column(canvas, head.x, half), hem - y)

    shadow_depth = 12 if t.hat == "beanie" else 22
    view = canvas.part(head.x - t.width, head.x + t.width, low - 4, low + 30)
    under = 1 - ramp(view.y, low, low + shadow_depth)
    view.tint((0.55, 0.47, 0.46), under * edge(head.at(view)) * (0.5 + 0.4 * t.contrast))

    lit = np.clip(
        0.68 + 0.45 * across * t.light[0] - 0.3 * across**2 + 0.3 * np.clip(rise, 0, 1) * -t.light[1], 0.2, 1.2
    )
    cloth = planes(t.hat_colour) * (lit + 0.05 * noise.smooth(3, x * 0.2 + y * 0.15 + 300))
    if t.hat == "beanie":
        cloth = cloth * (1 + 0.13 * np.sin(across * 34))
    canvas.paint(cloth, edge(shape, 1.4))
    if t.hat == "beanie":
        fold = edge(np.minimum(shape, 17 - (hem - y)), 1.4)
        canvas.paint(cloth * 1.14, fold)
        canvas.tint(0.65, bump(hem - y - 17.5, 1.2) * edge(shape))
    elif t.hat == "cap":
        for seam in (-0.5, 0.0, 0.5):
            canvas.tint(0.8, bump(across - seam, 0.018) * edge(shape) * 0.7)
        _brim(canvas, t, head, (head.x + 9 * t.yaw, low + 1.5), (t.width * 0.92, 8.5), t.accent_colour)
    else:
        canvas.paint(planes(t.accent_colour) * lit, edge(np.minimum(shape, 11 - (hem - y)), 1.4))
        _brim(canvas, t, head, (head.x, low + 0.5), (t.width + 27, 9.0), t.hat_colour)


def _brim(
    canvas: Canvas, t: Traits, head: Head, at: tuple[float, float], size: tuple[float, float], colour: Colour
) -> None:
    """An ellipse seen nearly edge on: dark beneath, light along its upper border."""
    view = canvas.part(at[0] - size[0] - 3, at[0] + size[0] + 3, at[1] - size[1] - 3, at[1] + size[1] + 3)
    shape: Array = ellipse(view, *at, *size)
    light = (
        0.95 - 0.45 * ramp(view.y, at[1] - size[1], at[1] + size[1]) + 0.2 * t.light[0] * (view.x - head.x) / size[0]
    )
    view.paint(planes(colour) * light, edge(shape, 1.4))
