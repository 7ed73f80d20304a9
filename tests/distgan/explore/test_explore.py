"""The command, and the page in a browser."""

from __future__ import annotations

import inspect
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from distgan.commands.explore import explore
from distgan.evaluation.scoring import Progress
from distgan.explore import server
from distgan.explore.pictures import COUNT, Directions, Explorer
from distgan.explore.state import State
from tests.browser import COLOURS, SIZES, Tab, open_browser, open_tab
from tests.distgan.explore.conftest import keep, serving

TOKEN = "a-token-of-the-tests"
expect.set_options(timeout=60_000)  # a busy machine is no failure


@pytest.fixture
def served(monkeypatch) -> list[tuple[Explorer | None, str, str]]:
    """What would have been served: (what, token, host)."""
    found: list[tuple[Explorer | None, str, str]] = []
    monkeypatch.setattr(server, "serve", lambda explorer, bound, token, host: found.append((explorer, token, host)))
    monkeypatch.setattr(webbrowser, "open", lambda url: found.append((None, url, "")))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return found


def test_a_token_that_nobody_guesses(distgan, run, served):
    tokens = set()
    for _ in range(2):
        status, text = distgan("explore", run, "--count", 50)
        assert status == 0
        ((explorer, token, host),) = served
        assert host == "127.0.0.1"
        assert len(token) >= 32
        assert f"/{token}/ (Ctrl-C ends it)" in text
        assert "WARNING" not in text
        assert explorer is not None
        assert explorer.describe()["directions"] == 20
        tokens.add(token)
        served.clear()
    assert len(tokens) == 2


def test_no_thread_is_left_that_takes_processors_from_the_one_that_draws(distgan, run, served, monkeypatch):
    began: list[threading.Thread] = []
    begin = Explorer.begin

    def watched(self: Explorer, progress: Progress) -> Directions:
        began.append(threading.current_thread())
        return begin(self, progress)

    monkeypatch.setattr(Explorer, "begin", watched)
    assert distgan("explore", run, "--count", 50)[0] == 0
    (thread,) = began
    assert thread is not threading.current_thread()
    thread.join(60)
    assert not thread.is_alive()


def test_ctrl_c_while_directions_are_found(distgan, run, served, monkeypatch):
    began: list[threading.Thread] = []

    def endless(self: Explorer, progress: Progress) -> Directions:
        began.append(threading.current_thread())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # as from a terminal
        while True:
            progress(1, 2)
            time.sleep(0.01)

    monkeypatch.setattr(Explorer, "begin", endless)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which pytest's own processes ignore
    try:
        status, text = distgan("explore", run, "--count", 50)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, text) == (130, "")
    began[0].join(60)
    assert not began[0].is_alive()
    assert not served


def test_a_browser_is_opened_where_there_is_a_screen_or_it_is_asked_for(distgan, run, served, monkeypatch):
    def opened(*options: str) -> bool:
        served.clear()
        assert distgan("explore", run, "--count", 50, "--token", TOKEN, *options)[0] == 0
        return any(url.endswith(f"/{TOKEN}/") for _, url, _ in served)

    assert not opened()
    assert opened("--open")
    monkeypatch.setenv("DISPLAY", ":0")
    assert opened()
    assert not opened("--no-open")


