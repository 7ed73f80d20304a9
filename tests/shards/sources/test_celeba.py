import csv
import io
import multiprocessing
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.errors import InputError
from shards.images import ImageError
from shards.sources import Source, open_source
from tests.shards.test_trees import write

NAMES = ("5_o_Clock_Shadow", "Smiling", "Young")
COUNT = 7


def jpeg(i: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (178, 218), (i, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def values(i: int) -> list[int]:
    return [1 if (i >> bit) & 1 else -1 for bit in range(len(NAMES))]


def file_name(i: int) -> str:
    return f"{i:06d}.jpg"


IMAGES = {file_name(i): jpeg(i) for i in range(1, COUNT + 1)}


def write_folder(folder: Path, images: dict[str, bytes] = IMAGES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (folder / name).write_bytes(data)


def write_zip(path: Path, images: dict[str, bytes] = IMAGES, method: int = zipfile.ZIP_STORED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("img_align_celeba/", b"")
        for name, data in reversed(images.items()):  # a zip has its own order
            archive.writestr(f"img_align_celeba/{name}", data)
        archive.writestr("__MACOSX/img_align_celeba/._000001.jpg", b"shadow")


def write_text(path: Path, count: int = COUNT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{file_name(i)} " + " ".join(f"{value:2d}" for value in values(i)) for i in range(1, count + 1)]
    path.write_text("\n".join([str(count), " ".join(NAMES) + " ", *rows]) + "\n")


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", *NAMES])
        writer.writerows([file_name(i), *values(i)] for i in range(1, COUNT + 1))


def check(source: Source, count: int = COUNT) -> None:
    assert source.layout == "celeba"
    assert len(source) == count
    assert source.class_names == ()
    assert source.attribute_names == NAMES
    assert source.channels() == 3
    for i in range(count):
        sample = source.sample(i)
        assert sample.key == f"{i + 1:06d}"
        assert sample.image == IMAGES[file_name(i + 1)]
        assert sample.label == -1
        assert sample.attributes is not None
        assert sample.attributes.dtype == np.int8
        assert sample.attributes.tolist() == values(i + 1)
        assert source.name(i).endswith(file_name(i + 1))


@pytest.mark.parametrize(
    ("images", "table"),
    [
        ("img_align_celeba", "list_attr_celeba.txt"),
        ("img_align_celeba/img_align_celeba", "list_attr_celeba.csv"),  # Kaggle
        ("Img/img_align_celeba", "Anno/list_attr_celeba.txt"),  # the official share, unpacked
        ("celeba/img_align_celeba", "celeba/list_attr_celeba.txt"),  # torchvision
    ],
)
def test_a_folder(tmp_path, images, table):
    write_folder(tmp_path / images)
    (tmp_path / table).parent.mkdir(parents=True, exist_ok=True)
    (write_csv if table.endswith("csv") else write_text)(tmp_path / table)
    check(open_source(tmp_path))
    check(open_source(tmp_path / images))
    check(open_source(tmp_path, "celeba"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("archive", "table"),
    [
        ("img_align_celeba.zip", "list_attr_celeba.txt"),
        ("Img/img_align_celeba.zip", "Anno/list_attr_celeba.txt"),
        ("celeba/img_align_celeba.zip", "celeba/list_attr_celeba.txt"),
    ],
)
def test_a_zip(tmp_path, archive, table, method):
    write_zip(tmp_path / archive, method=method)
    write_text(tmp_path / table)
    before = sorted(tmp_path.rglob("*"))
    check(open_source(tmp_path))
    check(open_source(tmp_path / archive))
    assert sorted(tmp_path.rglob("*")) == before  # nothing was extracted


def test_the_zip_where_the_folder_is_empty(tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    write_zip(tmp_path / "img_align_celeba.zip")
    write_text(tmp_path / "list_attr_celeba.txt")
    check(open_source(tmp_path))


def test_images_and_table_in_one_folder(tmp_path):
    write_folder(tmp_path)
    write_text(tmp_path / "list_attr_celeba.txt")
    check(open_source(tmp_path))


def test_a_relative_path(tmp_path, monkeypatch):
    write_folder(tmp_path / "img_align_celeba")
    write_text(tmp_path / "list_attr_celeba.txt")
    monkeypatch.chdir(tmp_path / "img_align_celeba")
    check(open_source(Path()))


def test_the_first_images_with_the_whole_table(tmp_path):
    write_folder(tmp_path / "img_align_celeba", dict(list(IMAGES.items())[:3]))
    write_text(tmp_path / "list_attr_celeba.txt", count=50)
    check(open_source(tmp_path), count=3)


def test_the_png_edition(tmp_path):
    write_folder(tmp_path / "img_align_celeba", {"000002.png": b"a", "000001.png": b"b"})
    write_text(tmp_path / "list_attr_celeba.txt")
    source = open_source(tmp_path)
    np.testing.assert_array_equal([source.sample(i).attributes for i in range(2)], [values(1), values(2)])


def test_without_a_table_there_are_no_attributes(tmp_path):
    write_folder(tmp_path / "img_align_celeba")
    source = open_source(tmp_path)
    assert source.attribute_names == ()
    assert source.sample(0).attributes is None


def test_images_without_a_row(tmp_path):
    write_folder(tmp_path / "img_align_celeba")
    write_text(tmp_path / "list_attr_celeba.txt", count=1)
    with pytest.raises(InputError, match=r"no row for 6 of the 7 .*: 000002\.jpg, .*000006\.jpg, …;"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "many", "line 1"),
        (1, "", "line 1"),
        (2, "", "names"),
        (2, "Smiling Young Smiling", "names"),
        (2, "000001.jpg -1 1 1", "names"),
        (3, "000001.jpg -1 1", "line 3: 2 values for 3"),
        (4, "000002.jpg -1 1 1 1", "line 4: 4 values for 3"),
        (5, "000003.jpg -1 0 1", "line 5: '0' is neither"),
        (6, "000004.jpg -1 +1 x", "line 6: "),
        (9, "000001.jpg 1 1 1", r"line 9: a second row for 000001\.jpg"),
        (9, "000007.jpg", "line 9: 0 values"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, text, message):
    write_folder(tmp_path / "img_align_celeba")
    table = tmp_path / "list_attr_celeba.txt"
    write_text(table)
    lines = table.read_text().splitlines()
    lines[line - 1] = text
    table.write_text("\n".join(lines))
    with pytest.raises(InputError, match=message) as error:
        open_source(tmp_path)
    assert str(table) in str(error.value)


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_attr_celeba.csv"])
@given(data=st.binary(max_size=60) | st.text('01-, \n"ab.jpg', max_size=60).map(str.encode))
@settings(max_examples=60, deadline=None)
def test_any_table_is_read_or_refused(tmp_path_factory, name, data):
    root = tmp_path_factory.mktemp("set")
    write_folder(root / "img_align_celeba", {"a.jpg": b"x"})
    (root / name).write_bytes(data)
    with pytest.raises(InputError):  # never the right table by chance
        open_source(root)


def test_a_csv_with_windows_habits(tmp_path):
    write_folder(tmp_path / "img_align_celeba")
    write_csv(tmp_path / "list_attr_celeba.csv")
    text = (tmp_path / "list_attr_celeba.csv").read_text()
    (tmp_path / "list_attr_celeba.csv").write_bytes(
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").replace(",", " , ").encode()
    )
    check(open_source(tmp_path))
    for folder in ("C:\\\\faces\\\\", "/home/me/faces/"):  # and with whole paths
        (tmp_path / "list_attr_celeba.csv").write_text(re.sub("(?m)^(?=[0-9])", folder, text))
        check(open_source(tmp_path))


def test_a_truncated_zip_is_an_error(tmp_path):
    write_zip(tmp_path / "img_align_celeba.zip")
    data = (tmp_path / "img_align_celeba.zip").read_bytes()
    (tmp_path / "img_align_celeba.zip").write_bytes(data[:-30])
    with pytest.raises(InputError, match="not a whole zip"):
        open_source(tmp_path)


def test_damage_in_a_zip_hits_single_samples(tmp_path):
    path = tmp_path / "img_align_celeba.zip"
    write_zip(path)
    data = bytearray(path.read_bytes())
    data[data.index(IMAGES["000003.jpg"]) + 20] ^= 1
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(ImageError, match="CRC"):
        source.sample(2)
    assert source.sample(1).image == IMAGES["000002.jpg"]


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_damage_to_a_zip_is_an_error_for_people(tmp_path_factory, flips):
    path = tmp_path_factory.mktemp("set") / "img_align_celeba.zip"
    small = {f"{i}.jpg": bytes([i]) * 9 for i in range(3)}
    write_zip(path, small, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    path.write_bytes(data)
    try:
        source = open_source(path)
    except InputError:
        return
    for i in range(len(source)):
        try:
            source.sample(i)
        except (ImageError, OSError):
            continue


def test_identity(tmp_path):
    write_folder(tmp_path / "img_align_celeba")
    table = tmp_path / "list_attr_celeba.txt"
    seen = {open_source(tmp_path).identity()}
    write_text(table)
    seen.add(open_source(tmp_path).identity())
    assert open_source(tmp_path / "img_align_celeba").identity() in seen
    table.write_text(table.read_text().replace("000001.jpg  1", "000001.jpg -1"))
    seen.add(open_source(tmp_path).identity())
    table.write_text(table.read_text().replace("Young", "Old"))
    seen.add(open_source(tmp_path).identity())
    (tmp_path / "img_align_celeba/000001.jpg").write_bytes(b"other")
    seen.add(open_source(tmp_path).identity())
    (tmp_path / "img_align_celeba/000001.jpg").unlink()
    seen.add(open_source(tmp_path).identity())
    assert len(seen) == 6


def read_all(source: Source) -> list[bytes | np.ndarray]:
    return [source.sample(i).image for i in range(len(source)) for _ in range(20)]


def test_a_zip_in_forked_and_pickled_copies(tmp_path):
    write_zip(tmp_path / "img_align_celeba.zip")
    write_text(tmp_path / "list_attr_celeba.txt")
    source = open_source(tmp_path)
    expected = read_all(source)
    check(pickle.loads(pickle.dumps(source)))
    context = multiprocessing.get_context("fork")  # the children begin with the parent's open file
    children = [context.Process(target=lambda: read_all(source) == expected or exit(1)) for _ in range(2)]
    for child in children:
        child.start()
    assert read_all(source) == expected
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]


# ---- what people have of it ----


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("table", ["list_attr_celeba.csv", "list_attr_celeba.txt"])
def test_an_archive_that_holds_all_of_it(tmp_path, kind, table):
    write_folder(tmp_path / "x/celeba/img_align_celeba/img_align_celeba")
    (write_csv if table.endswith("csv") else write_text)(tmp_path / "x/celeba" / table)
    files = {
        p.relative_to(tmp_path / "x").as_posix(): p.read_bytes()
        for p in sorted((tmp_path / "x").rglob("*"))
        if p.is_file()
    }
    check(open_source(write(tmp_path / "it", kind, files)))


def test_the_png_edition_in_its_folder(tmp_path):
    write_folder(
        tmp_path / "Img/img_align_celeba_png", {name.replace("jpg", "png"): data for name, data in IMAGES.items()}
    )
    (tmp_path / "Anno").mkdir()
    write_text(tmp_path / "Anno/list_attr_celeba.txt")
    for source in (open_source(tmp_path), open_source(tmp_path / "Img/img_align_celeba_png")):
        assert (source.layout, source.attribute_names) == ("celeba", NAMES)
        assert [source.sample(i).attributes.tolist() for i in range(COUNT)] == [values(i + 1) for i in range(COUNT)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("form", ["{}", "{}.0", "zero"])
def test_tables_that_pandas_saved_again(tmp_path, separator, index, form):
    write_folder(tmp_path / "img_align_celeba")
    rows = [["image_id", *NAMES]]
    for i in range(1, COUNT + 1):
        rows.append([file_name(i), *(str(max(v, 0)) if form == "zero" else form.format(v) for v in values(i))])
    if index:
        rows = [[str(i - 1) if i else "", *row] for i, row in enumerate(rows)]
    (tmp_path / "list_attr_celeba.csv").write_text("".join(separator.join(row) + "\n" for row in rows))
    check(open_source(tmp_path))


def test_values_of_two_habits_are_refused(tmp_path):
    write_folder(tmp_path / "img_align_celeba", {"1.jpg": b"a", "2.jpg": b"b"})
    (tmp_path / "list_attr_celeba.csv").write_text("image_id,A,B\n1.jpg,1,-1\n2.jpg,0,1\n")
    with pytest.raises(InputError, match="line 3: '0' is neither -1 nor 1, and the table has -1 as well"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["list_eval_partition.txt", "list_eval_partition.csv", "Eval/list_eval_partition.txt"])
def test_the_official_splits(tmp_path, name):
    write_folder(tmp_path / "img_align_celeba")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    separator, header = (",", "image_id,partition\n") if name.endswith("csv") else (" ", "")
    parts = [0, 0, 1, 2, 2, 0]
    lines = [f"{file_name(i + 1)}{separator}{part}\n" for i, part in enumerate(parts)]
    (tmp_path / name).write_text(header + "".join(lines))
    source = open_source(tmp_path)
    assert source.split_names == ("train", "val", "test")
    assert [source.sample(i).split for i in range(COUNT)] == [*parts, -1]
    assert any("no row for 1 of the images" in note for note in source.recognised.notes)
    assert len(open_source(tmp_path, split="test")) == 2


def test_faces_beside_their_masks(tmp_path):
    write_folder(tmp_path / "CelebA-HQ-img", {f"{i}.jpg": jpeg(i) for i in range(3)})
    shape = np.zeros((20, 20), np.uint8)
    shape[5:9, 5:9] = 255
    file = io.BytesIO()
    Image.fromarray(shape).save(file, "PNG")
    write_folder(tmp_path / "CelebAMask-HQ-mask-anno/0", {f"{i:05d}_hair.png": file.getvalue() for i in range(3)})
    rows = [f"{i}.jpg  1 -1 1" for i in range(3)]
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(["3", " ".join(NAMES), *rows]))
    source = open_source(tmp_path)
    assert (source.layout, len(source), source.attribute_names) == ("celeba", 3, NAMES)
    assert sum(source.recognised.left_out.values()) == 3


def test_images_that_no_table_speaks_of_are_no_celeba(tmp_path):
    write_folder(tmp_path / "cats", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)})
    write_text(tmp_path / "list_attr_celeba.txt")
    assert open_source(tmp_path).layout == "folder"


PARTS = [i % 3 for i in range(COUNT)]


@pytest.mark.parametrize("words", [("0.0", "1.0", "2.0"), ("train", "valid", "test"), ("Training", "dev", "testing")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_partitions_as_others_write_them(tmp_path, words, encoding):
    write_folder(tmp_path / "img_align_celeba")
    rows = [f"{name} {words[part]}" for name, part in zip(IMAGES, PARTS, strict=True)]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(rows), encoding)
    source = open_source(tmp_path)
    assert [source.split_names[split] for split in source.splits] == [("train", "val", "test")[i] for i in PARTS]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("000001.jpg 0\n000002.jpg 1\n000001.jpg 2\n", r"line 3: a second row for 000001\.jpg, with another split"),
        ("<!DOCTYPE html>\n<html>Sign in, please</html>\n", "is a web page and not the table"),
    ],
)
def test_a_partition_that_makes_no_sense_is_named(tmp_path, text, message):
    write_folder(tmp_path / "img_align_celeba")
    (tmp_path / "list_eval_partition.txt").write_text(text)
    with pytest.raises(InputError, match=rf"list_eval_partition\.txt.*{message}"):
        open_source(tmp_path)


@pytest.mark.parametrize("form", ["more columns", "trailing comma", "utf-16"])
def test_tables_that_others_joined(tmp_path, form):
    write_folder(tmp_path / "img_align_celeba")
    write_csv(tmp_path / "list_attr_celeba.csv")
    lines = (tmp_path / "list_attr_celeba.csv").read_text().splitlines()
    if form == "more columns":
        more = ["partition,lefteye_x", *(f"{i % 3},{60 + i}" for i in range(COUNT))]
        lines = [f"{line},{extra}" for line, extra in zip(lines, more, strict=True)]
    elif form == "trailing comma":
        lines = [f"{line}," for line in lines]
    encoding = "utf-16" if form == "utf-16" else "utf-8"
    (tmp_path / "list_attr_celeba.csv").write_text("\n".join(lines), encoding)
    source = open_source(tmp_path)
    check(source)
    said = "columns of it that are no attributes: partition, lefteye_x" in source.recognised.notes
    assert said == (form == "more columns")


def test_copies_that_no_table_speaks_of_are_counted(tmp_path):
    write_folder(tmp_path / "img_align_celeba", IMAGES | {"000001 (1).jpg": IMAGES["000001.jpg"]})
    write_text(tmp_path / "list_attr_celeba.txt")
    source = open_source(tmp_path)
    check(source)
    assert sum(source.recognised.left_out.values()) == 1


@pytest.mark.parametrize("outer", ["", "faces/"])
@pytest.mark.parametrize("form", ["{split}", "{split}/{sex}", "{sex}"])
def test_folders_that_the_images_were_sorted_into(tmp_path, form, outer):
    write_text(tmp_path / "list_attr_celeba.txt")
    for i, (name, data) in enumerate(IMAGES.items()):
        place = form.format(split=("train", "val", "test")[PARTS[i]], sex=("Male", "Female")[i % 2])
        write_folder(tmp_path / outer / place, {name: data})
    source = open_source(tmp_path)
    assert (source.layout, len(source), source.attribute_names) == ("celeba", COUNT, NAMES)
    assert source.split_names == (("train", "val", "test") if "split" in form else ())
    assert ("folders Female, Male are no classes" in source.recognised.notes) == ("sex" in form)
    for i in range(COUNT):
        sample = source.sample(i)
        assert sample.attributes is not None
        assert sample.attributes.tolist() == values(int(source.name(i)[-10:-4]))
    assert len(open_source(tmp_path, sub=f"{outer}train")) == PARTS.count(0) if "split" in form else True


def test_folders_with_the_same_images_are_asked_about(tmp_path):
    write_text(tmp_path / "list_attr_celeba.txt")
    for folder in ("small", "large"):
        write_folder(tmp_path / folder)
    with pytest.raises(InputError, match=r"(?s)2 data sets.*--sub large .*--sub small "):
        open_source(tmp_path)
