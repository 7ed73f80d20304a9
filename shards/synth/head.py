"""The head: its outline, its skin under the light, and eyes, brows, nose, mouth and beard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shards.synth.canvas import Array, Canvas, Colour, Noise, bump, column, dome, edge, ellipse, mix, ramp, scaled
from shards.synth.traits import Traits

TOP = -64.0
"""Where the skull ends, above the eyes."""
CHEEK = 8.0
"""Where the face is widest."""
EYE = 19.5
"""How far each eye is from the point between them."""
MOUTH = 41.0


@dataclass(frozen=True)
class Head:
    """The outline of a head on a canvas, and where turning it moves what is on it."""

    x: float  # middle of the skull
    width: float  # half-width at the cheekbones
    chin: float  # y of the chin
    nose: tuple[float, float]
    mouth: tuple[float, float]
    half: Array  # half-width (h, 1) of each row
    centre: Array  # middle (h, 1) of each row
    inside: Array  # signed distance (h, w) to the outline
    origin: tuple[float, float]  # coordinates of the canvas's first pixel

    @classmethod
    def of(cls, canvas: Canvas, t: Traits) -> Head:
        """The head of these traits.

        The eyes stay where they are: turning the head moves its outline one way and the nose the other.
        """
        x = -8.0 * t.yaw
        chin = t.chin + (2.5 if t.mouth_open else 0.0)
        below = np.clip((canvas.y - CHEEK) / (chin - CHEEK), 0, 1)
        half = np.where(
            canvas.y < CHEEK,
            dome((CHEEK - canvas.y) / (CHEEK - TOP), 2.25),
            (1 - below**t.jaw) ** 0.6,
        )
        half = (half * t.width).astype(np.float32)
        centre = x + 11.0 * t.yaw * ramp(canvas.y, 0, chin)
        return cls(
            x=x,
            width=t.width,
            chin=chin,
            nose=nose_tip(t),
            mouth=(3.5 * t.yaw, MOUTH),
            half=half,
            centre=centre,
            inside=column(canvas, centre, half),
            origin=(float(canvas.x[0, 0]), float(canvas.y[0, 0])),
        )

    def at(self, view: Canvas) -> Array:
        """The signed distance (h, w) to the outline within a part of the canvas."""
        top, left = self._corner(view)
        return self.inside[top : top + view.y.size, left : left + view.x.size]

    def rows(self, view: Canvas) -> tuple[Array, Array]:
        """Half-width and middle, each (h, 1), within a part of the canvas."""
        top, _ = self._corner(view)
        rows = slice(top, top + view.y.size)
        return self.half[rows], self.centre[rows]

    def _corner(self, view: Canvas) -> tuple[int, int]:
        x, y = self.origin
        return int(view.y[0, 0] - y), int(view.x[0, 0] - x)


def draw_ears(canvas: Canvas, t: Traits, head: Head) -> None:
    """Two ears, where no long hair is over them."""
    if t.style in ("bob", "long"):
        return
    for side in (-1, 1):
        x = head.x + side * (t.width - 0.5)
        view = canvas.part(x - 12, x + 12, -16, 28)
        shape = ellipse(view, x, 5 + 0.8 * side * t.roll, 6.5, 13.5)
        lit = 0.8 + 0.16 * side * t.light[0]
        view.paint(scaled(t.skin, lit), edge(shape))
        view.tint((0.72, 0.60, 0.58), edge(shape - 2.5, 4) * bump(view.x - x - side, 3) * 0.8)


def draw_skin(canvas: Canvas, t: Traits, head: Head) -> None:
    """The face as a lit surface: an ellipsoid with nose, sockets, cheeks, lips and chin as bumps on it."""
    view = canvas.part(head.x - t.width - 12, head.x + t.width + 12, TOP - 3, head.chin + 4)
    inside = head.at(view)
    half, centre = head.rows(view)
    across = np.clip((view.x - centre) / np.maximum(half, 8), -1, 1)
    upper = np.clip((CHEEK - view.y) / (CHEEK - TOP), 0, 1)
    lower = np.clip((view.y - CHEEK) / (head.chin - CHEEK), 0, 1)
    nx = across * np.abs(across) ** 0.7 * 0.93
    ny = 0.75 * lower**3 - 0.8 * upper**2.2
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0.06))

    slope_x, slope_y = _relief(view, t, head)
    nx, ny = nx - slope_x, ny - slope_y
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    lx, ly, lz = t.light
    lambert = np.clip((nx * lx + ny * ly + nz * lz) / length, 0, 1)
    # The half-way vector between the light and the viewer gives the sheen of skin.
    hx, hy, hz = lx, ly, lz + 1
    norm = (hx * hx + hy * hy + hz * hz) ** 0.5
    sheen = np.clip((nx * hx + ny * hy + nz * hz) / (length * norm), 0, 1) ** 24

    # Shadows on skin are redder than the skin: light has been through it.
    depth = 0.42 + 0.5 * t.contrast
    shadow = np.asarray(t.skin, np.float32) * np.asarray((1 - 0.62 * depth, 1 - 0.74 * depth, 1 - 0.78 * depth))
    lit = np.asarray(scaled(t.skin, 1.06), np.float32)
    shadow, lit = shadow.astype(np.float32)[:, None, None], lit[:, None, None]
    view.paint(shadow + (lit - shadow) * lambert**0.8, edge(inside))
    # Turning away from the viewer darkens the border softly, whatever the light.
    view.tint((0.80, 0.70, 0.68), edge(inside, 1) * (1 - edge(inside - 4, 11)) * 0.55)
    view.glow((1.0, 0.96, 0.9), sheen * edge(inside, 3) * 0.11)

    blush = 0.62 if t.rosy else 0.1 if t.makeup else 0.03
    blush_colour = mix(t.skin, (0.93, 0.30, 0.32), 0.75)
    for side in (-1, 1):
        x = head.x * 0.4 + side * 29.0
        patch = view.part(x - 24, x + 24, 2, 44)
        cheek = bump(patch.x - x, 8.5) * bump(patch.y - 22, 6.5) * edge(head.at(patch))
        patch.paint(blush_colour, cheek * blush)


def _relief(view: Canvas, t: Traits, head: Head) -> tuple[Array, Array]:
    """The slopes (h, w) in x and y of all bumps on the face."""
    nose_x, nose_y = head.nose
    mouth_x, mouth_y = head.mouth
    w = t.nose_width
    smile = 1.0 if t.smiling else 0.0
    cheek = 3.2 + 2.6 * smile + (3.4 if t.cheekbones else 0.0)
    full = 2.0 if t.chubby else 0.0
    old = max(0.0, t.age - 0.35)
    # x, y, width, height (standard deviations), and how far it stands out, all in pixels
    bumps = [
        (nose_x * 0.45, 2.0, 4.2 * w, 10.0, 3.4),
        (nose_x * 0.8, 14.0, 4.6 * w, 7.0, 3.6),
        (nose_x, nose_y - 2, 5.0 * w, 4.4, 6.2 + (1.5 if t.pointy_nose else 0.0)),
        (nose_x - 7.6 * w, nose_y + 0.5, 3.1 * w, 3.2, 2.9),
        (nose_x + 7.6 * w, nose_y + 0.5, 3.1 * w, 3.2, 2.9),
        (-EYE, 0.0, 10.0, 6.5, -4.2),
        (EYE, 0.0, 10.0, 6.5, -4.2),
        (-EYE, -15.0, 11.0, 5.0, 2.6 if t.male else 1.4),
        (EYE, -15.0, 11.0, 5.0, 2.6 if t.male else 1.4),
        (-30.0 + head.x * 0.4, 19.0 - 2 * smile, 8.5, 7.5, cheek),
        (30.0 + head.x * 0.4, 19.0 - 2 * smile, 8.5, 7.5, cheek),
        (-25.0, 42.0, 10.0, 10.0, full - 2.2 * t.cheekbones - 3.2 * old),
        (25.0, 42.0, 10.0, 10.0, full - 2.2 * t.cheekbones - 3.2 * old),
        (mouth_x, mouth_y, 13.0, 9.0, 2.6),
        (mouth_x, mouth_y + 12.5, 9.0, 3.2, -2.0),
        (mouth_x + 1.5 * t.yaw, head.chin - 10, 9.0, 6.0, 3.2),
        (0.0, -36.0, 24.0, 13.0, 4.0),
    ]
    x, y, sx, sy, height = (np.asarray(column, np.float32)[:, None] for column in zip(*bumps, strict=True))
    gx, gy = bump_rows(view.x - x, sx), bump_rows(view.y.T - y, sy)
    slope_x = np.einsum("kh,kw->hw", gy * height, (x - view.x) / sx**2 * gx)
    slope_y = np.einsum("kh,kw->hw", (y - view.y.T) / sy**2 * gy * height, gx)
    return slope_x, slope_y


def bump_rows(distance: Array, sigma: Array) -> Array:
    """Gaussians of height 1, one a row."""
    return np.exp(-0.5 * (distance / sigma) ** 2)


def draw_age(canvas: Canvas, t: Traits, head: Head) -> None:
    """Lines that years, laughing, short nights and weight draw on a face."""
    fold = (0.74, 0.62, 0.58)
    mouth_x = head.mouth[0]
    depth = 0.75 * max(0.0, t.age - 0.3) + (0.3 if t.smiling else 0.0)
    for side in (-1, 1):
        # From the wing of the nose around the corner of the mouth.
        view = canvas.part(head.nose[0] + side * 7, head.nose[0] + side * 34, 26, 50)
        along = (view.y - 28) / 20
        line = head.nose[0] + side * (10 * t.nose_width + (t.mouth_width - 4) * along - 3 * along**2)
        view.tint(fold, bump(view.x - line, 1.7) * ramp(along, -0.1, 0.2) * (1 - ramp(along, 0.6, 1.05)) * depth)
        if t.bags:
            view = canvas.part(side * EYE - 13, side * EYE + 13, 4, 18)
            arc = 10.5 - 4.0 * ((view.x - side * EYE) / 12) ** 2
            view.tint((0.62, 0.52, 0.55), bump(view.y - arc, 1.3) * bump(view.x - side * EYE, 6.5) * 0.85)
            view.tint((0.78, 0.68, 0.74), bump(view.y - 6.5, 2.5) * bump(view.x - side * EYE, 7) * 0.75)
        if not t.young:
            view = canvas.part(side * 31, side * 43, -8, 10)
            out = np.abs(view.x) - 31
            for angle in (-0.5, 0.0, 0.45):
                view.tint(
                    fold, bump(view.y - 1 - angle * out, 0.8) * ramp(out, 0, 3) * (1 - ramp(out, 6, 12)) * t.age * 0.6
                )
    if not t.young:
        view = canvas.part(-28, 28, -45, -18)
        for i, y in enumerate((-40.0, -33.0, -26.0)):
            arc = y + (0.004 + 0.001 * i) * view.x**2 + 0.5 * t.yaw * np.sin(view.x / 9 + i)
            view.tint(fold, bump(view.y - arc, 0.9) * (1 - ramp(np.abs(view.x), 12, 27)) * (t.age - 0.2) * 0.8)
    if t.double_chin:
        view = canvas.part(mouth_x - 34, mouth_x + 34, head.chin - 12, head.chin + 14)
        arc = head.chin - 3 - 0.006 * (view.x - mouth_x) ** 2
        view.tint((0.62, 0.5, 0.48), bump(view.y - arc, 1.8) * bump(view.x - mouth_x, 13) * 0.9)


def draw_eyes(canvas: Canvas, t: Traits, head: Head) -> None:
    """Both eyes with lids, lashes and make-up."""
    for side in (-1, 1):
        # The eye on the side turned away is seen narrower.
        width = t.eye_width * (1 - 0.12 * max(0.0, side * t.yaw))
        height = t.eye_height * (0.86 if t.smiling else 1.0)
        view = canvas.part(side * EYE - 20, side * EYE + 20, -19, 14)
        x = (view.x - side * EYE) / width
        arch = np.maximum(1 - x * x, 0)
        tilt = -t.eye_tilt * side * x
        upper = tilt - height * arch**0.72
        lower = tilt + 0.52 * height * arch**0.8
        within = edge(1 - np.abs(x), 0.12)
        opening = edge(np.minimum(view.y - upper, lower - view.y), 1.1) * within

        if t.makeup:
            lid = ramp(view.y, -11, -3) * (1 - ramp(view.y - upper, 0, 3)) * bump(x + 0.0, 0.62)
            view.paint(t.shadow_colour, lid * 0.72)
        crease = bump(view.y - upper + 2.6 + 0.25 * height, 0.9) * edge(1.0 - np.abs(x), 0.5)
        view.tint((0.55, 0.44, 0.42), crease * 0.6)
        view.tint((0.7, 0.55, 0.52), bump(view.y - lower - 0.6, 0.9) * within * 0.5)

        white = 0.86 - 0.34 * np.clip(1 - (view.y - upper) / 3.5, 0, 1) - 0.1 * x * x
        view.paint(np.stack((white, white * 0.97, white * 0.95)), opening)
        gaze_x, gaze_y = side * EYE + t.gaze[0] + 0.8 * t.yaw, t.gaze[1] - 0.12 * height
        radius = np.sqrt((view.x - gaze_x) ** 2 + (view.y - gaze_y) ** 2)
        size = 0.47 * t.eye_width
        view.paint(t.eye_colour, edge(size - radius) * opening)
        view.tint(0.35, edge(size - radius) * edge(radius - size + 1.5, 1.8) * opening)
        view.tint(0.7, edge(size - radius) * ramp(-view.y, -1, 4) * opening)
        view.paint((0.02, 0.02, 0.025), edge(size * 0.46 - radius) * opening)
        spark_x, spark_y = gaze_x + 1.9 * t.light[0], gaze_y - 1.7
        spark = edge(1.25 - np.sqrt((view.x - spark_x) ** 2 + (view.y - spark_y) ** 2), 1.4)
        view.paint((0.97, 0.97, 1.0), spark * opening * 0.9)

        thick = 1.5 if t.makeup else 0.8 if t.male else 1.15
        lash = edge(thick - np.abs(view.y - upper + 0.3), 1.2) * edge(1.04 - np.abs(x), 0.1)
        view.paint((0.07, 0.05, 0.05), lash * (0.75 if t.male else 0.95))
        if not t.male:
            # The outer corner's lashes reach beyond the lid.
            out = side * x
            wing = edge(1.0 - np.abs(view.y - tilt + 3.4 * (out - 0.85) * width / 6), 1.2) * edge(out - 0.8, 0.1)
            view.paint((0.07, 0.05, 0.05), wing * edge(1.32 - out, 0.15) * (0.9 if t.makeup else 0.6))


def draw_brows(canvas: Canvas, t: Traits, noise: Noise) -> None:
    """Both eyebrows, darker than fair hair and less dark than black hair."""
    tone = (0.42, 0.41, 0.41) if t.hair == "gray" else mix(scaled(t.hair_colour, 0.55), (0.14, 0.09, 0.07), 0.45)
    for side in (-1, 1):
        view = canvas.part(side * 5, side * 37, -30, -5)
        along = (side * view.x - 7.5) / 25.5
        inner = np.clip(along, 0, 1)
        rise = 5.2 if t.arched else 1.8
        middle = -t.brow_height + 2.2 - rise * np.sin(np.pi * inner**1.15 * 0.85) + 1.2 * inner
        thick = t.brow_thickness * (0.75 + 0.5 * inner - 1.0 * inner**2.2)
        shape = edge(thick - np.abs(view.y - middle), 2.0) * edge(np.minimum(along, 1 - along), 0.12)
        hairs = 0.82 + 0.14 * noise.along(2 + (side > 0), view.x * 3 * side + view.y * 1.6)
        view.paint(tone, np.clip(shape * hairs, 0, 1) * (0.95 if t.bushy else 0.8 if t.male or t.makeup else 0.66))


def draw_nose(canvas: Canvas, t: Traits, head: Head) -> None:
    """What relief alone does not give a nose: nostrils, the shadow beneath and a highlight on its tip."""
    x, y = head.nose
    w = t.nose_width
    view = canvas.part(x - 16, x + 16, -6, 36)
    under = bump(view.y - y - 4.6, 2.0) * bump(view.x - x, 6.2 * w)
    view.tint((0.55, 0.42, 0.40), under * 0.75)
    for side in (-1, 1):
        nostril = ellipse(view, x + side * 4.3 * w + 0.8 * t.yaw, y + 3.6, 2.3 * w, 1.3)
        view.paint(scaled(t.skin, 0.22), edge(nostril, 1.5) * 0.85)
        wing = x + side * 9.6 * w
        view.tint((0.62, 0.48, 0.46), bump(view.x - wing, 1.2) * bump(view.y - y - 0.8, 2.8) * 0.75)
        flank = x * 0.7 + side * (4.5 * w + 1.0)
        darker = 0.3 if side * t.light[0] < 0 else 0.08
        view.tint((0.68, 0.56, 0.52), bump(view.x - flank, 2.3) * bump(view.y - 10, 10) * darker)
    glint_x = x + 1.3 * t.light[0]
    glint = bump(view.x - glint_x, 1.7 * w) * (bump(view.y - y + 2.5, 2.0) + 0.4 * bump(view.y - 10, 7))
    view.glow((1.0, 0.97, 0.93), glint * 0.17)


def nose_tip(t: Traits) -> tuple[float, float]:
    """Where the tip of the nose is."""
    return 8.0 * t.yaw, 25.0


def mouth_corners(t: Traits) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the left and the right corner of the mouth are."""
    x, y = 3.5 * t.yaw, MOUTH
    half = t.mouth_width + (2.6 if t.smiling else 0.0)
    return (x - half, y - 0.55 * t.smile), (x + half, y - 0.55 * t.smile)


