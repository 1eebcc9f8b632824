"""The processes of `dyrygentd demo`: a broker, workers and a daemon of its own, up and down again.

No process is left behind, and each way to leave something has one guard:

- *An interrupt at any moment*: signals raise nothing, they cancel a scope (`dyrygentd.demo.stage`), so that the code between a
  resource and its release is never torn apart. They stay caught until all is cleaned up, so that a second Ctrl-C changes nothing.
- *This process is killed*: the kernel kills the children (`ChildProcess`). The workers have no pool, so no grandchildren
  either. Its directory under /tmp stays, as nobody is left to delete it.
- *A child that does not end*: all are killed. There is nothing here that is worth an orderly end.
"""

import os
import re
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import anyio
import anyio.to_thread

from dyrygentd.client.aio import AsyncClient
from dyrygentd.core.bounds import NODES_ACCEPTED_MAX
from dyrygentd.daemon.embedded import SOCKET_PATH_BYTES_MAX, ChildProcess, EmbeddedServer
from dyrygentd.daemon.kept import signal_name
from dyrygentd.demo import LAYERS, Records
from dyrygentd.errors import DaemonUnreachable, OutsideError

_POLL_S = 0.02
_SUPERVISE_S = 0.1
_LOG_TAIL_LINES = 15
_STEERING = ("CELERY_", "CREDENTIALS_", "DYRYGENTD_", "LISTEN_", "NOTIFY_", "WATCHDOG_")
_PLAIN_PATH = re.compile(r"[\w./+=@,-]+", re.ASCII)
"""Paths that need no quoting, neither in a URL nor in a shell."""


class ChildDied(OutsideError):
    """A process of the demo ended by itself; ``log_tail`` holds its last words."""

    code = "child-died"

    def __init__(self, name: str, returncode: int | None, log_tail: str) -> None:
        self.name = name
        self.returncode = returncode
        self.log_tail = log_tail
        if returncode is not None and returncode < 0:
            # Its log was cut off where nothing was wrong.
            self.next_step = "all of it has ended, and nothing is kept: start the demo again"
            if -returncode == signal.SIGKILL:
                self.next_step += ", with fewer --nodes if memory ran out (`journalctl -k` tells)"
            super().__init__(f"{name} was ended by {signal_name(-returncode)} from outside, and the demo with it")
        else:
            super().__init__(f"{name} ended with status {returncode}{_quoted_log(log_tail)}")


class TooSlow(OutsideError):
    """Nothing happened for too long."""

    code = "too-slow"
    next_step = "try again with a longer --timeout if this machine is busy"

    def __init__(self, what: str, timeout_s: float, log_tail: str = "") -> None:
        self.what = what
        self.timeout_s = timeout_s
        self.log_tail = log_tail
        super().__init__(f"{what} within {timeout_s:g} s{_quoted_log(log_tail)}")


class _Child(NamedTuple):
    name: str
    wait: Callable[[float], int | None]
    log: Path


