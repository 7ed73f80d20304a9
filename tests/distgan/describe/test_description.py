from __future__ import annotations

import json
from dataclasses import asdict

from distgan.describe import describe
from tests.small import AUTOENCODER, small


def test_json_has_the_same_keys_for_every_specification():
    def keys(node: object) -> object:
        if isinstance(node, dict):
            return {key: keys(value) for key, value in node.items()}
        return [keys(node[0])] if isinstance(node, list) and node else None

    gan, autoencoder = (
        json.loads(json.dumps(asdict(describe(spec))))
        for spec in (small(), small(model=AUTOENCODER, objective={"kind": "elbo"}))
    )
    assert keys(gan) == keys(autoencoder)
    sections = ["name", "image", "labels", "generator", "critic", "step", "stages", "memory", "run", "notes"]
    assert list(gan) == sections
    assert list(gan["generator"]["layers"][0]) == ["name", "type", "output_shape", "parameters"]
    assert list(gan["critic"]["parameters"]) == ["total", "trainable"]
