"""Two daemons on one database, on two hosts, each started again when it ends, as a service manager does."""

import os
import signal
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.hosts.world import IMPATIENT, DaemonAt, PostgresAt, World
from tests.support.servers import wait_until

_WAIT_S: Final = 150
#: A daemon that has been overtaken, which its unit leaves alone: here the operator starts it again at once.
_FENCED: Final = 5


class Pair:
    """Two daemons. Guards: each runs as long as this is entered, unless somebody has stopped it.

    Attributes:
        fenced: How often one ended since the other one has the database.
    """

    def __init__(self, world: World, name: str, *, replica: PostgresAt | None = None) -> None:
        self.daemons = [
            world.daemon(f"{name}-{host.name}", host, schema=name, replica=replica, options=IMPATIENT)
            for host in (world.a, world.b)
        ]
        for daemon in self.daemons:
            del daemon.environment["NOTIFY_SOCKET"]
        self.fenced = 0
        self._ends = threading.Event()
        # Held by whoever starts daemons, or must not have one be started.
        self.steady = threading.Lock()
        self._manager = threading.Thread(target=self._manage, name="manager")

    def __repr__(self) -> str:
        return f"<Pair {[daemon.is_alive for daemon in self.daemons]} fenced={self.fenced}>"

    def __enter__(self) -> Self:
        # The first one is the one that leads.
        self.daemons[0].launch()
        try:
            wait_until(lambda: is_ready(self.daemons[0]), timeout_s=_WAIT_S, message=self.log)
            self._manager.start()
        except BaseException:
            self.kill(self.daemons[0])
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ends.set()
        self._manager.join()
        for daemon in self.daemons:
            if daemon.is_alive:
                os.kill(daemon.pid, signal.SIGCONT)
                if error is None:
                    daemon.stop(timeout_s=_WAIT_S)
                else:
                    daemon.kill()

    def leader(self) -> DaemonAt:
        """Wait until one of them leads, and return it."""
        found: list[DaemonAt] = []

        def look() -> bool:
            found[:] = [daemon for daemon in self.daemons if is_ready(daemon)]
            return bool(found)

        wait_until(look, timeout_s=_WAIT_S, message=self.log)
        return found[0]

    def other(self, daemon: DaemonAt) -> DaemonAt:
        """Return the one that is not this one."""
        return self.daemons[self.daemons[0] is daemon]

    def kill(self, *daemons: DaemonAt) -> None:
        """Kill them at one time, all that run."""
        with self.steady:
            for daemon in daemons:
                if daemon.is_alive:
                    os.kill(daemon.pid, signal.SIGKILL)
            for daemon in daemons:
                if daemon.is_alive:
                    daemon.wait(timeout_s=30)

    def log(self) -> str:
        """Return the ends of what they logged."""
        return "\n".join(f"--- {daemon.host.name}\n{daemon.log()[-3000:]}" for daemon in self.daemons)

    def _manage(self) -> None:
        while not self._ends.wait(0.2):
            with self.steady:
                for daemon in self.daemons:
                    if not daemon.is_alive:
                        self.fenced += daemon.was_started and daemon.wait(timeout_s=1) == _FENCED
                        daemon.launch()


def is_ready(daemon: DaemonAt) -> bool:
    """Tell whether a daemon leads; one that does not answer does not."""
    return daemon.is_alive and _status(daemon.socket_path, "/readyz") == b"200"


def _status(path: Path, target: str) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(str(path))
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(64).split()[1]
    except (OSError, IndexError):
        return b""
