"""Which files are taken as ours, and that all others are left as they were."""
# ruff: noqa: ASYNC240 - small files of a test may block

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dyrygentd.errors import StoreIncompatible
from dyrygentd.store.migrations import APPLICATION_ID, VERSION
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import node, workflow

pytestmark = pytest.mark.anyio


def _execute(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def _query(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def _assert_refused(path: Path, complaint: str) -> StoreIncompatible:
    """Opening is refused, the file is byte by byte as before, and the lock is free again."""
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreIncompatible, match=complaint) as caught:
            await SqliteStore(path).open()
    assert path.read_bytes() == before
    assert caught.value.next_step
    return caught.value


async def test_new_database_is_marked_as_ours(path: Path) -> None:
    """A new file carries our mark and version, by which every later version knows what it has before it."""
    store = SqliteStore(path)
    await store.open()
    await store.close()
    assert _query(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert _query(path, "PRAGMA user_version") == [(VERSION,)]
    assert _query(path, "PRAGMA integrity_check") == [("ok",)]


async def test_opening_again_keeps_everything(path: Path) -> None:
    """An existing database of this version is opened as it is."""
    for number in range(3):
        store = SqliteStore(path)
        await store.open()
        await store.save([workflow(f"w{number}")], [node(f"w{number}", 0)])
        await store.close()
    assert _query(path, "SELECT seq, id FROM workflows") == [(1, "w0"), (2, "w1"), (3, "w2")]


async def test_newer_version_is_refused(path: Path) -> None:
    """A database of a newer version is left alone, and the way back is told: a downgrade must not destroy it."""
    store = SqliteStore(path)
    await store.open()
    await store.save([workflow("w")], [])
    await store.close()
    _execute(path, f"PRAGMA user_version = {VERSION + 1}")
    error = await _assert_refused(path, f"newer dyrygentd .schema {VERSION + 1}, this one reads up to {VERSION}")
    assert error.next_step == "install that version again, or name another database"
    _execute(path, f"PRAGMA user_version = {VERSION}")
    store = SqliteStore(path)
    await store.open()
    assert await store.find("w") == ["w"]
    await store.close()


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE workflows (id TEXT)",
        "CREATE TABLE t (x); PRAGMA user_version = 1",
        "CREATE TABLE t (x); PRAGMA application_id = 1; PRAGMA user_version = 99",
        "PRAGMA journal_mode = WAL; CREATE TABLE t (x)",
    ],
)
async def test_foreign_database_is_refused(path: Path, script: str) -> None:
    """A database of another program is left alone, whatever its version and tables are called."""
    _execute(path, script)
    await _assert_refused(path, "database of another program")


@pytest.mark.parametrize(
    "content",
    [b"hello", b"key = 1\n" * 1000, bytes(5000), b"SQLite format 3\0", b"SQLite format 3\0" + bytes(range(256)) * 50],
    ids=["short", "text", "zeros", "first bytes only", "header of nonsense"],
)
async def test_other_file_is_refused(path: Path, content: bytes) -> None:
    """A file that is no database is left alone: a wrong path in the configuration must not cost a file."""
    path.write_bytes(content)
    await _assert_refused(path, "no SQLite database or is damaged")


async def test_empty_file_is_taken(path: Path) -> None:
    """An empty file, such as `touch` leaves, becomes a database."""
    path.touch()
    store = SqliteStore(path)
    await store.open()
    await store.save([workflow("w")], [])
    await store.close()


async def test_creation_is_one_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If creating the schema stops halfway, nothing is there, and the next start creates it."""
    read_text: Callable[[Path], str] = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self: read_text(self) + "CREATE TABLE nodes (x);")
    with pytest.raises(Exception, match="table nodes already exists"):
        await SqliteStore(path).open()
    monkeypatch.undo()
    assert _query(path, "SELECT count(*) FROM sqlite_schema") == [(0,)]
    store = SqliteStore(path)
    await store.open()
    await store.close()
