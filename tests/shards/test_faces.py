import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards import faces
from shards.errors import InputError
from shards.faces import find_face, portrait
from shards.images import ImageError, Transform, apply
from shards.synth.faces import draw_face


def missing() -> str | None:
    try:
        faces.require()
    except InputError as error:
        return str(error)
    return None


needs_opencv = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def placed(i: int, left: int, top: int, width: int = 700, height: int = 500) -> tuple[Image.Image, np.ndarray]:
    """An invented face on a canvas, and the middle of its eyes and mouth as (x, y)."""
    face, _, points = draw_face(7, i)
    canvas = Image.new("RGB", (width, height), (90, 110, 100))
    canvas.paste(face, (left, top))
    middle = np.mean([points[name] for name in ("lefteye", "righteye", "leftmouth", "rightmouth")], axis=0)
    return canvas, middle + np.array([left, top])


@needs_opencv
@pytest.mark.parametrize(("left", "top"), [(30, 40), (480, 250), (20, 260)])
def test_the_square_is_about_the_face_wherever_it_is(left, top):
    found = 0
    for i in range(10):
        canvas, middle = placed(i, left, top)
        face = find_face(canvas)
        if face is None:
            continue
        found += 1
        x, y, side = portrait(face, canvas.size)
        offset = (np.array([x, y]) + side / 2 - middle) / side
        assert abs(offset[0]) < 0.1
        assert -0.25 < offset[1] < 0.05  # eyes and mouth are below the middle: hair is above them
        assert 130 < side < 240  # drawn as CelebA's: 178 is its usual crop
        assert find_face(canvas) == face
    assert found >= 9


@needs_opencv
def test_faces_that_fill_their_picture_are_found():
    tight = 0
    for i in range(20):
        canvas, _ = placed(i, 250, 150)
        face = find_face(canvas)
        if face is None:
            continue
        left, top, side = face
        picture = canvas.crop((left, top, left + side, top + side))
        found = find_face(picture)
        if found is None:
            continue
        tight += 1
        assert found[0] >= 0
        assert found[1] >= 0
        assert max(found[0], found[1]) + found[2] <= side
        assert found[2] > 0.7 * side
    assert tight >= 14


@needs_opencv
def test_nearly_all_invented_faces_are_found():
    assert sum(find_face(draw_face(3, i)[0]) is not None for i in range(50)) >= 45


@needs_opencv
def test_of_two_faces_the_larger():
    canvas, _ = placed(0, 20, 40)
    large = draw_face(7, 1)[0].resize((356, 436))
    canvas.paste(large, (300, 30))
    found = find_face(canvas)
    assert found is not None
    assert found[0] > 300


@needs_opencv
def test_large_pictures_are_shrunk_for_the_search_only():
    canvas, _ = placed(1, 300, 150)
    small, large = find_face(canvas), find_face(canvas.resize((2800, 2000), Image.Resampling.LANCZOS))
    assert small is not None
    assert large is not None
    assert np.abs(np.array(large) / 4 - small).max() < 0.1 * small[2]


@needs_opencv
@pytest.mark.parametrize("size", [(1, 1), (30, 2), (3000, 1), (24, 24), (200, 300)])
def test_where_no_face_is(size):
    image = Image.new("L", size, 128)
    assert find_face(image) is None
    with pytest.raises(ImageError, match="no face was found"):
        apply(image, Transform(8, 3, centre="face"))


@needs_opencv
def test_apply_cuts_the_square_out():
    canvas, _ = placed(2, 450, 240)
    face = find_face(canvas)
    assert face is not None
    for crop in (None, 200, 500):
        x, y, side = portrait(face, canvas.size, crop)
        expected = apply(canvas.crop((x, y, x + side, y + side)), Transform(64, 3))
        np.testing.assert_array_equal(apply(canvas, Transform(64, 3, crop=crop, centre="face")), expected)
        assert crop in (None, side)
    with pytest.raises(ImageError, match="700×500 pixels are too few for a crop of 501×501"):
        apply(canvas, Transform(64, 3, crop=501, centre="face"))


@given(st.data())
def test_a_portrait_stays_inside_the_picture(data):
    width, height = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 500))
    length = data.draw(st.integers(1, min(width, height)))
    face = (data.draw(st.integers(0, width - length)), data.draw(st.integers(0, height - length)), length)
    wanted = data.draw(st.none() | st.integers(1, min(width, height)))
    left, top, side = portrait(face, (width, height), wanted)
    assert 0 <= left <= width - side
    assert 0 <= top <= height - side
    assert side == (wanted or min(round(faces.MARGIN * length), width, height))
    # Where nothing is in the way, it is centred.
    x = face[0] + length / 2 - side / 2
    if 0 <= x <= width - side:
        assert abs(left - x) <= 0.5


@pytest.mark.parametrize("module", [None, type(sys)("cv2")])
def test_without_opencv_or_its_detector(monkeypatch, module):
    if module is not None:
        module.__version__ = "5.0.0"
    monkeypatch.setitem(sys.modules, "cv2", module)
    faces._cascade.cache_clear()
    try:
        for use in (faces.require, lambda: apply(Image.new("RGB", (9, 9)), Transform(8, 3, centre="face"))):
            with pytest.raises(InputError, match=r"OpenCV.*pip install 'distgan\[faces\]'"):
                use()
    finally:
        faces._cascade.cache_clear()


def test_who_centres_on_no_face_loads_no_opencv():
    program = "import sys, shards.writer, shards.reader; sys.exit('cv2' in sys.modules or 'pillow_heif' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
