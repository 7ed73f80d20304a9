import json

import pytest

from shards.errors import InputError
from shards.sources import open_source
from tests.shards.sources.test_sources import photos
from tests.shards.test_trees import write

IMAGES = photos(*(f"00000/img{i:08d}.png" for i in range(6)))


def table(labels: object) -> bytes:
    return json.dumps({"labels": labels}).encode()


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("prefix", ["", "wrapped/in/"])
def test_labels_of_the_table(tmp_path, kind, prefix):
    files = IMAGES | {"dataset.json": table([[name, i % 3] for i, name in enumerate(IMAGES)])}
    source = open_source(write(tmp_path / "it", kind, {prefix + name: data for name, data in files.items()}))
    assert source.layout == "stylegan"
    assert source.class_names == ("0", "1", "2")
    assert [source.sample(i).label for i in range(6)] == [0, 1, 2, 0, 1, 2]
    assert source.recognised.left_out == {}


def test_one_hot_labels_and_images_without_a_row(tmp_path):
    names = list(IMAGES)
    rows = [[names[0], [0, 1, 0]], [names[1], [1, 0, 0]], ["gone.png", [0, 0, 1]]]
    source = open_source(write(tmp_path / "it", "folder", IMAGES | {"dataset.json": table(rows)}))
    assert [source.sample(i).label for i in range(6)] == [1, 0, -1, -1, -1, -1]
    assert any("4 images are not in" in note for note in source.recognised.notes)
    assert any("1 images that are not there" in note for note in source.recognised.notes)


def test_no_labels(tmp_path):
    source = open_source(write(tmp_path / "it", "folder", IMAGES | {"dataset.json": table(None)}))
    assert (source.class_names, len(source)) == ((), 6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a.png"]], r'\["a.png"\] is no pair'),
        (["a.png"], '"a.png" is no pair'),
        ([["a.png", -1]], "-1 is no label"),
        ([["a.png", 1.5]], "1.5 is no label"),
        ([["a.png", float("inf")]], "Infinity is no label"),
        ([[3, 1]], "no pair"),
        ([["a.png", True]], "true is no label"),
        ([["elsewhere.png", 1]], "speaks of none"),
        ([["a.png", 0], ["./a.png", 1]], "a.png has two labels, 0 and 1"),
    ],
)
def test_a_table_that_makes_no_sense_is_named(tmp_path, labels, message):
    with pytest.raises(InputError, match=rf"dataset\.json.*{message}"):
        open_source(write(tmp_path / "it", "folder", IMAGES | {"dataset.json": table(labels)}))


@pytest.mark.parametrize(
    "document",
    [
        {"name": "mine"},
        {"name": "Liver", "labels": {"background": 0, "liver": 1}, "file_ending": ".png"},  # nnU-Net
        {"labels": {"0": "background", "1": "liver"}},
        {"labels": {}},
        {"labels": 7},
        {"images": [{"file": "a.png", "labels": [1, 2]}]},
        [{"labels": []}],
    ],
)
def test_another_json_is_none_of_ours(tmp_path, document):
    source = open_source(write(tmp_path / "it", "folder", IMAGES | {"dataset.json": json.dumps(document).encode()}))
    assert (source.layout, source.recognised.left_out) == ("folder", {".json": 1})


def test_a_table_that_is_cut_off_is_named(tmp_path):
    path = write(tmp_path / "it", "folder", IMAGES | {"dataset.json": table([["a.png", 1]])[:-4]})
    with pytest.raises(InputError, match=r"dataset\.json should say"):
        open_source(path)


@pytest.mark.parametrize("form", ["./{}", "dict", "float", "late", "utf-8-sig", "utf-16"])
def test_tables_as_others_write_them(tmp_path, form):
    rows: list[list[object]] = [[name, i % 3] for i, name in enumerate(IMAGES)]
    if form == "float":
        rows = [[name, float(i % 3)] for i, name in enumerate(IMAGES)]
    elif "{}" in form:
        rows = [[form.format(name), label] for name, label in rows]
    document = {"about": "x" * 10_000 if form == "late" else "", "labels": dict(rows) if form == "dict" else rows}
    encoding = form if form.startswith("utf") else "utf-8"
    path = write(tmp_path / "it", "folder", IMAGES | {"dataset.json": json.dumps(document).encode(encoding)})
    source = open_source(path)
    assert [source.sample(i).label for i in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_folder_below_the_table_keeps_its_labels(tmp_path):
    images = photos("in/1.png", "in/2.png", "other/1.png")
    rows = [["in/1.png", 1], ["in/2.png", 0], ["other/1.png", 1]]
    path = write(tmp_path / "it", "folder", images | {"dataset.json": table(rows)})
    source = open_source(path, sub="in")
    assert (source.layout, source.labels.tolist()) == ("stylegan", [1, 0])
    assert source.recognised.left_out == {"not in in": 1}


def test_a_table_within_the_folder_of_another(tmp_path):
    files = {"dataset.json": table([["p/1.png", 0], ["q/2.png", 1]]), "p/dataset.json": table([["1.png", 3]])}
    path = write(tmp_path / "it", "folder", photos("p/1.png", "q/2.png") | files)
    assert open_source(path).labels.tolist() == [0, 1]
    assert open_source(path).recognised.left_out == {".json": 1}
    assert open_source(path, sub="p").labels.tolist() == [3]
