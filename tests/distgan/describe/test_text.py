from __future__ import annotations

from distgan.describe import describe
from distgan.describe.text import description_text
from distgan.spec import load_spec


def test_people_read_round_numbers():
    text = description_text(describe(load_spec("dcgan64", ["data.shards=nowhere"])))
    for words in ("3,578,624 parameters", "209.3 MFLOP an image", "512×4×4", "39,063 steps", "MiB", "128 images"):
        assert words in text
    assert max(map(len, text.splitlines()[:-2])) <= 100
