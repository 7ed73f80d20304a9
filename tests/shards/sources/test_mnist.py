import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import InputError
from shards.sources import open_source

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, 28, 28), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 11, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(
    folder: Path, images: bytes | None = None, labels: bytes | None = None, zipped: bool = False, style: str = "-"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = idx(IMAGES) if images is None else images, idx(LABELS) if labels is None else labels
    for name, data in {f"train-images{style}idx3-ubyte": images, f"train-labels{style}idx1-ubyte": labels}.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("style", ["-", "."])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
def test_the_official_files(tmp_path, place, zipped, style):
    write(tmp_path / place, zipped=zipped, style=style)
    source = open_source(tmp_path)
    assert (source.layout, len(source), source.channels()) == ("mnist", 11, 1)
    assert source.class_names == tuple("0123456789")
    assert source.attribute_names == ()
    assert source.name(10) == f"train-images{style}idx3-ubyte[10]"
    assert source.sample(3).key == "train-00003"
    for copy in (source, pickle.loads(pickle.dumps(source))):
        samples = [copy.sample(i) for i in range(11)]
        np.testing.assert_array_equal([sample.image for sample in samples], IMAGES)
        assert [sample.label for sample in samples] == LABELS.tolist()
        assert len({sample.key for sample in samples}) == 11


def test_a_pickled_source_leaves_the_pixels_behind(tmp_path):
    write(tmp_path)
    source = open_source(tmp_path)
    source.sample(0)
    assert len(pickle.dumps(source)) < IMAGES.nbytes / 4


def test_identity(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", zipped=True)
    write(tmp_path / "c", labels=idx((LABELS + 1) % 10))
    a, b, c = (open_source(tmp_path / name).identity() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", None, "train-images.* not an IDX file"),
        (idx(IMAGES)[:10], None, "train-images.* not an IDX file"),
        (b"\x89PNG" + idx(IMAGES)[4:], None, "train-images.* not an IDX file"),
        (idx(LABELS), None, "train-images.* not an IDX file"),
        (idx(IMAGES)[:-1], None, "train-images.* fewer bytes"),
        (idx(IMAGES) + b"\0", None, "train-images.* more bytes"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), None, "train-images.* are accepted"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "are accepted"),
        (None, idx(LABELS[:-1]), "train-labels.* 10 labels for 11"),
        (None, idx(LABELS + 1), "train-labels.* label 10"),
        (None, idx(IMAGES), "train-labels.* not an IDX file"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_is_not_what_it_says(tmp_path, images, labels, message, zipped):
    labels = idx(np.full(11, 10, np.uint8)) if "label 10" in message else labels
    write(tmp_path, images, labels, zipped)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path)


def test_labels_are_needed(tmp_path):
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="no train-labels-idx1-ubyte"):
        open_source(tmp_path)


@given(where=st.floats(0, 1, exclude_max=True), mask=st.integers(0, 255), keep=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_any_damage_to_a_gzip_is_named(tmp_path_factory, where, mask, keep):
    folder = tmp_path_factory.mktemp("set")
    write(folder, zipped=True)
    path = folder / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= mask
    path.write_bytes(data[: int(keep * len(data))])
    try:
        source = open_source(folder)
    except InputError as error:
        message = str(error)
    else:  # a gzip header has bytes that mean nothing: then every pixel is right
        message = str(path)
        np.testing.assert_array_equal([source.sample(i).image for i in range(11)], IMAGES)
    assert str(path) in message
