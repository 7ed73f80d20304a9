"""Scores of a run while it trains, and the checkpoint that has scored best."""

import json

import pytest
import torch

from distgan.checkpoint import best_of, checkpoints, find_checkpoint
from distgan.evaluation import pictures
from distgan.launch.local import train_locally
from distgan.spec import RunSpec
from distgan.tracking.records import read_facts, read_metrics
from distgan.tracking.report import write_report
from distgan.training.loop import train
from distgan.training.workers import Workers
from shards.errors import InputError


@pytest.fixture(autouse=True)
def _few_patches(monkeypatch):
    monkeypatch.setattr(pictures, "PATCHES", 1024)


def scored(tiny, **changes) -> RunSpec:
    return tiny(
        evaluation__every_images=32,
        evaluation__count=20,
        evaluation__features="none",
        evaluation__metrics=["wasserstein"],
        training__keep_last=1,
        training__keep_best="wasserstein",
        **changes,
    )


def test_scores_are_written_down_and_the_best_is_kept(tiny, tmp_path):
    spec, run = scored(tiny), tmp_path / "run"
    train_locally(spec, run, console=False)
    lines = read_metrics(run)
    found = {line["images"]: line["score/wasserstein"] for line in lines if "score/wasserstein" in line}
    assert list(found) == [32, 64, 96]
    assert all(line["time/evaluation"] > 0 for line in lines if line["images"] in found)
    best = best_of(run)
    assert best is not None
    assert (best.metric, best.value) == ("wasserstein", min(found.values()))
    assert find_checkpoint(run, best=True).state.images == min(found, key=lambda images: found[images])
    assert best.path in checkpoints(run)
    assert len(checkpoints(run)) <= 2  # the last and the best
    assert lines[-1]["best/wasserstein"] == best.value
    assert lines[-1]["best/images"] == min(found, key=lambda images: found[images])
    assert (
        f"{best.path.name} ({lines[-1]['best/images']:,.0f} images): wasserstein" in (run / "report.html").read_text()
    )
    ((step, facts),) = read_facts(run)
    assert step == 4
    assert (facts["count"], facts["real_count"], facts["ema"]) == (20, 20, True)
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        assert line.get("evaluation") == (facts if "score/wasserstein" in line else None)
    assert "wasserstein" in (run / "report.html").read_text()


def test_scores_of_all_stages_are_of_images_of_the_final_size(tiny, tmp_path):
    stages = [{"size": 8, "images": 40, "batch_size": 5}, {"size": 16, "fade_images": 40}]
    train_locally(scored(tiny, training__stages=stages), tmp_path, console=False)
    lines = read_metrics(tmp_path)
    found = {line["images"]: line["image_size"] for line in lines if "score/wasserstein" in line}
    assert found == {35: 8, 64: 16, 96: 16}
    best = find_checkpoint(tmp_path, best=True).state
    assert lines[-1]["best/images"] == best.images in found
    assert f"{best.images} images" in (tmp_path / "report.html").read_text()


def test_scoring_changes_no_number_of_the_run(tiny, tmp_path):
    train_locally(scored(tiny), tmp_path / "scored", console=False)
    train_locally(tiny(), tmp_path / "plain", console=False)
    one, other = ([line["loss/critic"] for line in read_metrics(tmp_path / name)] for name in ("scored", "plain"))
    assert one == other


def test_a_resumed_run_knows_its_best(tiny, tmp_path):
    train_locally(scored(tiny), tmp_path / "whole", console=False)
    run = tmp_path / "run"
    train_locally(scored(tiny, training__images=64), run, console=False)
    train_locally(scored(tiny), run, resume=True, console=False)
    assert best_of(run) == best_of(tmp_path / "whole")._replace(path=best_of(run).path)


def test_scores_of_other_settings_keep_what_they_were_computed_from(tiny, tmp_path):
    run = tmp_path / "run"
    train_locally(scored(tiny, training__images=64), run, console=False)
    other = scored(tiny)
    other = other.model_copy(update={"evaluation": other.evaluation.model_copy(update={"count": 12})})
    train_locally(other, run, resume=True, console=False)
    assert [(step, facts["count"]) for step, facts in read_facts(run)] == [(4, 20), (12, 12)]
    page = (run / "report.html").read_text()
    assert "Scores from step 4 on" in page
    assert "12 generated and 12 real images" in page
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = best_of(run)
    assert best is not None
    assert best.path.name == "step-00000012"  # scores of other counts are not compared
    assert lines[-1]["best/wasserstein"] == lines[-1]["score/wasserstein"]
    assert "was scored in another way: the best begins anew" in (run / "log.txt").read_text()
    for line in lines[:-1]:
        line.pop("evaluation", None)  # as earlier versions wrote them
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Scores from step 12 on" in write_report(run).read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training__keep_best": "fid"}, "training.keep_best: no score is called 'fid'; .*frechet"),
        ({"evaluation__metrics": ["frechet"]}, "evaluation: metrics: frechet cannot be had .* without features"),
        ({"training__keep_best": "frechet"}, "training.keep_best is frechet, which .* do not give; they give wasserst"),
        ({"evaluation__metrics": ["wassrstein"]}, "evaluation: metrics: there is no 'wassrstein'"),
        ({"evaluation__features": "nowhere.pt"}, "evaluation: features nowhere.pt: there is no such file"),
        ({"evaluation__where": {"class": "cat"}}, "evaluation: .*cat"),
    ],
)
def test_bad_input(tiny, tmp_path, changes, said):
    base = {
        "evaluation__every_images": 32,
        "evaluation__features": "none",
        "evaluation__metrics": ["wasserstein", "frechet"],
    }
    spec = tiny(**{**base, **changes})
    with pytest.raises(InputError, match=said):
        train_locally(spec, tmp_path / "run", console=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def _train(rank: int, spec: RunSpec, run) -> None:
    torch.set_num_threads(1)
    pictures.PATCHES = 1024
    train(spec, run, Workers(rank, 2, torch.device("cpu")), console=False)


@pytest.mark.slow
def test_two_workers_find_the_scores_of_one(tiny, side_by_side, tmp_path):
    spec = scored(tiny, training__precision="float64")
    train_locally(spec, tmp_path / "alone", console=False)
    side_by_side(_train, 2, spec, tmp_path / "two")
    one, two = (
        [line["score/wasserstein"] for line in read_metrics(tmp_path / name) if "score/wasserstein" in line]
        for name in ("alone", "two")
    )
    assert two == pytest.approx(one, rel=1e-6)
