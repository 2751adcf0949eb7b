"""The demo's output: its width, its colours, and its signs of life."""

from __future__ import annotations

import sys
import time

import pytest

from tests.support import ROOT


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import demo

    return demo


def test_no_line_is_wider_than_80_columns(demo, capsys):
    demo.say("word " * 50 + "\n" + "short")
    demo.say(str(demo.Expectation("promise " * 20, "outcome", met=True)))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines.count("short") == 1


@pytest.mark.parametrize(
    ("is_terminal", "environment", "is_coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_show_them(
    demo, monkeypatch, is_terminal, environment, is_coloured
):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    said = str(demo.Expectation("promise", "outcome", met=True))
    assert ("\x1b[32mok" in said) is is_coloured


def test_long_work_shows_that_it_goes_on(demo, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SILENT_SECONDS", 0.01)
    said = ""
    with demo.going_on("filling"):
        while "... filling (" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().out
    monkeypatch.setattr(demo, "SILENT_SECONDS", 60)
    with demo.going_on("short work"):
        pass
    assert "short work" not in capsys.readouterr().out


def test_a_median_has_the_worst_of_the_other_results(demo):
    found = demo.median(
        demo.Measurement(demo.FLUSH, 10, trips, ms, 10, 0, lost)
        for trips, ms, lost in [(1, 9.0, 0), (2, 1.0, 5), (1, 2.0, 0)]
    )
    assert (found.milliseconds, found.round_trips, found.neighbour_lost) == (2.0, 2, 5)
