from __future__ import annotations

import io
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distgan.checkpoint import GENERATORS, Best, Checkpoint, mark_best
from distgan.cli import app
from distgan.errors import RunError
from distgan.explore import pictures
from distgan.explore.pictures import Explorer, GoneError
from distgan.explore.state import State
from distgan.sampling import sample
from distgan.sampling.directions import Judge, arithmetic
from shards.errors import InputError
from tests.distgan.explore.conftest import keep
from tests.distgan.sampling.test_directions import half


def pixels(png: bytes | Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png) if isinstance(png, bytes) else png)).astype(int)


def apart(one: bytes | Path, other: bytes | Path) -> int:
    """By how many levels of 255 two pictures differ at most."""
    return int(np.abs(pixels(one) - pixels(other)).max())


@pytest.mark.parametrize("query", ["seed=3", "seed=3&number=4", "seed=5&number=2&truncation=0.5", ""])
@pytest.mark.parametrize("model", [{}, {"latent": "uniform"}, {"generator": {"name": "resnet", "width": 4}}])
def test_a_picture_is_the_one_that_sample_draws(tmp_path, query, model):
    checkpoint = keep(tmp_path / "run", **model)
    state = State.from_query(query)
    sample(checkpoint, tmp_path / "sampled", count=5, seed=state.seed, truncation=state.truncation)
    drawn = Explorer(tmp_path / "run").draw(state)
    levels = [apart(drawn, path) for path in sorted((tmp_path / "sampled").iterdir())]
    assert levels.pop(state.number) <= 1  # in a batch of another size it may round otherwise
    assert min(levels) > 20


def test_what_a_conditional_run_is_asked_for(tmp_path):
    checkpoint = keep(tmp_path / "run", condition=True)
    explorer = Explorer(tmp_path / "run")
    drawn = [explorer.draw(State.from_query(f"number=2{rest}")) for rest in ("", "&where.Smiling=-1&where.class=dog")]
    for png, where in zip(drawn, ({}, {"Smiling": -1, "class": "dog"}), strict=True):
        folder = tmp_path / f"sampled-{len(where)}"
        sample(checkpoint, folder, count=3, where=where)
        assert apart(png, folder / "00000002.png") <= 1
    assert apart(*drawn) > 5
    explorer.begin()
    assert explorer.describe()["conditions"] == {"attributes": ["Smiling", "Male"], "classes": ["cat", "dog", "emu"]}
    for wrong, said in (
        ("where.Smilng=1", "did you mean 'Smiling'"),
        ("where.Male=2", "1 or -1"),
        ("where.class=cow", "cow"),
    ):
        with pytest.raises(InputError, match=said):
            explorer.draw(State.from_query(wrong))


@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_a_mixture_has_the_two_faces_at_its_ends(tmp_path, condition, latent):
    keep(tmp_path / "run", condition=condition, latent=latent)
    explorer = Explorer(tmp_path / "run")

    def draw(query: str) -> bytes:
        return explorer.draw(State.from_query(query))

    ends = draw("seed=3&number=1"), draw("seed=8&number=6")
    ways = [draw(f"seed=3&number=1&other_seed=8&other_number=6&mix={share}") for share in (0, 0.02, 0.5, 0.98, 1)]
    assert (ways[0], ways[-1]) == ends
    assert apart(*ends) > 20
    assert apart(ways[1], ends[0]) < apart(ways[2], ends[0]) > 0
    assert apart(ways[3], ends[1]) < apart(ways[2], ends[1]) > 0


def test_directions_at_0_change_nothing(run, known, monkeypatch):
    half(monkeypatch)
    explorer = Explorer(run, classifier=known, count=200)
    drawn = explorer.draw(State(seed=4))
    assert explorer.draw(State(seed=4, show={"Smiling": 0.0}, principal={2: 0.0})) == drawn
    assert explorer.draw(State.from_query("seed=4&show.Smiling=0&principal.2=0")) == drawn
    for query in ("seed=4&show.Smiling=2", "seed=4&show.odd=-1", "seed=4&principal.2=0.5", "seed=4&principal.2=-0.5"):
        assert apart(explorer.draw(State.from_query(query)), drawn) > 2, query


