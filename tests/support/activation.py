"""The part of systemd that a daemon sees: it holds sockets, passes them, and takes notifications, across restarts."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from dyrygentd.daemon.embedded import ChildProcess
from tests.support.daemon import ROOT
from tests.support.forking import Child, ForkedChild, can_fork

#: The variable that names those which are to have the daemon's process id.
_OWN_ID_IN = "TEST_OWN_PID"

# Runs between fork and exec, as systemd itself does: the process id is known, and the descriptors get their numbers.
_PASS = """
import os, sys
count = int(sys.argv[1])
for number, descriptor in enumerate(map(int, sys.argv[2:2 + count])):
    os.dup2(descriptor, 3 + number)
for name in filter(None, os.environ.pop("TEST_OWN_PID", "").split()):
    os.environ[name] = str(os.getpid())
os.execvp(sys.argv[2 + count], sys.argv[2 + count:])
"""


class NotifySocket:
    """What is written to ``$NOTIFY_SOCKET``, message by message."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self, timeout_s: float = 30.0) -> dict[str, str]:
        """Return the next message as ``{name: value}``. Raises `TimeoutError`."""
        self._socket.settimeout(timeout_s)
        message = dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())
        self.seen.append(message)
        return message

    def wait_for(self, name: str, *, timeout_s: float = 30.0) -> dict[str, str]:
        """Return the next message that has this name in it."""
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.next(max(deadline - time.monotonic(), 0.001))
            if name in message:
                return message

    def forget(self) -> None:
        """Drop what has arrived and was not looked at."""
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                self.next(0)


class Service:
    """A daemon with sockets that outlive it.

    Args:
        arguments: Flags of ``serve``.
        sockets: Passed, in this order; closed at the end.
        environment: Added to this process's own.
        module: What is run instead of the daemon's own module; it takes the same arguments.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        directory: Path,
        sockets: Sequence[socket.socket] = (),
        environment: Mapping[str, str] | None = None,
        module: str = "dyrygentd",
    ) -> None:
        self.notify = NotifySocket(directory / "service-notify.sock")
        self._log_path = directory / "service.log"
        self._directory = directory
        self._sockets = list(sockets)
        descriptors = [str(each.fileno()) for each in sockets]
        self._passing = [sys.executable, "-c", _PASS, str(len(descriptors)), *descriptors]
        database = ["--database", str(directory / "state.db")]
        self._command = [sys.executable, "-m", module, "serve", *database, *arguments]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.environment = {**os.environ, "PYTHONPATH": path, "NOTIFY_SOCKET": str(self.notify.path), **(environment or {})}
        if sockets:
            self.environment |= {"LISTEN_FDS": str(len(sockets)), "TEST_OWN_PID": "LISTEN_PID"}
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._child is not None and self._child.is_alive:
            self._child.send_signal(signal.SIGCONT)
            self.stop()
        for each in self._sockets:
            each.close()
        self.notify.__exit__()

    @property
    def pid(self) -> int:
        """Return the process id of the daemon."""
        assert self._child is not None
        return self._child.pid

    def launch(self) -> None:
        """Start it and do not wait."""
        descriptors = [each.fileno() for each in self._sockets]
        if can_fork(self._command, self.environment):
            self._child = ForkedChild(
                self._command,
                output=self._log_path,
                environment={name: value for name, value in self.environment.items() if name != _OWN_ID_IN},
                working_directory=self._directory,
                passed=descriptors,
                own_id_in=self.environment.get(_OWN_ID_IN, "").split(),
            )
            return
        self._child = ChildProcess(
            [*self._passing, *self._command],
            output=self._log_path,
            environment=self.environment,
            working_directory=self._directory,
            keep_open=descriptors,
        )

    def start(self) -> dict[str, str]:
        """Start it and return the message by which it was ready."""
        self.launch()
        try:
            return self.notify.wait_for("READY")
        except TimeoutError:
            raise AssertionError(f"the daemon did not get ready:\n{self.log()}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon."""
        assert self._child is not None
        self._child.send_signal(number)

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        assert self._child is not None
        status = self._child.wait(30)
        assert status is not None, f"the daemon did not end:\n{self.log()}"
        return status

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def log(self) -> str:
        """Return what it logged."""
        return self._log_path.read_text() if self._log_path.exists() else ""


def listening_unix(path: Path) -> socket.socket:
    """A Unix socket as a socket unit makes it."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o600)
    listening.listen(4096)
    return listening


def listening_tcp() -> socket.socket:
    """A TCP socket on the loopback, on a free port."""
    return socket.create_server(("127.0.0.1", 0), backlog=128)
