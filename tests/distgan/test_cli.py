from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from distgan import cli
from distgan.bench.sections import SECTIONS
from distgan.bench.switches import SWITCHES
from distgan.checkpoint import best_of, find_checkpoint
from distgan.commands.bench import bench_app
from distgan.commands.shards import skipped_text
from distgan.errors import RunError
from distgan.spec import dump_spec
from distgan.training.loop import train
from distgan.training.workers import Workers
from shards.index import Index
from shards.reader import Reader


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Class folders with twelve sound images and one that is none."""
    for i in range(12):
        path = tmp_path / "images" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((24, 20), 10 * i).convert("RGB").save(path)
    (tmp_path / "images" / "cat" / "broken.png").write_bytes(b"no image")
    return tmp_path / "images"


@pytest.mark.slow
def test_help_explains_every_command(distgan):
    def commands(group: Any, path: list[str]) -> Iterator[list[str]]:
        for name, command in group.commands.items():
            yield [*path, name]
            if hasattr(command, "commands"):
                yield from commands(command, [*path, name])

    paths = [[], *commands(typer.main.get_group(cli.app), [])]
    assert ["shards", "pack"] in paths
    for path in paths:
        status, text = distgan(*path, "--help")
        assert status == 0
        assert "Usage" in text


def test_help_shows_what_is_in_brackets(distgan):
    assert "'distgan[faces]'" in distgan("shards", "pack", "--help")[1]


@pytest.mark.parametrize(("command", "registry"), [("gpu", SECTIONS), ("switches", SWITCHES)], ids=["gpu", "switches"])
def test_help_lists_all_that_can_be_measured_alone(command, registry):
    (option,) = (each for each in typer.main.get_group(bench_app).commands[command].params if each.metavar == "NAME")
    names = option.help.removeprefix("Only this one: ").removesuffix(". Repeatable.").replace(" or ", ", ").split(", ")
    assert names == list(registry)


def test_help_does_not_wait_for_torch():
    program = """
import sys
from distgan.cli import main
sys.argv = ["distgan", "--help"]
try:
    main()
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_first_step_waits_for_no_compiler_and_no_charts(tiny, tmp_path, optimizer):
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny()))
    program = f"""
import os, sys
from distgan import cli
from distgan.training.learner import Learner

def end(learner, real):
    update(learner, real)
    print(sorted({{"torch._dynamo", "torchvision", "matplotlib", "torchmetrics", "ray", "wandb"}} & sys.modules.keys()))
    sys.stdout.flush()
    os._exit(0)

update, Learner.update_generator = Learner.update_generator, end
sys.argv = ["distgan", "train", "{tmp_path}/spec.yaml", "--out", "{tmp_path}/run", "optimizer.critic.name={optimizer}"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_worker_process_imports_neither_the_command_line_nor_what_reads_urls():
    program = """
