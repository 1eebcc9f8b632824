"""From a file to PostgreSQL and back, while no daemon runs: all rows of all tables, and under the same identity.

The source is only read, and has a note in the end that it was moved, so that no daemon goes on with it by mistake. What is
written is one transaction on PostgreSQL, and a file that gets its name when it is complete: whenever this ends early, there
is nothing in the target, and it is done again from the beginning.

A file has one host, and a number is a user of it. On PostgreSQL there may be several: a number becomes a user of the host that
is given, with their keys, and a user of that host a number on the way back. Those of other hosts stay what they are.
"""

import contextlib
import json
import pwd
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Final

from psycopg import AsyncConnection

from dyrygentd.core.absence import note_of
from dyrygentd.core.user import User
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.facts import CLOSED_NOTE
from dyrygentd.store import care
from dyrygentd.store.continuity import IN_USE, MOVED_NOTE, RESTORED, TERM_NOTE, moved_note
from dyrygentd.store.files import locked
from dyrygentd.store.migrations import APPLICATION_ID
from dyrygentd.store.migrations import VERSION as FILE_VERSION
from dyrygentd.store.owners import acting_in, owner_of, refuse_others_link
from dyrygentd.store.postgres.care import not_this_version, session, take_lock
from dyrygentd.store.postgres.migrations import VERSION, prepare, refuse_unfit, version_of
from dyrygentd.store.postgres.rows import REMEMBER, pairs_in, text_of
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.rows import owned_key, owner_fields

Progress = Callable[[int, int], None]

#: Each is copied with these columns; those that PostgreSQL has besides follow from them. `notes` are few, and not all are the
#: same there.
TABLES: Final = {
    "workflows": (
        "seq, id, name, key, labels, state, created_at, finished_at, tasks, counts, error, control, result, document,"
        " parent, root"
    ),
    "nodes": "workflow, node, state, attempt, dispatched_at, finished_at, held_until, blocked_by, error, value, detail",
    "node_names": "workflow, names",
    "journal": "seq, workflow, at, verb, by, why, nodes, count, detail",
}
_KEY, _LABELS, _CONTROL = (TABLES["workflows"].split(", ").index(name) for name in ("key", "labels", "control"))
#: Rows between two looks at how far it is.
_AT_ONCE: Final = 1000


async def to_postgres(path: Path, url: PostgresUrl, *, host: str, progress: Progress = lambda done, of: None) -> int:
    """Move a file's content to an empty schema, which is made if need be; return the rows.

    Args:
        host: Whose users the numbers are.
        progress: Told ``(rows done, rows of all)`` now and then.

    Raises:
        StoreLocked: A daemon has one of them.
        StoreUnavailable: One of them cannot be reached, or the schema is not empty.
        StoreIncompatible: One of them is not ours, or of another version.
    """
    with locked(path):
        with _reading(path) as source:
            counted = await _copy_all(source, path, url, host, progress)
        with contextlib.closing(sqlite3.connect(path)) as file, file:
            note = moved_note(str(url), time.time())
            file.execute("INSERT OR REPLACE INTO notes (name, value) VALUES (?, ?)", (MOVED_NOTE, note))
    return counted.done


async def to_file(url: PostgresUrl, path: Path, *, host: str, progress: Progress = lambda done, of: None) -> int:
    """Move a schema's content to a file that is not there yet; return the rows. Raises as `to_postgres`.

    Args:
        host: Whose users become numbers.
    """
    path = _free_place(path)
    owner, lock = owner_of(path), path.with_name(f"{path.name}.lock")
    async with session(url, "move") as connection:
        await refuse_unfit(connection, url)
        if await version_of(connection, url) != VERSION:
            raise not_this_version(url)
        await take_lock(connection, url)
        await _refuse_if_letters_wait(connection, url)
        with acting_in(path.parent, [lock]), locked(path), care.part_of(path) as part:
            counted = await _fill(part, connection, host, progress)
            care.synced(part)
            part.replace(path)
            care.synced(path.parent)
        for made in (path, lock):
            owner.give(made)
        await connection.execute(REMEMBER, (MOVED_NOTE, moved_note(str(path), time.time())))
    return counted.done


