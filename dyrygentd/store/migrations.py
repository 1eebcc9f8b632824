"""Creates the schema and brings older databases up to it.

``user_version`` tells the schema's version, ``application_id`` that the file is ours. Each step brings a database from one
version to the next. Version 2 added verbs, retries and the journal, version 3 the notes, version 4 views for people; version 5
says whose a key is, version 6 knows the names of nodes in a table of their own, version 7 keeps earlier attempts of a node among
its details, where older programs would stumble over them, version 8 knows workflows that are the work of another one's node, and
finds the runs of a series.

All steps that a database needs are one transaction: whenever the process dies, the file is of the old version or of the new one.
Before them a copy is made beside it, see `dyrygentd.store.copies`: the way back from an upgrade.
"""

import logging
import shlex
import sqlite3
from importlib.resources import files
from pathlib import Path
from typing import Final

import aiosqlite

from dyrygentd.errors import StoreIncompatible, StoreUnavailable
from dyrygentd.store.copies import Progress, copies_of, copy_of
from dyrygentd.store.names import teach

logger = logging.getLogger("dyrygentd.store")

VERSION: Final = 8
#: "dyrg" in ASCII.
APPLICATION_ID: Final = 0x64797267
#: SQLite's instructions between two looks at an upgrade.
_LOOK_EVERY: Final = 200_000


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
    4: """
        UPDATE workflows SET key =
            coalesce(CASE WHEN json_valid(control) THEN json_extract(control, '$.owner') END, '') || ':' || key
            WHERE key IS NOT NULL;
        DROP VIEW IF EXISTS v_workflows;
        CREATE VIEW v_workflows AS
            SELECT id, name, state, json_extract(control, '$.owner') AS owner_uid, labels,
                substr(key, instr(key, ':') + 1) AS key,
                datetime(created_at, 'unixepoch') AS created, datetime(finished_at, 'unixepoch') AS finished,
                round(finished_at - created_at, 3) AS seconds, tasks, counts, error
            FROM workflows;
    """,
    5: """
        CREATE TABLE node_names (
            workflow INTEGER PRIMARY KEY REFERENCES workflows (seq) ON DELETE CASCADE, names TEXT NOT NULL
        ) STRICT;
        INSERT INTO node_names (workflow, names)
            SELECT seq, names FROM (SELECT seq, names_in_definition(document) AS names FROM workflows) WHERE names IS NOT NULL;
        DROP VIEW IF EXISTS v_nodes;
        CREATE VIEW v_nodes AS
            SELECT w.id AS workflow, w.name AS workflow_name, n.node, m.value AS node_name, n.state, n.attempt,
                datetime(nullif(n.dispatched_at, 0), 'unixepoch') AS dispatched,
                datetime(nullif(n.finished_at, 0), 'unixepoch') AS finished,
                round(nullif(n.finished_at, 0) - nullif(n.dispatched_at, 0), 3) AS seconds, n.error,
                json_extract(n.detail, '$.cause') AS cause, json_extract(n.detail, '$.late') AS late
            FROM workflows AS w JOIN node_names AS g ON g.workflow = w.seq
                -- The names are gone through once for each workflow, and not once for each node.
                CROSS JOIN json_each(g.names) AS m JOIN nodes AS n ON n.workflow = w.seq AND n.node = m.key
            UNION ALL
            SELECT w.id, w.name, n.node, NULL, n.state, n.attempt,
                datetime(nullif(n.dispatched_at, 0), 'unixepoch') AS dispatched,
                datetime(nullif(n.finished_at, 0), 'unixepoch') AS finished,
                round(nullif(n.finished_at, 0) - nullif(n.dispatched_at, 0), 3) AS seconds, n.error,
                json_extract(n.detail, '$.cause') AS cause, json_extract(n.detail, '$.late') AS late
            FROM nodes AS n JOIN workflows AS w ON w.seq = n.workflow
            WHERE w.seq NOT IN (SELECT workflow FROM node_names);
    """,
    6: """
        DROP VIEW IF EXISTS v_attempts;
        CREATE VIEW v_attempts AS
            SELECT w.id AS workflow, w.name AS workflow_name, n.node, m.value AS node_name,
                json_extract(a.value, '$[0]') AS attempt,
                datetime(json_extract(a.value, '$[1]'), 'unixepoch') AS dispatched,
                datetime(nullif(json_extract(a.value, '$[5]'), 0), 'unixepoch') AS started,
                datetime(json_extract(a.value, '$[2]'), 'unixepoch') AS ended,
                round(json_extract(a.value, '$[2]') - json_extract(a.value, '$[1]'), 3) AS seconds,
                json_extract(a.value, '$[3]') AS how,
                json_extract(a.value, '$[6]') AS worker, json_extract(a.value, '$[7]') AS error
            FROM workflows AS w JOIN node_names AS g ON g.workflow = w.seq
                CROSS JOIN json_each(g.names) AS m JOIN nodes AS n ON n.workflow = w.seq AND n.node = m.key
                CROSS JOIN json_each(n.detail, '$.earlier') AS a;
    """,
    7: """
        ALTER TABLE workflows ADD COLUMN parent TEXT;
        ALTER TABLE workflows ADD COLUMN root TEXT;
        CREATE INDEX workflows_by_parent ON workflows (parent);
        CREATE INDEX workflows_by_root ON workflows (root, finished_at);
        DROP INDEX IF EXISTS workflows_by_end;
        ALTER TABLE workflows ADD COLUMN
            series TEXT GENERATED ALWAYS AS (CASE WHEN json_valid(control) THEN json_extract(control, '$.series') END) VIRTUAL;
        CREATE INDEX workflows_by_series ON workflows (series, seq) WHERE series IS NOT NULL;
        DROP VIEW IF EXISTS v_workflows;
        CREATE VIEW v_workflows AS
            SELECT id, name, state, json_extract(control, '$.owner') AS owner_uid, labels,
                substr(key, instr(key, ':') + 1) AS key,
                datetime(created_at, 'unixepoch') AS created, datetime(finished_at, 'unixepoch') AS finished,
                round(finished_at - created_at, 3) AS seconds, tasks, counts, error, parent, series
            FROM workflows;
    """,
}


