from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from distgan.checkpoint import Checkpoint
from distgan.cli import app
from distgan.evaluation.features import classifier
from distgan.sampling import directions
from distgan.sampling.directions import Judge, Term, arithmetic, find_directions, parse_expression
from shards.errors import InputError
from shards.index import Index
from tests.distgan.sampling.test_nearest import trained_on
from tests.distgan.sampling.test_sampling import saved

KNOWN = ["Smiling", "Male", "Eyeglasses", "5_o_Clock_Shadow", "big dog", "big", "C-3PO", "a+b"]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Smiling", [("Smiling", 1)]),
        ("-Male", [("Male", -1)]),
        ("Smiling - Male + Eyeglasses", [("Smiling", 1), ("Male", -1), ("Eyeglasses", 1)]),
        ("smiling-male+EYEGLASSES", [("Smiling", 1), ("Male", -1), ("Eyeglasses", 1)]),
        ("− Male", [("Male", -1)]),
        ("5_o_Clock_Shadow - big dog + big", [("5_o_Clock_Shadow", 1), ("big dog", -1), ("big", 1)]),
        ("C-3PO - a+b", [("C-3PO", 1), ("a+b", -1)]),
        ('"big dog"+"Male"', [("big dog", 1), ("Male", 1)]),
    ],
)
def test_expressions(text, terms):
    assert parse_expression(text, KNOWN) == [Term(*each) for each in terms]


@given(
    st.lists(st.tuples(st.sampled_from(KNOWN), st.sampled_from([1, -1])), min_size=1, unique_by=lambda term: term[0])
)
def test_what_is_written_is_read(terms):
    text = " ".join(f"{'+' if sign > 0 else '-'} {name}" for name, sign in terms)
    assert parse_expression(text, KNOWN) == [Term(*each) for each in terms]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Smilling - Male", r"the classifier knows no 'Smilling'; did you mean 'Smiling'"),
        ("Smiling - Hat + Male", "knows no 'Hat'"),
        ("Smiling Male", r"\+ or - is missing before 'Male'"),
        ("", "an expression is like"),
        ("Smiling +", "knows no ''"),
        ("Male - male", "names something twice"),
        ("bigger", "knows no 'bigger'"),
    ],
)
def test_expressions_that_are_none(text, said):
    with pytest.raises(InputError, match=said):
        parse_expression(text, KNOWN)


class Brightness:
    """Sees which half of a picture is bright, on the whole."""

    names = ("left", "top")

    def __call__(self, pictures: np.ndarray) -> torch.Tensor:
        flat = torch.from_numpy(pictures[..., 0]).float()
        return torch.stack([flat[:, :, :8].mean((1, 2)), flat[:, :8].mean((1, 2))], 1) > 128


class Never:
    """Sees nothing."""

    names = ("never",)

    def __call__(self, pictures: np.ndarray) -> torch.Tensor:
        return torch.zeros(len(pictures), 1, dtype=torch.bool)


class Halves:
    """Draws what its first two numbers say: how bright the left half is, and the top."""

    spec = SimpleNamespace(model=SimpleNamespace(latent="normal"))

    def latents(self, count: int, *, seed: int = 0) -> torch.Tensor:
        return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))

    def labels(self, count: int, *, seed: int = 0) -> torch.Tensor:
        return torch.zeros(count, 0)

    def draw_with(self, latents: torch.Tensor, labels: torch.Tensor) -> list[np.ndarray]:
        image = torch.full((len(latents), 16, 16), 128.0)
        image[:, :, :8] += 30 * latents[:, 0, None, None]
        image[:, :8] += 30 * latents[:, 1, None, None]
        return list(image.clamp(0, 255).byte()[..., None].numpy())


def test_a_direction_is_the_difference_of_two_means():
    generator: Any = Halves()
    judge: Any = Brightness()
    seen: list[tuple[int, int]] = []
    found, assigned = find_directions(
        generator, judge, ["top", "left"], count=4000, seed=3, progress=lambda *at: seen.append(at)
    )
    latents = generator.latents(4000, seed=3)
    shown = judge(np.stack(generator.draw_with(latents, generator.labels(4000))))
    for name, column in (("left", 0), ("top", 1)):
        yes = shown[:, column]
        torch.testing.assert_close(found[name], latents[yes].mean(0) - latents[~yes].mean(0))
        assert assigned[name] == int(yes.sum())
    assert found["left"].abs().argmax() == 0
    assert found["top"].abs().argmax() == 1
    assert seen[-1] == (4000, 4000)


def test_what_hardly_any_picture_shows():
    generator: Any = Halves()
    judge: Any = Never()
    with pytest.raises(InputError, match=r"never: only 0 of 100 generated pictures show it.*--count"):
        find_directions(generator, judge, ["never"], count=100, seed=0)


