import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distgan.cli import app
from distgan.sampling import inversion
from distgan.sampling.generator import Generator
from distgan.sampling.inversion import _apart, invert
from shards.errors import InputError
from tests.distgan.sampling.test_sampling import conditional, saved

__all__ = ["conditional"]  # a fixture


def contrasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained generators draw next to nothing: have them draw it with more contrast."""
    made = Generator.__init__

    def changed(self: Generator, *args: object, **options: object) -> None:
        made(self, *args, **options)  # type: ignore[arg-type]
        self.module.register_forward_hook(lambda module, given, images: torch.tanh(images * 1000))

    monkeypatch.setattr(Generator, "__init__", changed)


def test_what_a_generator_has_drawn_is_found_again(tmp_path, monkeypatch):
    contrasting(monkeypatch)
    checkpoint = saved(tmp_path / "run", 3)
    picture = Generator(checkpoint).sample(1, seed=77)[0]
    Image.fromarray(picture if picture.shape[2] == 3 else picture[..., 0]).save(tmp_path / "p.png")
    seen: list[tuple[int, int]] = []
    found = invert(
        checkpoint, tmp_path / "p.png", tmp_path / "pair.png", progress=lambda *at: seen.append(at), steps=200
    )
    assert found.begun_with > 5
    assert found.rmse < 0.2 * found.begun_with
    assert seen[-1] == (200, 200)
    drawn = Generator(checkpoint).draw(torch.tensor([found.latent]))[0]
    assert np.sqrt(np.mean((drawn.astype(float) - picture) ** 2)) == pytest.approx(found.rmse, abs=0.5)
    pair = np.asarray(Image.open(tmp_path / "pair.png").convert("RGB"))
    assert pair.shape == (20, 38, 3)
    assert (pair[2:18, 2:18] == picture).all()
    assert (pair[2:18, 20:36] == drawn).mean() > 0.9
    again = invert(checkpoint, tmp_path / "p.png", tmp_path / "again.png", steps=200)
    assert again == found


def test_scales_are_those_of_a_plain_loop():
    images, wanted = torch.randn(3, 2, 16, 16), torch.randn(1, 2, 16, 16)
    expected = torch.zeros(3)
    for times in (1, 2, 4):
        for i in range(3):
            apart = (images[i] - wanted[0]).unfold(1, times, times).unfold(2, times, times).mean((-2, -1))
            expected[i] += apart.square().mean()
    torch.testing.assert_close(_apart(images, wanted), expected)


def test_a_conditioned_run_shows_what_is_asked(conditional, tmp_path):
    Image.new("L", (16, 16), 90).save(tmp_path / "p.png")
    found = invert(conditional, tmp_path / "p.png", tmp_path / "a.png", steps=2, where={"Smiling": 1})
    assert len(found.latent) == 5
    with pytest.raises(InputError, match="Smilling"):
        invert(conditional, tmp_path / "p.png", tmp_path / "b.png", where={"Smilling": 1})


def test_uniform_latents_stay_where_they_are_drawn(tmp_path, monkeypatch):
    contrasting(monkeypatch)
    checkpoint = saved(tmp_path / "run", 1)
    model = checkpoint.state.spec.model.model_copy(update={"latent": "uniform"})
    checkpoint.state = checkpoint.state.model_copy(
        update={"spec": checkpoint.state.spec.model_copy(update={"model": model})}
    )
    Image.new("L", (16, 16), 255).save(tmp_path / "p.png")
    found = invert(checkpoint, tmp_path / "p.png", tmp_path / "a.png", steps=100)
    assert max(map(abs, found.latent)) <= 1


def test_photographs_of_other_shapes(tmp_path):
    checkpoint = saved(tmp_path / "run", 3)
    grid = np.mgrid[:40, :60].sum(0).astype(np.uint8)
    Image.fromarray(grid).save(tmp_path / "wide.png")
    with pytest.raises(InputError, match=r"wide.png is 60×40, and the run draws squares of 16: --crop"):
        invert(checkpoint, tmp_path / "wide.png", tmp_path / "a.png", steps=1)
    assert not (tmp_path / "a.png").exists()
    invert(checkpoint, tmp_path / "wide.png", tmp_path / "a.png", steps=1, crop=True)
    Image.fromarray(grid[:, 10:50]).save(tmp_path / "square.png")
    invert(checkpoint, tmp_path / "square.png", tmp_path / "b.png", steps=1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_command(tmp_path):
    saved(tmp_path / "run", 3)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "p.jpg")
    asked = ["invert", str(tmp_path / "run"), str(tmp_path / "p.jpg"), "--out", str(tmp_path / "new" / "i.png")]
    told = CliRunner().invoke(app, [*asked, "--steps", "3"])
    assert told.exit_code == 0, told.output
    assert "levels of 255 from the photograph" in told.output
    assert (tmp_path / "new" / "i.png").exists()
    found = json.loads(CliRunner().invoke(app, [*asked, "--steps", "3", "--json"]).output)
    assert len(found["latent"]) == 5


def test_bad_input(tmp_path, monkeypatch):
    checkpoint = saved(tmp_path / "run", 1)
    Image.new("RGB", (16, 16)).save(tmp_path / "p.png")
    (tmp_path / "text.png").write_text("no picture")
    for picture, options, said in (
        ("nowhere.png", {}, "cannot read .*nowhere.png"),
        ("text.png", {}, "text.png: not an image"),
        ("p.png", {"steps": 0}, "--steps is at least 1"),
        ("p.png", {"seed": -1}, "seed"),
    ):
        with pytest.raises(InputError, match=said):
            invert(checkpoint, tmp_path / picture, tmp_path / "a.png", **options)
    with pytest.raises(InputError, match=r"ends in \.png"):
        invert(checkpoint, tmp_path / "p.png", tmp_path / "a.gif")
    monkeypatch.setattr(inversion, "MOST_BYTES", 10)
    with pytest.raises(InputError, match="more than 10 bytes"):
        invert(checkpoint, tmp_path / "p.png", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
