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
from tests.shards.sources.test_sources import choices_at
from tests.shards.test_trees import zip_bytes

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


# ---- what people have of it ----


def write_part(folder: Path, part: str, labels: np.ndarray = LABELS, prefix: str = "", lie: bool | None = None) -> None:
    """The two files of a part; with ``lie`` their names say the reverse of whether they are gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{prefix}{part}-images-idx3-ubyte", IMAGES), (f"{prefix}{part}-labels-idx1-ubyte", labels)):
        data = idx(array)
        ending = ".gz" if lie else ""
        (folder / (name + ending)).write_bytes(gzip.compress(data) if lie is False else data)


@pytest.mark.parametrize("lie", [False, True])
def test_the_content_says_whether_it_is_gzipped(tmp_path, lie):
    write_part(tmp_path, "train", lie=lie)
    source = open_source(tmp_path)
    assert np.array_equal([source.sample(i).image for i in range(11)], IMAGES)


def test_both_parts_are_splits(tmp_path):
    write_part(tmp_path, "train")
    write_part(tmp_path, "t10k", LABELS[::-1].copy())
    source = open_source(tmp_path)
    assert source.recognised.splits == {"train": 11, "test": 11}
    assert source.name(11) == "t10k-images-idx3-ubyte[0]"
    assert source.sample(11).key == "test-00000"
    assert len(open_source(tmp_path, split="train")) == 11
    assert open_source(tmp_path, split="test").sample(0).label == LABELS[-1]


def test_a_test_set_alone(tmp_path):
    write_part(tmp_path, "t10k")
    assert open_source(tmp_path).recognised.splits == {"test": 11}


def test_a_missing_label_file_of_the_test_set_is_named(tmp_path):
    write_part(tmp_path, "train")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES))
    with pytest.raises(InputError, match="no t10k-labels-idx1-ubyte"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("folder", "prefix", "first"),
    [
        ("FashionMNIST/raw", "", "T-shirt/top"),
        ("fashion-mnist", "", "T-shirt/top"),
        ("KMNIST/raw", "", "お"),
        ("MNIST/raw", "", "0"),
        ("EMNIST/gzip", "emnist-digits-", "0"),
    ],
)
def test_names_say_which_set_it_is(tmp_path, folder, prefix, first):
    write_part(tmp_path / folder, "train", prefix=prefix)
    for path in (tmp_path, tmp_path / folder):
        source = open_source(path)
        assert source.class_names[0] == first


def test_labels_say_which_set_it_is_where_names_do_not(tmp_path):
    write_part(tmp_path / "raw", "train", np.array([9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 1], np.uint8))
    assert open_source(tmp_path).class_names[9] == "Ankle boot"


def test_a_choice_says_which_sets_there_are(tmp_path):
    """Also by how labels begin; and damage to one that is not chosen harms nobody."""
    write_part(tmp_path / "a", "train", np.array([9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 1], np.uint8))
    write_part(tmp_path / "b", "test")
    (tmp_path / "c").mkdir()
    for kind in ("images-idx3", "labels-idx1"):
        (tmp_path / "c" / f"train-{kind}-ubyte").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"(?s)3 data sets.*Fashion-MNIST.*\(train\).*MNIST \(test\).*MNIST \(train\)"):
        open_source(tmp_path)
    assert len(open_source(tmp_path, sub="b")) == 11


@pytest.mark.parametrize(("division", "count", "shift"), [("letters", 26, 1), ("balanced", 47, 0), ("byclass", 62, 0)])
def test_emnist_is_upright_and_has_its_own_classes(tmp_path, division, count, shift):
    labels = np.arange(11, dtype=np.uint8) + shift
    write_part(tmp_path / "emnist", "train", labels, prefix=f"emnist-{division}-")
    source = open_source(tmp_path)
    assert len(source.class_names) == count
    assert source.class_names[0] == ("a" if division == "letters" else "0")
    assert [source.sample(i).label for i in range(11)] == list(range(11))
    assert np.array_equal([source.sample(i).image for i in range(11)], IMAGES.swapaxes(1, 2))


def test_divisions_of_emnist_side_by_side(tmp_path):
    for division in ("digits", "mnist"):
        write_part(tmp_path / "gzip", "train", prefix=f"emnist-{division}-")
    with pytest.raises(InputError, match=r"(?s)2 data sets.*--sub gzip/emnist-digits.*--sub gzip/emnist-mnist"):
        open_source(tmp_path)
    assert len(open_source(tmp_path, sub="gzip/emnist-mnist")) == 11


def test_kaggles_folders_in_the_files_names(tmp_path):
    for name, array in (("train-images-idx3-ubyte", IMAGES), ("train-labels-idx1-ubyte", LABELS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(idx(array))
        (tmp_path / name.replace("-idx", ".idx")).write_bytes(idx(array))  # Kaggle has both
    source = open_source(tmp_path)
    assert len(source) == 11
    assert source.recognised.left_out == {"more of the same files": 2}


def test_kaggles_tables(tmp_path):
    header = [f"pixel{i}" for i in range(784)]
    rows = [[int(label), *image.reshape(-1).tolist()] for label, image in zip(LABELS, IMAGES, strict=True)]

    def text(rows: list[list[int]], names: list[str]) -> str:
        lines = [names] if names else []
        return "".join(",".join(line) + "\n" for line in [*lines, *([str(value) for value in row] for row in rows)])

    (tmp_path / "train.csv").write_text(text(rows, ["label", *header]))
    (tmp_path / "test.csv").write_text(text([row[1:] for row in rows[:4]], header))
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    source = open_source(tmp_path)
    assert source.recognised.splits == {"train": 11, "test": 4}
    assert source.recognised.left_out == {".csv": 1}
    assert np.array_equal([source.sample(i).image for i in range(11)], IMAGES)
    assert [source.sample(i).label for i in range(15)] == [*LABELS.tolist(), *[-1] * 4]
    alone = open_source(tmp_path / "train.csv")
    assert len(alone) == 11
    (tmp_path / "train.csv").write_text(text([[1, *[256] * 784]], ["label", *header]))
    with pytest.raises(InputError, match=r"train\.csv should have 785 numbers of 0 to 255"):
        open_source(tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/mnist_train.csv").write_text(text(rows, []))
    assert [open_source(tmp_path / "plain").sample(i).label for i in range(11)] == LABELS.tolist()


def csv_text(form: str = "", rows: int = 11) -> bytes:
    """A table of digits, as people have it: with a row number, other delimiters, the label at the end."""
    names = ["label", *(f"pixel{i}" for i in range(784))]
    lines = [[int(label), *image.reshape(-1).tolist()] for label, image in zip(LABELS, IMAGES, strict=True)][:rows]
    table = [list(map(str, line)) for line in (names, *lines)]
    if form == "index":
        table = [[str(i - 1) if i else "", *line] for i, line in enumerate(table)]
    if form == "last":
        table = [[*line[1:], line[0]] for line in table]
    text = "\n".join(({"semicolon": ";", "tab": "\t"}.get(form, ",")).join(line) for line in table) + "\n"
    return gzip.compress(text.encode()) if form == "gz" else text.encode("utf-8-sig" if form == "bom" else "utf-8")


@pytest.mark.parametrize("form", ["bom", "semicolon", "tab", "index", "last", "gz"])
def test_tables_that_others_saved(tmp_path, form):
    (tmp_path / ("mnist_train.csv.gz" if form == "gz" else "mnist_train.csv")).write_bytes(csv_text(form))
    source = open_source(tmp_path)
    assert np.array_equal([source.sample(i).image for i in range(11)], IMAGES)
    assert [source.sample(i).label for i in range(11)] == LABELS.tolist()


@pytest.mark.parametrize("name", ["sign_mnist_train.csv", "train.csv", "letters/mnist_of_signs_train.csv"])
def test_a_table_of_another_alphabet(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(csv_text().replace(b"\n8,", b"\n24,"))
    source = open_source(tmp_path)
    assert source.class_names == tuple(map(str, range(25)))
    assert source.labels.tolist() == [24 if label == 8 else label for label in LABELS.tolist()]
    assert "its labels go up to 24, so it is not MNIST" in source.recognised.notes[0]


def test_a_table_of_mnist_with_other_labels_is_named(tmp_path):
    (tmp_path / "mnist_train.csv").write_bytes(csv_text().replace(b"\n8,", b"\n24,"))
    with pytest.raises(InputError, match=r"mnist_train\.csv has labels that MNIST has not: 24"):
        open_source(tmp_path)


def test_tables_of_sign_mnist_as_kaggle_has_them(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"sign_mnist_{part}").mkdir()
        for folder in ("", f"sign_mnist_{part}/"):
            (tmp_path / f"{folder}sign_mnist_{part}.csv").write_bytes(csv_text().replace(b"\n8,", b"\n24,"))
    found = open_source(tmp_path).recognised
    assert (found.splits, len(found.classes)) == ({"train": 11, "test": 11}, 25)
    assert found.left_out == {"more of the same files": 2}
    assert len(open_source(tmp_path / "sign_mnist_train.csv")) == 11
    assert len(open_source(tmp_path, sub="sign_mnist_test")) == 11


def test_faces_as_text_are_no_digits(tmp_path):
    (tmp_path / "train.csv").write_text("emotion,pixels\n0,70 80 82\n")  # FER2013
    with pytest.raises(InputError, match="no data set was found"):
        open_source(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_kaggles_folders_in_the_tables_names(tmp_path, packed):
    for name in ("mnist_train.csv", "mnist_test.csv"):
        if packed:
            (tmp_path / f"{name}.zip").write_bytes(zip_bytes({name: csv_text()}))
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / name).write_bytes(csv_text())
    assert open_source(tmp_path).recognised.splits == {"train": 11, "test": 11}


def test_several_tables_of_a_part_are_asked_about(tmp_path):
    for name, rows in (("mnist_train", 11), ("mnist_train_small", 3), ("mnist_test", 5)):
        (tmp_path / f"{name}.csv").write_bytes(csv_text(rows=rows))
    assert [len(open_source(tmp_path, **option)) for option in choices_at(tmp_path)] == [5, 11, 3]
    (tmp_path / "mnist_train.csv").unlink()  # as Google Colab has it
    assert open_source(tmp_path).recognised.splits == {"train": 3, "test": 5}


def test_a_table_without_rows_is_named(tmp_path, recwarn):
    (tmp_path / "mnist_train.csv").write_bytes(csv_text(rows=0))
    with pytest.raises(InputError, match=r"mnist_train\.csv has no rows"):
        open_source(tmp_path)
    assert not recwarn.list


def test_copies_of_the_same_files_are_counted(tmp_path):
    write(tmp_path)
    write(tmp_path, zipped=True)
    assert open_source(tmp_path).recognised.left_out == {"more of the same files": 2}
