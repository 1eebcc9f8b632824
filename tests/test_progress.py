"""The bar of long work: on a terminal in one line, elsewhere not at all."""

import io

import pytest

from dyrygentd import progress
from dyrygentd.progress import ProgressBar


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw each step, however soon it comes."""
    monkeypatch.setattr(progress, "_DRAW_EVERY_S", 0.0)


def test_a_bar_fills() -> None:
    """It is drawn in its place, and leaves the line when it is full."""
    screen = _Screen()
    bar = ProgressBar(screen)
    for done in (0, 5, 10):
        bar("copied", done, 10)
    assert screen.getvalue().split("\r") == [
        "",
        f"copied [{' ' * 30}]   0%",
        f"copied [{'#' * 15}{' ' * 15}]  50%",
        f"copied [{'#' * 30}] 100%\n",
    ]


def test_steps_have_a_line_each() -> None:
    """What has no known end is named; the next step begins a line, and covers nothing of the one before."""
    screen = _Screen()
    bar = ProgressBar(screen)
    bar("upgrading the database", 0, 0)
    bar("sending", 1, 2)
    bar("storing", 0, 0)
    bar.end()
    bar.end()
    assert screen.getvalue().splitlines() == [
        "",
        "upgrading the database …",
        "",
        f"sending [{'#' * 15}{' ' * 15}]  50%",
        "",
        "storing …",
    ]


def test_more_than_expected_is_full() -> None:
    """A copy may be longer than was foreseen."""
    screen = _Screen()
    ProgressBar(screen)("copied", 12, 10)
    assert "100%" in screen.getvalue()


def test_nothing_is_drawn_elsewhere() -> None:
    """In a log a bar would be noise."""
    pipe = io.StringIO()
    bar = ProgressBar(pipe)
    bar("copied", 1, 2)
    bar.end()
    assert not bar.is_shown
    assert pipe.getvalue() == ""


def test_it_is_not_drawn_more_often_than_anybody_can_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand steps cost ten thousand looks at the clock, and a few lines."""
    monkeypatch.setattr(progress, "_DRAW_EVERY_S", 1000.0)
    screen = _Screen()
    bar = ProgressBar(screen)
    for done in range(10_000):
        bar("copied", done, 10_000)
    assert screen.getvalue().count("\r") == 1