def draw_mouth(canvas: Canvas, t: Traits, head: Head) -> None:
    """Lips, and between them teeth and darkness where they are parted."""
    (left, _), (right, _) = mouth_corners(t)
    centre, half = (left + right) / 2, (right - left) / 2
    view = canvas.part(left - 3, right + 3, 26, 66)
    x = (view.x - centre) / half
    arch = np.maximum(1 - x * x, 0)
    seam = head.mouth[1] + t.smile * (0.45 - x * x)
    upper_seam = seam - 0.4 * t.gap * arch
    lower_seam = seam + 0.6 * t.gap * arch
    stretch = 0.85 if t.smiling else 1.0
    bow = 1 - 0.28 * bump(x, 0.16)
    top = upper_seam - (0.72 if t.male else 0.8) * t.lips * stretch * arch**0.75 * bow
    bottom = lower_seam + t.lips * stretch * arch**0.7
    within = edge(1 - np.abs(x), 0.08)

    strength = 0.95 if t.lipstick else 0.7
    upper = edge(np.minimum(view.y - top, upper_seam - view.y), 1.3) * within
    lower = edge(np.minimum(view.y - lower_seam, bottom - view.y), 1.3) * within
    view.tint((0.72, 0.6, 0.57), bump(view.y - bottom - 2.2, 1.8) * bump(x, 0.42) * 0.6)
    view.paint(scaled(t.lip_colour, 0.74 + 0.1 * t.light[1]), upper * strength)
    view.paint(scaled(t.lip_colour, 0.98), lower * strength)
    shine = bump(view.y - lower_seam - 0.45 * t.lips, 1.0 + 0.12 * t.lips) * bump(x - 0.25 * t.light[0], 0.34)
    view.glow((1.0, 0.92, 0.9), shine * lower * (0.22 if t.lipstick else 0.1))
    if t.mouth_open:
        parted = edge(np.minimum(view.y - upper_seam, lower_seam - view.y), 1.1) * within
        view.paint((0.16, 0.045, 0.05), parted)
        share = 0.78 if t.smiling else 0.42
        teeth = edge(np.minimum(view.y - upper_seam - 0.3, upper_seam + share * t.gap * arch - view.y), 1.3)
        ivory = 0.93 - 0.22 * x * x
        view.paint(np.stack((ivory + 0 * view.y, ivory * 0.98 + 0 * view.y, ivory * 0.93 + 0 * view.y)), teeth * parted)
        gaps = np.abs(np.sin(x * 8.5)) ** 0.3
        view.tint(0.86, (1 - gaps) * teeth * parted)
    else:
        view.paint(scaled(t.lip_colour, 0.3), bump(view.y - seam, 0.75) * within * 0.85)
    for side in (-1, 1):
        corner = bump(x - side, 0.09) * bump(view.y - seam, 1.7)
        view.tint((0.5, 0.38, 0.36), corner * (0.75 if t.smiling else 0.5))


