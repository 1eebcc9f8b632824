"""The schema is made once, upgraded under a lock, and whatever is not ours or is newer is left alone."""

from pathlib import Path

import anyio
import psycopg
import pytest

from dyrygentd.errors import StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Holder, Term
from dyrygentd.store.postgres import migrations
from dyrygentd.store.postgres.connection import connect
from dyrygentd.store.postgres.migrations import VERSION
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.store.records import workflow
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
    with pytest.raises(StoreIncompatible, match=rf"newer dyrygentd \(schema 99, this one reads up to {VERSION}\)") as refused:
        await store.open()
    assert "install that version here, too" in refused.value.next_step
    assert shared_postgres.execute(f"SELECT version FROM {url.schema}.about") == [(99,)]


async def test_server_is_too_old(url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """It is refused with its version and the one that is needed, before anything is made."""
    async with await connect(url) as connection:
        with pytest.raises(StoreIncompatible, match=r"is PostgreSQL \d+, which is too old") as refused:
            await migrations.prepare(connection, url, server_min=connection.info.server_version + 1)
    assert refused.value.next_step == "name a server of version 13 or newer"
    assert shared_postgres.execute("SELECT to_regnamespace(%s)", url.schema) == [(None,)]


async def test_older_version(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """An older schema is brought up in one transaction: a step that fails leaves all as it was; the next start tries again."""
    await store.close()
    steps = {VERSION: "ALTER TABLE notes ADD COLUMN a integer", VERSION + 1: "ALTER TABLE notes ADD COLUMN a integer"}
    async with await connect(url) as connection:
        with pytest.raises(psycopg.Error, match="already exists"):
            await migrations.prepare(connection, url, version_wanted=VERSION + 2, steps=steps)
        assert shared_postgres.execute(f"SELECT version FROM {url.schema}.about") == [(VERSION,)]
        steps[VERSION + 1] = "ALTER TABLE notes ADD COLUMN b integer"
        await migrations.prepare(connection, url, version_wanted=VERSION + 2, steps=steps)
    assert shared_postgres.execute(f"SELECT version FROM {url.schema}.about") == [(VERSION + 2,)]
    assert shared_postgres.execute(f"SELECT a, b FROM {url.schema}.notes LIMIT 1") == [(None, None)]


async def test_from_the_first_version(url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """A schema of version 1 with its rows is what a new one is, once nobody has it any more, and is used as before."""
    _make_first_version(shared_postgres, url)
    async with await connect(url) as earlier:
        number = await migrations.lock_number(earlier, url)
        # A daemon of version 1 has this lock.
        await earlier.execute("SELECT pg_try_advisory_lock(%s)", [number])
        store = PostgresStore(url)
        with pytest.raises(StoreLocked, match="is in use by process 7, of an older version") as refused:
            await store.open()
        assert "brings the database up to date" in refused.value.next_step
    await store.open()
    assert await store.term() == Term(3, Holder("h", 7, 1700000000.5))
    assert await store.recall("n") == "kept"
    await store.save([workflow("w")], [])
    await store.close()
    new = PostgresStore(PostgresUrl(url.conninfo, f"{url.schema}_new"))
    await new.open()
    await new.close()
    assert _shape(shared_postgres, url.schema) == _shape(shared_postgres, f"{url.schema}_new")


async def test_from_each_version(url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """A schema that stopped at any version on the way is what a new one is after it, so no step was changed once it had run."""
    now = PostgresUrl(url.conninfo, f"{url.schema}_new")
    async with await connect(now) as connection:
        await migrations.prepare(connection, now)
    for version in range(2, VERSION):
        between = PostgresUrl(url.conninfo, f"{url.schema}_{version}")
        _make_first_version(shared_postgres, between)
        async with await connect(between) as connection:
            await migrations.prepare(connection, between, version_wanted=version)
            assert shared_postgres.execute(f"SELECT version FROM {between.schema}.about") == [(version,)]
            assert _shape(shared_postgres, between.schema) != _shape(shared_postgres, now.schema)
            await migrations.prepare(connection, between)
        assert _shape(shared_postgres, between.schema) == _shape(shared_postgres, now.schema)


async def test_older_version_in_use(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """As long as somebody leads on an older schema nobody changes it under his feet."""
    steps = {VERSION: "ALTER TABLE notes ADD COLUMN a integer"}
    async with await connect(url) as connection:
        with pytest.raises(StoreLocked, match=r"is in use by process \d+ on .*, of an older version"):
            await migrations.prepare(connection, url, version_wanted=VERSION + 1, steps=steps)
        await store.close()
        await migrations.prepare(connection, url, version_wanted=VERSION + 1, steps=steps)


async def test_somebody_has_a_lock(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """A transaction that was forgotten keeps a schema from being changed; it is named, and holds nobody else up for long."""
    await store.close()
    steps = {VERSION: "ALTER TABLE notes ADD COLUMN a integer"}
    async with await connect(url) as forgotten, await connect(url) as connection:
        await forgotten.execute("BEGIN")
        await forgotten.execute("SELECT * FROM notes")
        with pytest.raises(
            StoreUnavailable, match=rf"is locked by the sessions {forgotten.info.backend_pid} \(dyrygentd:s"
        ) as told:
            await migrations.prepare(connection, url, version_wanted=VERSION + 1, steps=steps, lock_max_s=0.2)
        assert "pg_terminate_backend" in told.value.next_step
        assert shared_postgres.execute(f"SELECT version FROM {url.schema}.about") == [(VERSION,)]
        await forgotten.execute("COMMIT")
        await migrations.prepare(connection, url, version_wanted=VERSION + 1, steps=steps)
        assert await (await connection.execute("SHOW lock_timeout")).fetchone() == ("0",)
    assert shared_postgres.execute(f"SELECT version FROM {url.schema}.about") == [(VERSION + 1,)]


async def test_somebody_else_brings_it_up_to_date(url: PostgresUrl, store: PostgresStore) -> None:
    """Who waits for that says so, to the service manager as well; whoever asks it who leads is told, and not kept waiting."""
    await store.close()
    told, taken = anyio.Event(), list[bool]()
    waiting = PostgresStore(url, progress=lambda what, done, of: told.set())

    async def take() -> None:
        taken.append(await waiting.lease.take(Holder("h", 7, 1700000000.5)))

    async with await connect(url) as other, await connect(url) as third, anyio.create_task_group() as tasks:
        number = await migrations.lock_number(other, url)
        await other.execute("SELECT pg_advisory_lock(%s)", [-number])
        tasks.start_soon(take)
        await told.wait()
        with pytest.raises(StoreUnavailable, match="is being brought up to date"):
            await waiting.lease.view()
        with pytest.raises(StoreUnavailable, match=rf"is locked by the sessions {other.info.backend_pid} "):
            await migrations.prepare(third, url, lock_max_s=0.2)
        await other.execute("SELECT pg_advisory_unlock(%s)", [-number])
    assert taken == [True]
    await waiting.close()


def _make_first_version(server: PostgresServer, url: PostgresUrl) -> None:
    made = Path(__file__).with_name("version_1.sql").read_text()
    server.execute(f"CREATE SCHEMA {url.schema}; SET search_path TO {url.schema}; {made.replace('%', '%%')}")
    server.execute(f"INSERT INTO {url.schema}.about (version) VALUES (1)")
    server.execute(f"INSERT INTO {url.schema}.notes (name, value) VALUES ('n', 'kept')")
    server.execute(f"UPDATE {url.schema}.owner SET session = 3, term = '3 7 1700000000.500 h', holder = 'process 7'")


def _shape(server: PostgresServer, schema: str) -> list[tuple[object, ...]]:
    """Return all columns, indexes and functions of a schema."""
    columns = server.execute(
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = %s ORDER BY 1, 2",
        schema,
    )
    indexes = server.execute("SELECT indexname FROM pg_indexes WHERE schemaname = %s ORDER BY 1", schema)
    functions = server.execute("SELECT proname, prosrc FROM pg_proc WHERE pronamespace = %s::regnamespace ORDER BY 1", schema)
    return [*columns, *indexes, *functions]
