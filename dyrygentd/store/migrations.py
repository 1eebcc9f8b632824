"""Creates the schema and brings older databases up to it.

``user_version`` tells the schema's version, ``application_id`` that the file is ours. Each step brings a database from one
version to the next, in a transaction of its own. Version 2 added verbs, retries and the journal, version 3 the notes.
"""

import logging
import sqlite3
from importlib.resources import files
from typing import Final

import aiosqlite

from dyrygentd.errors import StoreIncompatible

logger = logging.getLogger("dyrygentd.store")

VERSION: Final = 3
#: "dyrg" in ASCII.
APPLICATION_ID: Final = 0x64797267


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
}


async def migrate(connection: aiosqlite.Connection, path: object) -> None:
    """Create the schema in an empty database; refuse a foreign or newer one.

    Raises:
        StoreIncompatible: The file is not ours, is damaged, or was written by a newer version.
    """
    try:
        version = await _pragma(connection, "user_version")
        application_id = await _pragma(connection, "application_id")
        is_empty = not await _pragma(connection, "schema_version")
    except sqlite3.DatabaseError as error:
        raise _incompatible(f"'{path}' is no SQLite database or is damaged: {error}") from error
    if is_empty:
        await _create(connection)
    elif application_id != APPLICATION_ID:
        raise _incompatible(f"'{path}' is a database of another program")
    elif version > VERSION:
        raise _incompatible(
            f"'{path}' was written by a newer dyrygentd (schema {version}, this one reads up to {VERSION})",
            "install that version again, or name another database",
        )
    else:
        for step in range(version, VERSION):
            await _upgrade(connection, path, step)


async def _create(connection: aiosqlite.Connection) -> None:
    schema = files("dyrygentd.store").joinpath("schema.sql").read_text()
    await connection.executescript(
        f"BEGIN EXCLUSIVE; {schema}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
    )


async def _upgrade(connection: aiosqlite.Connection, path: object, version: int) -> None:
    logger.info("bringing the database '%s' from schema %d to %d", path, version, version + 1)
    await connection.executescript(f"BEGIN EXCLUSIVE; {_STEPS[version]}; PRAGMA user_version = {version + 1}; COMMIT;")


async def _pragma(connection: aiosqlite.Connection, name: str) -> int:
    async with connection.execute(f"PRAGMA {name}") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


def _incompatible(message: str, next_step: str = "name another database; this file was not changed") -> StoreIncompatible:
    error = StoreIncompatible(message)
    error.next_step = next_step
    return error
