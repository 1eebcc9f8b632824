"""How connections to the database are made, so that none of them is lost on the way, and how they end."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import aiosqlite
import anyio

from dyrygentd.errors import StoreUnavailable


async def connect(path: Path) -> aiosqlite.Connection:
    """Return a new connection; whoever was cancelled meanwhile hears of that with the next wait.

    aiosqlite makes it in another thread. Where its wait is cancelled, it forgets what that thread is about to make, and a
    connection stays open that nobody can close (since Python 3.13 there is a warning of it).

    Raises:
        sqlite3.Error: The file cannot be opened.
    """
    with anyio.CancelScope(shield=True):
        connection = await aiosqlite.connect(path)
    return connection


@contextlib.contextmanager
def log_kept(path: Path, log: Path, written_at: float) -> Iterator[None]:
    """Leave the write-ahead log where it is when the last connection is closed within this, which may write it all the same.

    A log tells the next start that a daemon was killed, and its time when. A start that fails must not take it away: it would be
    missed.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(sqlite3.Error):
            # Whoever may not write cannot fold the log into the file, and so leaves it.
            last = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
            held.callback(last.close)
            last.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        yield
    with contextlib.suppress(OSError):
        os.utime(log, (written_at, written_at))


def opened(connection: aiosqlite.Connection | None) -> aiosqlite.Connection:
    """Return a connection that there is. Raises `StoreUnavailable` if there is none."""
    if connection is None:
        raise StoreUnavailable("the database is not open")
    return connection
