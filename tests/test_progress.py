"""The bar of long work: on a terminal in one line, elsewhere not at all."""

import io

from dyrygentd.progress import ProgressBar


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def _bar(stream: io.StringIO) -> ProgressBar:
    """Return one that draws each step, however soon it comes."""
    return ProgressBar(stream, draw_every_s=0.0)


def test_a_bar_fills() -> None:
    """It is drawn in its place, and leaves the line when it is full."""
    screen = _Screen()
    bar = _bar(screen)
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
    bar = _bar(screen)
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
    _bar(screen)("copied", 12, 10)
    assert "100%" in screen.getvalue()


def test_nothing_is_drawn_elsewhere() -> None:
    """In a log a bar would be noise."""
    pipe = io.StringIO()
    bar = _bar(pipe)
    bar("copied", 1, 2)
    bar.end()
    assert not bar.is_shown
    assert pipe.getvalue() == ""


def test_it_is_not_drawn_more_often_than_anybody_can_see() -> None:
    """Ten thousand steps cost ten thousand looks at the clock, and a few lines."""
    screen = _Screen()
    bar = ProgressBar(screen, draw_every_s=1000.0)
    for done in range(10_000):
        bar("copied", done, 10_000)
    assert screen.getvalue().count("\r") == 1