class Processes:
    """The directory and the processes. Guards: when it is left, they are gone.

    Args:
        timeout_s: How long a process may take to be ready, and how long nothing may happen.
        tell_started: Told the part that works now, what it is, and how many seconds after the beginning.
    """

    def __init__(self, timeout_s: float, tell_started: Callable[[str, str, float], None]) -> None:
        self.timeout_s = timeout_s
        self._tell_started = tell_started
        self._children: list[_Child] = []
        self._exits = ExitStack()

    def __enter__(self) -> None:
        self._began_at = time.monotonic()
        self.directory = self._exits.enter_context(_directory())
        self.socket = self.directory / "dyrygentd.sock"

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def __repr__(self) -> str:
        return f"<Processes {[child.name for child in self._children]}>"

    @property
    def seconds(self) -> float:
        """How long it has been there."""
        return time.monotonic() - self._began_at

    async def start_server(self, program: str) -> str:
        """Start the broker; return its URL."""
        server = EmbeddedServer(self.directory, appendonly=False, start_timeout_s=self.timeout_s)
        self._exits.callback(server.kill)
        await anyio.to_thread.run_sync(server.start)
        self._children.append(_Child(f"the broker ({program})", server.wait_exit, server.log_path))
        self._tell("broker", f"{program}, on a Unix socket")
        return server.url

    def spawn_workers(self, url: str, count: int) -> None:
        """Start workers with the tasks of the demo."""
        # Processes without a pool are the fastest way to use two cores, and have no children of their own.
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
        for number in range(1, count + 1):
            celery = ("celery", "-A", "dyrygentd.demo", "--broker", url, "--result-backend", url)
            hostname = ("--hostname", f"worker-{number}@demo")
            self._spawn(f"worker-{number}", *celery, "worker", "--pool", "solo", *hostname, *quiet)

    def spawn_daemon(self, url: str) -> None:
        """Start the daemon."""
        urls = ("--broker", url, "--result-backend", url)
        files = ("--config", os.devnull, "--database", f"{self.directory}/state.db", "--socket", str(self.socket))
        self._spawn("dyrygentd", "dyrygentd", "serve", *urls, *files, "--nodes-max", str(NODES_ACCEPTED_MAX + LAYERS))

    def _spawn(self, name: str, module: str, *arguments: str) -> None:
        log = self.directory / f"{name}.log"
        command = [sys.executable, "-m", module, *arguments]
        child = ChildProcess(command, output=log, environment=_environment(), working_directory=self.directory)
        # Nothing is awaited since the child exists.
        self._exits.callback(child.wait)
        self._exits.callback(child.send_signal, signal.SIGKILL, group=True)
        self._children.append(_Child(name, child.wait, log))

    async def wait_ready(self, client: AsyncClient, records: Records, workers: int) -> None:
        """Wait for the daemon and for so many workers. Raises `TooSlow`."""

        async def is_answering() -> bool:
            try:
                await client.health()
            except DaemonUnreachable:
                return False
            return True

        async def are_consuming() -> bool:
            return await anyio.to_thread.run_sync(records.ready_workers) >= workers

        await self.wait_until(is_answering, "dyrygentd")
        self._tell("daemon", "dyrygentd serve")
        await self.wait_until(are_consuming, "worker-1")
        self._tell("workers", f"{workers} x celery worker")

    async def wait_until(self, is_ready: Callable[[], Awaitable[bool]], name: str, complaint: str = "") -> None:
        """Wait for something that a process, by its name, is to bring about. Raises `TooSlow` with the last words of that one."""
        with anyio.move_on_after(self.timeout_s):
            while True:
                if await is_ready():
                    return
                await anyio.sleep(_POLL_S)
        raise self.too_slow(complaint or f"{name} was not ready", name)

    async def supervise(self) -> None:
        """Watch the children. Raises `ChildDied`."""
        while True:
            await anyio.sleep(_SUPERVISE_S)
            for child in self._children:
                _require_alive(child)

    def blame_the_dead(self) -> None:
        """Raise `ChildDied` if something cannot be reached because it has gone, which may be noticed a moment later."""
        for child in self._children:
            _require_alive(child, grace_s=0.2)

    def too_slow(self, what: str, name: str) -> TooSlow:
        """Return the error that nothing happened, with the last words of the process that it was expected of."""
        return TooSlow(what, self.timeout_s, _tail(self.directory / f"{name}.log"))

    def _tell(self, part: str, what: str) -> None:
        self._tell_started(part, what, self.seconds)


def _require_alive(child: _Child, *, grace_s: float = 0.0) -> None:
    returncode = child.wait(grace_s)
    if returncode is not None:
        raise ChildDied(child.name, returncode, _tail(child.log))


@contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory for all files, with room in its path for sockets, and remove it in the end."""
    parent = Path(tempfile.gettempdir())
    longest = parent / "dyrygentd-demo-12345678" / "dyrygentd.sock"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES_MAX or not _PLAIN_PATH.fullmatch(str(parent)):
        parent = Path("/tmp")
    directory = Path(tempfile.mkdtemp(prefix="dyrygentd-demo-", dir=parent))
    try:
        yield directory
    finally:
        rmtree(directory, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Return the environment without what would steer the children: the user's own Celery, daemon and service manager."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_STEERING) or name.startswith("DYRYGENTD_TEST_")
    }
    root = Path(__file__).parents[2]
    if root not in (Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))):
        # Not installed: the children find the package where this process found it.
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), kept.get("PYTHONPATH")]))
    return kept


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_TAIL_LINES:]).strip()


def _quoted_log(tail: str) -> str:
    return f"; its log ends with:\n{tail}" if tail else ""