def test_attributes_are_those_of_arithmetic(run, known, monkeypatch, tmp_path):
    half(monkeypatch)
    arithmetic(
        Checkpoint(run / "checkpoints" / "step-00000020"),
        "Smiling - odd",
        tmp_path / "a.png",
        classifier=known,
        strength=(0.0, 2.0),
        steps=2,
        rows=3,
        count=200,
        tried=1,
    )
    drawn = Explorer(run, classifier=known, count=200).draw(State.from_query("number=1&show.Smiling=2&show.odd=-2"))
    strip = pixels(tmp_path / "a.png")
    assert np.abs(strip[20:36, 20:36] - pixels(drawn)).max() <= 1
    assert np.abs(strip[2:18, 20:36] - pixels(drawn)).max() > 20


def test_the_same_state_is_the_same_bytes_whatever_was_drawn_before(run, known, monkeypatch):
    half(monkeypatch)
    query = "step=10&seed=4&mix=0.3&directions=20&show.Smiling=1.5&principal.1=-2"
    first = Explorer(run, classifier=known, count=200).draw(State.from_query(query))
    again = Explorer(run, classifier=known, count=200)
    again.draw(State.from_query("step=20&principal.1=3"))
    assert again.draw(State.from_query(query)) == first
    other = again.draw(State.from_query(query.replace("directions=20", "directions=10")))
    assert apart(other, first) > 2


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("seed=7", []),
        ("step=10&seed=7&number=3&truncation=1.5&mix=0.4&other_seed=2", []),
        ("seed=7&principal.1=2", ["--weights", "training"]),
        ("step=10&directions=20&seed=7&show.Smiling=1.5&show.odd=-1", ["--count", "200"]),
    ],
)
def test_the_command_draws_the_very_same_picture(run, shards, known, monkeypatch, tmp_path, query, options):
    half(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "COUNT", 300)  # what the command draws when it is not told
    given = dict(zip(options[::2], options[1::2], strict=True))
    explorer = Explorer(
        Path("run"), classifier=known, count=int(given.get("--count", 300)), ema="--weights" not in given
    )
    drawn = explorer.draw(State.from_query(query))
    words = shlex.split(explorer.command(State.from_query(query)))
    assert words[:3] == ["distgan", "explore", "run"]
    if "--count" not in words:
        words += ["--count", "300"]
    keep(Path("run"), 30, shards=shards)  # training goes on
    told = CliRunner().invoke(app, words[1:])
    assert told.exit_code == 0, told.output
    assert Path("tiny.png").read_bytes() == drawn


def test_a_run_that_goes_on(run):
    explorer = Explorer(run, count=200)
    explorer.begin()
    newest = explorer.draw(State())
    assert [each["step"] for each in explorer.describe()["steps"]] == [10, 20]
    made = keep(run, 30)
    keep(run, 15, kind=GENERATORS)
    mark_best(run, Best(made.path, "frechet", 1.0, "x"))
    told = explorer.describe()
    assert told["steps"][1:] == [
        {"step": 15, "images": 120, "best": False},
        {"step": 20, "images": 160, "best": False},
        {"step": 30, "images": 240, "best": True},
    ]
    assert told["directions"] == 20
    assert explorer.draw(State()) == explorer.draw(State(step=30)) != newest
    explorer.draw(State(step=10))
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    with pytest.raises(GoneError, match="step 10 is not there, or no longer; there are 15, 20, 30"):
        explorer.draw(State(step=10))
    with pytest.raises(GoneError, match="step 10"):
        explorer.draw(State.from_query("step=20&principal.1=1&directions=10"))
    with pytest.raises(GoneError, match="step 10"):
        explorer.command(State(step=10))
    shutil.rmtree(run / "checkpoints")
    assert explorer.draw(State(step=15))
    assert not any(each["best"] for each in explorer.describe()["steps"])
    shutil.rmtree(run)
    assert explorer.describe()["steps"] == []
    with pytest.raises(GoneError, match="there are none"):
        explorer.draw(State())


def test_a_step_that_is_done_again_is_drawn_anew(run):
    explorer = Explorer(run)
    before = explorer.draw(State(step=20))
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    keep(run, 20, seed=1)
    assert explorer.draw(State(step=20)) != before
    assert explorer.draw(State(step=20)) == Explorer(run).draw(State(step=20))


def test_a_checkpoint_that_goes_while_it_is_read(run, monkeypatch):
    explorer = Explorer(run)
    tensors = Checkpoint.tensors

    def gone(self: Checkpoint, name: str) -> object:
        shutil.rmtree(self.path)
        return tensors(self, name)

    monkeypatch.setattr(Checkpoint, "tensors", gone)
    with pytest.raises(GoneError, match="step-00000010 is no longer there"):
        explorer.draw(State(step=10))


