from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distgan.spec import dump_spec
from distgan.tracking import report
from distgan.tracking.grids import MOST_GRIDS
from distgan.tracking.records import evenly
from distgan.tracking.report import watch_report, write_report
from shards.errors import InputError
from tests.distgan.tracking.conftest import a_run, draw_grid, figures, make_run, make_spec, open_run


class Page(html.parser.HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in {"meta", "link", "img", "input", "line", "path", "wbr"}:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def test_the_page_needs_nothing_else(run):
    a_run(run)
    page = Page(write_report(run))
    for _, attributes in page.elements:
        assert not {"style", "action", "ping", "srcset", "background"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    (style,), (script,) = page.inside("style"), page.inside("script")
    assert not re.search(r"url\(|@import|https?:", style)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?:|WebSocket|innerHTML|eval\(", script)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src {allowed(style)}",
        f"script-src {allowed(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    # The policy binds only what comes after it.
    assert page.source.index("Content-Security-Policy") < page.source.index("<style>")


def test_what_it_shows(run):
    a_run(run)
    page = Page(write_report(run))
    assert page.inside("h1") == ["faces"]
    assert page.inside("pre") == [(run / "spec.yaml").read_text()]
    assert page.inside("h3") == [
        "Losses",
        "Gradient norms",
        "Images per second",
        "Waiting for data, share of the time",
    ]
    assert (
        dict(zip(page.inside("dt"), page.inside("dd"), strict=True)).items()
        >= {
            "Steps": "20 of 10,000",
            "Images": "160 of 80,000",
            "Epochs": "0.2",
            "Training time": "0:00:00",
            "Images per second": "800",
        }.items()
    )
    assert "training on <b>cpu</b>" in page.inside("span")
    images = page.all("img")
    assert [image["data-images"] for image in images] == ["0", "100", "200"]
    assert ["hidden" in image for image in images] == [True, True, False]  # without scripts: the last one
    assert all(image["alt"] for image in images)
    for image, path in zip(images, sorted((run / "samples").iterdir()), strict=True):
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == path.read_bytes()
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    losses = json.loads(next(element["data-chart"] for element in page.all("div") if "data-chart" in element))
    assert [curve["label"] for curve in losses["curves"]] == ["critic", "generator"]
    assert losses["curves"][0]["points"][-1][:5] == [100.0, "160", "0.05", "0.05", "0.05"]


@pytest.mark.parametrize("outcome", ["finished", "interrupted", "failed", None])
def test_the_state_of_the_run(run, outcome):
    a_run(run, outcome=outcome)
    state = outcome or "running"
    page = Page(write_report(run))
    assert {"class": f"state {state}"} in page.all("span")
    assert state in page.inside("span")


def test_a_resumed_run_is_running_again(run):
    a_run(run, outcome="interrupted")
    open_run(run, resume_step=20)
    assert "running" in Page(write_report(run)).inside("span")


FACTS = {
    **{"count": 10, "real_count": 10, "where": {}, "transform": {}, "ema": True},
    **{"features": "lite0", "features_sha256": "0" * 64, "distance": "FD"},
}

HOSTILE = "</pre></style></script><script>alert(1)</script><img src=x onerror=alert(1)> \"'&{{ 7 * 7 }}"


def test_hostile_text_stays_text(run):
    a_run(run)
    plain = Page(write_report(run))
    spec = make_spec(tags=[HOSTILE], project=HOSTILE)
    (run / "spec.yaml").write_text(dump_spec(spec))
    tracker = open_run(run, resume_step=25)
    tracker.message(HOSTILE)
    tracker.log(26, figures(26, **{f"loss/{HOSTILE}": 1.0, HOSTILE: 2.0}))
    tracker.close("finished")
    page = Page(write_report(run))
    for tag in ("script", "style", "img", "pre"):
        assert len(page.all(tag)) == len(plain.all(tag))
    assert page.inside("pre") == [(run / "spec.yaml").read_text()]
    assert HOSTILE in page.inside("span")
    assert f"loss/{HOSTILE}" in page.inside("th")
    charts = [element["data-chart"] for element in page.all("div") if "data-chart" in element]
    assert HOSTILE in [curve["label"] for chart in charts for curve in json.loads(chart)["curves"]]


def test_missing_pieces(run):
    open_run(run).log(1, {"loss/critic": math.nan})
    (run / "log.txt").unlink()
    (run / "samples").rmdir()
    page = Page(write_report(run))
    assert page.all("img") == []
    assert any("no grids yet" in text for text in page.inside("p"))
    assert any("NaN or infinite in 1 of 1 lines" in text for text in page.inside("p"))


def test_a_file_that_is_no_picture_is_named(run):
    a_run(run)
    (run / "samples" / "0000000150.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    whole = (run / "samples" / "0000000200.png").read_bytes()
    (run / "samples" / "0000000200.png").write_bytes(whole[:-30])
    page = Page(write_report(run))
    assert [image["data-images"] for image in page.all("img")] == ["0", "100"]
    assert any("0000000150.png, 0000000200.png" in text for text in page.inside("p"))


def test_real_images_stand_beside_the_slider(run):
    a_run(run)
    real = run / "samples" / "real.png"
    Image.new("L", (20, 20), 7).save(real)
    page = Page(write_report(run))
    first, *grids = page.all("img")
    assert "Real images" in first["alt"]
    assert "data-images" not in first
    assert base64.b64decode(first["src"].removeprefix("data:image/png;base64,")) == real.read_bytes()
    assert [grid["data-images"] for grid in grids] == ["0", "100", "200"]
    assert {"Real: the first images that this run trains on", "Generated"} <= set(page.inside("h3"))
    real.write_bytes(b"no picture")
    page = Page(write_report(run))
    assert len(page.all("img")) == 3
    assert any("Not readable as PNG: real.png" in text for text in page.inside("p"))
    assert "Generated" not in page.inside("h3")


def test_real_images_are_there_before_any_grid(run):
    a_run(run, grids=0)
    Image.new("RGB", (20, 20)).save(run / "samples" / "real.png")
    page = Page(write_report(run))
    assert len(page.all("img")) == 1
    assert any("no grids yet" in text for text in page.inside("p"))


def test_many_real_images_leave_room_for_the_others(run, monkeypatch):
    monkeypatch.setattr(report, "MOST_GRID_BYTES", 60_000)
    a_run(run, grids=0)
    noise = np.random.default_rng(0)
    for name in ("real", *(f"{number:010d}" for number in range(9))):
        pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(run / "samples" / f"{name}.png")
    images = Page(write_report(run)).all("img")
    assert images[0]["src"].startswith("data:image/jpeg")
    assert sum(len(base64.b64decode(image["src"].partition(",")[2])) for image in images) <= 60_000
    assert (images[1]["data-images"], images[-1]["data-images"]) == ("0", "8")


def test_a_grid_too_large_for_pillow_is_named(run, monkeypatch):
    a_run(run)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16)
    draw_grid(run, 200, size=64)
    page = Page(write_report(run))
    assert [image["data-images"] for image in page.all("img")] == ["0", "100"]
    assert any("0000000200.png" in text for text in page.inside("p"))


def test_many_grids_are_thinned_evenly(run):
    a_run(run, grids=150)
    shown = [int(image["data-images"].replace(",", "")) for image in Page(write_report(run)).all("img")]
    assert len(shown) == MOST_GRIDS
    assert (shown[0], shown[-1]) == (0, 14_900)
    assert set(np.diff(shown)) <= {200, 300}


@pytest.mark.parametrize(("most", "expected"), [(200_000, 20), (60_000, None)])
def test_large_grids_do_not_make_a_large_page(run, monkeypatch, most, expected):
    monkeypatch.setattr(report, "MOST_GRID_BYTES", most)
    open_run(run).log(1, figures(1))
    noise = np.random.default_rng(0)
    for number in range(20):
        pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(run / "samples" / f"{number:010d}.png")
    images = Page(write_report(run)).all("img")
    sources = [base64.b64decode(image["src"].partition(",")[2]) for image in images]
    assert sum(map(len, sources)) <= most
    assert expected in (None, len(images))
    assert (images[0]["data-images"], images[-1]["data-images"]) == ("0", "19")
    assert sources[-1] == (run / "samples" / "0000000019.png").read_bytes()
    for image, source in zip(images, sources, strict=True):
        with Image.open(io.BytesIO(source)) as opened:
            assert opened.size == (64, 64)
            assert str(opened.get_format_mimetype()) in image["src"]


@settings(deadline=None)
@given(count=st.integers(0, 500), most=st.integers(2, 80))
def test_evenly(count, most):
    chosen = evenly(count, most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    if count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        gaps = np.diff(chosen)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_long_runs_make_no_long_page(run):
    open_run(run)
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, 20_001):
            file.write(json.dumps({"step": step, **figures(step)}) + "\n")
    assert write_report(run).stat().st_size < 300_000


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="not a run's folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        write_report(run)
    open_run(run)
    with pytest.raises(InputError, match="no figures yet"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_an_error_leaves_the_old_page(run):
    a_run(run)
    before = write_report(run).read_bytes()
    path = run / "metrics.jsonl"
    path.write_text("damaged\n" + path.read_text())
    with pytest.raises(InputError, match="line 1"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert [entry.name for entry in run.iterdir() if entry.name.startswith(".")] == []


@pytest.fixture
def several(tmp_path):
    """Three runs: the second has neither grids nor scores, and is still running."""
    folders = [make_run(tmp_path / name) for name in ("one", "two", "three")]
    for folder, steps, frechet in zip(folders, (20, 5, 40), (30.0, None, 20.0), strict=True):
        tracker = open_run(folder)
        for step in range(1, steps + 1):
            scores = {"score/frechet": frechet + step} if frechet and step % 10 == 0 else {}
            tracker.log(step, figures(step, **scores))
        if frechet:
            draw_grid(folder, 0)
            draw_grid(folder, 8 * steps)
            tracker.close("finished")
    spec = make_spec().model_copy(update={"seed": 9, "name": "other"})
    (folders[2] / "spec.yaml").write_text(dump_spec(spec))
    return folders


def test_runs_side_by_side(several, tmp_path):
    page = Page(write_report(several, tmp_path / "page.html"))
    assert page.inside("h1") == ["3 runs side by side"]
    assert [text for text in page.inside("span") if text in ("running", "finished")] == [
        "finished",
        "running",
        "finished",
    ]
    cells = [text for name, text in page.texts if name in ("th", "td") or (name == "span" and " at " in text)]
    for row in (
        ["Run", "one", "two", "three"],
        ["Specification", "faces", "faces", "other"],
        ["Images", "160", "40", "320"],
        ["Minutes of training", "0.0", "0.0", "0.0"],
        ["frechet, best (at images)", "40 at 80", "–", "30 at 80"],
        ["frechet, last", "50", "–", "60"],
        ["Setting", "one", "two", "three"],
        ["seed", "0", "0", "9"],
    ):
        place = cells.index(row[0])
        assert cells[place : place + 4] == row
    assert {"class": "leads"} in page.all("td")
    assert "wandb" not in " ".join(cells)
    (slider,) = [element for element in page.all("div") if "data-stops" in element]
    assert json.loads(slider["data-stops"]) == [0, 160, 320]
    assert [(image["data-images"], "hidden" in image) for image in page.all("img")] == [
        ("0", True),
        ("160", False),
        ("0", True),
        ("320", False),
    ]
    assert "It has no grids." in page.inside("p")
    assert "Losses: critic" in page.inside("h3")


def test_scores_of_different_making_are_not_compared(several, tmp_path):
    for folder, count in ((several[0], 100), (several[2], 200)):
        path = folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if "score/frechet" in line:
                line["evaluation"] = {"count": count}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_report(several, tmp_path / "page.html"))
    assert any("cannot be compared" in text for text in page.inside("p"))
    assert {"class": "leads"} not in page.all("td")


def test_the_best_is_sought_among_scores_that_compare_with_the_last(run):
    a_run(run)
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for place, score, count in ((4, 1.0, 10), (9, 7.0, 20), (14, 9.0, 20)):
        lines[place] |= {"score/frechet": score, "evaluation": {**FACTS, "count": count}}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_report(run))
    assert any("best 7 at 80 images" in text for text in page.inside("li"))


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [make_run(tmp_path / group / "run") for group in ("a", "b")]
    for folder in folders:
        a_run(folder, grids=0)
    page = Page(write_report(folders, tmp_path / "page.html"))
    assert [text for text in page.inside("b") if "run" in text] == ["a/run", "b/run"]


def test_every_run_that_cannot_be_shown_is_named_in_one_message(several, tmp_path):
    (several[0] / "metrics.jsonl").write_text("damaged\n")
    (several[2] / "spec.yaml").unlink()
    with pytest.raises(InputError) as told:
        write_report(several, tmp_path / "page.html")
    assert re.search(r"one/metrics\.jsonl, line 1", str(told.value))
    assert re.search(r"three is not a run's folder", str(told.value))
    assert not (tmp_path / "page.html").exists()


def test_more_runs_than_colours_are_refused(several):
    with pytest.raises(InputError, match="at most 12"):
        write_report([several[0]] * 13)


def test_all_grids_of_many_runs_share_the_room(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_GRID_BYTES", 200_000)
    noise = np.random.default_rng(0)
    folders = [make_run(tmp_path / name) for name in "ab"]
    for folder in folders:
        a_run(folder, grids=0)
        for number in range(20):
            pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "samples" / f"{number:010d}.png")
    images = Page(write_report(folders, tmp_path / "page.html")).all("img")
    assert sum(len(base64.b64decode(image["src"].partition(",")[2])) for image in images) <= 200_000
    assert [image["data-images"] for image in images].count("19") == 2


def test_events_are_marked_in_every_chart_and_told_in_words(run):
    tracker = open_run(run)
    for step in range(1, 21):
        tracker.log(step, figures(step))
    text = "step 8: <b>odd</b>. Going on, as guard.won is warn."
    tracker.message(text)
    page = Page(write_report(run))
    charts = [element for element in page.all("div") if "data-chart" in element]
    assert all(json.loads(each["data-chart"])["events"] == [[40.0, text]] for each in charts)
    assert len([line for line in page.all("line") if line.get("class") == "event"]) == len(charts)
    assert any("at 64 images" in text and "<b>odd</b>" in text for text in page.inside("li"))


def test_a_page_refreshes_itself_only_while_something_runs(run):
    a_run(run, outcome=None)
    assert Page(write_report(run, refresh=15.0)).all("body") == [{"data-refresh": "15.0"}]
    assert Page(write_report(run)).all("body") == [{}]
    open_run(run, resume_step=20).close("finished")
    assert Page(write_report(run, refresh=15.0)).all("body") == [{}]


def test_watching_waits_for_figures_follows_them_and_ends_with_the_run(run):
    """What happens while it sleeps, one after the other."""
    tracker = open_run(run)
    said: list[str] = []
    seen: list[str] = []

    def look() -> None:
        page = Page(run / "report.html")
        seen.append(f"{page.inside('dd')[0]} {page.all('body')}")

    def log_and_look() -> None:
        tracker.log(len(seen) + 1, figures(len(seen) + 1))

    def look_and_log() -> None:
        look()
        log_and_look()

    def nothing_new() -> None:
        look()
        (run / "report.html").unlink()

    def end() -> None:
        assert not (run / "report.html").exists()  # nothing new, nothing written
        tracker.close("finished")

    sleeps: list[float] = []
    steps = iter([log_and_look, look_and_log, nothing_new, end, lambda: None])

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        next(steps)()

    assert watch_report([run], every=20.0, say=said.append, sleep=sleep) == run / "report.html"
    assert seen == ["1 of 10,000 [{'data-refresh': '20.0'}]", "2 of 10,000 [{'data-refresh': '20.0'}]"]
    assert sleeps == [20.0] * 4 + [5.0]  # training writes the page at its end, too
    assert [text.split()[0] for text in said] == ["waiting:", f"{run / 'report.html'},"]
    look()
    assert seen[-1] == "2 of 10,000 [{}]"


def test_ctrl_c_leaves_a_page_that_stays_as_it_is(run):
    a_run(run, outcome=None)

    def interrupt(seconds: float) -> None:
        assert Page(run / "report.html").all("body") == [{"data-refresh": "15.0"}]
        raise KeyboardInterrupt

    page = watch_report([run], every=15.0, say=lambda text: None, sleep=interrupt)
    assert Page(page).all("body") == [{}]


def test_what_is_wrong_ends_watching(run, tmp_path):
    a_run(run, outcome=None)

    def damage(seconds: float) -> None:
        (run / "metrics.jsonl").write_text("damaged\n")

    with pytest.raises(InputError, match="line 1"):
        watch_report([run], every=15.0, say=lambda text: None, sleep=damage)
    with pytest.raises(InputError, match="not a run's folder"):
        watch_report([tmp_path / "nowhere"], every=15.0, say=lambda text: None, sleep=damage)