@pytest.fixture(scope="module")
def shards(pack_discs) -> Path:
    return pack_discs(count=60, size=16, attributes=("Smiling", "Male"), classes=("even", "odd"))


@pytest.fixture(scope="module")
def known(shards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("classifier") / "c.safetensors"
    classifier.train(Index.load(str(shards)), out, images=64)
    return out


@pytest.fixture
def checkpoint(shards, tmp_path) -> Checkpoint:
    return trained_on(saved(tmp_path / "run", 3), shards)


def test_a_judge_says_what_the_classifier_does(known, shards):
    judge = Judge(known)
    assert judge.names == ("Smiling", "Male", "even", "odd")
    assert set(judge.accuracy) == set(judge.names)
    pictures = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    network, _ = classifier.read(known)
    logits = network(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    shown = judge(pictures)
    assert (shown[:, :2] == (logits[:, :2] > 0)).all()
    assert (shown[:, 2:].sum(1) == 1).all()
    assert (shown[:, 3] == (logits[:, 3] > logits[:, 2])).all()


def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the judge see something in half of the pictures, whatever its little training has come to."""
    medians: dict[int, torch.Tensor] = {}

    def judged(self: Judge, pictures: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(pictures.reshape(len(pictures), -1)).float()
        sides = torch.randn(pixels.shape[1], len(self.names), generator=torch.Generator().manual_seed(0))
        values = pixels @ sides
        return values > medians.setdefault(len(self.names), values.median(0).values)

    monkeypatch.setattr(Judge, "__call__", judged)


def test_the_command(checkpoint, known, tmp_path, monkeypatch):
    half(monkeypatch)
    asked = ["arithmetic", str(checkpoint.path), "Smiling - odd", "--classifier", str(known), "--strength", "-3..3"]
    asked += [
        "--count",
        "200",
        "--tried",
        "20",
        "--rows",
        "2",
        "--out",
        str(tmp_path / "new" / "a.png"),
        "--steps",
        "5",
    ]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    assert "+ Smiling" in told.output
    assert "- odd" in told.output
    assert Image.open(tmp_path / "new" / "a.png").size == (2 + 5 * 18, 2 + 2 * 18)
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert found["strengths"] == [-3, -1.5, 0, 1.5, 3]
    assert set(found["agrees"]) == {"+ Smiling", "- odd"}
    assert (found["drawn"], found["tried"]) == (200, 20)


def test_strength_0_is_the_picture_itself(checkpoint, known, tmp_path, monkeypatch):
    half(monkeypatch)
    found = arithmetic(
        checkpoint,
        "Male",
        tmp_path / "a.png",
        classifier=known,
        strength=(0.0, 2.0),
        steps=2,
        rows=3,
        count=100,
        tried=9,
    )
    strip = np.asarray(Image.open(tmp_path / "a.png"))
    drawn = directions.Generator(checkpoint).sample(3)
    for row, picture in enumerate(drawn):
        assert (strip[2 + 18 * row : 18 + 18 * row, 2:18] == picture).all()
    assert found.strengths == [0.0, 2.0]
    assert 0 < found.assigned["Male"] < 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expression": "Smilling"}, "did you mean 'Smiling'"),
        ({"out": "a.avi"}, r"\.png for a picture"),
        ({"steps": 1}, "--steps 2"),
        ({"steps": 0}, "--steps 2"),
        ({"count": 3}, "--count 20"),
        ({"classifier": "nowhere.safetensors"}, "^cannot read nowhere.safetensors: No such file or directory$"),
    ],
)
def test_bad_input(checkpoint, known, tmp_path, options, said):
    asked: dict[str, Any] = {"expression": "Smiling", "out": "a.png", "classifier": known, **options}
    out = tmp_path / asked.pop("out")
    with pytest.raises(InputError, match=said):
        arithmetic(checkpoint, asked.pop("expression"), out, **{**asked, "classifier": Path(asked["classifier"])})
    assert not out.exists()


def test_a_classifier_of_other_shards(known, discs, tmp_path):
    other = trained_on(saved(tmp_path / "run", 3), discs)
    with pytest.raises(InputError, match="knows other shards than those that the run was trained on"):
        arithmetic(other, "Smiling", tmp_path / "a.png", classifier=known)


@pytest.mark.parametrize("strength", ["2", "2..-2", "a..b", "1..", "0..inf", "1..2..3"])
def test_a_strength_that_is_none(checkpoint, known, tmp_path, strength):
    asked = [
        "arithmetic",
        str(checkpoint.path),
        "Smiling",
        "--classifier",
        str(known),
        "--out",
        str(tmp_path / "a.png"),
    ]
    with pytest.raises(InputError, match="write the least and the most"):
        CliRunner().invoke(app, [*asked, "--strength", strength], standalone_mode=False, catch_exceptions=False)
