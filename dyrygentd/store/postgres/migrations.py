"""Creates the schema, and brings older ones up to it, in one transaction under a lock that a second process waits for.

A table `about` says that the schema is ours, and of which version it is. Whenever the process dies, all of it is of the old
version or of the new one. No copy is made before: the server's own tools do that.

*It takes as long as it takes*, but waits for a lock only for some seconds: while it waits, all who come after it wait, too.
Somebody else may have a table in a transaction that was forgotten, which is told then, and the next attempt is the caller's.
"""

import logging
import socket
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql

from dyrygentd.errors import StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.store.postgres.url import PostgresUrl

logger = logging.getLogger("dyrygentd.store")

VERSION: Final = 4
#: The oldest server that the tests ran on, or would: 13 has `gen_random_uuid`.
SERVER_MIN: Final = 130000
#: "dyrg" in ASCII, the upper half of the numbers of our advisory locks; the lower one is the schema's. That of tools which work
#: on it without a daemon, and of daemons of version 1, is positive, that of an upgrade negative.
LOCK_SPACE: Final = 0x64797267 << 32


def _file(name: str) -> str:
    return files("dyrygentd.store.postgres").joinpath(name).read_text()


#: ``{version: what brings it to the next one}``.
_STEPS: Final[dict[int, str]] = {
    1: _file("letters.sql")
    + _file("owners.sql")
    + """
        ALTER TABLE owner
            ADD COLUMN led_by text NOT NULL DEFAULT '',
            ADD COLUMN until double precision NOT NULL DEFAULT 0,
            ADD COLUMN ttl double precision NOT NULL DEFAULT 0;
        CREATE TABLE standbys (process text PRIMARY KEY, holder text NOT NULL, seen_at double precision NOT NULL);
    """,
    2: """
        CREATE TABLE hosts (
            name text NOT NULL, machine text NOT NULL, holder text NOT NULL, since double precision NOT NULL,
            seen_at double precision NOT NULL, PRIMARY KEY (name, machine)
        );
    """,
    3: """
        ALTER TABLE workflows ADD COLUMN parent text, ADD COLUMN root text, ADD COLUMN series text;
        CREATE INDEX workflows_roots ON workflows (seq) WHERE parent IS NULL;
        CREATE INDEX workflows_by_parent ON workflows (parent, seq) WHERE parent IS NOT NULL;
        CREATE INDEX workflows_by_root ON workflows (root, finished_at) WHERE root IS NOT NULL;
        CREATE INDEX workflows_by_series ON workflows (series, seq) WHERE series IS NOT NULL;
        DROP INDEX workflows_by_end;
        CREATE INDEX workflows_by_end ON workflows (finished_at) WHERE finished_at IS NOT NULL AND root IS NULL;
        CREATE OR REPLACE VIEW v_workflows AS
            SELECT id, name, state, split_part(owner, '@', 1)::bigint AS owner_uid, labels,
                substr(key, strpos(key, ':') + 1) AS key,
                to_timestamp(created_at) AS created, to_timestamp(finished_at) AS finished,
                round((finished_at - created_at)::numeric, 3) AS seconds, tasks, counts, error,
                coalesce(control::json ->> 'owner_name', split_part(owner, '@', 1))
                    || substr(owner, strpos(owner || '@', '@')) AS owner,
                parent, series
            FROM workflows;
    """,
}
#: From which version on the row `owner` says until when somebody leads.
LEASE_SINCE: Final = 2
VERSION_QUERY: Final = "SELECT max(version) FROM about"
#: How long it waits for each lock.
_LOCK_MAX_S: Final = 5.0
#: Who has one on anything in the schema, or is bringing it up to date.
_HAVE_LOCKS: Final = """
    SELECT string_agg(DISTINCT format('%%s (%%s)', a.pid, a.application_name), ', ')
    FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE l.granted AND l.pid <> pg_backend_pid() AND (
        l.relation IN (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace(%s))
        OR l.locktype = 'advisory' AND (l.classid::bigint << 32 | l.objid::bigint) = %s
    )
"""


