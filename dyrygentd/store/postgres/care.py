"""Looking at a database on PostgreSQL, and claiming it. Copies and damage are for the server's own tools."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

import psycopg
from psycopg import AsyncConnection

from dyrygentd.errors import StoreIncompatible, StoreLocked
from dyrygentd.ports.facts import CLAIM_NOTE
from dyrygentd.store.postgres.connection import connect, drop
from dyrygentd.store.postgres.lease import LEASE_TTL_S
from dyrygentd.store.postgres.migrations import VERSION, lock_number, no_schema, refuse_unfit, version_of
from dyrygentd.store.postgres.refusals import refusal_to
from dyrygentd.store.postgres.rows import REMEMBER
from dyrygentd.store.postgres.url import PostgresUrl

#: Who has it, if somebody has.
_HOLDER: Final = "SELECT holder FROM owner WHERE in_use AND until > extract(epoch FROM clock_timestamp())"
_HOLDER_BEFORE: Final = "SELECT holder FROM owner WHERE in_use"


class SchemaFacts(NamedTuple):
    """What is there.

    Attributes:
        server: Its version, as it calls itself.
        version: Of the schema; 0 if it is not there yet, and can be made.
        workflows: ``{state: number}``.
        holder: Who has it, as that process has said; empty if nobody.
        table_bytes: Of all tables with their indexes.
    """

    server: str
    version: int
    workflows: dict[str, int]
    holder: str
    table_bytes: int


async def look(url: PostgresUrl) -> SchemaFacts:
    """Look at a database, which may be in use, and change nothing.

    Raises:
        StoreUnavailable: It cannot be reached, or this role may not use it.
        StoreIncompatible: Server, database or schema cannot be used.
    """
    async with session(url, "look at") as connection:
        return await _look(connection, url)


async def claim(url: PostgresUrl, *, at: float) -> None:
    """Have the next start take a database over although another process has gone on with a copy of it.

    Args:
        at: Now, as Unix time.

    Raises:
        StoreLocked: A daemon runs on it.
        StoreUnavailable: It cannot be reached or written; nothing was changed.
        StoreIncompatible: It is not ours, or of another version; nothing was changed.
    """
    async with session(url, "claim") as connection:
        await refuse_unfit(connection, url)
        if await version_of(connection, url) != VERSION:
            raise not_this_version(url)
        await take_lock(connection, url)
        words = f"claimed at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
        await connection.execute(REMEMBER, (CLAIM_NOTE, words))


@contextlib.asynccontextmanager
async def session(url: PostgresUrl, verb: str) -> AsyncIterator[AsyncConnection]:
    """Have a connection for a while; what it has not committed is gone then."""
    connection = None
    try:
        connection = await connect(url)
        yield connection
    except psycopg.Error as error:
        raise refusal_to(verb, url, error) from error
    finally:
        if connection is not None:
            drop(connection)


async def take_lock(connection: AsyncConnection, url: PostgresUrl) -> None:
    """Have a database for oneself, so that no daemon takes it, as long as the connection is there. Raises `StoreLocked`."""
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [await lock_number(connection, url)])
    if await cursor.fetchone() != (True,):
        raise StoreLocked(f"the database '{url}' is in use by another process")
    cursor = await connection.execute(_HOLDER)
    row = await cursor.fetchone()
    if row is not None and row[0]:
        error = StoreLocked(f"the database '{url}' is in use by {row[0]}")
        error.next_step = f"stop it; if it was killed, its lease is over {LEASE_TTL_S:.0f} s later"
        raise error


def not_this_version(place: object) -> StoreIncompatible:
    """Return the error that says that a database has to be upgraded first."""
    error = StoreIncompatible(f"the database '{place}' is not of this version")
    error.next_step = "start this version's daemon on it once, which upgrades it, and stop it"
    return error


async def _look(connection: AsyncConnection, url: PostgresUrl) -> SchemaFacts:
    await refuse_unfit(connection, url)
    server = str(connection.info.parameter_status("server_version"))
    cursor = await connection.execute(
        "SELECT to_regnamespace(%s) IS NOT NULL, has_database_privilege(current_database(), 'CREATE')", [url.schema]
    )
    row = await cursor.fetchone()
    assert row is not None
    is_there, may_make = row
    if not is_there and not may_make:
        raise no_schema(connection, url)
    version = await version_of(connection, url) if is_there else 0
    if not version:
        return SchemaFacts(server, 0, {}, "", 0)
    workflows = await connection.execute("SELECT state, count(*) FROM workflows GROUP BY state ORDER BY state")
    cursor = await connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
        " WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'",
        [url.schema],
    )
    sizes = await cursor.fetchone()
    holders = await (await connection.execute(_HOLDER if version == VERSION else _HOLDER_BEFORE)).fetchone()
    assert sizes is not None
    return SchemaFacts(server, version, dict(await workflows.fetchall()), holders[0] if holders else "", sizes[0])
