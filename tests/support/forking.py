"""Daemons and workers forked from a process that has imported already what they import: most of their CPU time is that.

Each process of the test run has one such *nursery* (`tests.support.nursery`) for each kind of program, as soon as it is needed.
Of what is forked `/proc` tells the nursery's command line and first environment, and a module that somebody forgot to import may
be there: so with ``--long``, as CI runs the tests, all are started as users start them.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dyrygentd.daemon.embedded import ChildProcess
from tests.support.directories import make_short_directory
from tests.support.nursery import MESSAGE_BYTES_MAX

__all__ = ["Child", "ForkedChild", "can_fork", "close_nurseries", "fork_none", "nurseries", "run_to_end", "start_child"]

ROOT: Final = Path(__file__).parents[2]

#: ``{module that is run: what is imported for it beforehand}``: what is in ``sys.modules`` of one that works, less what reads its
#: environment.
_IMPORTED: Final[Mapping[str, tuple[str, ...]]] = {
    "dyrygentd": ("dyrygentd.daemon.run", "dyrygentd.cli.serve"),
    "celery": (
        "celery.bin.celery",
        "celery.apps.worker",
        "celery.app.amqp",
        "celery.app.control",
        "celery.app.events",
        "celery.app.log",
        "celery.app.trace",
        "celery.backends.redis",
        "celery.concurrency.prefork",
        "celery.concurrency.solo",
        "celery.contrib.testing",
        "celery.events.state",
        "celery.loaders.app",
        "celery.worker.autoscale",
        "celery.worker.consumer",
        "celery.worker.components",
        "celery.worker.strategy",
        "kombu.transport.redis",
        "kombu.transport.virtual",
    ),
}
#: These are read while Python starts, or by the C library: who wants others of them starts a Python.
_OF_THE_INTERPRETER: Final = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")

_RUN_MAX_S: Final = 60
_NETWORK: Final = Path("/proc/thread-self/ns/net")

_nurseries: dict[str, "_Nursery"] = {}
_making = threading.Lock()
_is_allowed = sys.platform == "linux"
#: The one that this process began with.
_network: Final = _NETWORK.readlink() if _is_allowed else Path()


def fork_none() -> None:
    """Have all programs started as users start them from now on."""
    global _is_allowed
    _is_allowed = False


def can_fork(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Tell whether what ``python -m module …`` would run can be forked."""
    if not _is_allowed or list(command[:2]) != [sys.executable, "-m"] or command[2] not in _IMPORTED:
        return False
    # What is forked has the network of what it is forked from, and not that of the thread that asks.
    if _NETWORK.readlink() != _network:
        return False
    return _of_the_interpreter(environment) == _of_the_interpreter(os.environ)


def close_nurseries() -> None:
    """End them, and what was forked from them."""
    with _making:
        while _nurseries:
            _nurseries.popitem()[1].close()


def start_child(command: Sequence[str], *, output: Path, environment: Mapping[str, str], working_directory: Path) -> "Child":
    """Start a program in whichever way costs least; the arguments are those of `ChildProcess`."""
    start = ForkedChild if can_fork(command, environment) else ChildProcess
    return start(command, output=output, environment=environment, working_directory=working_directory)