async def prepare(
    connection: AsyncConnection,
    url: PostgresUrl,
    *,
    version_wanted: int = VERSION,
    steps: Mapping[int, str] = _STEPS,
    server_min: int = SERVER_MIN,
    host: str = "",
    lock_max_s: float = _LOCK_MAX_S,
) -> None:
    """Make or upgrade the schema, unless it is as it has to be.

    Args:
        version_wanted, steps: To what it is brought, and how from each version to the next.
        server_min: The oldest server, as libpq numbers them.
        host: What this host is called, whose users the numbers of the first version are; by default its own name.
        lock_max_s: How long each lock is waited for.

    Raises:
        StoreIncompatible: Server, database or schema cannot be used.
        StoreUnavailable: The schema is not there, and this role may not make it; or somebody else has a lock.
        StoreLocked: It is of an older version, and in use.
        psycopg.Error: Anything else that the server refuses.
    """
    await refuse_unfit(connection, url, server_min=server_min)
    if not await _one(connection, "SELECT to_regnamespace(%s) IS NOT NULL", url.schema):
        await _make_schema(connection, url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{1000 * lock_max_s:.0f}"])
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", [-await lock_number(connection, url)])
            version = await version_of(connection, url)
            if version != version_wanted:
                await _bring_up(connection, url, version, version_wanted, steps, host or socket.gethostname())
    except psycopg.errors.LockNotAvailable as error:
        raise await _locked(connection, url) from error


async def _bring_up(
    connection: AsyncConnection, url: PostgresUrl, version: int, wanted: int, steps: Mapping[int, str], host: str
) -> None:
    if version:
        await _refuse_if_in_use(connection, url, version)
        await connection.execute("SELECT set_config('dyrygentd.host', %s, true)", [host])
        logger.warning("bringing the database '%s' from schema %d to %d", url, version, wanted)
        for step in range(version, wanted):
            await connection.execute(steps[step].encode())
    else:
        for name in ("schema.sql", "letters.sql"):
            await connection.execute(_file(name).encode())
        await connection.execute("INSERT INTO about (version) VALUES (0)")
    await connection.execute(_file("functions.sql").encode())
    await connection.execute("UPDATE about SET version = %s", [wanted])


async def _locked(connection: AsyncConnection, url: PostgresUrl) -> StoreUnavailable:
    """Return the error that says who has what is to be changed."""
    sessions = await _one(connection, _HAVE_LOCKS, url.schema, -await lock_number(connection, url))
    error = StoreUnavailable(f"the database '{url}' is locked by the sessions {sessions or 'that have ended just now'}")
    error.next_step = (
        "one that brings it up to date is waited for; one that was forgotten: `SELECT pg_terminate_backend(NUMBER);` there"
    )
    return error


async def _refuse_if_in_use(connection: AsyncConnection, url: PostgresUrl, version: int) -> None:
    """Raise `StoreLocked` if somebody has a schema of an older version: it would miss what is changed."""
    is_free = await _one(connection, "SELECT pg_try_advisory_xact_lock(%s)", await lock_number(connection, url))
    if is_free and version >= LEASE_SINCE:
        is_free = await _one(
            connection, "SELECT NOT in_use OR until < extract(epoch FROM clock_timestamp()) FROM owner FOR UPDATE"
        )
    if not is_free:
        holder = await _one(connection, "SELECT holder FROM owner")
        error = StoreLocked(f"the database '{url}' is in use by {holder}, of an older version")
        error.next_step = "stop that one; whoever waits brings the database up to date, and leads"
        raise error


async def version_of(connection: AsyncConnection, url: PostgresUrl) -> int:
    """Return the version of a schema that is ours, 0 if it is empty. Raises `StoreIncompatible` or `StoreUnavailable`."""
    if await _one(connection, "SELECT has_schema_privilege(to_regnamespace(%s)::oid, 'USAGE') IS FALSE", url.schema):
        # What is in it does not exist for this role, the server would say.
        user = connection.info.user
        error = StoreUnavailable(f"permission denied for schema '{url.schema}' of '{url}', whose user is '{user}'")
        error.next_step = (
            f"name its owner; or, as a superuser there: `ALTER SCHEMA {url.schema} OWNER TO {user};`, and all that is in it"
        )
        raise error
    tables = await connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'v')", [url.schema]
    )
    names = {name for (name,) in await tables.fetchall()}
    if not names:
        return 0
    if "about" not in names or "owner" not in names:
        raise _incompatible(
            f"the schema '{url.schema}' of '{url}' has tables of another program",
            "name another schema: add `?schema=NAME` to the URL",
        )
    version = int(await _one(connection, VERSION_QUERY))
    refuse_newer(url, version)
    return version


def refuse_newer(url: PostgresUrl, version: int) -> None:
    """Raise `StoreIncompatible` if a schema is of a version that this program does not know."""
    if version > VERSION:
        raise _incompatible(
            f"the schema '{url.schema}' of '{url}' was written by a newer dyrygentd (schema {version}, this one reads up to"
            f" {VERSION})",
            "install that version here, too, or name another schema",
        )


async def lock_number(connection: AsyncConnection, url: PostgresUrl) -> int:
    """Return the number of the advisory lock of whoever has the schema without the lease."""
    return LOCK_SPACE + int(await _one(connection, "SELECT to_regnamespace(%s)::oid::bigint", url.schema))


async def refuse_unfit(connection: AsyncConnection, url: PostgresUrl, *, server_min: int = SERVER_MIN) -> None:
    """Raise `StoreIncompatible` or `StoreUnavailable` if server or database cannot be used, whatever is in them."""
    if connection.info.server_version < server_min:
        number = connection.info.server_version // 10000
        raise _incompatible(f"'{url}' is PostgreSQL {number}, which is too old", "name a server of version 13 or newer")
    cursor = await connection.execute("SELECT pg_is_in_recovery(), current_setting('server_encoding')")
    row = await cursor.fetchone()
    assert row is not None
    is_standby, encoding = row
    if is_standby:
        error = StoreUnavailable(f"'{url}' is a standby, which cannot be written")
        error.next_step = "name the primary, or several hosts of which one is it: postgresql://one,two/NAME"
        raise error
    if encoding != "UTF8":
        raise _incompatible(
            f"'{url}' has the encoding {encoding}", "make one with `createdb --encoding UTF8 --template template0 NAME`"
        )


async def _make_schema(connection: AsyncConnection, url: PostgresUrl) -> None:
    try:
        await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(url.schema)))
    except psycopg.errors.UniqueViolation:
        pass  # Somebody else was a moment earlier.
    except psycopg.errors.InsufficientPrivilege as error:
        raise no_schema(connection, url) from error


def no_schema(connection: AsyncConnection, url: PostgresUrl) -> StoreUnavailable:
    """Return the error that says that the schema has to be made by somebody else."""
    error = StoreUnavailable(f"there is no schema '{url.schema}' in '{url}', and its user may not make one")
    error.next_step = f"as a superuser there: `CREATE SCHEMA {url.schema} AUTHORIZATION {connection.info.user};`"
    return error


async def _one(connection: AsyncConnection, query: str, *values: Any) -> Any:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return row[0]


def _incompatible(message: str, next_step: str) -> StoreIncompatible:
    error = StoreIncompatible(message)
    error.next_step = next_step
    return error
