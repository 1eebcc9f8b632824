"""Slots: the times for which recurring work is submitted, each once. A timer's last one, or those of a range.

The slot is the time that was *scheduled*, and not the one at which somebody got to it: a host that was off, a random delay and a
daemon that was away change nothing about which work it is. As it stands in the key, it is submitted once, from many hosts, too.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli.session import fail
from dyrygentd.cli.target import is_document
from dyrygentd.cli.times import Moment

if TYPE_CHECKING:
    Words = click.ParamType[str]
else:
    # Generic for type checkers only, and not in every version.
    Words = click.ParamType

#: How far back the last time is looked for: first a little, as timers of each second have many.
_BACK_S: Final = (120.0, 7200.0, 2 * 86400.0, 40 * 86400.0, 800 * 86400.0, 4000 * 86400.0)
_ITERATIONS: Final = 500
_CALENDAR: Final = re.compile(r"OnCalendar=(.*?) ; next_elapse=")
#: What a time is called the first and any other time, and once more if the zone is not UTC.
_ELAPSE: Final = re.compile(r"(?:Next elapse|Iter\. #\d+|\(in UTC\)): \w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? UTC$")
_DAY_S: Final = 86400.0
SLOT: Final = "{slot}"


def text_of(at: float) -> str:
    """Return a slot as it stands in keys and parameters: UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def key_of(key: str | None, slot: str, *, stem: str) -> str:
    """Return the key of a slot: with the slot where ``{slot}`` stands, else behind it."""
    if key is None:
        return f"{stem}/{slot}"
    return key.replace(SLOT, slot) if SLOT in key else f"{key}/{slot}"


def stem_of(target: str) -> str:
    """Return what keys of a target begin with by default: a file without directory and suffix, or the object."""
    return Path(target).stem if target.lower().endswith((".json", ".yaml", ".yml")) else target


def with_slot(what: Any, given: Mapping[str, Any], slot: str) -> Mapping[str, Any]:
    """Return values of parameters with the slot among them, if the definition declares ``slot`` and nobody has given it."""
    from dyrygentd import wire
    from dyrygentd.client.bodies import submission_body

    if not is_document(what) or "slot" in given:
        return given
    return {**given, "slot": slot} if any(each.name == "slot" for each in wire.parameters_of(submission_body(what))) else given


class Slot(Words):
    """A slot on the command line: a time, or a timer whose last one is meant."""

    name = "slot"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """Read it."""
        at = last_of(value) if str(value).endswith(".timer") else Moment().convert(value, parameter, context)
        return text_of(at)


def last_of(timer: str, now: float | None = None) -> float:
    """Return the last time for which a timer of the system's was scheduled. Exits if that cannot be told."""
    now = time.time() if now is None else now
    shown = _asked("systemctl", "show", "--property=TimersCalendar", "--value", timer)
    expressions = _CALENDAR.findall(shown)
    if not expressions:
        fail(
            f"'{timer}' is no timer with OnCalendar=",
            next_step=f"`systemctl cat {timer}` shows it; or give the time: --slot TIME",
        )
    times = [at for expression in expressions if (at := _last_of_calendar(expression, now)) is not None]
    if not times:
        fail(f"'{timer}' was never due yet", next_step="give the time: --slot TIME")
    return max(times)


def _last_of_calendar(expression: str, now: float) -> float | None:
    for back_s in _BACK_S:
        found, base = None, now - back_s
        while (times := _times_after(expression, base)) and times[0] <= now:
            found = max(at for at in times if at <= now)
            if times[-1] > now or len(times) < _ITERATIONS:
                break
            base = found
        if found is not None:
            return found
    return None


def _times_after(expression: str, base: float) -> list[float]:
    told = _asked("systemd-analyze", "calendar", f"--iterations={_ITERATIONS}", f"--base-time=@{base:.0f}", expression)
    texts = [found[1] for line in told.splitlines() if (found := _ELAPSE.search(line.strip()))]
    return [datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in texts]


def _asked(*command: str) -> str:
    try:
        done = subprocess.run(command, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        fail(f"cannot run {command[0]}: {error}", next_step="give the time instead: --slot TIME")
    if done.returncode:
        fail(f"{command[0]}: {done.stderr.strip()[-300:]}", next_step="give the time instead: --slot TIME")
    return done.stdout


def between(since: float, until: float, every_s: float) -> Iterator[float]:
    """Iterate over the slots from ``since`` on and before ``until``. Whole days are days of the calendar here, however long."""
    if every_s % _DAY_S:
        count = 0
        while (at := since + count * every_s) < until:
            yield at
            count += 1
        return
    day, days = datetime.fromtimestamp(since), timedelta(days=every_s / _DAY_S)
    while (at := day.timestamp()) < until:
        yield at
        day += days