def run_to_end(
    command: Sequence[str], *, working_directory: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, which has to come in a minute; what it prints is in what is returned."""
    environment = os.environ if environment is None else environment
    directory = working_directory or Path.cwd()
    if not can_fork(command, environment):
        return subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=_RUN_MAX_S, check=False
        )
    said = make_short_directory()
    try:
        output, errors = said / "out", said / "err"
        child = ForkedChild(command, output=output, errors=errors, environment=environment, working_directory=directory)
        if (status := child.wait(_RUN_MAX_S)) is None:
            child.send_signal(signal.SIGKILL, group=True)
            raise AssertionError(f"{command} did not end within {_RUN_MAX_S} s:\n{errors.read_text()}")
        return subprocess.CompletedProcess(command, status, output.read_text(), errors.read_text())
    finally:
        shutil.rmtree(said)


def nurseries() -> set[int]:
    """Return the process ids of what is forked from."""
    return {each.pid for each in _nurseries.values()}


class ForkedChild:
    """A child of a nursery; to be used as a `ChildProcess`, and killed as such when this process ends."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: Path,
        errors: Path | None = None,
        environment: Mapping[str, str],
        working_directory: Path,
        passed: Sequence[int] = (),
        own_id_in: Sequence[str] = (),
    ) -> None:
        """Start it; `can_fork` has to be true.

        Args:
            command: As ``python -m`` would run it.
            output: What it prints is appended here.
            errors: As `output`, of stderr; the same if None.
            environment: The whole of it.
            working_directory: Where it runs.
            passed: It has these descriptors from 3 on.
            own_id_in: Variables that have its process id.
        """
        module, *arguments = command[2:]
        asked = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "directory": str(working_directory),
            "own_id_in": list(own_id_in),
        }
        with open(output, "ab") as out, open(errors or output, "ab") as err:
            self._told = _nursery_of(module).ask(asked, [out.fileno(), err.fileno(), *passed])
        try:
            self.pid: int = self._next()
        except BaseException:
            self._told.close()
            raise
        self._lock = threading.Lock()
        self._exited = threading.Event()
        self._status: int | None = None
        threading.Thread(target=self._attend, name="attend-forked", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Tell whether the child runs."""
        return not self._exited.is_set()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; return the exit status (negative: a signal), or None if it still runs."""
        return self._status if self._exited.wait(timeout_s) else None

    def send_signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the child, or to its whole session's group; to nobody if it has ended."""
        with self._lock:
            if self._status is None:
                (os.killpg if group else os.kill)(self.pid, number)

    def _attend(self) -> None:
        with self._told:
            try:
                status = self._next()
            except (OSError, ValueError):
                # The nursery has gone, and with it all that it forked.
                status = -signal.SIGKILL
            with self._lock:
                self._status = status
                # It is not reaped before, so that its id stays its own.
                with contextlib.suppress(OSError):
                    self._told.send(b"reap")
        self._exited.set()

    def _next(self) -> int:
        return int(self._told.recv(64))


Child = ChildProcess | ForkedChild


class _Nursery:
    """What forks."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._directory = make_short_directory()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.support.nursery", str(theirs.fileno()), *modules]
        with theirs:
            self._child = ChildProcess(
                command,
                output=self._directory / "nursery.log",
                working_directory=ROOT,
                keep_open=[theirs.fileno()],
            )
        self._asking = threading.Lock()
        self.pid = self._child.pid

    def ask(self, asked: Mapping[str, Any], descriptors: Sequence[int]) -> socket.socket:
        """Have a child forked, with these for stdout, stderr and more; return what tells its process id, and then its status."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = json.dumps(asked).encode()
        assert len(message) < MESSAGE_BYTES_MAX, f"{len(message)} bytes of arguments and environment"
        with theirs, self._asking:
            try:
                socket.send_fds(self._ours, [message], [theirs.fileno(), *descriptors])
            except OSError as error:
                ours.close()
                log = (self._directory / "nursery.log").read_text()
                raise AssertionError(f"what daemons and workers are forked from has ended: {error}\n{log}") from error
        return ours

    def close(self) -> None:
        """End it."""
        self._ours.close()
        self._child.wait(10)
        for path in self._directory.iterdir():
            path.unlink()
        self._directory.rmdir()


def _nursery_of(module: str) -> _Nursery:
    with _making:
        if module not in _nurseries:
            if not _nurseries:
                atexit.register(close_nurseries)
            _nurseries[module] = _Nursery(_IMPORTED[module])
        return _nurseries[module]


def _of_the_interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_OF_THE_INTERPRETER) and name != "PYTHONPATH"}
