"""Looking at a database on PostgreSQL without changing it. Copies and damage are for the server's own tools."""

from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection

from dyrygentd.store.postgres.connection import connect, drop, refusal_to
from dyrygentd.store.postgres.migrations import lock_number, no_schema, refuse_unfit, version_of
from dyrygentd.store.postgres.url import PostgresUrl


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
    """Look at a database, which may be in use.

    Raises:
        StoreUnavailable: It cannot be reached, or this role may not use it.
        StoreIncompatible: Server, database or schema cannot be used.
    """
    connection = None
    try:
        connection = await connect(url)
        return await _look(connection, url)
    except psycopg.Error as error:
        raise refusal_to("look at", url, error) from error
    finally:
        if connection is not None:
            drop(connection)


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
        "SELECT (SELECT holder FROM owner), pg_try_advisory_lock(%s), ("
        " SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
        " WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r')",
        [await lock_number(connection, url), url.schema],
    )
    row = await cursor.fetchone()
    assert row is not None
    holder, is_free, table_bytes = row
    return SchemaFacts(server, version, dict(await workflows.fetchall()), "" if is_free else holder, table_bytes)
