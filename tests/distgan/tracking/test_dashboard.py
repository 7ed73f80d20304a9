from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from distgan.cli import app
from distgan.errors import RunError
from distgan.tracking import dashboard
from distgan.tracking.dashboard import LAYOUT, layout_text, make_dashboard, write_layout
from shards.errors import InputError
from tests.wandb_server import KEY


def test_the_workspace_that_the_server_gets_shows_what_the_layout_says(server):
    told = CliRunner().invoke(app, ["dashboard", "--project", "faces", "--entity", "team"])
    assert told.exit_code == 0, told.output
    assert re.search(rf"{re.escape(server.url)}/team/faces\?nw=\w+", told.stdout)
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("team", "faces", "distgan")
    section = json.loads(view["spec"])["section"]
    assert section["settings"]["xAxis"] == "images"
    shown: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for each in section["panelBankConfig"]["sections"]:
        for panel in each["panels"]:
            config = panel["config"]
            if panel["viewType"] == "Run History Line Plot":
                assert config["xAxis"] == "images"
            family = (config["metricRegex"],) if config.get("useMetricRegex") else ()
            keys = family or tuple(config.get("metrics") or config.get("mediaKeys"))
            shown.setdefault(each["name"], []).append((config["chartTitle"], keys))
    assert list(shown) == list(LAYOUT)
    for name, panels in LAYOUT.items():
        for (title, keys), panel in zip(shown[name], panels, strict=True):
            assert title == panel.title
            for key in panel.keys:
                if key.endswith("*"):
                    assert re.match(keys[0], key.replace("*", "anything"))
                else:
                    assert key in keys
    assert server.unknown == []


def test_project_and_entity_are_the_account_s_own_unless_told(server, monkeypatch):
    assert make_dashboard(None, None).startswith(f"{server.url}/us/distgan?")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert make_dashboard(None, None).startswith(f"{server.url}/team/theirs?")


def test_the_layout_needs_neither_a_login_nor_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    told = CliRunner().invoke(app, ["dashboard", "--out", str(tmp_path / "layout.md")])
    assert told.exit_code == 0, told.output
    text = (tmp_path / "layout.md").read_text()
    assert text == layout_text()
    for name, panels in LAYOUT.items():
        assert f"## {name}\n" in text
        assert all(f"`{key}`" in text for panel in panels for key in panel.keys)
    with pytest.raises(InputError, match="cannot write"):
        write_layout(tmp_path / "layout.md" / "deeper.md")


@pytest.mark.parametrize("asked", ["offline", "dryrun", "disabled"])
def test_nothing_is_sent_where_the_user_wants_to_stay_offline(server, monkeypatch, asked):
    monkeypatch.setenv("WANDB_MODE", asked)
    with pytest.raises(InputError, match=r"offline here|disabled here"):
        make_dashboard("p", "e")
    assert server.requests == []


def test_without_a_login_or_the_package_it_says_so(monkeypatch):
    with pytest.raises(InputError, match="no login for"):
        make_dashboard("p", "e")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(InputError, match=r"pip install 'distgan\[wandb\]'"):
        make_dashboard("p", "e")


@pytest.mark.parametrize("fault", ["500", "hang", "drop"])
def test_a_server_that_does_not_answer_is_not_waited_for(server, monkeypatch, fault):
    monkeypatch.setattr(dashboard, "WITHIN_S", 1.0)
    server.fault = fault
    with pytest.raises(RunError, match=rf"{server.url} does not take the workspace: .*--out FILE") as error:
        make_dashboard("p", "e")
    assert KEY not in str(error.value)