class _Counted:
    """Counts rows, and tells of them."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.done = 0
        self._progress, self._total = progress, total

    def add(self, rows: int) -> None:
        """Count some more."""
        self.done += rows
        self._progress(self.done, self._total)


# --- to PostgreSQL --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with care.reading(path) as source:
            if care.version_of(source, path) != FILE_VERSION:
                raise not_this_version(path)
            yield source
    except sqlite3.Error as error:
        raise StoreUnavailable(f"cannot read the database '{path}': {error}") from error


async def _copy_all(source: sqlite3.Connection, path: Path, url: PostgresUrl, host: str, progress: Progress) -> _Counted:
    counted = _Counted(progress, sum(source.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES))
    async with session(url, "move") as connection:
        await prepare(connection, url)
        await take_lock(connection, url)
        async with connection.transaction():
            await _refuse_unless_empty(connection, url)
            for table, columns in TABLES.items():
                await _copy_in(connection, table, columns, source.execute(f"SELECT {columns} FROM {table}"), host, counted)
            await _put_notes(connection, dict(source.execute("SELECT name, value FROM notes")), path)
    return counted


async def _copy_in(
    connection: AsyncConnection, table: str, columns: str, source: sqlite3.Cursor, host: str, counted: _Counted
) -> None:
    also = ", label_pairs, owner, parent_task, series" if table == "workflows" else ""
    async with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}{also}) FROM STDIN".encode()) as copy:
        while part := source.fetchmany(_AT_ONCE):
            for row in part:
                known = _of_host(row, host) if also else row
                given = [text_of(value) if isinstance(value, str) else value for value in known]
                await copy.write_row([*given, *_derived(known)] if also else given)
            counted.add(len(part))
    if table == "journal":
        await connection.execute(
            "SELECT setval(pg_get_serial_sequence('journal', 'seq'), (SELECT max(seq) FROM journal)) FROM journal LIMIT 1"
        )


def _of_host(row: Sequence[Any], host: str) -> Sequence[Any]:
    """Return the row of a workflow with an owner of this host in the place of a number."""
    owner = User.of(_object(row[_CONTROL]).get("owner"))
    if owner is None or owner.host:
        return row
    return _owned(row, User(owner.number, host, _name_here(owner.number) if host == socket.gethostname() else ""))


def _of_file(row: Sequence[Any], host: str) -> Sequence[Any]:
    """Return the row of a workflow with a number in the place of an owner of this host."""
    owner = User.of(_object(row[_CONTROL]).get("owner"))
    return row if owner is None or owner.host != host else _owned(row, User(owner.number))


def _owned(row: Sequence[Any], owner: User) -> Sequence[Any]:
    """Return the row of a workflow with this owner."""
    changed, control = list(row), _object(row[_CONTROL])
    control.pop("owner_name", None)
    changed[_CONTROL] = json.dumps(control | owner_fields(owner))
    if row[_KEY] is not None:
        changed[_KEY] = owned_key(row[_KEY].partition(":")[2], owner)
    return changed


def _name_here(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def _derived(row: Sequence[Any]) -> tuple[list[str], str | None, str | None, str | None]:
    """Return what the columns for listings have: labels, owner, parent and series."""
    labels, control = _object(row[_LABELS]), _object(row[_CONTROL])
    owner, parent = control.get("owner"), control.get("parent_task")
    task_id = parent["task_id"] if isinstance(parent, dict) else None
    return pairs_in(labels), None if owner is None else str(owner), task_id, control.get("series")


def _object(text: str | None) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        content = json.loads(text or "{}")
        if isinstance(content, dict):
            return content
    return {}


async def _put_notes(connection: AsyncConnection, notes: dict[str, str], path: Path) -> None:
    """Write the notes, of which some are a row of their own there."""
    was_in_use, was_restored = notes.pop(IN_USE, None), notes.pop(RESTORED, None)
    log = path.with_name(f"{path.name}-wal")
    await connection.execute(
        "UPDATE owner SET term = %s, in_use = %s, written_at = %s, place = %s",
        [notes.pop(TERM_NOTE, ""), bool(was_in_use), log.stat().st_mtime if log.exists() else 0.0, was_restored or ""],
    )
    await connection.execute("DELETE FROM notes")
    async with connection.cursor() as cursor:
        await cursor.executemany("INSERT INTO notes (name, value) VALUES (%s, %s)", [*notes.items()])


async def _refuse_unless_empty(connection: AsyncConnection, url: PostgresUrl) -> None:
    cursor = await connection.execute("SELECT count(*) FROM workflows")
    row = await cursor.fetchone()
    if row is not None and row[0]:
        error = StoreUnavailable(f"the database '{url}' has {row[0]} workflows already")
        error.next_step = "name an empty schema: add `?schema=NAME` to the URL"
        raise error


async def _refuse_if_letters_wait(connection: AsyncConnection, url: PostgresUrl) -> None:
    """Raise `StoreUnavailable` if something was answered for that no file has a place for."""
    row = await (await connection.execute("SELECT count(*) FROM letters WHERE answered_at IS NULL")).fetchone()
    if row is not None and row[0]:
        error = StoreUnavailable(f"{row[0]} letters wait in the database '{url}' for a daemon that leads")
        error.next_step = "start one on it until it has carried them out, and stop it"
        raise error


# --- to a file ------------------------------------------------------------------------------------------------------


def _free_place(path: Path) -> Path:
    """Return where a file goes, without links; its directory is there then."""
    refuse_others_link(path)
    path = path.resolve()
    if path.exists():
        error = StoreUnavailable(f"'{path}' exists")
        error.next_step = "name a file that is not there, or move this one away"
        raise error
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"cannot make '{path.parent}': {error.strerror}") from error
    return path


async def _fill(part: Path, connection: AsyncConnection, host: str, progress: Progress) -> _Counted:
    schema = resources("dyrygentd.store").joinpath("schema.sql").read_text()
    pragmas = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FILE_VERSION}; PRAGMA foreign_keys = OFF"
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as file:
        file.executescript(f"{schema}; {pragmas}; DELETE FROM notes;")
        file.execute("BEGIN")
        async with connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            total = 0
            for table in TABLES:
                row = await (await connection.execute(f"SELECT count(*) FROM {table}".encode())).fetchone()
                total += 0 if row is None else row[0]
            counted = _Counted(progress, total)
            for table, columns in TABLES.items():
                await _copy_out(connection, file, table, columns, host, counted)
            file.executemany("INSERT INTO notes (name, value) VALUES (?, ?)", await _notes_of(connection))
        file.execute("COMMIT")
    return counted


async def _copy_out(
    connection: AsyncConnection, file: sqlite3.Connection, table: str, columns: str, host: str, counted: _Counted
) -> None:
    places = ", ".join("?" * len(columns.split(", ")))
    async with connection.cursor("moving", binary=True) as cursor:
        await cursor.execute(f"SELECT {columns} FROM {table}".encode())
        while part := await cursor.fetchmany(_AT_ONCE):
            rows = [_of_file(row, host) for row in part] if table == "workflows" else part
            file.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)
            counted.add(len(part))


async def _notes_of(connection: AsyncConnection) -> Sequence[tuple[str, str]]:
    notes: dict[str, str] = dict(await (await connection.execute("SELECT name, value FROM notes")).fetchall())
    notes.pop(MOVED_NOTE, None)
    row = await (await connection.execute("SELECT term, in_use, written_at FROM owner")).fetchone()
    assert row is not None
    term, was_in_use, written_at = row
    if term:
        notes[TERM_NOTE] = term
    if was_in_use:
        notes[CLOSED_NOTE] = note_of(written_at, was_killed=True)
    return [*notes.items()]