def test_a_damaged_checkpoint_is_named(run):
    explorer = Explorer(run)
    (run / "checkpoints" / "step-00000010" / "generator_ema.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"step-00000010 is damaged: generator_ema\.safetensors") as damaged:
        explorer.draw(State(step=10))
    assert not isinstance(damaged.value, GoneError)
    assert explorer.draw(State(step=20))


def test_few_generators_are_held(run, monkeypatch):
    monkeypatch.setattr(pictures, "KEPT", 2)
    for step in (30, 40, 50):
        keep(run, step)
    explorer = Explorer(run)
    drawn = {step: explorer.draw(State(step=step)) for step in (10, 20, 30, 40, 50)}
    assert len(explorer._generators) == 2
    assert {step: explorer.draw(State(step=step)) for step in drawn} == drawn
    assert len(set(drawn.values())) == 5


def test_a_checkpoint_s_own_folder(run):
    explorer = Explorer(run / "checkpoints" / "step-00000010")
    assert list(explorer.steps()) == [10]
    assert explorer.draw(State()) == Explorer(run).draw(State(step=10))


def test_what_sliders_there_are(run, known, monkeypatch):
    half(monkeypatch)
    told = []

    explorer = Explorer(run, classifier=known, attributes=["odd", "Smiling", "odd"], count=200)
    found = explorer.begin(lambda *at: told.append(at))
    assert told[-1] == (200, 200)
    described = explorer.describe()
    assert [each["key"] for each in described["attributes"]] == ["show.odd", "show.Smiling"]
    assert [each["key"] for each in described["principal"]] == [f"principal.{place}" for place in range(1, 7)]
    assert [each["note"] for each in described["principal"]] == [
        f"{share:.0%} of the variance" for share in found.shares
    ]


def test_attributes_that_hardly_any_picture_shows(run, known, monkeypatch):
    monkeypatch.setattr(Judge, "__call__", lambda self, pixels: np_to_bool(pixels, len(self.names)))
    explorer = Explorer(run, classifier=known, count=200)
    found = explorer.begin()
    assert set(found.rare) == {"Smiling"}
    described = explorer.describe()
    assert [each["name"] for each in described["attributes"]] == ["Male", "even", "odd"]
    assert "Smiling: only 0 of 200" in described["rare"][0]
    with pytest.raises(InputError, match="Smiling: only 0 of 200"):
        explorer.draw(State.from_query("show.Smiling=1"))
    with pytest.raises(InputError, match="Smiling: only 0 of 200"):
        Explorer(run, classifier=known, attributes=["Smiling"], count=200).begin()
    Explorer(run, classifier=known, attributes=["Male"], count=200).begin()


def np_to_bool(pixels: np.ndarray, names: int):
    import torch

    shown = torch.zeros(len(pixels), names, dtype=torch.bool)
    shown[::2, 1:] = True
    return shown


def test_finding_directions_can_be_stopped(run):
    explorer = Explorer(run, count=200)
    explorer.stop.set()
    with pytest.raises(RunError, match="stopped"):
        explorer.draw(State.from_query("principal.1=1"))
    assert explorer.draw(State())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 3}, "--count is at least 20"),
        ({"attributes": ["Smiling"]}, "--attribute Smiling needs --classifier"),
        ({"classifier": Path("nowhere.safetensors")}, "nowhere"),
        ({"classifier": True, "attributes": ["Smilling"]}, "--attribute Smilling: .*did you mean 'Smiling'"),
    ],
)
def test_bad_input(run, known, options, said):
    if options.get("classifier") is True:
        options = {**options, "classifier": known}
    with pytest.raises(InputError, match=said):
        Explorer(run, **options)


def test_a_classifier_of_other_shards(known, tmp_path):
    keep(tmp_path / "run")
    with pytest.raises(InputError, match="knows other shards than those that the run was trained on"):
        Explorer(tmp_path / "run", classifier=known)


def test_states_that_the_run_knows_nothing_of(run, known, monkeypatch):
    half(monkeypatch)
    for classifier, query, said in (
        (None, "show.Smiling=1", "Smiling: directions of attributes need --classifier FILE"),
        (known, "show.Smilling=1", "the classifier knows no 'Smilling'; did you mean 'Smiling'"),
        (None, "principal.9=1", "there is no principal direction 9; there are 6"),
        (None, "where.Smiling=1", "without model.condition"),
    ):
        with pytest.raises(InputError, match=said):
            Explorer(run, classifier=classifier, count=200).draw(State.from_query(query))


def test_no_run_and_no_checkpoint(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(InputError, match="is neither a checkpoint nor a run that has one"):
            Explorer(path)
