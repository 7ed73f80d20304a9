import pytest

from shards.sources.tarred import at_urls, split_key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("000.jpg", ("000", "jpg")),
        ("a/b.seg.PNG", ("a/b", "seg.png")),
        ("photo.0001.jpg", ("photo.0001", "jpg")),
        ("a.b/c.jpg", ("a.b/c", "jpg")),
        ("none", ("none", "")),
        ("dr.smith0000001.jpg", ("dr.smith0000001", "jpg")),
        ("x.seg_2.png", ("x", "seg_2.png")),
    ],
)
def test_split_key(name, key):
    assert split_key(name) == key


def test_a_tar_is_told_from_others_by_the_end_of_its_url():
    urls = ["s3://b/train/0.tar", "s3://b/val/0.tar"]
    assert [tar.short for tar in at_urls(urls)] == ["train/0.tar", "val/0.tar"]
    assert [tar.short for tar in at_urls(urls[:1])] == ["0.tar"]
