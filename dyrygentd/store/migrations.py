"""Creates the schema and brings older databases up to it.

``user_version`` tells the schema's version, ``application_id`` that the file is ours. Each step brings a database from one
version to the next. Version 2 added verbs, retries and the journal, version 3 the notes, version 4 views for people.

All steps that a database needs are one transaction: whenever the process dies, the file is of the old version or of the new one.
Before them a copy is made beside it, which the old version of the program can open: the way back from an upgrade. A copy is never
overwritten, and there is no upgrade without room for one.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Final

import aiosqlite
import anyio.to_thread

from dyrygentd.errors import StoreIncompatible, StoreUnavailable

logger = logging.getLogger("dyrygentd.store")

VERSION: Final = 4
#: "dyrg" in ASCII.
APPLICATION_ID: Final = 0x64797267
#: Copies of one version that may lie beside the database; more come of an upgrade that dies again and again.
COPIES_MAX: Final = 5
#: Room that must be left on the disk beside the copy: an upgrade writes little.
_SPARE_BYTES: Final = 1024 * 1024
#: Pages copied at a time, and SQLite's instructions between two looks at an upgrade.
_PAGES: Final = 2000
_LOOK_EVERY: Final = 200_000

#: Told what is done, how much of it, and of how much; of 0 if that is not known.
Progress = Callable[[str, int, int], None]


#: ``{version: what brings it to the next one}``.
_STEPS: Final = {
    1: """
        ALTER TABLE workflows ADD COLUMN control TEXT;
        ALTER TABLE nodes ADD COLUMN detail TEXT;
        CREATE TABLE journal (
            seq INTEGER PRIMARY KEY, workflow INTEGER NOT NULL REFERENCES workflows (seq) ON DELETE CASCADE, at REAL NOT NULL,
            verb TEXT NOT NULL, by TEXT NOT NULL, why TEXT NOT NULL, nodes TEXT NOT NULL, count INTEGER NOT NULL,
            detail TEXT NOT NULL
        ) STRICT;
        CREATE INDEX journal_by_workflow ON journal (workflow, seq);
    """,
    2: """
        CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
        INSERT INTO notes (name, value) VALUES ('identity', lower(hex(randomblob(16))));
    """,
    3: """
        CREATE VIEW v_workflows AS
            SELECT id, name, state, json_extract(control, '$.owner') AS owner_uid, labels, key,
                datetime(created_at, 'unixepoch') AS created, datetime(finished_at, 'unixepoch') AS finished,
                round(finished_at - created_at, 3) AS seconds, tasks, counts, error
            FROM workflows;
        CREATE VIEW v_nodes AS
            SELECT w.id AS workflow, w.name AS workflow_name, n.node, n.state, n.attempt,
                datetime(nullif(n.dispatched_at, 0), 'unixepoch') AS dispatched,
                datetime(nullif(n.finished_at, 0), 'unixepoch') AS finished,
                round(nullif(n.finished_at, 0) - nullif(n.dispatched_at, 0), 3) AS seconds, n.error,
                json_extract(n.detail, '$.cause') AS cause, json_extract(n.detail, '$.late') AS late
            FROM nodes AS n JOIN workflows AS w ON w.seq = n.workflow;
        CREATE VIEW v_journal AS
            SELECT datetime(j.at, 'unixepoch') AS at, w.id AS workflow, w.name AS workflow_name, j.verb, j.by, j.why, j.nodes,
                j.count, j.detail
            FROM journal AS j JOIN workflows AS w ON w.seq = j.workflow;
    """,
}


async def version_of(connection: aiosqlite.Connection, path: object) -> int:
    """Return the version of a database that is ours, 0 if it is empty.

    Raises:
        StoreIncompatible: The file is not ours, is damaged, or was written by a newer version.
    """
    try:
        version = await _pragma(connection, "user_version")
        application_id = await _pragma(connection, "application_id")
        is_empty = not await _pragma(connection, "schema_version")
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # The disk does not let us look.
        raise _incompatible(f"'{path}' is no SQLite database or is damaged: {error}") from error
    if is_empty:
        return 0
    if application_id != APPLICATION_ID or version < 1:
        raise _incompatible(f"'{path}' is a database of another program")
    if version > VERSION:
        raise _incompatible(
            f"'{path}' was written by a newer dyrygentd (schema {version}, this one reads up to {VERSION})",
            "install that version again, or name another database",
        )
    return version


async def migrate(connection: aiosqlite.Connection, path: Path, version: int, progress: Progress) -> None:
    """Create the schema in an empty database, or bring one of an older ``version`` up to it.

    Args:
        progress: Told, in another thread, how far it is.

    Raises:
        StoreUnavailable: There is no room for the copy that is made first; nothing was changed.
    """
    if not version:
        await _create(connection)
    elif version < VERSION:
        copy = await _copy(connection, path, version, progress)
        await _upgrade(connection, path, version, progress)
        logger.warning(
            "the database '%s' was brought from schema %d to %d; what it was is in '%s', which may be deleted once nobody wants"
            " to go back",
            *(path, version, VERSION, copy.name),
        )


async def _create(connection: aiosqlite.Connection) -> None:
    schema = files("dyrygentd.store").joinpath("schema.sql").read_text()
    await connection.executescript(
        f"BEGIN EXCLUSIVE; {schema}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
    )


async def _upgrade(connection: aiosqlite.Connection, path: Path, version: int, progress: Progress) -> None:
    logger.info("bringing the database '%s' from schema %d to %d", path, version, VERSION)
    steps = [f"{_STEPS[step]}; PRAGMA user_version = {step + 1}" for step in range(version, VERSION)]
    words = f"upgrading the database from schema {version} to {VERSION}"
    await connection.set_progress_handler(lambda: progress(words, 0, 0), _LOOK_EVERY)
    try:
        await connection.executescript(f"BEGIN EXCLUSIVE; {'; '.join(steps)}; COMMIT;")
    finally:
        await connection.set_progress_handler(None, 0)  # type: ignore[arg-type]


async def _copy(connection: aiosqlite.Connection, path: Path, version: int, progress: Progress) -> Path:
    """Copy a database as it is to ``state.db.v1.bak``, durably; return where it is."""
    needed = await _pragma(connection, "page_count") * await _pragma(connection, "page_size")
    copy = _free_name(path, version)
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < needed + _SPARE_BYTES:
        error = StoreUnavailable(
            f"no room for a copy of the database '{path}', which is made before it is upgraded:"
            f" it takes {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        )
        error.next_step = f"make room in '{path.parent}', and start again; nothing was changed"
        raise error
    logger.info("copying the database '%s' (%.0f MB) to '%s' before it is upgraded", path, needed / 1e6, copy.name)
    part = path.with_name(f"{path.name}.copying")

    def tell(status: int, remaining: int, total: int) -> None:
        progress("copying the database before it is upgraded", total - remaining, total)

    try:
        # What a copy that died has left.
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        target = sqlite3.connect(part, check_same_thread=False)
        try:
            await connection.backup(target, pages=_PAGES, progress=tell)
        finally:
            target.close()
        await anyio.to_thread.run_sync(_keep, part, copy)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        unavailable = StoreUnavailable(f"cannot copy the database '{path}' before it is upgraded: {error}")
        unavailable.next_step = "nothing was changed; start again when that is mended"
        raise unavailable from error
    return copy


def _free_name(path: Path, version: int) -> Path:
    for number in range(1, COPIES_MAX + 1):
        copy = path.with_name(f"{path.name}.v{version}.bak" + (f".{number}" if number > 1 else ""))
        if not copy.exists():
            return copy
    error = StoreUnavailable(
        f"there are {COPIES_MAX} copies '{path.name}.v{version}.bak' beside the database already: does the upgrade never end?"
    )
    error.next_step = f"delete those in '{path.parent}' that nobody needs, and start again; nothing was changed"
    raise error


def _keep(part: Path, copy: Path) -> None:
    """Give a complete copy its name, when it is on disk."""
    for place in (part, part.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if place == part:
            # Fails if somebody made a file of that name meanwhile.
            os.link(part, copy)
            part.unlink()


async def _pragma(connection: aiosqlite.Connection, name: str) -> int:
    async with connection.execute(f"PRAGMA {name}") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


def _incompatible(message: str, next_step: str = "name another database; this file was not changed") -> StoreIncompatible:
    error = StoreIncompatible(message)
    error.next_step = next_step
    return error