import sys
import distgan.__main__, shards.sources, shards.writer  # what the program began with, and what a worker needs of ours
print(sorted({"typer", "rich", "fsspec", "torch"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_from_a_folder_to_pictures(distgan, images, tiny, tmp_path, monkeypatch):
    shards, run, spec = tmp_path / "shards", tmp_path / "run", tmp_path / "tiny.yaml"
    status, text = distgan("shards", "pack", images, shards, "--size", 16, "--workers", 1)
    assert status == 0
    assert "12 samples" in text
    assert "cat/broken.png" in text
    status, text = distgan("shards", "info", shards)
    assert "dog" in text
    status, text = distgan("shards", "info", shards, "--json")
    assert json.loads(text)
    assert distgan("shards", "verify", shards)[0] == 0
    spec.write_text(dump_spec(tiny(data__shards=str(shards))))
    status, text = distgan(
        "train",
        spec,
        "--out",
        run,
        "--set",
        "training.images=16",
        "--set",
        "data.where={class: cat}",
        "--set",
        "training.batch_size=4",
    )
    assert status == 0, text
    assert find_checkpoint(run).state.step == 4
    assert (run / "report.html").exists()
    status, text = distgan("train", spec, "--out", run, "--set", "training.images=16")
    assert status == 2
    assert "--resume" in text
    assert distgan("sample", run, "--out", tmp_path / "grid.png", "--count", 9)[0] == 0
    assert Image.open(tmp_path / "grid.png").size == (3 * 18 + 2, 3 * 18 + 2)
    assert distgan("sample", run, "--out", tmp_path / "singles", "--count", 3)[0] == 0
    assert len(list((tmp_path / "singles").iterdir())) == 3
    status, text = distgan("report", run)
    assert status == 0
    assert text.strip().endswith("report.html")
    monkeypatch.chdir(tmp_path)
    status, text = distgan("report", run, tmp_path / "." / "run", "--out", tmp_path / "new" / "page.html")
    assert status == 0
    assert text.splitlines() == [f"{run} is named more than once, and shown once", str(tmp_path / "new" / "page.html")]
    assert "Compared with the shipped recipe" not in (tmp_path / "new" / "page.html").read_text()
    shutil.copytree(run, tmp_path / "again")
    assert distgan("report", run, tmp_path / "again", "--watch") == (0, "report.html\n")
    assert "2 runs side by side" in (tmp_path / "report.html").read_text()


def test_a_set_is_looked_at(distgan, labelled, tmp_path):
    status, text = distgan("shards", "show", labelled, "--out", tmp_path / "grid.png", "--count", 6, "--columns", 3)
    assert status == 0
    assert text.startswith("6 images of 50 (")
    assert text.endswith(f"): {tmp_path / 'grid.png'}\n")
    assert Image.open(tmp_path / "grid.png").size == (3 * 18 + 2, 2 * 18 + 2)
    wishes = ("--where", "class=dog", "--where", 'class="emu"')
    status, text = distgan("shards", "show", labelled, "--out", tmp_path / "some.png", *wishes)
    assert status == 0
    assert text == f"33 images of 33 that match, of 50 (dog 17, emu 16): {tmp_path / 'some.png'}\n"
    status, text = distgan("shards", "show", labelled, "--out", tmp_path / "no.png", "--where", "class=010")
    assert status == 2
    assert "has no class '010'" in text


def test_shards_of_others_are_to_be_packed(distgan, tiny, tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    for i in range(3):
        (pool / f"{i:05d}.tar").write_bytes(b"tar")
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny(data__shards=str(pool))))
    said = f"error: {pool} holds 3 tar files that distgan did not pack: pack them with distgan shards pack {pool} OUT"
    for arguments in (
        ["shards", "info", pool],
        ["shards", "verify", pool],
        ["shards", "show", pool, "--out", tmp_path / "grid.png"],
        ["train", tmp_path / "spec.yaml", "--out", tmp_path / "run"],
    ):
        status, text = distgan(*arguments)
        assert (status, text) == (2, f"{said} --size 64\n")


def test_a_specification_is_described(distgan, tiny, tmp_path):
    spec = tmp_path / "tiny.yaml"
    spec.write_text(dump_spec(tiny()))
    status, text = distgan("describe", spec, "--set", "model.generator.width=4")
    assert status == 0
    assert "ConvTranspose2d" in text
    assert "an epoch of 50" in text
    status, text = distgan("describe", spec, "--json", "--set", "data.shards=nowhere")
    described = json.loads(text)
    assert described["run"]["steps"] == 12
    assert described["run"]["samples"] is None
    status, text = distgan("describe", spec, "--options")
    assert "model.generator.width: 2\n" in text
    status, text = distgan("describe", spec, "--options", "--json")
    assert {"path": "name", "value": "tiny"}.items() <= json.loads(text)[0].items()
    status, text = distgan("describe", "--schema")
    assert status == 0
    assert json.loads(text)["title"] == "RunSpec"


@pytest.fixture(scope="module")
def conditional(tiny, labelled, tmp_path_factory) -> Path:
    """A run that was conditioned on attributes and on the class."""
    folder = tmp_path_factory.mktemp("conditional")
    condition = {"attributes": ["Smiling", "Eyeglasses"], "classes": True}
    spec = tiny(data__shards=str(labelled), model__condition=condition, training__images=16)
    train(spec, folder / "run", Workers.alone(torch.device("cpu")), console=False)
    return folder / "run"


def test_pictures_show_what_is_asked_for(distgan, conditional, tmp_path):
    def pictures(*wishes: str) -> list[bytes]:
        folder = tmp_path / f"pictures {' '.join(wishes)}"
        options = [each for wish in wishes for each in ("--where", wish)]
        status, text = distgan("sample", conditional, "--out", folder, "--count", 6, *options)
        assert status == 0, text
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    asked = pictures("Smiling=1,Eyeglasses=-1", "class=cat")
    assert asked == pictures("class = cat", "Eyeglasses=false", "Smiling=TRUE")
    for others in ("Smiling=1,Eyeglasses=1,class=cat", "Smiling=1,Eyeglasses=-1,class=dog"):
        assert all(one != other for one, other in zip(asked, pictures(others), strict=True))
    assert pictures("class=cat,class=dog,class=emu") == pictures()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("Smilng=1", "did you mean 'Smiling'?"),
        ("Male=1", "there are Smiling, Eyeglasses, class"),
        ("class=cats", "did you mean 'cat'?"),
        ("Smiling=yes", "--where Smiling=yes: Smiling is 1 or -1, not 'yes'"),
        ("Smiling=1,Smiling=-1", "asked for twice"),
        ("Smiling", "write NAME=VALUE"),
        ("Smiling=", "write NAME=VALUE"),
        ("=1", "write NAME=VALUE"),
        ("", "write NAME=VALUE"),
        ("Smiling=1,", "write NAME=VALUE"),
    ],
)
def test_a_wrong_wish_is_named(distgan, conditional, tmp_path, wish, message):
    status, text = distgan("sample", conditional, "--out", tmp_path / "grid.png", "--where", wish)
    assert status == 2
    assert message in text
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.where={Eyeglases: -1}", "data.where: {shards} has no attribute 'Eyeglases': did you mean 'Eyeglasses'?"),
        ("data.where={class: cow}", "data.where: {shards} has no class 'cow': "),
        ("data.where={Eyeglasses: 0}", "data.where: attribute Eyeglasses is 1 or -1, not 0"),
        ("data.where={Male: 1, class: []}", "data.where: no sample of {shards} meets all of"),
        ("data.where=Male", "'data.where' "),
        ("data.limit=51", "data.limit is 51, but there are only 50 samples"),
        ("model.condition={attributes: [Mal]}", "model.condition.attributes: {shards} has no attribute 'Mal'"),
        ("model.condition={}", "'model.condition': a condition needs attributes"),
    ],
)
def test_a_wrong_choice_of_samples_or_condition_is_named(distgan, tiny, labelled, tmp_path, setting, message):
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny(data__shards=str(labelled))))
    status, text = distgan("train", tmp_path / "spec.yaml", "--out", tmp_path / "run", "--set", setting)
    assert status == 2
    assert message.replace("{shards}", str(labelled)) in text
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_found_by_its_name_wherever_one_is(distgan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dcgan64").mkdir()  # no file of that name
    status, text = distgan("recipes")
    assert status == 0
    assert {"dcgan64", "demo", "sweep"} <= {line.split()[0] for line in text.splitlines()}
    status, text = distgan("recipes", "dcgan64")
    Path("mine.yaml").write_text(text)
    of_recipe = distgan("describe", "dcgan64", "--options")
    assert of_recipe[0] == 0
    assert of_recipe == distgan("describe", "mine.yaml", "--options")
    Path("demo").write_text(text)  # a file of one's own goes before
    assert 'name: "dcgan64"\n' in distgan("describe", "demo", "--options")[1]
    status, text = distgan("recipes", "dcgan46")
    assert (status, "did you mean 'dcgan64'?" in text) == (2, True)


@pytest.mark.slow
def test_a_recipe_is_suggested_for_images_and_minutes(distgan, pack_discs, tmp_path, monkeypatch):
    from distgan.bench import speed

    monkeypatch.setattr(speed, "ROUNDS", 1)
    monkeypatch.setattr(speed, "SUGGEST_ROUND_S", 0.01)
    shards = pack_discs(count=40, size=16, channels=1)
    status, text = distgan("recipes", "suggest", "--shards", shards, "--minutes", 10**4)
    assert status == 0
    (tmp_path / "mine.yaml").write_text(text)
    status, text = distgan("train", tmp_path / "mine.yaml", "training.images=80", "--out", tmp_path / "run")
    assert (status, "finished at step 4 (80 images)" in text) == (0, True), text


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["training.batch_size=4"], "training.batch_size", "4"),
        (["training.batch_size = 4"], "training.batch_size", "4"),
        (["training.batch_size", "=", "4"], "training.batch_size", "4"),
        (["training.batch_size=", "4", "seed=1"], "training.batch_size", "4"),
        (["--training.batch_size=4"], "training.batch_size", "4"),
        (["--training.batch_size", "4", "--seed", "7"], "training.batch_size", "4"),
        (["--seed=7"], "seed", "7"),
        (["--data.flip=False"], "data.flip", "False"),
        (["--data.limit=None", "seed=1"], "data.limit", "None"),
        (["--optimizer.critic.lr=1e-05"], "optimizer.critic.lr", "1e-05"),
        (["--set", "seed=1", "seed=2"], "seed", "2"),
        (["data.where={class: [cat, dog]}"], "data.where", "{'class': ['cat', 'dog']}"),
    ],
)
def test_changes_are_arguments_as_sweeps_give_them(distgan, tiny, tmp_path, words, field, value):
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny(data__limit=40)))
    status, text = distgan("describe", tmp_path / "spec.yaml", *words, "--options", "--json")
    assert status == 0, text
    assert str({option["path"]: option["value"] for option in json.loads(text)}[field]) == value


