"""Two daemons on one database, on two hosts: one leads, one stands by. Each is started again when it ends, if its unit would."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from tests.hosts.world import IMPATIENT, DaemonAt, PostgresAt, World
from tests.support.servers import wait_until

_WAIT_S: Final = 150
#: As in `systemd/dyrygentd.service`: RestartSec= and RestartPreventExitStatus=; with 0 it is not started again either.
_RESTART_S: Final = 1.0
_STAYS_DOWN: Final = (0, 2, 5)


class Pair:
    """Two daemons. Guards: each runs as long as this is entered, unless somebody has stopped it, or its unit leaves it alone.

    Attributes:
        ended: The exit statuses of those that ended by themselves, in whichever way.
    """

    def __init__(self, world: World, name: str, *, replica: PostgresAt | None = None) -> None:
        self.daemons = [
            world.daemon(f"{name}-{host.name}", host, schema=name, replica=replica, options=IMPATIENT)
            for host in (world.a, world.b)
        ]
        for daemon in self.daemons:
            del daemon.environment["NOTIFY_SOCKET"]
        self.ended: list[int] = []
        self._ends = threading.Event()
        # Held by whoever starts daemons, or must not have one be started.
        self.steady = threading.Lock()
        self._manager = threading.Thread(target=self._manage, name="manager")

    def __repr__(self) -> str:
        return f"<Pair {[daemon.is_alive for daemon in self.daemons]} ended={self.ended}>"

    def __enter__(self) -> Self:
        try:
            for daemon in self.daemons:
                daemon.launch()
            wait_until(self.is_whole, timeout_s=_WAIT_S, message=self.log)
            self._manager.start()
        except BaseException:
            self.kill(*self.daemons)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ends.set()
        self._manager.join()
        for daemon in self.daemons:
            if daemon.is_alive:
                os.kill(daemon.pid, signal.SIGCONT)
                if error is not None:
                    daemon.kill()
        # One after the other: whoever leads ends first, or hands over to one that ends then.
        for daemon in self.daemons:
            # One that was started just now has to come so far that it ends in good order when it is told to.
            wait_until(lambda: role(daemon) or not daemon.is_alive, timeout_s=_WAIT_S, message=self.log)  # noqa: B023 - called here
            if daemon.is_alive:
                status = daemon.stop(timeout_s=_WAIT_S)
                assert status == 0, f"the daemon on {daemon.host.name} ended with {status}\n{self.log()}"

    def is_whole(self) -> bool:
        """Tell whether one of them leads and the other one stands by."""
        return sorted(map(role, self.daemons)) == ["leader", "standby"]

    def leader(self) -> DaemonAt:
        """Wait until one of them leads, and return it."""
        found: list[DaemonAt] = []

        def look() -> bool:
            found[:] = [daemon for daemon in self.daemons if leads(daemon)]
            return len(found) == 1

        wait_until(look, timeout_s=_WAIT_S, message=self.log)
        return found[0]

    def other(self, daemon: DaemonAt) -> DaemonAt:
        """Return the one that is not this one."""
        return self.daemons[self.daemons[0] is daemon]

    def kill(self, *daemons: DaemonAt) -> None:
        """Kill them at one time, all that run; their units start them again."""
        with self.steady:
            self._kill(daemons)

    @contextmanager
    def dead(self, daemon: DaemonAt) -> Iterator[None]:
        """Kill one, and have it stay so meanwhile."""
        with self.steady:
            self._kill([daemon])
            yield

    def restart(self) -> None:
        """Tell both to end, and start them again when they have ended."""
        with self.steady:
            for daemon in self.daemons:
                os.kill(daemon.pid, signal.SIGTERM)
            assert [daemon.wait(timeout_s=_WAIT_S) for daemon in self.daemons] == [0, 0], self.log()
            for daemon in self.daemons:
                daemon.launch()

    def _kill(self, daemons: Sequence[DaemonAt]) -> None:
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
        """Do as a service manager does."""
        due: dict[DaemonAt, float] = {}
        while not self._ends.wait(0.1):
            with self.steady:
                for daemon in self.daemons:
                    if daemon.is_alive:
                        due.pop(daemon, None)
                    elif daemon not in due:
                        status = daemon.wait(timeout_s=1)
                        if status != -signal.SIGKILL:
                            self.ended.append(status)
                        due[daemon] = math.inf if status in _STAYS_DOWN else time.monotonic() + _RESTART_S
                    elif time.monotonic() >= due[daemon]:
                        daemon.launch()


def role(daemon: DaemonAt) -> str:
    """Ask a daemon what it is; empty if it does not answer."""
    return str(_health(daemon).get("role", ""))


def health_text(daemon: DaemonAt) -> str:
    """Return what a daemon says of its health; empty if it does not answer."""
    return json.dumps(_health(daemon))


def leads(daemon: DaemonAt) -> bool:
    """Tell whether a daemon leads, and does its work."""
    health = _health(daemon)
    return health.get("role") == "leader" and health["status"] == "ok"


def _health(daemon: DaemonAt) -> dict[str, Any]:
    if not daemon.is_alive:
        return {}
    try:
        return dict(json.loads(daemon.get("/healthz", timeout_s=2)[1]))
    except (OSError, ValueError, IndexError):
        return {}
