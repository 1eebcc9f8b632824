"""One process leads at a time, by the server's clock; whoever had the lease before changes nothing."""

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import anyio
import psycopg
import pytest

from dyrygentd.errors import Fenced, StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Holder
from dyrygentd.store.postgres.lease import PostgresLease
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.store.records import node, workflow
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]

HERE, THERE = Holder("here", 1, 1700000000.5), Holder("there", 2, 1700000001.25)

Made = Callable[..., PostgresStore]


@pytest.fixture
async def made(url: PostgresUrl) -> AsyncIterator[Made]:
    """Makes processes on one schema, whose leases last for a minute unless it is said otherwise."""
    stores: list[PostgresStore] = []

    def make(ttl_s: float = 60.0) -> PostgresStore:
        stores.append(PostgresStore(url, lease_ttl_s=ttl_s))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


async def _taken(lease: PostgresLease, holder: Holder) -> None:
    """Take it as soon as it can be had."""
    with anyio.fail_after(20):
        while not await lease.take(holder):  # noqa: ASYNC110 - the server's clock decides
            await anyio.sleep(0.05)


async def test_one_has_it(made: Made) -> None:
    """It is had by one until that one lets it go; who that is, and for how long still, is told to everybody."""
    first, second = made().lease, made().lease
    assert (await second.view()).holder is None
    assert not (await second.view()).is_held
    assert await first.take(HERE)
    assert not await second.take(THERE)
    view = await second.view()
    assert (view.holder, view.term, view.is_held) == (HERE, 0, True)
    assert 50 < view.left_s <= 60
    # A repetition, as after a lost answer.
    assert await first.take(HERE)
    await first.resign()
    assert not (await second.view()).is_held
    assert await second.take(THERE)
    # It is another's.
    await first.resign()
    assert (await second.view()).holder == THERE
    assert not await first.take(HERE)


async def test_all_at_once(made: Made) -> None:
    """Of many who want it at one time one has it."""
    leases = [made().lease for _ in range(8)]
    had: list[bool] = []

    async def take(lease: PostgresLease) -> None:
        had.append(await lease.take(HERE))

    async with anyio.create_task_group() as tasks:
        for lease in leases:
            tasks.start_soon(take, lease)
    assert sorted(had) == [False] * 7 + [True]


async def test_over(made: Made) -> None:
    """It is over after its time; whoever had it is told at the next word that it sends, and nothing of that is kept."""
    first, second = made(0.3), made()
    await first.open()
    await first.raise_term(HERE)
    await first.save([workflow("w")], [])
    await _taken(second.lease, THERE)
    for _ in range(2):
        with pytest.raises(Fenced, match="process 2 on 'there'"):
            await first.lease.renew()
    with pytest.raises(Fenced):
        await first.save([], [node("w", 0)])
    await second.open()
    loaded = await second.load("w")
    assert loaded is not None
    assert loaded.nodes == []
    await first.close()
    assert (await second.lease.view()).is_held


async def test_over_and_nobody_took_it(made: Made) -> None:
    """One that was over goes on if nobody has taken it."""
    store, other = made(0.2), made()
    await store.open()
    with anyio.fail_after(20):
        while (await other.lease.view()).is_held:  # noqa: ASYNC110 - the server's clock decides
            await anyio.sleep(0.05)
    await store.lease.renew()
    assert (await other.lease.view()).left_s > -1
    await store.save([workflow("w")], [])


async def test_each_turn_prolongs_it(made: Made) -> None:
    """A leader that saves has it for another whole time."""
    store = made()
    await store.open()
    before = await store.lease.view()
    await anyio.sleep(0.2)  # It is to be less than it was, and more again.
    assert (await store.lease.view()).left_s < before.left_s
    await store.save([workflow("w")], [])
    assert (await store.lease.view()).left_s > before.left_s - 0.2


