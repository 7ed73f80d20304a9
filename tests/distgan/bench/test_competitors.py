"""How competitors are written, and what runs of theirs are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.bench.competitors import (
    BATCHES,
    check_changes,
    competitors,
    data_of,
    schedules_that_end_elsewhere,
)
from distgan.spec import DataSpec
from shards.errors import InputError


def changes(text: str) -> tuple[str, ...]:
    return competitors(["textbook", text])[1].changes


@pytest.mark.parametrize(
    ("text", "recipe", "expected"),
    [
        ("dcgan64", "dcgan64", ()),
        ("a:b,c/x.yaml", "a:b,c/x.yaml", ()),
        ("a:b/x.yaml:training.batch_size=32", "a:b/x.yaml", ("training.batch_size=32",)),
        (
            "x:optimizer.critic.betas=[0, 0.9],data.flip=true",
            "x",
            ("optimizer.critic.betas=[0, 0.9]", "data.flip=true"),
        ),
        ("x:a.b={c: 1, d: [e=2, f=3]}, g=4", "x", ("a.b={c: 1, d: [e=2, f=3]}", "g=4")),
        ('x:data.where={class: "a,b=c]"},g=4', "x", ('data.where={class: "a,b=c]"}', "g=4")),
        ("x:a=https://here:80/b,c", "x", ("a=https://here:80/b,c",)),
        ("x:a='it''s, b=c',d=1", "x", ("a='it''s, b=c'", "d=1")),
    ],
)
def test_what_is_changed(text, recipe, expected):
    found = competitors(["textbook", text])[1]
    assert (found.recipe, found.changes) == (recipe, expected)


keys = st.from_regex(r"[a-z_]{1,5}(\.[a-z_]{1,5}){0,2}", fullmatch=True)
words = st.from_regex(r"[A-Za-z0-9.:/-]{1,8}", fullmatch=True)
lists = st.lists(words, max_size=3).map(lambda items: f"[{', '.join(items)}]")
quoted = st.text("ab ,=:[]{}'", max_size=6).map(lambda text: f'"{text}"')


@pytest.mark.slow
@given(st.lists(st.tuples(keys, words | lists | quoted), min_size=1, max_size=4))
def test_changes_are_told_apart_whatever_their_values(pairs):
    written = [f"{key}={value}" for key, value in pairs if key not in ("seed", "evaluation", "cluster")]
    if written:
        assert list(changes(f"recipe:{','.join(written)}")) == written


def test_the_textbook_takes_part_with_several_batches_unless_it_is_named():
    assert [each.batch_size for each in competitors(["dcgan64"])[:-1]] == list(BATCHES)
    named = competitors(["dcgan64", "textbook:32", "textbook"])
    assert [each.label for each in named] == ["textbook 32", "textbook", "dcgan64"]
    assert [each.batch_size for each in named[:2]] == [32, 128]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("jobs/dcgan64.yaml:training.batch_size=32", "dcgan64 batch_size=32"),
        ("x:optimizer.critic.lr=1,optimizer.generator.lr=2", "x critic.lr=1 generator.lr=2"),
        ("x:objective.r1=3", "x r1=3"),
    ],
)
def test_labels_are_short(text, label):
    assert competitors(["textbook", text])[1].label == label


def test_folders_are_names_and_different():
    texts = ["textbook", "textbook:32", "dcgan64", "a/b", "a-b", "a:b=[1, 2]", "a:b=[1,2]", "x" * 300 + "/y"]
    folders = [each.folder for each in (competitors([text])[0 if "text" in text else -1] for text in texts)]
    assert len(set(folders)) == len(texts)
    assert folders[0] == "textbook"
    assert all(len(folder) < 100 and "/" not in folder and ":" not in folder for folder in folders)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["textbook:many"], "the batch alone"),
        (["textbook:training.batch_size=3"], "the batch alone"),
        (["a/x.yaml", "b/x.yaml"], "two competitors are called 'x'"),
        (["dcgan64:seed=3"], "seed is the same for all competitors; --seeds"),
        (["dcgan64:evaluation.count=3"], "evaluation is the same"),
    ],
)
def test_bad_competitors(texts, said):
    with pytest.raises(InputError, match=said):
        competitors(texts)


def test_changes_of_all():
    check_changes(["training.batch_size=3", "data.flip=true"])
    with pytest.raises(InputError, match="--shards says it"):
        check_changes(["data.shards=x"])
    assert data_of("s", 32, ["data.limit=9", "training.batch_size=3"]) == DataSpec(shards="s", image_size=32, limit=9)


def test_what_a_run_is():
    data = DataSpec(shards="s, with: signs", image_size=32)
    ours = competitors(["textbook:16", "dcgan64:training.batch_size=8"])
    textbook, recipe = (each.spec(data, ["model.latent_dim=7"], 5, 800, None) for each in ours)
    for spec in (textbook, recipe):
        assert (spec.seed, spec.data.shards, spec.data.image_size) == (5, data.shards, 32)
        assert (spec.training.images, spec.training.keep_generator_every_images) == (800, 100)
    assert (textbook.training.batch_size, recipe.training.batch_size) == (16, 8)
    assert (textbook.model.latent_dim, recipe.model.latent_dim) == (100, 7)
    assert recipe.tracking.wandb.mode == "disabled"
    (own,) = competitors(["textbook", "dcgan64:training.images=96"])[1:]
    assert own.says_length
    assert own.spec(data, [], 0, 800, 32).training.images == 96


def test_schedules_for_another_length_are_said():
    linear = ["{kind: linear, until_images: 500}", "{kind: linear, until_images: 800}"]
    changed = ",".join(
        f"optimizer.{side}.schedule={each}" for side, each in zip(("critic", "generator"), linear, strict=True)
    )
    (_, each) = competitors(["textbook", f"dcgan64:{changed}"])
    spec = each.spec(DataSpec(shards="s"), [], 0, 800, None)
    assert schedules_that_end_elsewhere(spec) == ["optimizer.critic.schedule ends at 500 images, the run at 800"]
    (_, each) = competitors(["textbook", "dcgan64:optimizer.critic.schedule={kind: linear}"])
    assert schedules_that_end_elsewhere(each.spec(DataSpec(shards="s"), [], 0, 800, None)) == []


def test_numbers_that_move_for_another_length_are_said():
    def moving(images: int) -> str:
        return f"{{base: 1, final: 0, images: {images}}}"

    changes = [f"objective.r1={moving(500)}", "optimizer.critic.betas=[0.0, {base: 0.9, final: 0.99, images: 600}]"]
    (_, each) = competitors(["textbook", f"dcgan64:{','.join(changes)},objective.r2={moving(800)}"])
    assert schedules_that_end_elsewhere(each.spec(DataSpec(shards="s"), [], 0, 800, None)) == [
        "objective.r1 ends at 500 images, the run at 800",
        "optimizer.critic.betas.1 ends at 600 images, the run at 800",
    ]