@pytest.mark.slow
def test_whatever_draws_takes_the_device_that_is_asked_for(distgan, tiny, tmp_path, monkeypatch):
    asked: list[object] = []
    for module in ("distgan.sampling.generator", "distgan.sampling.scored"):
        monkeypatch.setattr(f"{module}.device_for", lambda name: asked.append(name) or torch.device("cpu"))
    run, spec = tmp_path / "run", tiny(training__images=8)
    train(spec, run, Workers.alone(torch.device("cpu")), console=False)
    assert set(asked) == {"cpu"}  # the report's pictures: a run's own device has no room to spare
    Image.new("RGB", (16, 16)).save(tmp_path / "face.png")
    commands: list[list[object]] = [
        ["sample", run, "--out", tmp_path / "sample.png", "--count", 1],
        ["interpolate", run, "--out", tmp_path / "ways.png", "--pairs", 1],
        ["invert", run, tmp_path / "face.png", "--out", tmp_path / "found.png", "--steps", 1],
        ["neighbours", run, "--out", tmp_path / "near.png", "--count", 8, "--rows", 1],
        ["explore", run, "--draw", "seed=1", "--out", tmp_path / "seen.png", "--count", 200],
        ["evaluate", run, "--count", 10, "--features", "none", "--metrics", "wasserstein"],
    ]
    for command in commands:
        for options, device in (([], None), (["--device", "cuda:7"], "cuda:7")):
            asked.clear()
            status, text = distgan(*command, *options)
            assert (status, set(asked)) == (0, {device}), text


