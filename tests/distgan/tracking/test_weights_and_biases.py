from __future__ import annotations

import builtins
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

from distgan.spec import RunSpec, load_spec
from distgan.tracking import read_metrics, wandb_sink
from distgan.tracking.records import read_log
from distgan.tracking.weights_and_biases import elsewhere, login, settled, start, trial
from shards.errors import InputError
from tests.distgan.tracking.conftest import FakeRun, draw_grid, figures, history, make_spec, open_run, records
from tests.wandb_server import KEY


def test_offline_holds_the_same_figures_and_grids_and_is_resumed(run, capfd):
    spec = make_spec("auto", tags=["small"])
    tracker = open_run(run, spec)
    run_id = tracker.wandb_run_id
    assert run_id
    for step in (10, 20, 30):
        tracker.log(step, figures(step))
    tracker.picture(20 + 10, 240, draw_grid(run, 240))
    tracker.close("interrupted")
    resumed = open_run(run, spec, resume_step=20, wandb_run_id=run_id)
    assert resumed.wandb_run_id == run_id
    facts = {"count": 20, "where": {"split": "test"}, "features_sha256": "ab" * 32}
    resumed.scores_of(facts)
    resumed.log(40, figures(40) | {"score/frechet": 3.5})
    resumed.close("finished")
    assert capfd.readouterr() == ("", "")

    first, second = (records(file) for file in sorted(run.glob("wandb/offline-run-*/*.wandb")))
    steps = history(first)
    assert sorted(steps) == [10, 20, 30]
    for step in (10, 20, 30):
        assert {name: steps[step][name] for name in figures(step)} == pytest.approx(figures(step))
    samples = {name: value for name, value in steps[30].items() if name.startswith("samples")}
    assert "240 images" in json.dumps(samples)
    assert len(list(run.glob("wandb/offline-run-*/files/media/images/samples_*.png"))) == 1
    started = next(record["run"] for record in first if record["type"] == "run")
    config = started["config"]["update"]
    assert {name: config[name] for name in spec.model_dump()} == spec.model_dump(mode="json")
    assert (started["run_id"], started["display_name"], started["tags"]) == (run_id, "faces", ["small"])
    assert [record["exit"]["exit_code"] for record in first if record["type"] == "exit"] == [255]  # as for Ctrl-C
    assert sorted(history(second)) == [40]
    assert history(second)[40]["score/frechet"] == 3.5
    assert facts in [record["config"]["update"].get("scores_of") for record in second if record["type"] == "config"]
    assert next(record["run"] for record in second if record["type"] == "run")["run_id"] == run_id
    assert any("wandb sync" in entry.text for entry in read_log(run))
    # Nothing of the user's repository or terminal goes along.
    assert not list(run.glob("wandb/*/files/output.log"))
    assert not list(run.glob("wandb/*/files/diff.patch"))
    assert not [path for path in run.glob("wandb/*/files/code/**/*") if path.is_file()]


