"""A browser for tests that look at a page as people do. Without one on this machine they are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request, sync_playwright

SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}
"""Widths and heights of windows, in pixels."""
COLOURS = ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = (
    "no Chromium on this machine: apt-get install chromium (Debian), brew install --cask google-chrome (macOS), or "
    "python -m playwright install chromium"
)
# The last ones keep it from calling home.
FLAGS = [
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_OVERFLOW = """() => {
  const root = document.scrollingElement;
  if (root.scrollWidth <= root.clientWidth) return [];
  const scrolls = (element) => {
    for (let each = element.parentElement; each; each = each.parentElement) {
      if (getComputedStyle(each).overflowX !== "visible") return true;
    }
    return false;
  };
  const wide = [...document.body.querySelectorAll("*")].filter(
    (element) => element.getBoundingClientRect().right > root.clientWidth + 0.5 && !scrolls(element)
  );
  return [`the page is ${root.scrollWidth} pixels wide in a window of ${root.clientWidth}: ` + wide.slice(-3).map(
    (element) => element.outerHTML.slice(0, 120)).join(" | ")];
}"""
_PICTURES = """() => [
  ...[...document.querySelectorAll("img")].filter((img) => !(img.getAttribute("alt") ?? "").trim()),
  ...[...document.querySelectorAll("svg")].filter(
    (svg) => !svg.closest("[aria-hidden=true]") && !svg.getAttribute("aria-label") && !svg.querySelector("title")),
].map((picture) => picture.outerHTML.slice(0, 120))"""
_BROKEN = """() => [...document.images].filter((img) => img.complete && !img.naturalWidth).map(
  (img) => img.outerHTML.slice(0, 120))"""
# What can be operated, is seen, and is not switched off. Radio buttons of a group are one stop of the Tab key.
_CONTROLS = """() => {
  const all = document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [role=button], [role=slider], [tabindex]");
  const groups = new Set();
  let number = 0;
  for (const element of all) {
    const seen = element.checkVisibility({ visibilityProperty: true });
    if (!seen || element.disabled || element.type === "hidden") continue;
    if (element.type === "radio" && element.name) {
      const members = [...document.getElementsByName(element.name)];
      if (groups.has(element.name) || !(element.checked || members.every((each) => !each.checked))) continue;
      groups.add(element.name);
    }
    element.dataset.testControl = number++;
  }
  return number;
}"""
_NAMES = """() => [...document.querySelectorAll("[data-test-control]")].filter((element) => {
  const by = (element.getAttribute("aria-labelledby") ?? "").split(" ").map(
    (id) => document.getElementById(id)?.textContent ?? "").join("");
  const labels = [...(element.labels ?? [])].map((label) => label.textContent).join("");
  const text = element.matches("input, select, textarea") ? "" : element.textContent;
  return ![by, element.getAttribute("aria-label"), labels, text, element.title].some((name) => (name ?? "").trim());
}).map((element) => element.outerHTML.slice(0, 120))"""
_UNREACHED = """(reached) => [...document.querySelectorAll("[data-test-control]")].filter(
  (element) => !reached.includes(element.dataset.testControl)).map((element) => element.outerHTML.slice(0, 120))"""


@cache
def executable() -> str | None:
    """The Chromium of this machine, else Playwright's own; None where there is neither."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium without a window. Skips the test where there is none."""
    path = executable()
    if path is None:
        pytest.skip(NO_BROWSER)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *(["--no-sandbox"] if root else [])])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """A page in a window of some size, and what the browser complained about while it was open.

    Attributes:
        page: Of Playwright.
        complaints: Errors and warnings on the console, exceptions, and requests that failed or were refused.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Fail on what a person could not see, reach or understand, or the browser complained about."""
        assert not self.complaints, "\n".join(self.complaints)
        assert not self.overflow(), "\n".join(self.overflow())
        nameless = self.page.evaluate(_PICTURES)
        assert not nameless, f"pictures without alternative text: {nameless}"
        broken = self.page.evaluate(_BROKEN)
        assert not broken, f"pictures that did not load: {broken}"
        self.check_controls()

    def overflow(self) -> list[str]:
        """What makes the page wider than its window."""
        return list(self.page.evaluate(_OVERFLOW))

    def check_controls(self) -> None:
        """Fail on a control that the Tab key does not reach, or that has no name."""
        count = self.page.evaluate(_CONTROLS)
        nameless = self.page.evaluate(_NAMES)
        assert not nameless, f"controls without a name: {nameless}"
        self.page.evaluate("() => { document.activeElement?.blur(); window.getSelection()?.removeAllRanges(); }")
        reached: list[str] = []
        for _ in range(count + 5):
            self.page.keyboard.press("Tab")
            reached.append(str(self.page.evaluate("() => document.activeElement?.dataset.testControl ?? ''")))
        missed = self.page.evaluate(_UNREACHED, reached)
        assert not missed, f"controls that the keyboard does not reach: {missed}"
        self.page.evaluate("() => document.activeElement?.blur()")


@contextmanager
def open_tab(browser: Browser, address: str, size: str = "desktop", colours: str = "light") -> Iterator[Tab]:
    """Open a page.

    Args:
        browser: From :func:`open_browser`.
        address: A URL: ``path.as_uri()`` of a file.
        size: A name in :data:`SIZES`.
        colours: What the system is set to: one of :data:`COLOURS`.
    """
    width, height = SIZES[size]
    context: BrowserContext = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if colours == "dark" else "light",
        reduced_motion="reduce",
        has_touch=size == "phone",
    )
    try:
        tab = Tab(context.new_page())

        def complain(text: str) -> None:
            tab.complaints.append(text)

        def on_console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                complain(f"console: {message.text}")

        def on_exception(error: Error) -> None:
            complain(f"exception: {error.message}")

        def on_refused(request: Request) -> None:
            complain(f"refused: {request.url[:120]}: {request.failure}")

        tab.page.on("console", on_console)
        tab.page.on("pageerror", on_exception)
        tab.page.on("requestfailed", on_refused)
        tab.page.goto(address)
        yield tab
    finally:
        context.close()