async def test_open_takes_it(made: Made) -> None:
    """Who opens a database without having asked is refused while somebody leads, and told who; afterwards it is free."""
    first, second = made(), made()
    await first.open()
    with pytest.raises(StoreLocked, match=r"is in use by process \d+ on"):
        await second.open()
    await first.close()
    await second.open()
    assert (await second.lease.view()).is_held


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_two_names_of_one_database(made: Made, url: PostgresUrl, shared_postgres: PostgresServer, name: str) -> None:
    """Who comes to it by another name, or another way, waits as anybody else: it is the database that knows who leads."""
    first = made().lease
    assert await first.take(HERE)
    second = PostgresStore(PostgresUrl.read(f"postgresql://postgres@{name}:{shared_postgres.port}/postgres?schema={url.schema}"))
    assert not await second.lease.take(THERE)
    assert (await second.lease.view()).holder == HERE
    with pytest.raises(StoreLocked, match="is in use by"):
        await second.open()
    await second.close()


async def test_newer_schema_is_not_led(made: Made, url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """Who waited while a newer version has changed the schema says so, and does not take it when it is free."""
    first, second = made(), made().lease
    await first.open()
    assert not await second.take(THERE)
    shared_postgres.execute(f"UPDATE {url.schema}.about SET version = 99")
    await first.close()
    for _ in range(2):
        with pytest.raises(StoreIncompatible, match=r"newer dyrygentd \(schema 99, "):
            await second.take(THERE)
        with pytest.raises(StoreIncompatible):
            await second.view()
    assert shared_postgres.execute(f"SELECT in_use FROM {url.schema}.owner") == [(False,)]


async def test_schema_changes_while_it_is_taken(made: Made, url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """A newer version that is a moment earlier: the older one has taken it, sees that, and lets go."""
    lease = made().lease
    await lease.view()
    shared_postgres.execute(
        f"SET search_path TO {url.schema};"
        " CREATE FUNCTION newer() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE about SET version = 99; RETURN NULL; END';"
        " CREATE TRIGGER newer AFTER UPDATE ON owner FOR EACH ROW EXECUTE FUNCTION newer()"
    )
    with pytest.raises(StoreIncompatible, match="newer dyrygentd"):
        await lease.take(HERE)
    assert shared_postgres.execute(f"SELECT session, in_use FROM {url.schema}.owner") == [(1, False)]


async def test_waiting(made: Made) -> None:
    """Who waits is counted, and woken as soon as the leader lets go; without a word it looks again by itself."""
    first, second = made(), made()
    await first.open()
    assert not await second.lease.take(THERE)
    await second.lease.wait(0.01)
    assert (await first.lease.view()).standbys == 1
    woken = anyio.Event()

    async def wait() -> None:
        await second.lease.wait(600)
        woken.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(0.1)  # Nobody is woken for nothing.
        assert not woken.is_set()
        await first.close()
        with anyio.fail_after(20):
            await woken.wait()
    assert await second.lease.take(THERE)
    # Whoever leads waits no longer.
    assert (await second.lease.view()).standbys == 0


async def test_leaving(made: Made) -> None:
    """Who waits no more takes its word back."""
    first, second = made(), made()
    await first.open()
    assert not await second.lease.take(THERE)
    await second.lease.wait(0.01)
    await second.lease.resign()
    assert (await first.lease.view()).standbys == 0


async def test_connections_are_cut(made: Made, shared_postgres: PostgresServer, url: PostgresUrl) -> None:
    """A server that ends all connections costs nobody the lease, and who waits goes on."""
    first, second = made(), made()
    await first.open()
    assert not await second.lease.take(THERE)
    await second.lease.wait(0.01)
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    assert len(shared_postgres.execute(query, f"dyrygentd:{url.schema}")) >= 3
    with pytest.raises(StoreUnavailable):
        await first.lease.renew()
    await first.lease.renew()
    assert not await second.lease.take(THERE)
    with pytest.raises(StoreUnavailable):
        await second.lease.wait(10)
    await second.lease.wait(0.01)


async def test_leader_stopped_amid_a_transaction(made: Made, url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """A leader that has the row locked and says nothing more does not keep others out for ever; its transaction is undone."""
    first, second = made(0.2), made()
    await first.open()
    await first.save([workflow("w")], [])
    (numbers,) = shared_postgres.execute(f"SELECT session, turn FROM {url.schema}.owner")
    with psycopg.connect(url.conninfo, options=f"-c search_path={url.schema}") as stopped:
        stopped.execute("SELECT take_turn(%s, %s)", numbers)
        stopped.execute("DELETE FROM workflows")
        await _taken(second.lease, THERE)
        with pytest.raises(psycopg.OperationalError):
            stopped.commit()
    await second.open()
    assert await second.record("w") is not None


@pytest.mark.parametrize(
    "lock", ["SELECT * FROM owner FOR UPDATE", "UPDATE owner SET holder = ''", "LOCK TABLE owner IN SHARE MODE"]
)
async def test_transaction_left_open(made: Made, url: PostgresUrl, lock: str) -> None:
    """Somebody who has locked the lease in `psql` and gone for lunch keeps nobody from leading, nor a leader stopped as early."""
    first, second = made(0.2), made()
    await first.open()
    with psycopg.connect(url.conninfo, options=f"-c search_path={url.schema}") as left_open:
        left_open.execute(lock.encode())
        await _taken(second.lease, THERE)
        with pytest.raises(psycopg.OperationalError):
            left_open.commit()


@pytest.mark.parametrize("lock", ["SELECT * FROM {}.owner FOR UPDATE", "LOCK TABLE {}.owner"])
async def test_locked_by_whom_it_may_not_end(
    shared_postgres: PostgresServer, lock: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What another user has locked cannot be ended by the role of a daemon: its log says who it is, once, and what to do."""
    database, role = shared_postgres.make_database(), f"r{uuid.uuid4().hex}"
    shared_postgres.execute(f"CREATE ROLE {role} LOGIN")
    shared_postgres.execute(f"ALTER DATABASE {database} OWNER TO {role}")
    url = shared_postgres.url(database, user=role)
    store = PostgresStore(url)
    await store.open()
    await store.close()
    with psycopg.connect(shared_postgres.conninfo(database), application_name="psql") as human:
        pid = human.info.backend_pid
        human.execute(lock.format(url.schema).encode())
        for _ in range(2):
            with suppress(StoreUnavailable):
                assert not await store.lease.take(THERE)
        human.rollback()
    assert await store.lease.take(THERE)
    told = [record.getMessage() for record in caplog.records if "pg_terminate_backend" in record.getMessage()]
    assert [f"process {pid} of 'postgres' (psql) has it locked" in words for words in told] == [True]
    await store.close()


async def test_clock_was_set_back(made: Made, url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """Who waited before the clock was set back, and has gone, is not taken for one that waits still."""
    first, second = made(), made()
    await first.open()
    assert not await second.lease.take(THERE)
    await second.lease.wait(0.01)
    assert (await first.lease.view()).standbys == 1
    shared_postgres.execute(f"UPDATE {url.schema}.standbys SET seen_at = seen_at + 86400")
    assert (await first.lease.view()).standbys == 0
    assert await first.lease.take(HERE)
    assert shared_postgres.execute(f"SELECT * FROM {url.schema}.standbys") == []


async def test_close_of_a_server_that_hangs(postgres_server: PostgresServer) -> None:
    """A server that says nothing keeps nobody from closing."""
    store = PostgresStore(postgres_server.url())
    await store.open()
    postgres_server.hang()
    begun = time.monotonic()
    await store.close()
    # Without a bound of its own it would be the time for which a server is waited for, several times.
    assert time.monotonic() - begun < 20
    postgres_server.go_on()