def draw_facial_hair(canvas: Canvas, t: Traits, head: Head, noise: Noise) -> None:
    """Stubble, sideburns, mustache, goatee or a full beard; the mouth is drawn on top of it."""
    if t.facial_hair == "none":
        return
    view = canvas.part(head.x - t.width - 8, head.x + t.width + 8, -14, head.chin + 12)
    inside = head.at(view)
    half, centre = head.rows(view)
    across = np.abs(view.x - centre) / np.maximum(half, 20)
    mouth_x, mouth_y = head.mouth
    from_mouth = np.abs(view.x - mouth_x)
    kind = t.facial_hair

    jaw = view.y - 44 + 46 * np.clip((across - 0.45) / 0.5, 0, 1)
    side = edge(np.minimum(inside, np.minimum(0.6 * (view.y + 10), 26 - view.y)), 9) * edge(across - 0.87, 0.12)
    arc = head.nose[1] + 10.3 + 0.016 * from_mouth**2 - 0.5 * t.smile * (from_mouth / 18) ** 2
    mustache = edge(4.3 - np.abs(view.y - arc) - 0.006 * from_mouth**2, 2.5) * edge(t.mouth_width + 3.5 - from_mouth, 4)
    chin = edge(np.minimum(ellipse(view, mouth_x, head.chin - 9, 13.5, 15), view.y - mouth_y - 8), 4) * edge(
        inside + 4, 3
    )
    ring = bump(from_mouth - t.mouth_width - 3.5, 2.4) * edge(np.minimum(view.y - 37, head.chin - 4 - view.y), 6)
    whole = np.maximum(edge(jaw, 6) * edge(inside + 3.5, 3), mustache)

    cover = {
        "stubble": np.maximum(edge(jaw, 12) * edge(inside, 2), mustache),
        "sideburns": side,
        "mustache": mustache,
        "goatee": chin,
        "circle": np.maximum(np.maximum(chin, mustache), ring),
        "full": np.maximum(whole, side),
    }[kind]
    # A beard is darker and redder than the hair of the head, until it is grey.
    colour: Colour = t.hair_colour
    if t.hair != "gray":
        colour = mix(scaled(colour, 0.62), (0.26, 0.10, 0.05), 0.4 * max(colour))
    strands = noise.along(4, (view.x - mouth_x) * (3.0 + 0.01 * view.y) + view.y * 0.9)
    strands = 0.6 * strands + 0.4 * noise.along(5, view.x * 2.1 - view.y * 1.7)
    if kind == "stubble":
        view.tint((0.60, 0.60, 0.66), np.clip(cover * (0.8 + 0.1 * strands), 0, 1))
        return
    light = 0.85 + 0.25 * np.clip(-t.light[1], 0, 1) * ramp(view.y, head.chin, mouth_y) + 0.16 * strands
    light = light + 0.15 * t.light[0] * np.clip((view.x - head.x) / t.width, -1, 1)
    view.paint(np.asarray(colour, np.float32)[:, None, None] * light, np.clip(cover * (0.9 + 0.07 * strands), 0, 1))
