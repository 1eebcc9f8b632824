"""What is forked from a nursery is as what is started as users start it."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.daemon.embedded import ChildProcess
from tests.support import forking
from tests.support.forking import ForkedChild, run_to_end, start_child
from tests.support.servers import wait_until

_MODULE = "tests.support.what_i_am"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: what dies with its parent is Linux' own")


@pytest.fixture(autouse=True)
def _own_nurseries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fork from nurseries of this test alone, also where all others start everything anew."""
    monkeypatch.setattr(forking, "_nurseries", {})
    monkeypatch.setattr(forking, "_is_allowed", True)
    monkeypatch.setattr(forking, "_IMPORTED", {_MODULE: ("json",), "http.server": ("http.server",)})
    yield
    forking.close_nurseries()


def _told(child: Any, output: Path, *, status: int) -> dict[str, Any]:
    assert child.wait(30) == status, output.read_text()
    told: dict[str, Any] = json.loads(output.read_text())
    # An empty entry and the directory itself are the same one.
    told["path"] = [os.path.realpath(entry) for entry in told["path"]]
    return told


def test_forked_is_as_started(tmp_path: Path) -> None:
    """Arguments, environment, directory, path, zone and descriptors are what they would be, and a session is its own."""
    environment = os.environ | {
        "PYTHONPATH": f"{forking.ROOT}{os.pathsep}{tmp_path / 'elsewhere'}",
        "TMPDIR": str(tmp_path),
        "TZ": "Asia/Tokyo",
        "OF_THIS_ONE": "1",
    }
    command = [sys.executable, "-m", _MODULE, "3", "--more"]
    outputs = [tmp_path / "started", tmp_path / "forked"]
    children = [
        start(command, output=output, environment=environment, working_directory=tmp_path)
        for start, output in zip((ChildProcess, start_child), outputs, strict=True)
    ]
    assert isinstance(children[1], ForkedChild)
    started, forked = (_told(child, output, status=3) for child, output in zip(children, outputs, strict=True))
    assert forked == started
    assert forked["leads"]


def test_run_to_its_end(tmp_path: Path) -> None:
    """What it says on stdout and stderr is told apart, also of what cannot be forked."""
    for environment in (os.environ, os.environ | {"PYTHONHASHSEED": "7"}):
        done = run_to_end([sys.executable, "-m", _MODULE, "3"], working_directory=tmp_path, environment=environment)
        assert (done.returncode, done.stderr) == (3, "")
        assert json.loads(done.stdout)["directory"] == str(tmp_path)


def test_descriptors_are_passed(tmp_path: Path) -> None:
    """A service finds its sockets from 3 on, and the variable by which it knows that they are meant for it."""
    output = tmp_path / "said"
    with open(tmp_path / "one", "w") as one, open(tmp_path / "two", "w") as two:
        child = ForkedChild(
            [sys.executable, "-m", _MODULE, "0"],
            output=output,
            environment=os.environ,
            working_directory=tmp_path,
            passed=[one.fileno(), two.fileno()],
            own_id_in=["LISTEN_PID"],
        )
        told = _told(child, output, status=0)
    assert told["descriptors"] == [0, 1, 2, 3, 4]
    assert told["environment"]["LISTEN_PID"] == str(child.pid)


def test_signals_and_ends_are_told(tmp_path: Path) -> None:
    """One that is killed has ended by that signal, its neighbour lives on, and no signal is sent after the end."""
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "0"]
    outputs = [tmp_path / "one", tmp_path / "other"]
    one, other = (start_child(command, output=output, environment=os.environ, working_directory=tmp_path) for output in outputs)
    assert isinstance(one, ForkedChild)
    assert one.wait(0) is None
    one.send_signal(signal.SIGKILL, group=True)
    assert one.wait(30) == -signal.SIGKILL
    one.send_signal(signal.SIGTERM)
    assert not one.is_alive
    assert other.is_alive
    # What was forked dies with what it was forked from.
    forking.close_nurseries()
    assert other.wait(30) == -signal.SIGKILL
    wait_until(lambda: not _is_there(other.pid))


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (["-m", "timeit"], {}),
        (["-c", "pass"], {}),
        (["-m", _MODULE], {"PYTHONHASHSEED": "7"}),
        (["-m", _MODULE], {"LC_ALL": "C"}),
    ],
)
def test_what_cannot_be_forked_is_started(
    tmp_path: Path, command: list[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python reads while it starts, and what nothing was imported for, has a process of its own."""
    monkeypatch.delenv("LC_ALL", raising=False)
    whole = [sys.executable, *command]
    child = start_child(whole, output=tmp_path / "said", environment=os.environ | environment, working_directory=tmp_path)
    assert isinstance(child, ChildProcess)
    child.send_signal(signal.SIGKILL)
    child.wait(30)


def _is_there(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
