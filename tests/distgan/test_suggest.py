from __future__ import annotations

import dataclasses

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distgan.spec import RunSpec, load_spec
from distgan.suggest import FULL_WIDTH_IMAGES, KNOWN_BY_HEART, LEAST_IMAGES, SMALL_RATE, Facts, facts_of, suggest
from distgan.training.complete import complete
from shards.errors import InputError
from shards.images import Transform
from shards.sources import open_source
from shards.writer import pack

FACES = Facts("data/faces", 64, 10_000)


def suggested(tmp_path, facts=FACES, minutes=60.0, workers=1, speed=500.0) -> tuple[RunSpec, str]:
    text = suggest(facts, minutes, workers, lambda run: speed)
    (tmp_path / "suggested.yaml").write_text(text)
    return load_spec(tmp_path / "suggested.yaml"), text


@settings(max_examples=30)
@given(
    st.builds(
        Facts,
        shards=st.sampled_from(["data/faces", "010", "s3://bucket/my faces: all", "#1", "a\u2028b", "a\x85b: c"]),
        size=st.sampled_from([16, 32, 64, 128, 256]),
        images=st.integers(1_000, 10**7) | st.integers(2, 1_000),
        mirrored=st.booleans(),
        held_out=st.sampled_from([None, "test"]),
        classes=st.sampled_from([(), ("cat", "dog"), ("a: b", "#", "no", "e", "f")]),
    ),
    st.floats(1.0, 10**5),
    st.integers(1, 64),
    st.floats(1.0, 10**5),
)
def test_any_facts_and_budget_give_a_run_that_fits_together(tmp_path_factory, facts, minutes, workers, speed):
    together = workers if workers == 1 else 0.8 * workers
    if 60 * minutes * speed * together < 1.1 * LEAST_IMAGES:
        return
    folder = tmp_path_factory.mktemp("suggest")
    if facts.images // 2 < workers:
        with pytest.raises(InputError, match="each needs an image"):
            suggested(folder, facts, minutes, 2 * workers, speed)
        return
    run, text = suggested(folder, facts, minutes, workers, speed)
    assert workers <= run.training.batch_size <= max(facts.images // 2, 1)
    assert (run.data.shards, run.data.image_size, run.data.flip) == (facts.shards, facts.size, facts.mirrored)
    assert run.training.images is not None
    assert 0.9 <= run.training.images / (60 * minutes * speed * together) <= 1.0 + 1e-9
    assert run.cluster.workers == workers
    assert complete(run).in_images(facts.images).steps > 0
    for name in ("data:", "training:"):  # a reason stands where a choice was made
        assert "  # " in text.partition(f"\n{name}\n")[2].partition("\n\n")[0]
    assert max(map(len, text.splitlines())) < 200


@pytest.mark.parametrize("minutes", [1, 3_000])
def test_small_images_have_wide_networks_and_all_a_critic_that_sees_contrast(tmp_path, minutes):
    """So that they end with as many channels as those of 64 pixels, and none fade."""
    small, large = (suggested(tmp_path, dataclasses.replace(FACES, size=size), minutes)[0].model for size in (32, 64))
    assert small.generator.rest["width"] == 2 * large.generator.rest["width"]
    assert small.critic.rest["image_bias"] == large.critic.rest["image_bias"] == 0.1


def test_what_follows_from_the_time(tmp_path):
    """Where there is little, narrow networks in small batches; else larger batches and longer averages."""
    runs = [suggested(tmp_path, minutes=minutes)[0] for minutes in (1, 5, 15, 300, 3_000, 30_000)]
    widths = [run.model.generator.rest["width"] for run in runs]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    assert [run.training.images >= FULL_WIDTH_IMAGES for run in runs] == [width == 64 for width in widths]
    for field in ("batch_size", "ema_half_life_images", "checkpoint_every_images"):
        values = [getattr(run.training, field) for run in runs]
        assert values == sorted(values)
        assert values[0] < values[-1]


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(
    ("images", "rate", "kind"),
    [(49_000, 4e-4, "constant"), (50_000, 8e-4, "linear"), (1_900_000, 8e-4, "linear"), (2_000_000, 4e-4, "linear")],
)
def test_the_rate_falls_where_there_is_time_for_it(tmp_path, size, images, rate, kind):
    facts = dataclasses.replace(FACES, size=size)
    run, text = suggested(tmp_path, facts, minutes=images / 60 + 0.01, speed=1.0)
    assert run.training.images == images
    for optimizer in (run.optimizer.generator, run.optimizer.critic):
        assert (optimizer.lr, optimizer.schedule.kind) == (min(rate, SMALL_RATE) if size < 64 else rate, kind)
    assert ("no time for one that falls" in text) == (kind == "constant")


def test_the_speed_is_that_of_the_networks_that_are_chosen(tmp_path):
    asked = []

    def speed(run: RunSpec) -> float:
        asked.append((run.model.critic.rest["width"], run.training.batch_size))
        return 8000.0 / run.model.critic.rest["width"]

    (tmp_path / "s.yaml").write_text(suggest(FACES, 20, 1, speed))
    assert asked == [(64, 16), (64, 32), (32, 16), (32, 32)]
    assert load_spec(tmp_path / "s.yaml").training.images == 20 * 60 * 8000 / 32


def test_small_sets_are_augmented_when_they_are_shown_often(tmp_path):
    few, many = (dataclasses.replace(FACES, images=images) for images in (1_000, 10**6))
    augmented, text = suggested(tmp_path, few)
    assert augmented.training.images / few.images > KNOWN_BY_HEART
    assert augmented.augmentation.target == 0.6
    assert "by heart" in text
    plain, text = suggested(tmp_path, many)
    assert not plain.augmentation.on
    assert "by heart" not in text


def test_what_a_set_holds_is_said(tmp_path):
    _, text = suggested(tmp_path, dataclasses.replace(FACES, classes=("cat", "dog", "hen", "pig"), held_out="val"))
    assert "(cat, dog, hen, …)" in text
    assert "the split val" in text
    _, text = suggested(tmp_path)
    assert "classes" not in text
    assert "split" not in text


@pytest.mark.parametrize(
    ("images", "workers", "batch_size", "reason"),
    [
        (10_000, 1, 16, "many small steps"),
        (10_000, 16, 64, "each of 16 workers has 4 images"),
        (10_000, 17, 128, "each of 17 workers has 4 images"),
        (20, 1, 10, "half of the 20 images"),
    ],
)
def test_a_batch_is_large_enough_for_the_workers_and_small_enough_for_the_set(
    tmp_path, images, workers, batch_size, reason
):
    facts = dataclasses.replace(FACES, images=images)
    run, text = suggested(tmp_path, facts, minutes=60 / workers, workers=workers)
    assert run.training.batch_size == batch_size
    assert reason in text


def test_a_machine_that_is_faster_with_larger_batches_gets_them(tmp_path):
    """A GPU shows twice the images in twice the batch, up to a point."""

    def speed(run: RunSpec) -> float:
        return 10.0 * min(run.training.batch_size, 80)

    text = suggest(FACES, 30, 1, speed)
    (tmp_path / "s.yaml").write_text(text)
    run = load_spec(tmp_path / "s.yaml")
    assert run.training.batch_size == 64  # 128 would be 1.25 times as fast
    assert run.training.images == 1_100_000  # of 30 · 60 · 640
    assert "in batches of 64 than of half as many" in text


def test_too_many_workers_are_refused_with_how_many_it_takes_before_anything_is_measured():
    few = dataclasses.replace(FACES, images=20)
    with pytest.raises(InputError, match=r"20 images make batches of 10 at most.* --workers 10 or fewer"):
        suggest(few, 60, 11, lambda run: pytest.fail("measured"))
    assert suggest(few, 60, 10, lambda run: 500.0)


def test_too_little_time_is_refused_with_how_much_it_takes(tmp_path):
    with pytest.raises(InputError, match=r"give it 3\.4 minutes or more"):
        suggest(FACES, 2, 1, lambda run: 50.0)
    assert suggest(FACES, 3.4, 1, lambda run: 50.0)


@pytest.mark.parametrize(("names", "mirrored"), [(("cat", "dog"), True), (("0", "1"), False), (("a", "B"), False)])
def test_facts_are_those_of_the_index(tmp_path, names, mirrored):
    for split, count in (("train", 4), ("test", 2)):
        for name in names:
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), (i * 40, 0, len(split))).save(folder / f"{split}{i}.png")
    pack(open_source(str(tmp_path / "set")), tmp_path / "shards", Transform(size=16, channels=3), workers=1)
    facts, channels = facts_of(str(tmp_path / "shards"))
    assert facts == Facts(str(tmp_path / "shards"), 16, 8, mirrored, "test", facts.classes)
    assert sorted(facts.classes) == sorted(names)
    assert channels == 3


def test_a_yaml_reader_of_any_kind_reads_it(tmp_path):
    """Of the values alone: 2e-4 is written so that none takes it for text."""
    _, text = suggested(tmp_path)
    tree = yaml.safe_load(text)
    assert isinstance(tree["optimizer"]["generator"]["lr"], float)
