"""Who is drawn: the traits of one face, sampled first; the drawing and the 40 attributes both follow from them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeVar

import numpy as np

from shards.synth.canvas import Colour, mix, scaled

ATTRIBUTES = tuple(
    """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young""".split()  # noqa: SIM905 (forty quoted names read worse)
)
"""CelebA's attribute names, in CelebA's order."""

HairColour = Literal["black", "brown", "blond", "gray", "copper"]
HairStyle = Literal["bald", "short", "updo", "bob", "long"]
Fringe = Literal["back", "side", "centre", "bangs", "swept"]
FacialHair = Literal["none", "stubble", "sideburns", "mustache", "goatee", "circle", "full"]
Hat = Literal["none", "beanie", "cap", "brim"]
Glasses = Literal["none", "clear", "sun"]
Clothes = Literal["crew", "scoop", "vee", "shirt", "suit"]
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Traits:
    """Everything that tells one face from another, but for fine texture. Lengths are pixels of the 178×218 image."""

    # the person
    male: bool
    age: float  # 0 young … 1 old
    skin: Colour
    pale: bool
    rosy: bool
    # the head
    width: float  # half-width at the cheekbones
    chin: float  # y of the chin
    jaw: float  # how square: exponent of the jaw's curve
    oval: bool
    chubby: bool
    double_chin: bool
    cheekbones: bool
    bags: bool
    # features
    eye_colour: Colour
    eye_width: float
    eye_height: float
    narrow_eyes: bool
    eye_tilt: float
    gaze: tuple[float, float]
    brow_height: float
    brow_thickness: float
    bushy: bool
    arched: bool
    nose_width: float  # 1 is the average
    big_nose: bool
    pointy_nose: bool
    lips: float  # thickness of the lower lip
    big_lips: bool
    mouth_width: float
    smiling: bool
    smile: float  # how far the corners of the mouth are lifted
    mouth_open: bool
    gap: float  # between the lips
    # hair
    hair: HairColour
    hair_colour: Colour
    style: HairStyle
    fringe: Fringe
    receding: bool
    part: float  # -1 … 1, where the hair is parted
    volume: float
    length: float  # y where bob and long hair end
    wave: float  # how far waves swing; 0 is straight
    in_front: bool  # long hair falls before the shoulders
    facial_hair: FacialHair
    # worn
    lipstick: bool
    lip_colour: Colour
    makeup: bool
    shadow_colour: Colour  # on the eyelids, with makeup
    glasses: Glasses
    frame: tuple[float, float, float, float]  # half-width, half-height, roundness, rim
    frame_colour: Colour
    hat: Hat
    hat_colour: Colour
    earrings: bool
    necklace: bool
    metal: Colour
    clothes: Clothes
    necktie: bool
    cloth_colour: Colour
    accent_colour: Colour  # tie, stripes, the hat's band
    # the photograph
    yaw: float  # -1 … 1
    roll: float  # degrees
    scale: float
    shift: tuple[float, float]
    lean: float  # where the shoulders are, sideways
    light: tuple[float, float, float]  # unit vector towards the light
    contrast: float
    warmth: float
    exposure: float
    backdrop: tuple[Colour, Colour]
    blurry: bool

    @property
    def young(self) -> bool:
        """Whether no sign of age is drawn."""
        return self.age < 0.5

    @property
    def hair_shows(self) -> bool:
        """Whether any hair of the head is seen: a hat hides all of a short cut."""
        return self.style != "bald" and not (self.hat != "none" and self.style in ("short", "updo"))

    def attributes(self) -> dict[str, int]:
        """CelebA's 40 attributes in CelebA's order, 1 where true and -1 where not."""
        hatless = self.hat == "none"
        blemished = self.chubby or self.double_chin or self.bags or self.big_nose or self.blurry
        true = {
            "5_o_Clock_Shadow": self.facial_hair == "stubble",
            "Arched_Eyebrows": self.arched,
            # A matter of taste in CelebA; here a rule that can be seen, and goes with what it goes with there.
            "Attractive": self.young and not blemished,
            "Bags_Under_Eyes": self.bags,
            "Bald": self.style == "bald" and hatless,
            "Bangs": self.hair_shows and hatless and self.fringe in ("bangs", "swept"),
            "Big_Lips": self.big_lips,
            "Big_Nose": self.big_nose,
            "Black_Hair": self.hair_shows and self.hair == "black",
            "Blond_Hair": self.hair_shows and self.hair == "blond",
            "Blurry": self.blurry,
            "Brown_Hair": self.hair_shows and self.hair == "brown",
            "Bushy_Eyebrows": self.bushy,
            "Chubby": self.chubby,
            "Double_Chin": self.double_chin,
            "Eyeglasses": self.glasses != "none",
            "Goatee": self.facial_hair in ("goatee", "circle"),
            "Gray_Hair": self.hair_shows and self.hair == "gray",
            "Heavy_Makeup": self.makeup,
            "High_Cheekbones": self.cheekbones,
            "Male": self.male,
            "Mouth_Slightly_Open": self.mouth_open,
            "Mustache": self.facial_hair in ("mustache", "circle", "full"),
            "Narrow_Eyes": self.narrow_eyes,
            "No_Beard": self.facial_hair == "none",
            "Oval_Face": self.oval,
            "Pale_Skin": self.pale,
            "Pointy_Nose": self.pointy_nose,
            "Receding_Hairline": self.hair_shows and hatless and self.receding,
            "Rosy_Cheeks": self.rosy,
            "Sideburns": self.facial_hair in ("sideburns", "full"),
            "Smiling": self.smiling,
            "Straight_Hair": self.hair_shows and self.style in ("bob", "long") and self.wave == 0,
            "Wavy_Hair": self.hair_shows and self.style in ("bob", "long") and self.wave > 0,
            "Wearing_Earrings": self.earrings,
            "Wearing_Hat": not hatless,
            "Wearing_Lipstick": self.lipstick,
            "Wearing_Necklace": self.necklace,
            "Wearing_Necktie": self.necktie,
            "Young": self.young,
        }
        return {name: 1 if true[name] else -1 for name in ATTRIBUTES}


SKIN: tuple[Colour, ...] = (
    (0.92, 0.74, 0.64),
    (0.87, 0.67, 0.55),
    (0.80, 0.59, 0.45),
    (0.63, 0.43, 0.31),
    (0.44, 0.29, 0.21),
)
"""From fair to dark; a tone is a point on the way through these."""
PALE: Colour = (0.985, 0.875, 0.83)
HAIR: dict[HairColour, tuple[Colour, Colour]] = {
    "black": ((0.06, 0.055, 0.06), (0.12, 0.095, 0.085)),
    "brown": ((0.25, 0.14, 0.08), (0.48, 0.32, 0.20)),
    "blond": ((0.78, 0.60, 0.33), (0.95, 0.82, 0.55)),
    "gray": ((0.55, 0.55, 0.56), (0.85, 0.85, 0.86)),
    "copper": ((0.58, 0.22, 0.07), (0.74, 0.33, 0.12)),
}
"""The two ends of what each colour may be."""
IRIS: tuple[Colour, ...] = ((0.24, 0.13, 0.07), (0.38, 0.24, 0.12), (0.28, 0.46, 0.66), (0.36, 0.48, 0.32))
LIPSTICK: tuple[Colour, ...] = ((0.78, 0.06, 0.12), (0.86, 0.22, 0.38), (0.56, 0.05, 0.20), (0.88, 0.25, 0.20))
FRAME: tuple[Colour, ...] = ((0.05, 0.05, 0.06), (0.26, 0.13, 0.07), (0.30, 0.31, 0.34), (0.45, 0.06, 0.09))
METAL: tuple[Colour, ...] = ((0.93, 0.76, 0.36), (0.86, 0.87, 0.90), (0.95, 0.93, 0.88))


def sample(rng: np.random.Generator) -> Traits:
    """Draw the traits of one face, about as frequent and as entangled as CelebA's attributes are.

    What is rare in CelebA (a hat, grey hair, a bald head, a mustache, pale skin) is a little more frequent here, so
    that a small set has some of each.
    """

    def chance(probability: float) -> bool:
        return rng.random() < probability

    def between(low: float, high: float) -> float:
        return low + (high - low) * rng.random()

    def weigh(shares: Mapping[Name, float]) -> Name:
        """One of the names, each as often as its share of all shares."""
        totals = list(accumulate(shares.values()))
        return list(shares)[bisect_right(totals[:-1], rng.random() * totals[-1])]

    def unit() -> float:
        """Around 0, rarely beyond ±1."""
        return float(np.clip(rng.normal() / 2, -1.2, 1.2))

    def pick(colours: tuple[Colour, ...]) -> Colour:
        """One of the colours, a little changed."""
        colour = colours[int(rng.integers(len(colours)))]
        return scaled(mix(colour, (rng.random(), rng.random(), rng.random()), 0.06), between(0.9, 1.1))

    def any_colour(low: float, high: float) -> Colour:
        """A colour of some brightness, mostly muted."""
        brightness, saturation = between(low, high), rng.random() ** 2 * 0.9
        tint = (rng.random(), rng.random(), rng.random())
        return scaled(mix((1.0, 1.0, 1.0), tint, saturation), brightness)

    male = chance(0.42)
    age = between(0.0, 0.45) if chance(0.77) else between(0.55, 1.0)
    old = age >= 0.5

    pale = chance(0.065)
    tone = 0.0 if pale else 4 * rng.random() ** 2.3
    step = min(int(tone), 3)
    skin = mix(SKIN[step], SKIN[step + 1], tone - step)
    skin = scaled(mix(skin, (skin[0], skin[1] * 0.95, skin[2] * 0.88), between(-0.5, 0.8)), between(0.96, 1.04))
    if pale:
        skin = scaled(PALE, between(0.975, 1.01))

    chubby = chance(0.07)
    oval = not chubby and chance(0.3)
    width = between(46.5, 50.5) + (1.8 if male else 0.0)
    width += between(4.0, 6.5) if chubby else (-2.8 if oval else 0.0)
    jaw = between(1.75, 2.0) if oval else between(2.15, 2.75) + (0.35 if male else 0.0)
    smiling = chance(0.43 if male else 0.53)
    mouth_open = chance(0.68 if smiling else 0.3)

    style: HairStyle
    if male:
        bald = 0.16 if old else 0.11
        style = weigh({"bald": bald, "short": 0.78, "bob": 0.06, "long": 0.04})
    else:
        style = weigh({"long": 0.58, "bob": 0.23, "updo": 0.12, "short": 0.07})
    hat: Hat = "none"
    if style != "bald" and chance(0.1 if male else 0.06):
        hat = weigh({"beanie": 0.4, "cap": 0.3, "brim": 0.3})
    receding = male and style == "short" and hat == "none" and chance(0.45 if old else 0.12)
    fringe: Fringe
    if receding:
        fringe = "back"
    elif hat == "none" and chance(0.14 if male else 0.25):
        fringe = weigh({"bangs": 0.6, "swept": 0.4})
    elif style in ("short", "updo"):
        fringe = weigh({"back": 0.55, "side": 0.3, "centre": 0.15})
    else:
        fringe = weigh({"back": 0.1, "side": 0.55, "centre": 0.35})
    if style == "updo" or hat != "none":
        volume = between(4.0, 8.0)
    else:
        volume = between(5.0, 13.0) if style == "short" else between(8.0, 19.0)
    hair: HairColour
    if old and chance(0.42):
        hair = "gray"
    elif chance(0.18 + 0.2 * max(0.0, tone - 0.7)):
        hair = "black"
    elif tone > 1.8:
        hair = weigh({"brown": 0.7, "black": 0.3})
    elif male:
        hair = weigh({"brown": 0.64, "blond": 0.2, "copper": 0.16})
    else:
        hair = weigh({"brown": 0.46, "blond": 0.46, "copper": 0.08})
    hair_colour = scaled(mix(*HAIR[hair], rng.random()), between(0.94, 1.06))

    facial_hair: FacialHair = "none"
    if male and chance(0.46):
        facial_hair = weigh(
            {"stubble": 0.34, "full": 0.24, "mustache": 0.14, "goatee": 0.12, "circle": 0.1, "sideburns": 0.06}
        )

    lipstick = not male and chance(0.76)
    makeup = lipstick and chance(0.75)
    glasses: Glasses = "none"
    if chance(0.11 if male else 0.06):
        glasses = "sun" if chance(0.22) else "clear"
    narrow = chance(0.13)
    bushy = chance(0.26 if male else 0.06)
    big_nose = chance(0.36 if male else 0.13)
    pointy_nose = not big_nose and chance(0.35)
    big_lips = chance(0.17 if male else 0.3)
    clothes: Clothes
    if male:
        clothes = weigh({"suit": 0.24, "shirt": 0.26, "crew": 0.35, "vee": 0.15})
    else:
        clothes = weigh({"scoop": 0.5, "vee": 0.23, "crew": 0.16, "shirt": 0.11})
    necktie = clothes == "suit" and chance(0.8)
    arch = not male and chance(0.42)
    natural_lip = mix(scaled(skin, 0.82), (skin[0] * 0.86, skin[1] * 0.52, skin[2] * 0.54), between(0.45, 0.8))
    light = np.array([between(-0.85, 0.85), between(-0.75, -0.1), between(0.6, 1.0)])
    light /= np.sqrt((light * light).sum())
    double_chin = chance(0.55 if chubby else 0.02)

    return Traits(
        male=male,
        age=age,
        skin=skin,
        pale=pale,
        rosy=chance(0.03 if male else 0.12),
        width=width,
        chin=between(66.0, 72.0) + (2.0 if male else 0.0),
        jaw=jaw,
        oval=oval,
        chubby=chubby,
        double_chin=double_chin,
        cheekbones=chance(0.75 if smiling else 0.18),
        bags=chance(0.45 if old else 0.15),
        eye_colour=pick(IRIS[:2] if tone > 1.6 or hair == "black" else IRIS),
        eye_width=between(10.6, 12.6) + (0.0 if male else 0.6),
        eye_height=between(2.5, 3.2) if narrow else between(4.5, 6.1) + (0.0 if male else 0.6),
        narrow_eyes=narrow,
        eye_tilt=between(-0.5, 1.6),
        gaze=(1.6 * unit(), 0.5 * unit()),
        brow_height=between(13.2, 16.5) if male else between(15.0, 18.5),
        brow_thickness=between(3.4, 4.4) if bushy else between(1.9, 2.7) if male else between(1.2, 2.1),
        bushy=bushy,
        arched=arch,
        nose_width=between(1.25, 1.45) if big_nose else between(0.72, 0.84) if pointy_nose else between(0.9, 1.08),
        big_nose=big_nose,
        pointy_nose=pointy_nose,
        lips=between(6.6, 8.2) if big_lips else between(3.6, 5.2),
        big_lips=big_lips,
        mouth_width=between(14.6, 17.2),
        smiling=smiling,
        smile=between(4.2, 6.6) if smiling else between(-1.8, 0.6),
        mouth_open=mouth_open,
        gap=between(3.8, 8.0) if mouth_open else 0.0,
        hair=hair,
        hair_colour=hair_colour,
        style=style,
        fringe=fringe,
        receding=receding,
        part=between(-0.75, 0.75),
        volume=volume,
        length=between(38.0, 78.0) if style == "bob" else between(88.0, 135.0),
        wave=between(2.6, 5.0) if chance(0.58) else 0.0,
        in_front=chance(0.55),
        facial_hair=facial_hair,
        lipstick=lipstick,
        lip_colour=pick(LIPSTICK) if lipstick else natural_lip,
        makeup=makeup,
        shadow_colour=pick(((0.30, 0.20, 0.22), (0.42, 0.25, 0.30), (0.25, 0.27, 0.38), (0.42, 0.30, 0.18))),
        glasses=glasses,
        frame=(between(13.5, 16.0), between(9.5, 12.8), between(2.0, 5.0), between(1.3, 2.4)),
        frame_colour=pick(FRAME),
        hat=hat,
        hat_colour=any_colour(0.12, 0.85),
        earrings=not male and chance(0.36),
        necklace=not male and clothes in ("scoop", "vee") and chance(0.32),
        metal=pick(METAL),
        clothes=clothes,
        necktie=necktie,
        cloth_colour=any_colour(0.08, 0.4) if clothes == "suit" else any_colour(0.1, 0.95),
        accent_colour=any_colour(0.2, 0.8),
        yaw=unit(),
        roll=2.6 * unit(),
        scale=1 + 0.025 * unit(),
        shift=(unit(), unit()),
        lean=9 * unit(),
        light=(float(light[0]), float(light[1]), float(light[2])),
        contrast=between(0.35, 0.85),
        warmth=unit(),
        exposure=between(0.88, 1.04),
        backdrop=(any_colour(0.1, 1.0), any_colour(0.1, 1.0)),
        blurry=chance(0.05),
    )