def test_damage_is_named_and_repaired(distgan, pack_discs, tmp_path):
    shards = pack_discs()
    path = shards / "shard-000001.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    status, text = distgan("shards", "verify", shards)
    assert status == 1
    assert "shard-000001.tar" in text
    assert "disc0020" in text
    status, text = distgan("shards", "repair", shards, tmp_path / "repaired")
    assert status == 0
    assert "disc0020" in text
    assert "49 samples" in text
    assert distgan("shards", "verify", tmp_path / "repaired")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "jobs/dcgan46.yaml"], "did you mean 'dcgan64'?"),
        (["train", "SPEC", "--worker", "3"], "there is no option --worker; did you mean '--workers'?"),
        (["train", "SPEC", "-x"], "there is no option -x"),
        (["train", "SPEC", "batch"], "batch: after the specification come changes"),
        (["train", "SPEC", "--training.batch_size"], "after the specification come changes"),
        (["train", "SPEC", "--training.batchsize=3"], "batch_size"),
        (["train", "--training.batch_size=3", "SPEC"], "after the specification come changes"),
        (["recipes", "nothing"], "nothing"),
        (["recipes", "suggest"], "needs --shards DIR and --minutes M"),
        (["recipes", "suggest", "--shards", "nowhere", "--minutes", "3"], "nowhere"),
        (["recipes", "dcgan64", "--minutes", "3"], "belong to recipes suggest"),
        (["train", "SPEC", "--set", "training.batchsize=3"], "batch_size"),
        (["train", "SPEC", "--set", "data.shards=nowhere"], "nowhere"),
        (["train", "SPEC", "--set", "data.shards=EMPTY"], "EMPTY"),
        (["train", "SPEC", "--workers", "three"], "--workers three: write a number"),
        (["train", "SPEC", "--workers", "4-2"], "should be [fewest, most], not [4, 2]"),
        (["train", "SPEC", "--workers", "0"], "--workers 0: write a number"),
        (["describe", "SPEC", "--workers", "1024"], "each needs an image"),
        (["describe", "SPEC", "--workers", "1024", "--bandwidth", "10"], "both --bandwidth and --speed"),
        (["shards", "pack", "nowhere", "OUT"], "nowhere"),
        (["shards", "pack", "EMPTY", "OUT"], "EMPTY"),
        (["train", "SPEC", "--set", "data.pyramid=true"], "data.pyramid is for runs that grow"),
        (["train", "SPEC", "training.stages=[{size: 8, images: 9}, {size: 16}]", "data.pyramid=true"], "--pyramid"),
        (["train", "SPEC", "training.stages=[{size: 8, images: 9}, {size: 32}]"], "from 8 to 32 pixels"),
        (["train", "SPEC", "training.stages=[{size: 4, images: 9}, {size: 8}]"], "data.image_size is 16"),
        (["shards", "info", "EMPTY"], "EMPTY"),
        (["shards", "verify", "nowhere"], "nowhere"),
        (["shards", "repair", "nowhere", "OUT"], "nowhere"),
        (["shards", "synth", "OUT", "--count", "0"], "count"),
        (["recipes", "suggest", "--shards", "EMPTY", "--minutes", "inf"], "minutes"),
        (["bench", "quality", "--shards", "EMPTY", "--minutes", "inf"], "minutes"),
        (["describe"], "SPEC"),
        (["describe", "nowhere.yaml"], "nowhere.yaml"),
        (["describe", "SPEC", "--set", "model.generator.name=dcgam"], "did you mean 'dcgan'"),
        (["describe", "SPEC", "--options", "--set", "optimizer.critic.name=adm"], "did you mean 'adam'"),
        (["describe", "SPEC", "--set", "objective.kind=wasserstein_gp"], "BatchNorm"),
        (["sample", "EMPTY", "--out", "x.png"], "EMPTY"),
        (["sample", "EMPTY", "--out", "x.png", "--device"], "--device"),
        (["sample", "EMPTY", "--out", "x.png", "--where", "Smiling"], "NAME=VALUE"),
        (["report", "EMPTY"], "EMPTY"),
        (["report", "EMPTY", "nowhere"], "nowhere is not a run's folder"),
        (["report"], "RUN"),
        (["report", "EMPTY", "--watch", "--every", "0"], "every"),
        (["shards", "pack", "EMPTY", "OUT", "--size", "many"], "size"),
    ],
)
def test_wrong_input_is_one_clear_message_and_status_2(distgan, tmp_path, monkeypatch, tiny, arguments, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "SPEC").write_text(dump_spec(tiny()))
    status, text = distgan(*arguments)
    assert status == 2
    assert word in text
    assert not (tmp_path / "OUT").exists()
    assert not (tmp_path / "runs").exists()


