"""Log lines: as text, as JSON, with priorities for the journal, and not without end."""

import json
import logging
import os
import subprocess
import sys

import pytest

from dyrygentd.daemon.logs import Flood

_SCRIPT = """
import logging, sys
from dyrygentd.daemon import logs
logs.set_up("info", sys.argv[1])
logger = logging.getLogger("dyrygentd.test")
logger.info("workflow %s %r %s", "abc", "backup", "succeeded")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("an error\\nin two lines")
logger.debug("not shown")
logging.getLogger("celery.backends.base").warning("a try", exc_info=ValueError("x"))
for number in range(250):
    logger.warning("again %d", number)
"""


def _logged(form: str, **environment: str) -> list[str]:
    environ = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"} | environment
    done = subprocess.run([sys.executable, "-c", _SCRIPT, form], env=environ, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def test_text() -> None:
    """Time, level, logger and message; an exception has its traceback; Celery's own tries are left out."""
    lines = _logged("text")
    assert lines[0].endswith("INFO dyrygentd.test: workflow abc 'backup' succeeded")
    assert any(line.startswith("ZeroDivisionError") for line in lines)
    assert not any("a try" in line or "not shown" in line for line in lines)


def test_journal() -> None:
    """Every line has its priority, also those of a traceback, and no time, which the journal has."""
    lines = _logged("text", JOURNAL_STREAM="8:1")
    assert lines[0] == "<6>dyrygentd.test: workflow abc 'backup' succeeded"
    assert lines[1] == "<3>dyrygentd.test: an error"
    assert all(line.startswith("<") for line in lines)


def test_json() -> None:
    """Each event is one object in one line, whatever its message has in it."""
    events = [json.loads(line) for line in _logged("json")]
    assert events[0]["message"] == "workflow abc 'backup' succeeded"
    assert events[0]["level"] == "info"
    assert events[0]["time"].endswith("+00:00")
    assert "ZeroDivisionError" in events[1]["exception"]
    assert events[1]["message"] == "an error\nin two lines"


@pytest.mark.parametrize("form", ["text", "json"])
def test_flood_is_cut(form: str) -> None:
    """Of 250 lines of one kind 100 are written."""
    assert sum("again" in line for line in _logged(form)) == 100


def test_what_was_left_out_is_told() -> None:
    """Afterwards the number of lines that were left out is told with their text, and other kinds were not touched meanwhile."""
    told: list[str] = []
    time = 0.0
    flood = Flood(lambda record: told.append(record.getMessage()), lines_max=2, window_s=10, now=lambda: time)

    def passes(message: str, *arguments: object) -> bool:
        return flood.filter(logging.LogRecord("a", logging.WARNING, "x.py", 1, message, arguments, None))

    assert [passes("broker %s is away", number) for number in range(5)] == [True, True, False, False, False]
    assert passes("another")
    time = 9.9
    assert not passes("broker %s is away", 6)
    assert told == []
    time = 10.0
    assert passes("broker %s is away", 7)
    assert told == ["4 more lines like this were left out: broker %s is away"]


def test_statements_are_not_logged() -> None:
    """Whoever looks for something with `log_level = "debug"` does not get the arguments of all tasks, which statements carry."""
    script = """
import asyncio, aiosqlite
from dyrygentd.daemon import logs
async def main():
    async with aiosqlite.connect(":memory:") as database:
        await database.execute("SELECT ?", ["hunter2"])
logs.set_up("debug")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "asyncio" in done.stderr
    assert "hunter2" not in done.stderr


def test_kinds_are_bounded() -> None:
    """However many kinds of lines there are, few are kept in mind."""
    flood = Flood(lambda record: None, lines_max=1)
    for number in range(2000):
        flood.filter(logging.LogRecord("a", logging.INFO, "x.py", 1, f"message {number}", (), None))
    assert len(flood._kinds) <= 500