@pytest.fixture
def silent_server(monkeypatch) -> Iterator[socket.socket]:
    """The server of the user's account: it takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
def test_nobody_is_asked_where_the_user_wants_to_stay_offline(run, monkeypatch, silent_server, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    tracker = open_run(run, make_spec("auto"))
    tracker.log(10, figures(10))
    tracker.close("finished")
    wandb.teardown()
    silent_server.setblocking(False)
    with pytest.raises(BlockingIOError):
        silent_server.accept()


@pytest.mark.slow
def test_a_server_out_of_reach_delays_nothing_and_leaves_an_offline_run_and_no_trace_of_the_key(
    run, monkeypatch, silent_server
):
    monkeypatch.setattr(wandb_sink, "_START_SECONDS", 3.0)
    tracker = open_run(run, make_spec("auto"), wandb_run_id="theone")
    tracker.log(10, figures(10))
    assert not (run / "wandb").exists() or not list(run.glob("wandb/offline-run-*"))  # it is still being asked
    assert not any("cannot be reached" in entry.text for entry in read_log(run))
    tracker.close("finished")
    assert tracker.wandb_run_id == "theone"
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    assert sorted(history(records(file))) == [10]
    assert sum("cannot be reached" in entry.text for entry in read_log(run)) == 1
    written = [path for path in run.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_disabled_does_not_even_import_wandb(run, monkeypatch):
    forbid_wandb(monkeypatch)
    tracker = open_run(run, make_spec("disabled"), wandb_run_id="old")
    assert tracker.wandb_run_id == "old"
    assert [entry.text for entry in read_log(run)] == ["started"]


@pytest.mark.parametrize("mode", ["auto", "online", "offline"])
def test_without_the_package_training_goes_on(run, monkeypatch, mode):
    forbid_wandb(monkeypatch)
    tracker = open_run(run, make_spec(mode), wandb_run_id="old")
    tracker.log(1, figures(1))
    tracker.picture(1, 8, draw_grid(run, 8))
    tracker.close("finished")
    assert tracker.wandb_run_id == "old"
    assert len(read_metrics(run)) == 1
    assert sum("not installed" in entry.text for entry in read_log(run)) == 1
    assert not (run / "wandb").exists()


def forbid_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_wandb(name, *args, **kwargs):
        if name.partition(".")[0] == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_wandb)


def test_a_grey_grid_is_grey_there_too(run):
    tracker = open_run(run, make_spec("auto"))
    tracker.picture(1, 8, draw_grid(run, 8, mode="L"))
    tracker.close("finished")
    (picture,) = run.glob("wandb/offline-run-*/files/media/images/samples_*.png")
    with Image.open(picture) as image:
        assert image.mode == "L"


def test_nothing_starts_and_training_goes_on(run, monkeypatch):
    def fail(**options):
        raise TypeError("a broken installation")

    monkeypatch.setattr(wandb, "init", fail)
    said: list[str] = []
    sink, run_id = start(make_spec("auto"), run, "old", said.append)
    assert sink
    sink.log(1, figures(1))
    sink.close("finished")
    assert run_id == "old"
    assert len(said) == 1
    assert "a broken installation" in said[0]


def init_options(monkeypatch, run: Path, spec: RunSpec, run_id: str | None = "old") -> dict[str, Any]:
    """What ``wandb.init`` is called with; nothing where it is not called."""
    seen: dict[str, Any] = {}

    def init(**options):
        seen.update(options)
        return FakeRun("nothing")

    monkeypatch.setattr(wandb, "init", init)
    sink, _ = start(spec, run, run_id, lambda text: None)
    if sink:
        sink.close("finished")
    return seen


def wandb_command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "wandb", *arguments], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "key", "asked", "expected"),
    [
        ("auto", False, "", "offline"),
        ("auto", True, "", "online"),
        ("auto", True, "WANDB_MODE=online", "online"),
        ("auto", True, "WANDB_MODE=offline", "offline"),
        ("auto", True, "WANDB_MODE=dryrun", "offline"),
        ("auto", True, "WANDB_MODE=disabled", None),
        ("auto", True, "wandb offline", "offline"),
        ("auto", True, "wandb offline in WANDB_DIR", "offline"),
        ("auto", True, "wandb disabled", None),
        ("auto", True, "wandb offline, then wandb online", "online"),
        ("auto", True, "wandb offline, but WANDB_MODE=online", "online"),
        ("online", False, "", "offline"),
        ("online", True, "WANDB_MODE=offline", "offline"),  # a promise, whatever is in the specification
        ("online", True, "wandb disabled", None),
        ("offline", True, "WANDB_MODE=online", "offline"),
        ("disabled", True, "WANDB_MODE=online", None),
    ],
)
def test_a_request_to_stay_offline_is_obeyed_here_and_elsewhere(run, monkeypatch, mode, key, asked, expected):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    if "WANDB_DIR" in asked:
        Path("elsewhere").mkdir()
        monkeypatch.setenv("WANDB_DIR", str(Path("elsewhere").absolute()))
    for command in ("offline", "disabled", "online"):
        if f"wandb {command}" in asked:
            wandb_command(command)
    if "WANDB_MODE=" in asked:
        monkeypatch.setenv("WANDB_MODE", asked.rpartition("=")[2])
    spec = make_spec(mode)
    assert init_options(monkeypatch, run, spec).get("mode") == expected
    sent, _ = login(settled(spec))
    assert bool(sent) == (expected == "online")
    # What is trained elsewhere, in another folder and without these variables, stays offline too.
    if expected != "online" and asked and mode in ("auto", "online"):
        assert settled(spec).tracking.wandb.mode == (expected or "disabled")


def test_a_mode_that_is_none_is_named(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(InputError, match="WANDB_MODE, or mode in wandb's settings file: Input should be 'online'"):
        start(make_spec("auto"), run, None, lambda text: None)


def test_a_key_that_is_none_is_not_shown(run, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", f" {KEY}")
    said: list[str] = []
    try:
        sink, _ = start(make_spec("auto"), run, None, said.append)
        sink.close("finished")
    except InputError as error:
        said.append(str(error))
    assert KEY not in "".join(said)


def test_without_the_package_a_run_that_is_sent_elsewhere_stays_offline_all_the_same(monkeypatch):
    forbid_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert settled(make_spec("auto")).tracking.wandb.mode == "auto"
    sent, note = login(make_spec("auto"))
    assert sent == {}
    assert "not installed" in str(note)
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert settled(make_spec("auto")).tracking.wandb.mode == "offline"


OWN = "https://wandb.example.org"


@pytest.mark.parametrize(
    ("netrc", "server", "variables", "expected"),
    [
        ("", None, {}, {}),
        ("machine api.wandb.ai login user password KEY", None, {}, {"WANDB_API_KEY": KEY}),
        ("machine api.wandb.ai login user password KEY", OWN, {}, {"WANDB_BASE_URL": OWN}),
        (f"machine {OWN[8:]} login user password KEY", OWN, {}, {"WANDB_BASE_URL": OWN, "WANDB_API_KEY": KEY}),
        (f"machine {OWN[8:]} login user password KEY", None, {}, {}),
        ("machine api.wandb.ai login user password short", None, {}, {}),
        ("machine", None, {}, {}),
        ("", OWN, {"WANDB_API_KEY": KEY}, {"WANDB_BASE_URL": OWN, "WANDB_API_KEY": KEY}),
        ("", None, {"WANDB_API_KEY": "short"}, {}),
    ],
)
@pytest.mark.parametrize("where", ["variable", "settings"])
def test_one_login_is_found_for_training_here_and_elsewhere(
    run, monkeypatch, tmp_path, netrc, server, variables, expected, where
):
    (tmp_path / "netrc").write_text(netrc.replace("KEY", KEY) + "\n")
    if server and where == "variable":
        monkeypatch.setenv("WANDB_BASE_URL", server)
    elif server:
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "settings").write_text(f"[default]\nbase_url = {server}\n")  # wandb login --host
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spec = make_spec("auto")
    sent, note = login(settled(spec))
    default = wandb.Settings.model_fields["base_url"].default
    assert sent == ({"WANDB_BASE_URL": default, **expected} if "WANDB_API_KEY" in expected else expected)
    assert (note is None) == ("WANDB_API_KEY" in expected)
    assert KEY not in str(note)
    assert login(settled(spec), send_key=False) == ({"WANDB_BASE_URL": OWN} if server else {}, None)
    assert init_options(monkeypatch, run, spec)["mode"] == ("online" if "WANDB_API_KEY" in expected else "offline")


VARIABLES = {
    "WANDB_PROJECT": "theirs", "WANDB_ENTITY": "team", "WANDB_NAME": "try", "WANDB_TAGS": "a,b", "WANDB_RUN_GROUP": "g"
}  # fmt: skip


def test_wandb_s_variables_win_over_defaults_and_over_nothing_that_a_person_wrote(run, monkeypatch, tmp_path):
    named = ("project", "entity", "name", "tags", "group")

    def names(spec: RunSpec) -> list[object]:
        seen = init_options(monkeypatch, run, spec)
        on_others = settled(RunSpec.model_validate(settled(spec).model_dump(mode="json"))).tracking.wandb
        for field in named:  # the specification as it is sent says the same
            if field != "name" or on_others.name:
                assert seen[field] == getattr(on_others, field)
        return [seen[field] for field in named]

    assert names(make_spec("auto")) == ["distgan", None, "faces", [], None]
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert names(make_spec("auto")) == ["theirs", "team", "try", ["a", "b"], "g"]
    (tmp_path / "spec.yaml").write_text("name: faces\ndata: {shards: faces}\ntracking: {wandb: {project: distgan}}\n")
    overrides = ["tracking.wandb.tags=[mine]", "tracking.wandb.name=mine", "tracking.wandb.entity=me"]
    written = load_spec(tmp_path / "spec.yaml", [*overrides, "tracking.wandb.group=ours"])
    assert names(written) == ["distgan", "me", "mine", ["mine"], "ours"]


def test_a_trial_of_a_sweep_is_the_run_that_the_sweep_has_made(run, monkeypatch):
    assert trial() is None
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert trial() is None
    monkeypatch.setattr(wandb, "init", lambda **_: FakeRun("nothing"))
    sink, run_id = start(make_spec("auto"), run, None, lambda text: None)
    assert run_id == "mine"
    assert sink
    sink.close("finished")  # it starts behind this thread, which would else take what comes next for its own
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert trial() == ("sweep", "mine")
    seen = init_options(monkeypatch, run, make_spec("auto"))
    assert [seen[name] for name in ("id", "project", "entity", "name")] == [None] * 4  # wandb knows them, and complains
    monkeypatch.setenv("WANDB_GIT_COMMIT", "c" * 40)
    sent = {"WANDB_SWEEP_ID": "sweep", "WANDB_RUN_ID": "mine", "WANDB_GIT_COMMIT": "c" * 40}
    assert elsewhere(make_spec("auto")) == sent


def test_wandb_is_imported_nowhere_else():
    package = Path(wandb_sink.__file__).parents[1]
    importing = sorted(
        path.name for path in package.rglob("*.py") if re.search(r"(import|from) wandb\b", path.read_text())
    )
    assert importing == ["dashboard.py", "wandb_sink.py", "weights_and_biases.py"]


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_under_the_same_id(run):
    first, run_id = start(make_spec("offline"), run, None, lambda text: None)
    second, again = start(make_spec("offline"), run, None, lambda text: None)
    assert run_id
    assert again == run_id
    assert start(make_spec("disabled"), run, "of the checkpoint", lambda text: None) == (None, "of the checkpoint")
    third, other = start(make_spec("offline"), run, "ofthecheckpoint", lambda text: None)
    assert other == "ofthecheckpoint"
    for sink in (first, second, third):
        assert sink
        sink.close("finished")
