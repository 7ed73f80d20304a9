"""What is drawn is what the attributes and the landmarks say, and face i is a function of (seed, i)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.synth import ATTRIBUTES, draw_face
from shards.synth.canvas import Noise
from shards.synth.faces import landmarks, paint, person
from shards.synth.traits import HAIR, LIPSTICK, PALE, Traits, sample

Box = tuple[int, int, int, int]


def noise() -> Noise:
    return Noise(np.random.default_rng(7))


def pixels(traits: Traits) -> np.ndarray:
    return np.asarray(paint(traits, noise()), np.float32)


def within(image: np.ndarray, box: Box) -> np.ndarray:
    left, top, right, bottom = box
    return image[top:bottom, left:right]


def plain(seed: int, **changes: Any) -> Traits:
    """Somebody of whom nothing is hidden, looking at the camera."""
    face = replace(person(seed, 0), style="short", fringe="back", receding=False, hat="none", glasses="none")
    face = replace(
        face, facial_hair="none", age=0.2, blurry=False, rosy=False, makeup=False, lipstick=False, pale=False
    )
    face = replace(face, male=True, smiling=False, smile=-0.5, mouth_open=False, gap=0.0, yaw=0.0, roll=0.0, scale=1.0)
    face = replace(face, skin=(0.85, 0.65, 0.53), lip_colour=(0.70, 0.43, 0.37), shift=(0.0, 0.0), earrings=False)
    return replace(face, **{"hair": "brown", "hair_colour": HAIR["brown"][0], "contrast": 0.5, **changes})


def test_a_face_depends_on_seed_and_number_alone() -> None:
    first = draw_face(3, 5)
    draw_face(1, 1)
    again = draw_face(3, 5)
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1:] == again[1:]
    assert first[0].size == (178, 218)
    assert first[0].mode == "RGB"


def test_no_two_faces_are_alike() -> None:
    assert len({person(seed, 2**64 - 1) for seed in (0, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1)}) == 5
    small = [np.asarray(draw_face(s, i)[0].resize((16, 16)), np.float32) for s in (0, 1) for i in range(40)]
    distances = [np.abs(a - b).mean() for k, a in enumerate(small) for b in small[:k]]
    assert min(distances) > 4


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_any_seed_and_number_give_a_face(seed: int, i: int) -> None:
    image, attributes, points = draw_face(seed, i)
    assert np.asarray(image).std() > 8
    assert tuple(attributes) == ATTRIBUTES
    assert set(attributes.values()) <= {-1, 1}
    assert list(points) == ["lefteye", "righteye", "nose", "leftmouth", "rightmouth"]


def test_attributes_agree_with_each_other() -> None:
    for i in range(2000):
        a = {name: value == 1 for name, value in person(11, i).attributes().items()}
        colours = a["Black_Hair"] + a["Blond_Hair"] + a["Brown_Hair"] + a["Gray_Hair"]
        assert colours <= (not a["Bald"])
        shaven = not (a["Mustache"] or a["Goatee"] or a["Sideburns"] or a["5_o_Clock_Shadow"])
        assert a["No_Beard"] == shaven
        assert a["No_Beard"] or a["Male"]
        assert not (a["Wearing_Lipstick"] and a["Male"])
        assert a["Wearing_Lipstick"] or not a["Heavy_Makeup"]
        assert not (a["Wearing_Hat"] and (a["Bald"] or a["Bangs"] or a["Receding_Hairline"]))
        assert not (a["Bald"] and (a["Bangs"] or a["Receding_Hairline"] or a["Wavy_Hair"] or a["Straight_Hair"]))
        assert not (a["Wavy_Hair"] and a["Straight_Hair"])
        assert not (a["Big_Nose"] and a["Pointy_Nose"])


def test_every_attribute_is_common_enough_for_a_small_set() -> None:
    values = np.array([list(person(2, i).attributes().values()) for i in range(3000)])
    shares = dict(zip(ATTRIBUTES, (values == 1).mean(0), strict=True))
    assert min(shares.values()) > 0.03, shares
    drawn = (
        "Eyeglasses Smiling Mouth_Slightly_Open Black_Hair Blond_Hair Brown_Hair Gray_Hair Bald Bangs Wearing_Hat "
        "Mustache Male Pale_Skin Rosy_Cheeks Wearing_Lipstick"
    )
    assert all(0.038 < shares[name] < 0.6 for name in drawn.split()), shares
    assert 0.7 < shares["No_Beard"] < 0.95
    # CelebA's own shares, in round numbers.
    celeba = {"Male": 0.42, "Smiling": 0.48, "Mouth_Slightly_Open": 0.48, "Wearing_Lipstick": 0.47, "Young": 0.77}
    assert all(abs(shares[name] - share) < 0.06 for name, share in celeba.items()), shares


EYES: Box = (45, 95, 132, 127)
MOUTH: Box = (66, 140, 111, 168)
FOREHEAD: Box = (75, 73, 102, 88)
CROWN: Box = (72, 44, 105, 52)
HAT: Box = (60, 50, 117, 72)
LIP: Box = (78, 143, 99, 150)
CHIN: Box = (78, 163, 99, 176)
CHEEKS: Box = (50, 128, 66, 138)
NECK: Box = (55, 180, 70, 192)

TOGGLES: dict[str, tuple[dict[str, Any], Box]] = {
    "Eyeglasses": ({"glasses": "clear", "frame_colour": (0.05, 0.05, 0.06)}, EYES),
    "Smiling": ({"smiling": True, "smile": 5.0}, MOUTH),
    "Mouth_Slightly_Open": ({"mouth_open": True, "gap": 6.0}, MOUTH),
    "Black_Hair": ({"hair": "black", "hair_colour": HAIR["black"][0]}, CROWN),
    "Blond_Hair": ({"hair": "blond", "hair_colour": HAIR["blond"][0]}, CROWN),
    "Gray_Hair": ({"hair": "gray", "hair_colour": HAIR["gray"][0]}, CROWN),
    "Bald": ({"style": "bald"}, CROWN),
    "Bangs": ({"fringe": "bangs"}, FOREHEAD),
    "Wearing_Hat": ({"hat": "beanie", "hat_colour": (0.2, 0.3, 0.7)}, HAT),
    "Mustache": ({"facial_hair": "mustache"}, LIP),
    "No_Beard": ({"facial_hair": "full"}, CHIN),
    "Male": ({"male": False}, NECK),
    "Pale_Skin": ({"pale": True, "skin": PALE}, CHEEKS),
    "Rosy_Cheeks": ({"rosy": True}, CHEEKS),
    "Wearing_Lipstick": ({"lipstick": True, "lip_colour": LIPSTICK[0]}, MOUTH),
    "5_o_Clock_Shadow": ({"facial_hair": "stubble"}, CHIN),
    "Arched_Eyebrows": ({"arched": True}, (50, 88, 127, 103)),
    "Bags_Under_Eyes": ({"bags": True}, (58, 114, 80, 124)),
    "Big_Lips": ({"big_lips": True, "lips": 7.5}, MOUTH),
    "Big_Nose": ({"big_nose": True, "nose_width": 1.4}, (74, 126, 103, 142)),
    "Bushy_Eyebrows": ({"bushy": True, "brow_thickness": 4.2}, (50, 88, 127, 103)),
    "Double_Chin": ({"double_chin": True}, (70, 170, 107, 190)),
    "Goatee": ({"facial_hair": "goatee"}, CHIN),
    "Heavy_Makeup": ({"makeup": True, "shadow_colour": (0.3, 0.2, 0.22)}, EYES),
    "High_Cheekbones": ({"cheekbones": True}, (48, 122, 72, 146)),
    "Narrow_Eyes": ({"narrow_eyes": True, "eye_height": 2.6}, (56, 100, 82, 120)),
    "Receding_Hairline": ({"receding": True}, (60, 55, 117, 75)),
    "Sideburns": ({"facial_hair": "sideburns"}, (38, 100, 50, 135)),
    "Wearing_Earrings": ({"earrings": True}, (32, 128, 48, 148)),
    "Young": ({"age": 0.8}, (65, 70, 112, 92)),
    "Blurry": ({"blurry": True}, EYES),
}


@pytest.mark.parametrize("name", TOGGLES)
def test_toggling_an_attribute_changes_what_it_names(name: str) -> None:
    changes, box = TOGGLES[name]
    calm = {"eye_height": 5.5, "nose_width": 1.0, "lips": 4.4, "brow_thickness": 2.2, "narrow_eyes": False}
    calm |= {"bags": False, "arched": False, "big_nose": False, "pointy_nose": False, "big_lips": False}
    calm |= {"bushy": False, "double_chin": False, "cheekbones": False, "chubby": False}
    for seed in range(3):
        before = plain(seed, **calm)
        after = replace(before, **changes)
        assert before.attributes()[name] != after.attributes()[name]
        difference = np.abs(pixels(before) - pixels(after))
        assert within(difference, box).mean() > 3, f"{name}: {within(difference, box).mean()}"
        if name != "Blurry":
            assert within(difference, (0, 0, 25, 60)).max() == 0


def test_hair_has_the_colour_it_is_said_to_have() -> None:
    crowns: dict[str, list[np.ndarray]] = {}
    for hair, ends in HAIR.items():
        for colour in ends:
            crown = within(pixels(plain(1, hair=hair, hair_colour=colour, warmth=0.0)), CROWN).mean((0, 1))
            crowns.setdefault(hair, []).append(crown)
    light = {hair: [c.mean() for c in colours] for hair, colours in crowns.items()}
    vivid = {hair: [(c.max() - c.min()) / c.max() for c in colours] for hair, colours in crowns.items()}
    assert max(light["black"]) < min(light["brown"])
    assert max(light["brown"]) < min(light["blond"])
    assert max(light["brown"]) < min(light["gray"])
    assert max(vivid["gray"]) < 0.15 < 0.25 < min(vivid["blond"] + vivid["brown"] + vivid["copper"])


def test_colours_go_the_way_the_words_say() -> None:
    face = plain(2, warmth=0.0)
    base = pixels(face)
    pale = within(pixels(replace(face, pale=True, skin=PALE)), CHEEKS)
    assert pale.mean() > within(base, CHEEKS).mean() + 15
    rosy = within(pixels(replace(face, rosy=True)), CHEEKS).mean((0, 1))
    skin = within(base, CHEEKS).mean((0, 1))
    assert rosy[0] - rosy[1] > skin[0] - skin[1] + 12
    open_mouth = within(pixels(replace(face, mouth_open=True, gap=7.0)), (85, 150, 92, 157))
    assert open_mouth.min() < within(base, (85, 150, 92, 157)).min()


def test_eyes_are_where_celeba_has_them_and_dark() -> None:
    for i in range(40):
        image, _, points = draw_face(4, i)
        gray = np.asarray(image.convert("L"), np.float32)
        for eye, x, y in (("lefteye", 69, 111), ("righteye", 108, 111)):
            at = points[eye]
            assert abs(at[0] - x) <= 3
            assert abs(at[1] - y) <= 4
            pupil = gray[at[1] - 4 : at[1] + 4, at[0] - 5 : at[0] + 5].min()
            cheek = gray[at[1] + 18 : at[1] + 26, at[0] - 4 : at[0] + 4].mean()
            assert pupil < 0.75 * cheek
        assert abs(points["leftmouth"][0] - 72) <= 9
        assert abs(points["rightmouth"][0] - 105) <= 9
        assert 143 <= points["leftmouth"][1] <= 157
        assert points["lefteye"][1] < points["nose"][1] < points["leftmouth"][1]


def test_landmarks_follow_the_camera() -> None:
    """The darkest point of an eye that looks straight ahead stays on its landmark when the head is tilted."""
    for roll in (-3.0, 0.0, 3.0):
        face = plain(1, roll=roll, scale=1.02, shift=(1.0, -1.0), gaze=(0.0, 0.0), eye_height=6.5)
        image, points = pixels(face).mean(2), landmarks(face)
        for eye in ("lefteye", "righteye"):
            x, y = points[eye]
            part = 255 - image[y - 8 : y + 9, x - 8 : x + 9]
            weight = np.where(part > np.quantile(part, 0.93), part, 0)
            rows, columns = np.mgrid[-8:9, -8:9]
            assert abs((weight * columns).sum() / weight.sum()) < 2
            assert abs((weight * rows).sum() / weight.sum()) < 3


def test_sampling_uses_only_its_generator() -> None:
    assert sample(np.random.default_rng(1)) == sample(np.random.default_rng(1))
    assert sample(np.random.default_rng(1)) != sample(np.random.default_rng(2))


def test_what_is_drawn_and_what_is_said_come_from_one_trait() -> None:
    for i in range(1000):
        t = person(6, i)
        assert t.smiling == (t.smile > 2)
        assert t.mouth_open == (t.gap > 2)
        assert t.narrow_eyes == (t.eye_height < 4)
        assert t.big_lips == (t.lips > 6)
        assert t.big_nose == (t.nose_width > 1.2)
        assert t.bushy == (t.brow_thickness > 3)
        assert t.pale == (t.skin[2] > 0.75)
        assert t.lipstick == (t.lip_colour[1] < 0.4 * t.lip_colour[0])
