"""The schema is made once, upgraded under a lock, and whatever is not ours or is newer is left alone."""

import anyio
import psycopg
import pytest

from dyrygentd.errors import StoreIncompatible, StoreLocked
from dyrygentd.store.postgres import migrations
from dyrygentd.store.postgres.connection import connect
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]


async def test_two_at_once_make_it_once(url: PostgresUrl) -> None:
    """Of daemons that start together one has the schema, and the others are refused; nobody fails over what another one makes."""
    stores = [PostgresStore(url) for _ in range(4)]
    refused: list[str] = []

    async def start(store: PostgresStore) -> None:
        try:
            await store.open()
        except StoreLocked as error:
            refused.append(error.message)

    async with anyio.create_task_group() as tasks:
        for store in stores:
            tasks.start_soon(start, store)
    assert len(refused) == 3
    assert [bool(store.identity) for store in stores].count(True) == 1
    for store in stores:
        await store.close()


async def test_newer_version(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """A schema of a newer version is refused with the step, and not touched."""
    await store.close()
    shared_postgres.execute(f"UPDATE {url.schema}.about SET version = 99")
    with pytest.raises(
        StoreIncompatible, match=rf"newer dyrygentd \(schema 99, this one reads up to {migrations.VERSION}\)"
    ) as refused:
        await store.open()
    assert "install that version again" in refused.value.next_step
    assert shared_postgres.execute(f"SELECT version FROM {url.schema}.about") == [(99,)]


async def test_older_version(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """An older schema is brought up in one transaction: a step that fails leaves all as it was; the next start tries again."""
    await store.close()
    now = migrations.VERSION
    steps = {now: "ALTER TABLE notes ADD COLUMN a integer", now + 1: "ALTER TABLE notes ADD COLUMN a integer"}
    async with await connect(url) as connection:
        with pytest.raises(psycopg.Error, match="already exists"):
            await migrations.prepare(connection, url, version_wanted=now + 2, steps=steps)
        assert shared_postgres.execute(f"SELECT version FROM {url.schema}.about") == [(now,)]
        steps[now + 1] = "ALTER TABLE notes ADD COLUMN b integer"
        await migrations.prepare(connection, url, version_wanted=now + 2, steps=steps)
    assert shared_postgres.execute(f"SELECT version FROM {url.schema}.about") == [(now + 2,)]
    assert shared_postgres.execute(f"SELECT a, b FROM {url.schema}.notes LIMIT 1") == [(None, None)]


async def test_anothers_schema(url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """A schema that has tables of another program is refused, with a way to name another one."""
    shared_postgres.execute(f"CREATE SCHEMA {url.schema}")
    shared_postgres.execute(f"CREATE TABLE {url.schema}.invoices (id integer)")
    with pytest.raises(StoreIncompatible, match="tables of another program") as refused:
        await PostgresStore(url).open()
    assert "?schema=NAME" in refused.value.next_step


async def test_unfit_encoding(shared_postgres: PostgresServer) -> None:
    """A database that cannot hold every text is refused at the start and not at the first name with an accent."""
    shared_postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreIncompatible, match="has the encoding LATIN1") as refused:
        await PostgresStore(shared_postgres.url("latin")).open()
    assert "createdb --encoding UTF8" in refused.value.next_step


async def test_too_old(url: PostgresUrl) -> None:
    """A server older than what is used of it is refused by its number."""
    async with await connect(url) as connection:
        with pytest.raises(StoreIncompatible, match=r"is PostgreSQL \d+, which is too old"):
            await migrations.prepare(connection, url, server_min=990000)