def test_other_machines_are_let_in_loudly(distgan, run, served):
    status, text = distgan("explore", run, "--count", 50, "--host", "0.0.0.0")
    assert status == 0
    assert "WARNING: listening on 0.0.0.0: every machine that reaches this one" in text
    assert "not encrypted" in text
    assert f"http://{socket.gethostname()}:" in text
    assert served[0][2] == "0.0.0.0"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--token", "short"], "--token is 16 to 128 letters"),
        (["--token", "with/a/slash/in/its/middle"], "--token is 16 to 128 letters"),
        (["--count", "3"], "--count is at least 20"),
        (["--attribute", "Smiling"], "--attribute Smiling needs --classifier"),
        (["--classifier", "KNOWN", "--attribute", "Smilling"], "did you mean 'Smiling'?"),
        (["--classifier", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--draw", "seed=1"], "--draw STATE and --out FILE belong together"),
        (["--out", "a.png"], "--draw STATE and --out FILE belong together"),
        (["--draw", "seed=x", "--out", "a.png"], "seed is a whole number"),
        (["--draw", "step=11", "--out", "a.png"], "step 11 is not there"),
        (["--draw", "seed=1", "--out", "a.jpg"], "ends in .png"),
        (["--host", "192.0.2.1"], "cannot listen on --host 192.0.2.1"),
    ],
)
def test_bad_input(distgan, run, known, served, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    status, text = distgan("explore", run, *(str(known) if each == "KNOWN" else each for each in options))
    assert (status, said in text) == (2, True), text
    assert text.startswith("error: ")
    assert not served
    assert not list(tmp_path.glob("*.png"))


def test_no_run_and_other_shards(distgan, served, known, tmp_path):
    assert distgan("explore", tmp_path / "none") == (
        2,
        f"error: {tmp_path / 'none'} is neither a checkpoint nor a run that has one\n",
    )
    keep(tmp_path / "run")
    status, text = distgan("explore", tmp_path / "run", "--classifier", known)
    assert (status, "knows other shards than those that the run was trained on" in text) == (2, True)


def test_the_command_draws_as_many_as_the_page_where_neither_is_told():
    assert inspect.signature(explore).parameters["count"].default == COUNT


def test_a_port_that_is_taken(distgan, run, served):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert distgan("explore", run, "--port", port) == (
            2,
            f"error: port {port} is taken: give another --port, or none for one that is free\n",
        )
    assert not served


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra(distgan, run, served, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert distgan("explore", run) == (2, f"error: explore needs {missing}: pip install 'distgan[explore]'\n")
    assert not served
    out = tmp_path / "new" / "a.png"
    assert distgan("explore", run, "--draw", "seed=7", "--out", out) == (0, f"{out}\n")  # which needs no server
    assert out.read_bytes() == Explorer(run).draw(State(seed=7))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@pytest.fixture
def page(run, known, monkeypatch) -> Iterator[tuple[Path, str]]:
    """A run whose page is served: its folder, and the page's address."""
    from tests.distgan.sampling.test_directions import half

    half(monkeypatch)
    explorer = Explorer(run, classifier=known, count=100)
    explorer.begin()
    with serving(explorer, TOKEN) as port:
        yield run, f"http://127.0.0.1:{port}/{TOKEN}/"


def drawn(tab: Tab, *, after: str | None = None) -> str:
    """Wait until the picture is that of the page's state, or of any but ``after``; that state."""
    picture = tab.page.locator("#picture")
    picture.and_(tab.page.locator("[data-state]")).wait_for()  # from then on the address holds the state
    if after is None:
        expect(picture).to_have_attribute("data-state", tab.page.evaluate("location.hash.slice(1)"))
    else:
        expect(picture).not_to_have_attribute("data-state", after)
    expect(tab.page.locator("#status")).to_have_text("")
    return str(picture.get_attribute("data-state"))


def seen(tab: Tab) -> np.ndarray:
    """What the browser shows, pixel by pixel."""
    values = tab.page.evaluate("""() => {
      const picture = document.getElementById("picture");
      const canvas = Object.assign(document.createElement("canvas"),
        { width: picture.naturalWidth, height: picture.naturalHeight });
      const context = canvas.getContext("2d");
      context.drawImage(picture, 0, 0);
      return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
    }""")
    return np.array(values).reshape(16, 16, 4)[..., :3]


def test_the_page(page, browser, tmp_path, monkeypatch):
    """Move a slider: the picture changes. Reload: it is the same. What is saved is what is seen."""
    run, url = page
    with open_tab(browser, url) as tab:
        expect(tab.page.locator("#picture[data-state]")).to_have_count(1)
        state = drawn(tab)
        assert state == "directions=20&step=20"
        first = seen(tab)
        values = {"odd": "-2", "Principal 1": "1.5", "On the way to it": "0.2", "Truncation": "1.5", "Training": "0"}
        for label, value in [("Smiling", None), *values.items()]:
            before, picture = drawn(tab), seen(tab)
            slider = tab.page.get_by_role("slider", name=label, exact=True)
            if value is None:
                for _ in range(15):
                    slider.press("ArrowRight")
            else:
                slider.fill(value)
            state = drawn(tab)
            assert state != before
            assert np.abs(seen(tab) - picture).max() > 0, label
        assert tab.page.get_by_role("slider", name="Smiling", exact=True).get_attribute("aria-valuetext") == "+1.5"
        moved = seen(tab)
        assert tab.page.evaluate("location.hash.slice(1)") == state
        tab.page.reload()
        assert drawn(tab) == state
        assert (seen(tab) == moved).all()
        assert tab.page.get_by_role("slider", name="Principal 1", exact=True).input_value() == "1.5"
        with tab.page.expect_download() as saved:
            tab.page.get_by_role("link", name="Save picture").click()
        saved.value.save_as(tmp_path / "saved.png")
        assert (np.asarray(Image.open(tmp_path / "saved.png")) == moved).all()
        command = tab.page.locator("#command").inner_text()
        assert command.startswith(f"distgan explore {run} --draw 'step=10&")
        assert "--classifier" in command
        for name in ("Set all attributes to 0", "Set all principal directions to 0"):
            tab.page.get_by_role("button", name=name).click()
        tab.page.get_by_role("slider", name="On the way to it").press("Home")
        tab.page.get_by_role("slider", name="Truncation").press("End")
        tab.page.get_by_role("slider", name="Training").press("End")
        assert drawn(tab) == "directions=20&step=20"
        assert (seen(tab) == first).all()
        tab.check()


def test_faces_and_numbers(page, browser):
    _, url = page
    with open_tab(browser, f"{url}#seed=3") as tab:
        drawn(tab)
        first = seen(tab)
        seed = tab.page.get_by_label("Seed", exact=True)
        assert seed.input_value() == "3"
        seed.fill("8")
        assert "seed=8" in drawn(tab)
        assert np.abs(seen(tab) - first).max() > 5
        seed.fill("-1")
        seed.blur()
        assert seed.input_value() == "8"
        before = drawn(tab)
        tab.page.get_by_role("button", name="Another").first.click()
        assert drawn(tab, after=before) != before
        tab.page.goto(f"{url}#seed=3")  # a link within the page
        expect(seed).to_have_value("3")
        assert "seed=3" in drawn(tab)
        assert (seen(tab) == first).all()
        tab.check()


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("size", SIZES)
def test_every_window(page, browser, size, colours):
    with open_tab(browser, page[1], size, colours) as tab:
        drawn(tab)
        tab.check()


def test_training_goes_on(page, browser):
    """A new checkpoint comes into the list; one that is gone is said, and the page goes on from there."""
    run, url = page
    with open_tab(browser, url) as tab:
        drawn(tab)
        tab.page.clock.install()
        tab.page.reload()
        drawn(tab)
        keep(run, 30)
        tab.page.clock.run_for(6_000)
        newer = tab.page.locator("#newer")
        expect(newer).to_contain_text("Training has come to step 30.")
        newer.get_by_role("button").click()
        assert drawn(tab) == "directions=20&step=30"
        expect(newer).to_be_hidden()
        expect(tab.page.locator("#step-text")).to_have_text("step 30, 240 images")
        assert not tab.complaints
        (run / "checkpoints" / "step-00000010").rename(run / "gone")
        tab.page.get_by_role("slider", name="Training").press("Home")
        problem = tab.page.locator("#problem")
        expect(problem).to_contain_text("the checkpoint of step 10 is not there, or no longer; there are 20, 30")
        assert tab.overflow() == []
        expect(tab.page.get_by_role("slider", name="Training")).to_have_attribute("max", "1")
        tab.page.get_by_role("slider", name="Training").press("End")
        assert drawn(tab) == "directions=20&step=30"
        expect(problem).to_be_hidden()


def test_what_a_conditional_run_shows(browser, tmp_path):
    keep(tmp_path / "run", condition=True)
    explorer = Explorer(tmp_path / "run", count=100)
    explorer.begin()
    with serving(explorer, TOKEN) as port, open_tab(browser, f"http://127.0.0.1:{port}/{TOKEN}/") as tab:
        drawn(tab)
        first = seen(tab)
        tab.page.get_by_label("class").select_option("dog")
        tab.page.get_by_label("Smiling").select_option("yes")
        assert drawn(tab) == "directions=10&step=10&where.Smiling=1&where.class=dog"
        assert np.abs(seen(tab) - first).max() > 0
        tab.page.get_by_label("class").select_option("as it comes")
        assert "class" not in drawn(tab)
        tab.check()


@pytest.mark.slow
def test_the_server_ends_while_the_page_is_open(run, browser):
    explorer = Explorer(run, count=100)
    explorer.begin()
    with serving(explorer, TOKEN) as port:
        tabs = open_tab(browser, f"http://127.0.0.1:{port}/{TOKEN}/")
        tab = tabs.__enter__()
        drawn(tab)
    try:
        tab.page.get_by_role("slider", name="Principal 1", exact=True).press("ArrowRight")
        expect(tab.page.locator("#problem")).to_have_text("distgan explore does not answer: has it ended?")
    finally:
        tabs.__exit__(None, None, None)