async def version_of(connection: aiosqlite.Connection, path: Path) -> int:
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
            _way_back(path),
        )
    return version


def _way_back(path: Path) -> str:
    """Return what to do about a database of a newer version."""
    copies = [copy for version in range(VERSION, 0, -1) for copy in copies_of(path, version)]
    if not copies:
        return "install that version again, or name another database"
    return (
        "install that version again; or go back to what the database was before the upgrade, without what was done since:"
        f" `dyrygentd restore --database {shlex.quote(str(path))} {shlex.quote(str(copies[0]))}`"
    )


async def migrate(connection: aiosqlite.Connection, path: Path, version: int, progress: Progress, *, file: int) -> None:
    """Create the schema in an empty database, or bring one of an older ``version`` up to it.

    Args:
        progress: Told, in another thread, how far it is.
        file: The database, opened for reading.

    Raises:
        StoreUnavailable: There is no room for the copy that is made first, or for the upgrade; nothing was changed.
    """
    if not version:
        await _create(connection)
    elif version < VERSION:
        copy = await copy_of(connection, path, version, progress, file=file)
        try:
            await _upgrade(connection, path, version, progress)
        except sqlite3.OperationalError as error:
            raise _taken_back(error, path, version, copy) from error
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
    await teach(connection)
    await connection.set_progress_handler(lambda: progress(words, 0, 0), _LOOK_EVERY)
    try:
        await connection.executescript(f"BEGIN EXCLUSIVE; {'; '.join(steps)}; COMMIT;")
    finally:
        await connection.set_progress_handler(None, 0)  # type: ignore[arg-type]


def _taken_back(error: sqlite3.OperationalError, path: Path, version: int, copy: Path) -> StoreUnavailable:
    """Say that an upgrade failed: the transaction is none."""
    failed = StoreUnavailable(f"cannot upgrade the database '{path}' from schema {version} to {VERSION}: {error}")
    is_full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
    mend = f"make room in '{path.parent}' (an upgrade may need as much as the database has)" if is_full else "see to that"
    failed.next_step = f"{mend}, and start again; nothing was changed, and the copy '{copy.name}' is taken again"
    return failed


async def _pragma(connection: aiosqlite.Connection, name: str) -> int:
    async with connection.execute(f"PRAGMA {name}") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


def _incompatible(message: str, next_step: str = "name another database; this file was not changed") -> StoreIncompatible:
    error = StoreIncompatible(message)
    error.next_step = next_step
    return error