def test_a_cluster_is_planned_that_is_larger_than_the_global_batch(distgan, tiny, tmp_path):
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny()))
    plan = ("describe", tmp_path / "spec.yaml", "--workers", 1024, "--bandwidth", 12.5, "--speed", 5000)
    status, text = distgan(*plan, "--json")
    assert status == 0
    assert [row["workers"] for row in json.loads(text)] == [2**i for i in range(4)] + [2**i for i in range(11)]
    status, text = distgan(*plan)
    assert status == 0
    assert text.count("global batch") == 4
    assert text.count("%") == 15


def test_what_fails_for_another_reason_is_status_1(distgan, tiny, tmp_path, monkeypatch):
    def fails(*arguments: object, **options: object) -> None:
        raise RunError("step 3: training has diverged")

    monkeypatch.setattr("distgan.launch.local.train", fails)
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny()))
    status, text = distgan("train", tmp_path / "spec.yaml", "--out", tmp_path / "run")
    assert status == 1
    assert "diverged" in text


def test_too_little_memory_is_said_so(distgan, tiny, tmp_path):
    spec = tiny(model__generator__width=65_536, model__latent_dim=65_536)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    status, text = distgan("train", tmp_path / "spec.yaml", "--out", tmp_path / "run")
    assert status == 1
    assert "out of memory" in text


