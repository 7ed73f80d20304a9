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
    "labels", [[["a.png"]], [["a.png", -1]], [["a.png", 1.5]], [[3, 1]], 7, [["a.png", True]], [["elsewhere.png", 1]]]
)
def test_a_table_that_makes_no_sense_is_named(tmp_path, labels):
    with pytest.raises(InputError, match=r"dataset\.json"):
        open_source(write(tmp_path / "it", "folder", IMAGES | {"dataset.json": table(labels)}))


def test_another_json_is_none_of_ours(tmp_path):
    source = open_source(write(tmp_path / "it", "folder", IMAGES | {"dataset.json": b'{"name": "mine"}'}))
    assert source.layout == "folder"
