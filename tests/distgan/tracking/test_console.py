from __future__ import annotations

import io

import pytest
from rich.console import Console as Terminal

from distgan.tracking.console import Console
from tests.distgan.tracking.conftest import figures


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr("distgan.tracking.console.time.monotonic", lambda: now[0])
    return now


def test_plain_lines_come_at_a_rate_that_people_can_read(clock):
    file = io.StringIO()
    sink = Console(0, 1000, Terminal(file=file))
    for step in range(1, 101):
        sink.progress(step)
        sink.log(step, figures(step))
        clock[0] += 1.0
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[1].startswith("step 11/1,000 (1%): critic 0.09091, generator 2, 800 images/s")
    sink.close("interrupted")
    lines = file.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("step 100/1,000 (10%)")


def test_plain_output_has_no_control_codes_and_no_broken_lines(monkeypatch, clock):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI services set it
    file = io.StringIO()
    sink = Console(0, 1_000_000, Terminal(file=file, width=40))
    sink.progress(1)
    sink.log(1, figures(1, **{"time/data_wait": 0.25}))
    sink.message("[bold]as it stands[/bold]: /a/:cat:/path/that/is/longer/than/the/terminal/is/wide")
    sink.close("finished")
    assert "\x1b" not in file.getvalue()
    line, message = file.getvalue().splitlines()
    assert "waits for data 25%" in line
    assert message == "[bold]as it stands[/bold]: /a/:cat:/path/that/is/longer/than/the/terminal/is/wide"


def test_what_is_said_comes_after_the_figures_before_it(clock):
    file = io.StringIO()
    sink = Console(0, 100, Terminal(file=file))
    for step in (1, 2):
        sink.log(step, figures(step))
    sink.message("failed")
    sink.close("failed")
    assert [line.split("/")[0] for line in file.getvalue().splitlines()] == ["step 1", "step 2", "failed"]


def test_no_number_of_steps_is_too_many(clock):
    file = io.StringIO()
    sink = Console(0, 10**22, Terminal(file=file))
    sink.log(1, figures(1))
    clock[0] += 20.0
    sink.log(2, figures(2))
    assert file.getvalue().splitlines()[1].endswith(" left")


def test_standard_output_stays_free(capfd):
    sink = Console(0, 10)
    sink.log(1, figures(1))
    sink.message("hello")
    sink.close("finished")
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello" in err


def test_a_figure_that_is_not_there_is_not_shown(clock):
    file = io.StringIO()
    sink = Console(0, 10, Terminal(file=file))
    sink.log(5, {"loss/critic": float("nan")})
    assert file.getvalue() == "step 5/10 (50%): critic nan\n"


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_fits_the_terminal(width):
    file = Tty()
    terminal = Terminal(file=file, force_terminal=True, force_interactive=True, width=width, color_system=None)
    sink = Console(100, 39_063, terminal)
    sink.message("before the first step")
    assert "39063" not in file.getvalue()
    sink.progress(101)
    sink.log(101, figures(101, **{"time/data_wait": 0.5}))
    sink.message("[in the middle]")
    sink.close("finished")
    text = file.getvalue()
    assert "before the first step" in text
    assert "[in the middle]" in text
    bar = [line for line in text.splitlines() if "101/39063" in line][-1]
    assert "critic 0.0" in bar
    assert ("waits for data 50%" in bar) == (width == 120)
    assert sink._bar.live.is_started is False
