"""What the browser's checks let through, and what they do not."""

from __future__ import annotations

import pytest

from tests.browser import COLOURS, SIZES, open_browser, open_tab

HEAD = "<!DOCTYPE html><html lang=en><link rel=icon href='data:,'><meta name=viewport content='width=device-width'>"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
SOUND = (
    f"<p>Words</p><img src='{PIXEL}' alt='A dot'><label>Size <input type=range></label><button>Go</button>"
    "<fieldset><label><input type=radio name=a checked>one</label><label><input type=radio name=a>no</label></fieldset>"
    "<div style='overflow-x: auto' tabindex=0 aria-label='A table'><div style='width: 3000px'>wide</div></div>"
    "<button hidden></button><details><summary>More</summary><button>Inside</button></details>"
)
BROKEN = {
    "overflow": ("<div style='width: 2000px; background: red'>wide</div>", "pixels wide"),
    "console": ("<script>console.error('broken')</script>", "console: broken"),
    "exception": ("<script>null.x</script>", "exception: "),
    "refused": (
        "<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\">"
        "<img src='http://127.0.0.1:9/x.png' alt='nothing'>",
        "Content Security Policy",
    ),
    "picture": (f"<img src='{PIXEL}'>", "without alternative text"),
    "chart": ("<svg width=9 height=9></svg>", "without alternative text"),
    "nothing in it": ("<img src='data:image/png;base64,AAAA' alt='A face'>", "did not load"),
    "nameless": ("<button></button>", "without a name"),
    "unlabelled": ("<input type=range>", "without a name"),
    "unreachable": ("<button tabindex=-1>Go</button>", "the keyboard does not reach"),
}


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def address(tmp_path):
    def written(body: str) -> str:
        path = tmp_path / "page.html"
        path.write_text(HEAD + body, encoding="utf-8")
        return path.as_uri()

    return written


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("size", SIZES)
def test_a_sound_page_passes_in_every_window(browser, address, size, colours):
    with open_tab(browser, address(SOUND), size, colours) as tab:
        tab.check()
        assert tab.page.evaluate("innerWidth") == SIZES[size][0]
        assert tab.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (colours == "dark")


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_found(browser, address, fault):
    body, said = BROKEN[fault]
    with open_tab(browser, address(SOUND + body)) as tab, pytest.raises(AssertionError, match=said):
        tab.check()
