from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distgan.checkpoint import find_checkpoint
from distgan.cli import app
from distgan.evaluation import detector
from distgan.evaluation.detector import C2ST, DETECTOR, count_of, detect, read, two_sample_test, write
from distgan.launch.local import train_locally
from distgan.sampling.scored import evaluate
from shards.errors import InputError
from shards.images import Transform

GREY = Transform(16, 1)


@pytest.fixture(autouse=True)
def _briefly(monkeypatch):
    monkeypatch.setattr(detector, "SHOWN", 1_500)


def noise(seed: int, brightness: float = 0.0):
    """Pictures of noise by position."""

    def images(first: int, count: int) -> torch.Tensor:
        drawn = [
            np.random.Generator(np.random.Philox(key=[seed, i])).random((1, 16, 16))
            for i in range(first, first + count)
        ]
        return torch.from_numpy(np.clip(np.stack(drawn) * 128 + brightness, 0, 255).astype(np.uint8))

    return images


def test_nobody_tells_images_of_one_kind_apart():
    scores, _ = two_sample_test(noise(1), noise(2), 150, GREY, {})
    assert scores[f"{C2ST}_error"] == pytest.approx(math.sqrt(scores[C2ST] * (1 - scores[C2ST]) / 300))
    assert abs(scores[C2ST] - 0.5) < 4.5 * math.sqrt(0.25 / 300)


def test_anybody_tells_dark_images_from_bright_ones_and_the_detector_knows_them():
    scores, known = two_sample_test(noise(1), noise(2, 100.0), 150, GREY, {"count": 150})
    assert scores[C2ST] > 0.98
    assert known(noise(7, 100.0)(0, 20)).min() > 0.5
    assert known(noise(8)(0, 20)).max() < 0.5
    assert known.facts["c2st"] == scores[C2ST]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_no_other_random_number_moves():
    torch.manual_seed(5)
    first, _ = two_sample_test(noise(1), noise(2, 10.0), 60, GREY, {})
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    again, _ = two_sample_test(noise(1), noise(2, 10.0), 60, GREY, {})
    assert first == again


def test_memory_is_bounded():
    assert count_of(10**6, Transform(64, 3)) == 2_000
    assert count_of(10**6, Transform(1024, 3)) * 1024**2 * 3 <= 64 << 20
    assert count_of(30, GREY) == 30
    assert count_of(10**6, Transform(4096, 3)) >= detector.FOLDS  # some, however large they are


def test_too_few_images():
    with pytest.raises(InputError, match="at least 3 real and as many generated images, not 2"):
        two_sample_test(noise(1), noise(2), 2, GREY, {})


def test_it_reads_back_and_judges_files(tmp_path):
    _, known = two_sample_test(noise(1), noise(2, 100.0), 100, GREY, {"count": 100})
    write(known, tmp_path / DETECTOR)
    again = read(tmp_path)
    assert again.facts == known.facts
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, images in (("bright", noise(7, 100.0)), ("dark", noise(8))):
        Image.fromarray(images(0, 1)[0, 0].numpy()).save(folder / f"{name}.png")
    Image.fromarray(np.full((40, 60, 3), 220, np.uint8)).save(folder / "larger.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "torn.png").write_bytes((folder / "dark.png").read_bytes()[:40])
    found = {verdict.name.rpartition("/")[2]: verdict for verdict in detect(again, [folder])}
    assert sorted(found) == ["bright.png", "dark.png", "larger.png", "torn.png"]
    assert found["dark.png"].generated < 0.5 < found["bright.png"].generated
    assert found["larger.png"].generated is not None
    assert found["torn.png"].generated is None
    assert "broken image" in found["torn.png"].reason
    ((name, generated, _),) = detect(again, [folder / "bright.png"])
    assert (name, generated) == (str(folder / "bright.png"), found["bright.png"].generated)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*detector\.safetensors.*evaluate .* --metrics c2st"):
        read(tmp_path)
    (tmp_path / DETECTOR).write_bytes(b"none")
    with pytest.raises(InputError, match=r"not a detector .* or it is damaged"):
        read(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "missing.safetensors")
    _, known = two_sample_test(noise(1), noise(2), 30, GREY, {})
    with pytest.raises(InputError, match="cannot write"):
        write(known, tmp_path / DETECTOR / "below a file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in it"):
        list(detect(known, [tmp_path / "empty"]))
    verdicts = detect(known, [tmp_path / "empty", tmp_path / "missing"])
    with pytest.raises(InputError, match="missing does not exist"):  # before anything is judged
        next(verdicts)
    (tmp_path / "notes.yaml").write_text("a: 1")
    with pytest.raises(InputError, match=r"notes\.yaml is not a detector that distgan evaluate --metrics c2st"):
        read(tmp_path / "notes.yaml")


def command(capsys, *words: object) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        app([*map(str, words), "--json"])
    assert not ended.value.code
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_evaluate_leaves_a_detector_that_detect_asks(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    train_locally(tiny(), run, console=False)
    found = command(capsys, "evaluate", run, "--metrics", "c2st", "--count", 40)
    assert list(found["scores"]) == ["c2st", "c2st_error"]
    assert found["facts"]["c2st_of"] == 40
    assert "c2st is of 40 images of either side" in found["notes"]
    assert found["scores"]["c2st"] > 0.9  # nobody takes a run of 12 steps for real
    with pytest.raises(SystemExit):
        app(["sample", str(run), "--out", str(tmp_path / "drawn"), "--count", "8"])
    capsys.readouterr()
    judged = command(capsys, "detect", run, tmp_path / "drawn")
    assert judged["facts"]["step"] == 12
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="none of these could be judged"):
        app(["detect", str(run), str(tmp_path / "notes.txt")], standalone_mode=False)
    assert sum(each["generated"] > 0.5 for each in judged["pictures"]) >= 7


@pytest.mark.slow
def test_scores_are_there_although_the_detector_cannot_be_written(tiny, tmp_path):
    train_locally(tiny(), tmp_path / "run", console=False)
    found = evaluate(
        find_checkpoint(tmp_path / "run"),
        count=20,
        metrics=["wasserstein", "c2st"],
        features="none",
        detector=tmp_path / "run" / "spec.yaml" / DETECTOR,
    )
    assert {"wasserstein", "c2st"} <= found.scores.keys()
    assert any("nothing is left for distgan detect: cannot write" in note for note in found.notes)


def test_too_few_images_are_said_before_the_work(tiny, tmp_path):
    train_locally(tiny(), tmp_path / "run", console=False)
    shown: list[int] = []
    with pytest.raises(InputError, match="c2st needs at least 3 real and as many generated images, not 2"):
        evaluate(
            find_checkpoint(tmp_path / "run"),
            count=2,
            metrics=["wasserstein", "c2st"],
            features="none",
            progress=lambda done, total: shown.append(done),
        )
    assert shown == []


def test_it_is_no_score_while_training(tiny, tmp_path):
    spec = tiny(evaluation__every_images=32, evaluation__metrics=["c2st"], evaluation__features="none")
    with pytest.raises(InputError, match=r"evaluation: metrics: c2st trains .* distgan evaluate RUN --metrics c2st"):
        train_locally(spec, tmp_path / "run", console=False)
