"""Times on one screen are in one zone, which is named, and spans are written in one form."""

import time
from collections.abc import Iterator

import click
import pytest

from dyrygentd.cli.times import Moment, Span, dated, head, localized, moment, span_of
from dyrygentd.core.words import counted, span


@pytest.fixture(params=["UTC", "Europe/Warsaw", "Asia/Kathmandu"])
def zone_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let this process live in another zone for a while."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield time.strftime("%Z")
    monkeypatch.undo()
    time.tzset()


def test_times_of_the_daemon_are_shown_in_the_reader_s_zone(zone_name: str) -> None:
    """21:09:06 beside "since 20:09:06 UTC" sends a tired person an hour back."""
    at = time.time() - 60
    in_utc = time.strftime("%H:%M:%S UTC", time.gmtime(at))
    assert localized(f"runs since {in_utc}, and on") == f"runs since {moment(at)}, and on"
    assert moment(at).endswith(f" {zone_name}")
    assert head("AT") == f"AT ({zone_name})"


def test_days_of_the_daemon_are_shown_in_the_reader_s_zone(zone_name: str) -> None:
    """A day that is named stays named, and changes with the zone if it has to."""
    at = time.mktime(time.strptime("2026-07-01 00:30:00", "%Y-%m-%d %H:%M:%S"))
    in_utc = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    summer = time.localtime(at).tm_zone
    assert localized(f"restored at {in_utc}") == f"restored at 2026-07-01 00:30:00 {summer}"


@pytest.mark.parametrize("text", ["99:99 UTC", "at 2026-13-41 10:00 UTC", "127.0.0.1:20:09 UTC", "10:00:00", "10:00 UTCX", ""])
def test_what_is_no_time_stays_as_it_is(text: str) -> None:
    """An error may hold anything."""
    assert localized(text) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (97, "1 min 37 s"), (300, "5 min"), (86_400, "1 d"), (90_000, "1 d 1 h"), (9e7, "1,041 d 16 h")],
)
def test_spans_have_one_form(seconds: float, text: str) -> None:
    """24.0 h beside 1 d 0 h are two words for one thing."""
    assert span(seconds) == text


def test_numbers_have_one_form() -> None:
    """3000 beside 3,000 looks like two numbers."""
    assert (counted(1, "node"), counted(3000, "node")) == ("1 node", "3,000 nodes")
    assert (span(3.14159, is_fine=True), span(-1, is_fine=True), span(-1)) == ("3.1 s", "0.0 s", "0 s")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5", 0.5), ("90s", 90), ("5m", 300), ("5min", 300), ("1h30m", 5400), ("2D", 172_800), ("1w", 604_800)],
)
def test_spans_are_read(text: str, seconds: float) -> None:
    """As people write them, with and without a unit."""
    assert span_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5x", "-1", "nan", "inf", "5 minutes", "1h 30m"])
def test_what_is_no_span_is_refused_with_the_forms(text: str) -> None:
    """Whoever guesses wrong once need not guess again."""
    with pytest.raises(click.BadParameter, match=r"is no span of time: write 90, 90s, 5m, 1h30m or 2d"):
        Span().convert(text, None, None)


def test_moments_are_read(zone_name: str) -> None:
    """An age, a time of today, a day, or both; with a zone of its own or in local time."""
    now = time.time()

    def read(text: str) -> float:
        return Moment().convert(text, None, None)

    assert now - 7200 <= read("2h") <= time.time() - 7200
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(read("14:30"))) == time.strftime("%Y-%m-%d 14:30")
    assert time.strftime("%H:%M:%S", time.localtime(read("today"))) == "00:00:00"
    assert 82_000 <= read("today") - read("yesterday") <= 90_001
    assert read("2026-11-28T14:30Z") == read("2026-11-28T15:30+01:00") == 1_795_876_200
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(read("2026-11-28 14:30"))) == "2026-11-28 14:30"
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(read("2026-11-28"))) == "2026-11-28 00:00"
    assert abs(read("now") - now) < 5


@pytest.mark.parametrize("text", ["", "tomorrow", "20261128", "25:00", "2026-13-01", "-5m", "nan", "1795876200"])
def test_what_is_no_moment_is_refused_with_the_forms(text: str) -> None:
    """The forms stand in the message."""
    with pytest.raises(click.BadParameter, match=r"is no time: write an age \(2h, 3d\), 14:30, today"):
        Moment().convert(text, None, None)


def test_what_is_kept_has_its_date(zone_name: str) -> None:
    """A ticket is read next week: "01:49:58" tells nothing then."""
    at = time.time() - 60
    assert dated(at) == time.strftime(f"%Y-%m-%d %H:%M:%S {zone_name}", time.localtime(at))
    assert dated(None) == ""
    assert dated(1e300) == "the end of time"
