"""Why a daemon ended: in the status line of its unit, and in the journal as an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dyrygentd.daemon import fatal
from tests.support.activation import NotifySocket
from tests.support.daemon import ROOT

_SERVE = """
import os, sys
if "TEST_JOURNAL" in os.environ:
    os.environ["JOURNAL_STREAM"] = "{0.st_dev}:{0.st_ino}".format(os.fstat(2))
from dyrygentd.cli.serve import main
main()
"""


def _serve(directory: Path, *arguments: str, **environment: str) -> tuple[int, list[str], list[str]]:
    """Return the exit status, the lines on stderr and the status lines that systemd got."""
    paths = ["--socket", str(directory / "d.sock"), "--database", str(directory / "state.db")]
    (directory / "notify").unlink(missing_ok=True)
    with NotifySocket(directory / "notify") as notify:
        environ = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        environ |= {"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(notify.path), **environment}
        command = [sys.executable, "-c", _SERVE, "serve", *paths, *arguments]
        done = subprocess.run(
            command, cwd=directory, env=environ, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
        )
        told = []
        try:
            while True:
                told.append(notify.next(0.001).get("STATUS", ""))
        except TimeoutError:
            pass
    return done.returncode, done.stderr.splitlines(), told


def test_wrong_key(short_tmp: Path) -> None:
    """`systemctl start` shows the status line, and `journalctl -p err` the error: both say which key, and what was meant."""
    config = short_tmp / "dyrygentd.toml"
    config.write_text('in_flght_max = 3\nlog_format = "json"\n')
    status, lines, told = _serve(short_tmp, "--config", str(config), TEST_JOURNAL="1")
    words = f"cannot run: key 'in_flght_max' in '{config}' is unknown; next: did you mean 'in_flight_max'?"
    assert (status, told) == (2, [words])
    assert lines[0].startswith("<2>{")
    assert json.loads(lines[0].removeprefix("<2>"))["message"] == words
    config.write_text("in_flght_max = 3\n")
    status, lines, _ = _serve(short_tmp, "--config", str(config), TEST_JOURNAL="1")
    assert (status, lines) == (2, [f"<2>dyrygentd: {words}"])


def test_terminal(short_tmp: Path) -> None:
    """A person reads the error and the next step as from any command."""
    status, lines, told = _serve(short_tmp, "--in-flight-max", "0")
    assert (status, lines) == (2, ["error: 'in_flight_max' is 0, it must be 1 or more"])
    assert told == ["cannot run: 'in_flight_max' is 0, it must be 1 or more"]


def test_wrong_flag(short_tmp: Path) -> None:
    """A slip in a drop-in's `ExecStart=` is told like any other wrong configuration."""
    status, lines, told = _serve(short_tmp, "--in-flght-max", "3", TEST_JOURNAL="1")
    assert status == 2
    assert told[0].startswith("cannot run: No such option")
    assert told[0].endswith("; next: look at `ExecStart=` of its unit")
    assert lines == [f"<2>dyrygentd: {told[0]}"]


def test_error_after_the_log_was_set_up(short_tmp: Path) -> None:
    """An app that cannot be imported is told in the same way; what came before it has a priority too."""
    (short_tmp / "shop.py").write_text("1 / 0\n")
    status, lines, told = _serve(short_tmp, "--app", "shop", "--log-format", "json", TEST_JOURNAL="1")
    assert status == 1
    assert "ZeroDivisionError" in told[-1]
    assert all(line.startswith("<") for line in lines)
    assert json.loads(lines[-1].removeprefix("<2>"))["level"] == "critical"


def test_error_of_ours(short_tmp: Path) -> None:
    """What nobody expects is told with its story, each line of which has its priority."""
    (short_tmp / "sitecustomize.py").write_text(
        "import dyrygentd.daemon.run as run\ndef broken(*_, **__):\n    raise RuntimeError('a\\nbug')\nrun.run = broken\n"
    )
    status, lines, told = _serve(short_tmp, TEST_JOURNAL="1", PYTHONPATH=f"{short_tmp}:{ROOT}")
    assert status == 1
    assert told == [r"cannot run: RuntimeError: a\nbug"]
    assert lines[0] == r"<2>dyrygentd: cannot run: RuntimeError: a\nbug"
    assert all(line.startswith("<2>  ") for line in lines[1:])
    assert any("Traceback" in line for line in lines)


def test_error_of_a_task_in_a_group(short_tmp: Path) -> None:
    """The status line says what has failed, not that something in a group of tasks has."""
    (short_tmp / "sitecustomize.py").write_text(
        "import dyrygentd.daemon.run as run\ndef broken(*_, **__):\n"
        "    raise ExceptionGroup('tasks', [ExceptionGroup('inner', [RuntimeError('the guard')])])\nrun.run = broken\n"
    )
    status, _, told = _serve(short_tmp, TEST_JOURNAL="1", PYTHONPATH=f"{short_tmp}:{ROOT}")
    assert (status, told) == (1, ["cannot run: RuntimeError: the guard"])


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "form"),
    [
        ({}, {}, "", "text"),
        ({}, {}, 'log_format = "json"', "json"),
        ({}, {"DYRYGENTD_LOG_FORMAT": "text"}, 'log_format = "json"', "text"),
        ({"log_format": "json"}, {"DYRYGENTD_LOG_FORMAT": "text"}, "", "json"),
        ({}, {}, "log_format = [", "text"),
        ({}, {}, "log_format = 3", "text"),
    ],
)
def test_form_of_the_log(tmp_path: Path, flags: dict[str, str], environ: dict[str, str], toml: str, form: str) -> None:
    """It is what was asked for, even if the rest of the configuration is wrong."""
    path = tmp_path / "x.toml"
    path.write_text(toml)
    assert fatal.format_of(flags, environ, path) == form
    assert fatal.format_of(flags, environ, tmp_path / "none") == fatal.format_of(flags, environ, None)