def test_odd_names_are_printed_as_they_are(distgan, images, tmp_path):
    odd = tmp_path / "o [red] :cat: [/x]"
    status, text = distgan("shards", "pack", images, odd, "--size", 16, "--workers", 1)
    assert status == 0
    assert "o [red] :cat: [/x]" in text


def test_a_terminal_without_the_letters_of_a_name_costs_no_command(images, tmp_path):
    folder = tmp_path / "caf\udce9 ×"  # no UTF-8, as old archives have it
    folder.mkdir()
    (folder / "ü.png").write_bytes(next(images.rglob("*.*g")).read_bytes())
    for source, status in ((folder, 0), (folder / "ü.png", 2)):
        done = subprocess.run(
            [sys.executable, "-m", "distgan", "shards", "pack", source, "--dry-run"],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == status, done.stderr
        assert b"\\xd7" in (done.stdout if status == 0 else done.stderr)


def test_a_pyramid_is_packed_and_said(distgan, images, tmp_path):
    asked = ("shards", "pack", images, tmp_path / "out", "--size", 16, "--workers", 1, "--pyramid")
    status, text = distgan(*asked, "--encoding", "png")
    assert status == 2
    assert "give encoding raw, not png" in text
    assert not (tmp_path / "out").exists()
    assert distgan(*asked)[0] == 0
    status, text = distgan("shards", "info", tmp_path / "out")
    assert "pyramid       8" in text
    assert distgan("shards", "verify", tmp_path / "out")[0] == 0


def test_nothing_is_packed_into_its_source(distgan, images):
    status, _ = distgan("shards", "pack", images, images / "out", "--size", 16)
    assert status == 2
    assert not (images / "out").exists()


# ---- what is recognised is said ----


def test_pack_says_what_it_recognised_before_it_packs(distgan, images, tmp_path):
    (images / "notes.txt").write_text("x")
    status, text = distgan("shards", "pack", images, tmp_path / "out", "--size", 16, "--workers", 1)
    assert status == 0
    for part in ("folder, layout folder", "13 (13 .png)", "24×20", "cat 7, dog 6", "1 file: 1 .txt"):
        assert part in text
    assert text.index("recognised") < text.index("12 samples")


def test_dry_run_writes_nothing(distgan, images, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for out in ([], [tmp_path / "out"]):
        status, text = distgan("shards", "pack", images, *out, "--dry-run")
        assert (status, "cat 7, dog 6" in text) == (0, True)
        status, text = distgan("shards", "pack", images, *out, "--dry-run", "--json")
        assert json.loads(text)["recognised"]["classes"] == {"cat": 7, "dog": 6}
    assert sorted(tmp_path.rglob("*")) == before


def test_json_is_all_that_is_printed(distgan, images, tmp_path, capsys):
    command = ["distgan", "shards", "pack", str(images), str(tmp_path / "out"), "--workers", "1", "--json"]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    assert printed["packed"]["samples"] == 12
    assert [name for name, _ in printed["packed"]["left_out"]] == ["cat/broken.png"]
    assert printed["recognised"] == json.loads((tmp_path / "out" / "index.json").read_text())["recognised"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give a folder after the source"),
        (["--dry-run", "--layout", "imagenet"], "no layout is called"),
        (["--dry-run", "--split", "train"], "there is no split train: there are none"),
        (["--dry-run", "--sub", "cow"], "no such folder; there are cat, dog"),
        (["--dry-run", "--crop", "round"], "--crop is a number of pixels, or face"),
        (["--dry-run", "--white", "0"], "white"),
    ],
)
def test_pack_says_what_is_wrong(distgan, images, arguments, said):
    status, text = distgan("shards", "pack", images, *arguments)
    assert (status, said in " ".join(text.split())) == (2, True), text


def test_many_images_that_are_left_out_are_counted():
    lines = list(skipped_text([(f"{i}.jpg", "no face was found") for i in range(500)] + [("a.jpg", "broken")]))
    assert lines[0] == "left out 0.jpg: no face was found"
    assert lines[-2:] == ["left out 480 more: no face was found", "left out a.jpg: broken"]


def test_16_bit_pictures_of_12_bits(distgan, tmp_path):
    (tmp_path / "deep").mkdir()
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "deep/1.png")
    status, text = distgan("shards", "pack", tmp_path / "deep", "--dry-run")
    assert (status, "no value above 4,095" in text, "--white 4095" in text) == (0, True, True)
    assert distgan("shards", "pack", tmp_path / "deep", tmp_path / "out", "--white", 4095)[0] == 0
    with Reader(Index.load(tmp_path / "out")) as reader:
        pixels = reader.read(np.array([0]))[0, :, :, 0]
    assert np.abs(pixels - np.round(values / 4095 * 255)).max() <= 1


@pytest.mark.slow
def test_the_best_is_named_and_drawn_from(distgan, tiny, tmp_path):
    run, spec = tmp_path / "run", tmp_path / "tiny.yaml"
    scored = {"every_images": 32, "count": 10, "features": "none", "metrics": ["wasserstein"]}
    spec.write_text(dump_spec(tiny(evaluation=scored, training__keep_best="wasserstein")))
    status, text = distgan("train", spec, "--out", run)
    assert status == 0, text
    best = best_of(run)
    assert best is not None
    assert f"Best: step {best.step}, wasserstein {best.value:.4g}" in text
    status, text = distgan("sample", run, "--best", "--out", tmp_path / "best.png", "--count", 4)
    assert status == 0
    assert f"4 images of step {best.step} in" in text
