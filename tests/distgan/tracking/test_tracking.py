"""The pages that tracking writes, in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from distgan.checkpoint import Best, mark_best
from distgan.tracking.report import write_report
from tests.browser import COLOURS, SIZES, open_browser, open_tab
from tests.distgan.sampling.test_sampling import saved
from tests.distgan.tracking.conftest import figures, make_run, make_spec, open_run

pytestmark = pytest.mark.slow  # a browser starts, and looks at each page in each window

LONG = "a-run-with-a-name-as-long-as-names-may-be-and-without-a-place-to-break"
SHOWN = ".grids img:not([hidden])"


def draw_noise(path: Path, seed: int) -> None:
    """A grid that looks like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (66, 66, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def eventful(run: Path, steps: int = 60) -> Path:
    """A run with all that a page can show."""
    make_run(run)
    tracker = open_run(run)
    tracker.message("step 5: the critic has won: it tells 99.5% right. Going on, as guard.won is warn.")
    for step in range(1, steps + 1):
        scores = {"score/frechet": 90.0 - step + 40 * (step > 40), "score/recall": step / 100} if step % 10 == 0 else {}
        tracker.log(step, figures(step, **scores))
        if step == 20:
            tracker.message(f"step 22: the gradient explodes {'very ' * 40}. Going back to step 20 with fresh noise.")
    for number in range(4):
        draw_noise(run / "samples" / f"{100 * number:010d}.png", number)
    draw_noise(run / "samples" / "real.png", 99)
    mark_best(run, Best(saved(run, 3).path, "frechet", 50.0, ""))
    tracker.close("finished")
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    eventful(folder / "eventful")
    bare = make_run(folder / LONG)
    tracker = open_run(bare)
    tracker.log(1, figures(1))
    tracker.log(9, figures(9, **{"loss/critic": float("nan")}))
    tracker.close("failed")
    other = make_run(folder / "other", make_spec().model_copy(update={"seed": 7}))
    tracker = open_run(other)
    for step in range(1, 31):
        tracker.log(step, figures(step, **{"score/frechet": 70.0 - step}))
    for number in range(2):
        draw_noise(other / "samples" / f"{150 * number:010d}.png", 10 + number)
    return folder


@pytest.fixture(scope="module")
def pages(runs) -> dict[str, str]:
    """The address of each page."""
    shown = {
        "one": [runs / "eventful"],
        "bare": [runs / LONG],
        "several": [runs / "eventful", runs / LONG, runs / "other"],
    }
    written = {name: write_report(folders, runs / f"{name}.html") for name, folders in shown.items()}
    written["watched"] = write_report(runs / "other", runs / "watched.html", refresh=3600.0)
    return {name: path.as_uri() for name, path in written.items()}


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("size", SIZES)
def test_every_page_fits_every_window_and_is_in_words_and_in_reach_of_the_keyboard(browser, pages, size, colours):
    for address in pages.values():
        with open_tab(browser, address, size, colours) as tab:
            tab.check()


def sources(tab) -> list[str]:
    """The grids that are seen."""
    return [image.get_attribute("src") or "" for image in tab.page.locator(SHOWN).all()]


def test_the_slider_and_the_arrow_keys_change_what_is_seen(browser, pages):
    with open_tab(browser, pages["one"]) as tab:
        slider = tab.page.get_by_label("Images seen", exact=True)
        seen = [sources(tab)]
        assert tab.page.locator(".slider output").text_content() == "300 images"
        slider.fill("1")
        seen.append(sources(tab))
        assert tab.page.locator(".slider output").text_content() == "100 images"
        tab.page.locator("body").press("ArrowRight")
        seen.append(sources(tab))
        slider.focus()
        tab.page.keyboard.press("Home")
        seen.append(sources(tab))
        assert [len(each) for each in seen] == [1] * 4
        assert len({each[0] for each in seen}) == 4
        play = tab.page.get_by_role("button", name="Play")
        play.click()
        expect(tab.page.locator(".slider output")).to_have_text("300 images")
        tab.check()


def test_grids_of_several_runs_move_together_to_the_nearest(browser, pages):
    with open_tab(browser, pages["several"]) as tab:
        captions = tab.page.locator(".grids output")
        assert captions.all_text_contents() == ["300 images", "150 images"]  # the third has no grids
        tab.page.get_by_label("Images seen", exact=True).fill("1")
        assert tab.page.locator(".slider output").text_content() == "100 images"
        assert captions.all_text_contents() == ["100 images", "150 images"]
        tab.page.locator("body").press("ArrowLeft")
        assert captions.all_text_contents() == ["0 images", "0 images"]
        assert "It has no grids." in tab.page.locator(".compared").inner_text()


def test_smoothing_draws_another_curve_and_leaves_the_raw_one_faint(browser, pages):
    with open_tab(browser, pages["one"], "phone") as tab:
        line = tab.page.locator("[data-smooth] .line").first
        path = line.get_attribute("d")
        assert tab.page.locator(".smooth").count() == 0
        smoothing = tab.page.get_by_label("Smoothing")
        smoothing.fill("0.9")
        smooth = tab.page.locator("[data-smooth] .curve").first.locator(".smooth")
        assert line.get_attribute("d") == path
        assert float(line.evaluate("line => getComputedStyle(line).opacity")) < 0.5
        heights = [
            [float(y) for y in re.findall(r",([\d.]+)", each.get_attribute("d") or "")] for each in (line, smooth)
        ]
        raw, even = (np.array(each) for each in heights)
        weights = np.tril(0.9 ** np.subtract.outer(np.arange(60), np.arange(60)))  # of each point's past
        np.testing.assert_allclose(even, (weights @ raw) / weights.sum(axis=1), atol=0.6)
        assert tab.page.locator(".charts").first.locator(".smooth").count() == 0  # scores are as they are
        smoothing.fill("0")
        assert tab.page.locator(".smooth").count() == 0
        tab.check()


def test_a_chart_says_its_values_and_events_to_pointer_and_keyboard(browser, pages):
    with open_tab(browser, pages["one"]) as tab:
        losses = tab.page.get_by_role("slider", name="Losses over the images seen")
        box = losses.bounding_box()
        assert box
        losses.hover(position={"x": box["width"] / 3, "y": 20})  # step 20 of 60
        tip = tab.page.locator(".tip")
        assert "160 images" in tip.inner_text()
        assert "Going back to step 20" in tip.inner_text()
        tip_box = tip.bounding_box()
        assert tip_box
        assert tip_box["width"] <= box["width"]
        tab.page.mouse.move(0, 0)
        assert tip.count() == 0
        losses.focus()
        tab.page.keyboard.press("End")
        assert "480 images" in (losses.get_attribute("aria-valuetext") or "")
        tab.page.keyboard.press("ArrowLeft")
        assert "472 images; critic 0.01695; generator 2" in (losses.get_attribute("aria-valuetext") or "")
        tab.page.keyboard.press("Escape")
        assert tip.count() == 0


def test_the_best_score_is_marked_where_it_lies(browser, pages):
    with open_tab(browser, pages["one"]) as tab:
        figure = tab.page.locator("figure", has_text="Fréchet distance")
        assert "best 50 at 320 images" in figure.locator(".legend").inner_text()
        plot, dot = figure.locator(".plot").bounding_box(), figure.locator(".best").bounding_box()
        assert plot
        assert dot
        np.testing.assert_allclose(dot["x"] + dot["width"] / 2, plot["x"] + plot["width"] * 320 / 480, atol=1.5)
        assert figure.locator(".marks text").text_content() == "50"


def test_a_watched_page_follows_the_run_and_keeps_its_place(browser, tmp_path):
    run = make_run(tmp_path / "run")
    tracker = open_run(run)
    for step in range(1, 21):
        tracker.log(step, figures(step))
    for number in range(3):
        draw_noise(run / "samples" / f"{50 * number:010d}.png", number)
    page = write_report(run, refresh=15.0)
    with open_tab(browser, page.as_uri(), "phone") as tab:
        tab.page.add_init_script("window.setInterval = (...timer) => { window.timer = timer; };")  # no test waits
        tab.page.reload()
        assert tab.page.evaluate("timer[1]") == 15_000
        tab.page.get_by_label("Images seen", exact=True).fill("1")
        tab.page.get_by_label("Smoothing").fill("0.5")
        tab.page.evaluate("window.scrollTo(0, 1400)")
        place = tab.page.locator("#curves").bounding_box()
        for step in range(21, 31):
            tracker.log(step, figures(step))
        draw_noise(run / "samples" / "0000000200.png", 9)
        tracker.close("finished")
        write_report(run, refresh=15.0)
        assert "20 of 10,000" in tab.page.locator(".facts").inner_text()
        with tab.page.expect_navigation():
            tab.page.evaluate("() => timer[0]()")
        assert "30 of 10,000" in tab.page.locator(".facts").inner_text()
        assert tab.page.locator(".slider output").text_content() == "50 images"
        assert tab.page.get_by_label("Smoothing").input_value() == "0.5"
        assert tab.page.locator("#curves").bounding_box() == pytest.approx(place, abs=2)
        assert tab.page.evaluate("window.timer") is None  # the run has ended
        tab.check()
