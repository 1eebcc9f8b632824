"""The real daemon as a child process."""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from dyrygentd.client.sync import Client
from tests.support.forking import Child, start_child

ROOT = Path(__file__).parents[2]


class DaemonEnded(AssertionError):
    """The daemon ended by itself."""


class Daemon:
    """``dyrygentd serve`` in a directory of its own; tells that it is ready by systemd's protocol, as to systemd.

    Args:
        arguments: Flags of ``serve``; socket and database are in ``directory`` unless they say otherwise.
        environment: Added to this process's own.
        module: What is run instead of the daemon's own module; it takes the same arguments.
        open_files_max: Files that the process may have open.
        memory_max: Bytes of address space that it may have.

    Attributes:
        environment: The whole of it; what is changed counts from the next start on.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        module: str = "dyrygentd",
        open_files_max: int = 0,
        memory_max: int = 0,
    ) -> None:
        self.directory = directory
        self.socket_path = directory / "dyrygentd.sock"
        self.database_path = directory / "state.db"
        self.log_path = directory / "daemon.log"
        self._notify_path = directory / "notify.sock"
        defaults = ["--socket", str(self.socket_path), "--database", str(self.database_path)]
        limits = {"nofile": open_files_max, "as": memory_max}
        limit = [f"--{name}={most}:{most}" for name, most in limits.items() if most]
        limit = ["prlimit", *limit] if limit else []
        self._command = [*limit, sys.executable, "-m", module, "serve", *defaults, *arguments]
        # The daemon runs elsewhere, and finds the tests' modules nevertheless.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        notify = {"NOTIFY_SOCKET": str(self._notify_path)}
        self.environment = {**os.environ, "PYTHONPATH": path, **(environment or {}), **notify}
        self._child: Child | None = None
        self.notifications: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._child is not None and self._child.is_alive:
            self.stop()

    @property
    def pid(self) -> int:
        """Return the process id of the running daemon."""
        assert self._child is not None
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return self._child is not None and self._child.is_alive

    def start(self, *, timeout_s: float = 30) -> None:
        """Start it and wait until it says READY=1."""
        self._notify_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(self._notify_path))
            notify.settimeout(0.1)
            self.launch()
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    self.notifications.append(notify.recv(4096).decode())
                except TimeoutError:
                    if not self.is_alive:
                        raise DaemonEnded(f"the daemon ended before it was ready:\n{self.log()}") from None
                    if time.monotonic() > deadline:
                        raise AssertionError(f"the daemon did not get ready:\n{self.log()}") from None
                else:
                    if "READY=1" in self.notifications[-1]:
                        return

    def launch(self) -> None:
        """Start it and do not wait."""
        self._child = start_child(
            self._command, output=self.log_path, environment=self.environment, working_directory=self.directory
        )

    def stop(self, *, timeout_s: float = 30) -> int:
        """Send SIGTERM and return the exit status."""
        return self.signal(signal.SIGTERM, timeout_s=timeout_s)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.signal(signal.SIGKILL, timeout_s=10)

    def signal(self, number: signal.Signals, *, timeout_s: float) -> int:
        """Send a signal and return the exit status that follows."""
        assert self._child is not None
        self._child.send_signal(number)
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> int:
        """Wait for the end and return the exit status."""
        assert self._child is not None
        status = self._child.wait(timeout_s)
        assert status is not None, f"the daemon did not end within {timeout_s:g} s:\n{self.log()}"
        return status

    def status_line(self, *, timeout_s: float = 30) -> str:
        """Return the next status line that `systemctl status` would show."""
        self._notify_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(self._notify_path))
            notify.settimeout(timeout_s)
            while True:
                told = notify.recv(4096).decode()
                for line in told.splitlines():
                    if line.startswith("STATUS="):
                        return line.removeprefix("STATUS=")

    def get(self, path: str, *, timeout_s: float = 10) -> tuple[int, str]:
        """Ask as a load balancer or Prometheus does; return status and body."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(self.socket_path))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]

    def metric(self, name: str) -> float:
        """Return a metric that has no labels."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[1])

    def client(self) -> Client:
        """Make a client for it."""
        return Client(self.socket_path)

    def log(self) -> str:
        """Return what it logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""
