"""Until when a database was in use is noted in it, for the daemon that opens it next."""

import os
import time
from pathlib import Path

import pytest

from dyrygentd.core.absence import Absence
from dyrygentd.ports.facts import CLOSED_NOTE
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import workflow

pytestmark = pytest.mark.anyio


async def _use(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()


async def _absence(path: Path) -> Absence | None:
    store = SqliteStore(path)
    await store.open()
    try:
        return Absence.of_note(await store.recall(CLOSED_NOTE), until=time.time())
    finally:
        await store.close()


async def test_time_of_closing_is_known(path: Path) -> None:
    """A daemon that stopped in good order says when; a new database has none before it."""
    assert await _absence(path) is None
    await _use(path)
    before = time.time()
    await _use(path)
    absence = await _absence(path)
    assert absence is not None
    assert before <= absence.since <= absence.until
    assert not absence.was_killed


async def test_time_of_a_kill_is_that_of_the_last_write(path: Path) -> None:
    """A daemon that was killed has said nothing, and what an earlier one said does not count: its log was written last then."""
    await _use(path)
    store = SqliteStore(path)
    await store.open()
    await store.save([workflow("a")], [])
    killed = path.with_name("killed.db")
    for suffix in ("", "-wal"):
        killed.with_name(killed.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    await store.close()
    os.utime(killed.with_name("killed.db-wal"), (1000.0, 1000.0))
    absence = await _absence(killed)
    assert absence is not None
    assert (absence.since, absence.was_killed) == (1000.0, True)
