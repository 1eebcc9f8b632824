"""Log lines: as text, as JSON, with priorities for the journal, and not without end."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.logs import Flood
from tests.support.daemon import Daemon
from tests.support.servers import wait_until

#: What systemd sets where stderr is the journal's.
_AS_JOURNAL = """
import os
if "TEST_JOURNAL" in os.environ:
    os.environ["JOURNAL_STREAM"] = "{0.st_dev}:{0.st_ino}".format(os.fstat(2))
"""
_SCRIPT = f"""{_AS_JOURNAL}
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
    assert lines[1].endswith(r"ERROR dyrygentd.test: an error\nin two lines")
    assert "  ZeroDivisionError: division by zero" in lines
    assert not any("a try" in line or "not shown" in line for line in lines)


def test_journal() -> None:
    """Every line has its priority, also those of a traceback, and no time, which the journal has."""
    lines = _logged("text", TEST_JOURNAL="1")
    assert lines[0] == "<6>dyrygentd.test: workflow abc 'backup' succeeded"
    assert lines[1] == r"<3>dyrygentd.test: an error\nin two lines"
    assert lines[2] == "<3>  Traceback (most recent call last):"
    assert all(line.startswith("<") for line in lines)


def test_word_of_another_stream() -> None:
    """A terminal that a service has started inherits the journal's word, and gets no priorities."""
    assert _logged("text", JOURNAL_STREAM="8:1")[0].endswith("INFO dyrygentd.test: workflow abc 'backup' succeeded")


_UNASKED = f"""{_AS_JOURNAL}
import sys, threading, warnings
from dyrygentd.daemon import fatal, logs
logs.set_up("info", sys.argv[1])
fatal.log_everything()
warnings.warn("old\\nform")
thread = threading.Thread(target=lambda: 1 / 0, name="reader")
thread.start()
thread.join()
class Late:
    def __del__(self):
        raise OSError("gone")
Late()
"""


def test_what_python_writes_itself() -> None:
    """Warnings, and errors in threads and destructors, go through the log: each line has a priority, or is JSON."""
    environ = {**os.environ, "TEST_JOURNAL": "1"}
    done = subprocess.run([sys.executable, "-c", _UNASKED, "text"], env=environ, capture_output=True, text=True, check=True)
    assert all(line.startswith(("<3>", "<4>")) for line in done.stderr.splitlines()), done.stderr
    assert "thread 'reader' ended by an error" in done.stderr
    assert "OSError: gone" in done.stderr
    done = subprocess.run([sys.executable, "-c", _UNASKED, "json"], capture_output=True, text=True, check=True)
    assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["warning", "error", "error"]


def test_json() -> None:
    """Each event is one object in one line, whatever its message has in it."""
    events = [json.loads(line) for line in _logged("json")]
    assert events[0]["message"] == "workflow abc 'backup' succeeded"
    assert events[0]["level"] == "info"
    assert events[0]["time"].endswith("+00:00")
    assert "ZeroDivisionError" in events[1]["exception"]
    assert events[1]["message"] == r"an error\nin two lines"


_FORGED = "2026-11-28 00:00:00,000 ERROR dyrygentd: FORGED"
_HOSTILE = f"x\n{_FORGED}\r\x1b[31m\x07\u009b\u202e\u2028\x00 password='hunter2'"
_FORGING = f"""{_AS_JOURNAL}
import logging, sys
from dyrygentd.daemon import logs
logs.set_up("info", sys.argv[1])
hostile = {_HOSTILE!r}
logging.getLogger("dyrygentd").warning("task %s is lost", hostile)
try:
    raise ValueError(hostile)
except ValueError:
    logging.getLogger("dyrygentd").exception("it failed")
"""


@pytest.mark.parametrize("form", ["text", "json", "journal"])
def test_nobody_forges_a_line(form: str) -> None:
    """Whatever is in a name or an error: no line begins as ours do, nothing steers a terminal, no secret is there."""
    environ = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    if form == "journal":
        environ["TEST_JOURNAL"] = "1"
    arguments = ["json" if form == "json" else "text"]
    done = subprocess.run([sys.executable, "-c", _FORGING, *arguments], env=environ, capture_output=True, check=True)
    logged = done.stderr.decode()
    assert all(character == "\n" or character.isprintable() for character in logged)
    assert "hunter2" not in logged
    assert not any(line.removeprefix("<4>").removeprefix("<3>").startswith(_FORGED) for line in logged.splitlines())
    assert r"\x1b[31m\x07\x9b\u202e\u2028\x00 password='****'".replace("\\", "\\\\" if form == "json" else "\\") in logged
    assert len([line for line in logged.splitlines() if "is lost" in line]) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_argument_is_in_the_log(short_tmp: Path, redis_server: EmbeddedServer, form: str) -> None:
    """An argument that cannot be sent is blamed in the error of its node, without secrets, and the log has nothing of it."""
    value = {"__type__": "datetime", "__value__": f"x\n{_FORGED} \x1b[31m password=hunter2"}
    one = {"name": "one", "task": "t", "args": [value]}
    with Daemon(["--broker", redis_server.url, "--log-format", form], directory=short_tmp) as daemon, daemon.client() as client:
        outcome = client.submit({"nodes": [one]}).wait(timeout_s=30)
        assert outcome.state == "failed"
        assert "password=****" in str(outcome.failed_nodes[0].error)
        wait_until(lambda: "cannot build the message of task" in daemon.log(), message=daemon.log)
        assert "ValueError in " in daemon.log()
        assert "FORGED" not in daemon.log()
        assert "hunter2" not in daemon.log()


@pytest.mark.parametrize("form", ["text", "json"])
def test_flood_is_cut(form: str) -> None:
    """Of 250 lines of one kind 100 are written."""
    assert sum("again" in line for line in _logged(form)) == 100


def test_what_was_left_out_is_told() -> None:
    """The number of lines that were left out is told then, with the last of them; other kinds were not touched meanwhile."""
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
    assert told == ["4 more lines like this were left out: broker 6 is away"]


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
