import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distgan.evaluation.features import inception, lite0, load_features, module, while_training
from distgan.evaluation.features.base import ACTIVATION, Described, in_parts
from shards.errors import InputError


def pictures(count: int = 2, size: int = 24) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Means(nn.Module):
    """A picture's mean colours."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3))


@pytest.mark.parametrize("ending", ["pt", "pt2"])
def test_a_module_from_a_file(tmp_path, ending):
    path = tmp_path / f"means.{ending}"
    if ending == "pt":
        torch.jit.trace(Means(), pictures()).save(str(path))
    else:
        dynamic = {"images": {0: torch.export.Dim("n", min=1, max=1024)}}
        torch.export.save(torch.export.export(Means(), (pictures(),), dynamic_shapes=dynamic), path)
    features = load_features(str(path))
    assert features is not None
    assert features.distance == "FD-means"
    torch.testing.assert_close(features(pictures(5)).vectors, pictures(5).float().mean((2, 3)))


@pytest.mark.parametrize("name", ["x.pt", "x.pt2"])
def test_a_file_that_is_something_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(InputError, match=rf"{name}: not a (TorchScript|torch\.export) module"):
        module.load(str(tmp_path / name))


def test_a_module_that_gives_no_vectors(tmp_path):
    torch.jit.trace(nn.Identity(), pictures()).save(str(tmp_path / "same.pt"))
    features = module.load(str(tmp_path / "same.pt"))
    with pytest.raises(InputError, match="not a vector each"):
        features(pictures())


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="needs distgan[lite0]")
def test_lite0():
    features = lite0.load("64")
    assert (features.name, features.distance, features.shape(24)) == ("lite0-64", "FD-lite0-64", (1280, 1000))
    vectors = features(pictures(3)).vectors
    torch.testing.assert_close(features(pictures(3)[1:2]).vectors, vectors[1:2], rtol=1e-4, atol=1e-4)
    assert lite0.load("").name == "lite0"


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is None, reason="needs distgan[inception]")
def test_nothing_but_the_standard_weights_of_inception_is_opened(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")  # a pickle that would do something
    with pytest.raises(InputError, match=f"is not {inception.WEIGHTS}"):
        inception.load(str(path))
    assert not Path("opened").exists()
    with pytest.raises(InputError, match="cannot read"):
        inception.load(str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize(
    ("weights", "installed", "expected"),
    [(True, True, None), (True, False, None), (False, True, "lite0:112"), (False, False, None)],
)
def test_a_run_that_asks_for_none_takes_the_cheaper_lite0(monkeypatch, weights, installed, expected):
    monkeypatch.setattr(inception, "at_hand", lambda: weights)
    monkeypatch.setattr(lite0, "installed", lambda: installed)
    assert while_training() == expected


@pytest.mark.parametrize("most", [1, 3, 7, 8])
def test_a_large_network_describes_few_pictures_at_a_time(most):
    seen = []

    def describe(images):
        seen.append(len(images))
        return Described(images.float().mean((2, 3)), images.float().amax((2, 3)))

    images = pictures(7)
    found = in_parts(describe, ACTIVATION // (4 * most))(images)
    assert max(seen) <= most
    assert sum(seen) == 7
    assert torch.equal(found.vectors, images.float().mean((2, 3)))
    assert found.logits is not None
    assert torch.equal(found.logits, images.float().amax((2, 3)))
