"""Times as people write and read them: local time with its zone named, spans such as ``5m``, ranges such as ``--since 2h``.

The daemon writes times of day in UTC, since it does not know where its readers are. What it says is shown in the zone of
whoever reads it, so that all that stands on one screen can be compared.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    Seconds = click.ParamType[float]
else:
    # Generic for type checkers only, and not in every version.
    Seconds = click.ParamType

_UNITS_S: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:s|min|m|h|d|w))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d|w)")
#: A time as the daemon's texts have it.
_IN_UTC: Final = re.compile(r"(?<![\w:.-])(?:(\d{4})-(\d\d)-(\d\d) )?(\d\d):(\d\d)(?::(\d\d))? UTC\b")
_TIME_OF_DAY: Final = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?")
_HALF_A_DAY_S: Final = 43_200.0
_SPAN_FORMS: Final = "write 90, 90s, 5m, 1h30m or 2d"
_MOMENT_FORMS: Final = "write an age (2h, 3d), 14:30, today, yesterday, 2026-11-28, '2026-11-28 14:30' or 2026-11-28T14:30Z"


def moment(at: float | None, *, with_zone: bool = True) -> str:
    """Return a time in local time, as short as today permits, and its zone."""
    if at is None:
        return ""
    try:
        then, now = time.localtime(at), time.localtime()
    except (OverflowError, OSError, ValueError):
        return "the end of time"  # A countdown may be any number.
    text = time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)
    zone = _zone(then)
    return f"{text} {zone}" if with_zone or zone != _zone(now) else text


def dated(at: float | None) -> str:
    """Return a time in local time with its date, for what is read on another day."""
    if at is None:
        return ""
    try:
        then = time.localtime(at)
    except (OverflowError, OSError, ValueError):
        return "the end of time"
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', then)} {_zone(then)}"


def in_column(at: float | None) -> str:
    """Return a time for a column whose head names the zone (see `head`): it is said again only where it is another one."""
    return moment(at, with_zone=False)


def head(word: str) -> str:
    """Return the head of a column of times, with the zone that is in force now."""
    return f"{word} ({_zone(time.localtime())})"


def localized(text: str) -> str:
    """Return a text of the daemon with its times of day, which are in UTC, in local time."""
    return _IN_UTC.sub(_localized, text)


def _localized(found: "re.Match[str]") -> str:
    year, month, day, hour, minute, second = found.groups()
    now = datetime.now(UTC)
    try:
        if year:
            then = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=UTC)
        else:
            then = now.replace(hour=int(hour), minute=int(minute), second=int(second or 0), microsecond=0)
            # Without a day the nearest one is meant: what has just happened, or happens soon.
            ahead_s = (then - now).total_seconds()
            then -= timedelta(days=1 if ahead_s > _HALF_A_DAY_S else -1 if ahead_s < -_HALF_A_DAY_S else 0)
        here = time.localtime(then.timestamp())
    except (ValueError, OverflowError, OSError):
        return found[0]
    is_today = here[:3] == time.localtime()[:3]
    form = ("" if is_today and not year else "%Y-%m-%d ") + ("%H:%M:%S" if second else "%H:%M")
    return f"{time.strftime(form, here)} {_zone(here)}"


def _zone(at: time.struct_time) -> str:
    return at.tm_zone or "local"


def span_of(text: str) -> float | None:
    """Read a span of time in seconds: a number of seconds, or numbers with units. None if it is neither."""
    text = text.strip().lower()
    try:
        seconds = float(text)
    except ValueError:
        if not _SPAN.fullmatch(text):
            return None
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
    return seconds if 0 <= seconds < float("inf") else None


class Span(Seconds):
    """A span of time on the command line, in seconds."""

    name = "duration"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """Read it."""
        seconds = span_of(value) if isinstance(value, str) else float(value)
        if seconds is None:
            self.fail(f"'{value}' is no span of time: {_SPAN_FORMS}", parameter, context)
        return seconds


class Moment(Seconds):
    """A point in time on the command line: Unix seconds. Without a zone it is local time."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """Read it."""
        if not isinstance(value, str):
            return float(value)
        at = _moment_of(value.strip())
        if at is None:
            self.fail(f"'{value}' is no time: {_MOMENT_FORMS}", parameter, context)
        return at


def _moment_of(text: str) -> float | None:
    age_s = span_of(text) if _SPAN.fullmatch(text.lower()) else None
    if age_s is not None:
        return time.time() - age_s
    midnight = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)
    if text.lower() in ("now", "today", "yesterday"):
        day = midnight if text.lower() == "today" else midnight - timedelta(days=1)
        return time.time() if text.lower() == "now" else day.timestamp()
    try:
        if clock := _TIME_OF_DAY.fullmatch(text):
            hour, minute, second = (int(part or 0) for part in clock.groups())
            return midnight.replace(hour=hour, minute=minute, second=second).timestamp()
        # A plain number would be read as a date by some versions of Python: 20261128.
        return None if text.isdigit() else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
