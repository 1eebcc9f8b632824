"""The broker of a daemon that has none configured: a child of its own, or what `dyrygentd broker` keeps in another process.

A child ends with the daemon, and takes the ground from under tasks that run. So on a host with systemd it is a unit of its own,
which stays when the daemon is stopped, restarted, upgraded or killed. The daemon never starts a child where that unit is meant to
run: the two would fight for the directory.

`Post` is where the two processes meet: a file beside the broker's socket that the keeper holds a lock on, with a line about what
is wrong, for the daemon to tell.
"""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread

from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.kept import KeptServer
from dyrygentd.daemon.kinds import masked
from dyrygentd.errors import BrokerUnavailable, ConfigurationError
from dyrygentd.store import files
from dyrygentd.store.owners import next_step_to_open
from dyrygentd.store.postgres.url import PostgresUrl

logger = logging.getLogger("dyrygentd.broker")

UNIT_VARIABLE: Final = "DYRYGENTD_BROKER_UNIT"
"""Names the unit that keeps the broker; the daemon's own unit sets it."""
_POST_BYTES_MAX: Final = 10_000
_HOLD_TIMEOUT_S, _POLL_S = 2.0, 0.01


class OwnBroker(NamedTuple):
    """A broker of our own.

    Attributes:
        url: Where it is, for Celery.
        trouble: Given what was seen of it (empty: nothing is wrong), returns what is known about that.
    """

    url: str
    trouble: Callable[[str], str]


class Post:
    """The file by which the keeper of a broker says that it is there, and what is wrong."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "broker.keeper"
        self._held: int | None = None

    def hold(self) -> None:
        """Be the keeper, until this process ends. Raises `BrokerUnavailable` if there is one."""
        descriptor = files.opened(self.path, os.O_RDWR | os.O_CREAT)
        deadline = time.monotonic() + _HOLD_TIMEOUT_S
        # Whoever looks holds it for a moment, and a predecessor that was killed may need one to let go.
        while not _is_locked(descriptor, fcntl.LOCK_EX):
            if time.monotonic() < deadline:
                time.sleep(_POLL_S)
                continue
            os.close(descriptor)
            error = BrokerUnavailable(f"another `dyrygentd broker` keeps the broker in '{self.path.parent}'")
            error.next_step = f"`fuser {self.path}` names it; one is enough"
            raise error
        self._held = descriptor
        self.write("")

    def write(self, problem: str) -> None:
        """Leave a line for the daemon; a disk that is full costs the line."""
        assert self._held is not None
        text = json.dumps({"pid": os.getpid(), "problem": problem}).encode()
        with contextlib.suppress(OSError):
            os.ftruncate(self._held, 0)
            os.pwrite(self._held, text, 0)

    def look(self) -> bool:
        """Tell whether there is a keeper."""
        try:
            descriptor = files.opened(self.path, os.O_RDWR)
        except OSError:
            return False
        try:
            return not _is_locked(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def read(self) -> str:
        """Return what the keeper has left, empty if it has not."""
        try:
            text = self.path.read_bytes()[:_POST_BYTES_MAX]
            return str(json.loads(text)["problem"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _is_locked(descriptor: int, kind: int) -> bool:
    """Try to lock, and tell whether we have."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_directory(directory: Path) -> None:
    """Make the directory of a broker of our own, and see that this user may write there.

    Raises:
        BrokerUnavailable: Not so, or its disk is full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(files.opened(directory / "broker.lock", os.O_RDWR | os.O_CREAT))
    except OSError as error:
        refused = BrokerUnavailable(f"cannot keep a broker in '{directory}': {error.strerror}")
        refused.next_step = next_step_to_open(directory / "broker.lock") or "see that its disk has room"
        raise refused from error


def _refuse_second(database: Path) -> None:
    """Raise `StoreLocked` if another daemon has the database: it has the broker, too, and waiting for that would tell less."""
    # What else is wrong with its files is told, with what to do, by who opens it.
    with contextlib.suppress(OSError), files.locked(database):
        pass


def directory_beside(database: Path | PostgresUrl | None) -> Path:
    """Return where a broker of our own is kept. Raises `ConfigurationError` if the database is no file to keep it beside."""
    if isinstance(database, Path):
        return database.parent
    raise ConfigurationError(
        f"no broker is configured, and the database '{database}' is no file that one of our own could be kept beside",
        next_step="name a `broker`, or an `app` that names one",
    )


async def own_broker(database: Path | PostgresUrl, exits: AsyncExitStack, environ: Mapping[str, str] = os.environ) -> OwnBroker:
    """Find the broker that is kept beside this database, or start one that ends with ``exits``.

    Raises:
        BrokerUnavailable: It cannot be started.
        ConfigurationError: The database is not a file.
        StoreLocked: Another daemon is there.
    """
    directory = directory_beside(database)
    assert isinstance(database, Path)
    await anyio.to_thread.run_sync(make_directory, directory)
    await anyio.to_thread.run_sync(_refuse_second, database)
    server = EmbeddedServer(directory)
    unit, post = environ.get(UNIT_VARIABLE, ""), Post(directory)
    is_kept = await anyio.to_thread.run_sync(post.look)
    if unit or is_kept:
        whose = f"'{unit}'" if unit else "`dyrygentd broker`"
        logger.info("no broker is configured: using the one of %s; workers find it at %s", whose, masked(server.url))
        return OwnBroker(server.url, lambda seen: trouble_elsewhere(seen, unit, post.read() if seen else "", post))
    kept = KeptServer(server)
    await anyio.to_thread.run_sync(kept.start)

    async def stop() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(kept.stop)

    exits.push_async_callback(stop)
    logger.warning(
        "no broker is configured: started one of our own, which ends with this process; workers find it at %s", masked(server.url)
    )
    return OwnBroker(server.url, lambda seen: trouble_of_child(seen, kept.problem))


def trouble_of_child(seen: str, problem: str) -> str:
    """Say what is wrong with a broker that is a child of this process."""
    if problem:
        return f"{problem} ({seen})" if seen else problem
    return f"the daemon's own broker: {seen}" if seen else ""


def trouble_elsewhere(seen: str, unit: str, problem: str, post: Post) -> str:
    """Say what is wrong with a broker that another process keeps."""
    if not seen:
        return ""
    if problem and post.look():
        return f"{problem} ({seen})"
    if post.look():
        look = f"`systemctl status {unit}`" if unit else f"its log is '{post.path.with_name('broker.log')}'"
        return f"the daemon's own broker is being started, or does not answer: {seen}; next: {look}"
    start = (
        f"`systemctl status {unit}`, `systemctl start {unit}`"
        if unit
        else "start `dyrygentd broker` again, or restart the daemon"
    )
    return f"the daemon's own broker is not kept by anybody: {seen}; next: {start}"
