"""What is wrong with a server, in words and with the next step; and connections that are left in the middle."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from dyrygentd.core.records import JournalEntry, NodeRecord
from dyrygentd.errors import InvariantBroken, ListingTooLong, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Selection
from dyrygentd.ports.mailbox import Letter, LetterKind
from dyrygentd.store.postgres.connection import Link
from dyrygentd.store.postgres.mailbox import PostgresMailbox
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.store.records import node, workflow
from tests.support.postgres import PostgresServer
from tests.support.servers import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.long]


async def test_what_is_wrong_with_the_place(shared_postgres: PostgresServer) -> None:
    """Each way in which a server does not let us in has the server's words and a step."""
    place = shared_postgres.conninfo()
    for change, words, step in (
        (("/postgres?", "/nowhere?"), 'database "nowhere" does not exist', "createdb --encoding UTF8"),
        (("postgres@", "nobody@"), 'role "nobody" does not exist', "CREATE ROLE"),
        ((f"port={shared_postgres.port}", "port=1"), "connection", "does the server run"),
    ):
        with pytest.raises(StoreUnavailable, match=words) as refused:
            await PostgresStore(PostgresUrl.read(place.replace(*change))).open()
        assert step in refused.value.next_step


async def test_role_without_rights(shared_postgres: PostgresServer) -> None:
    """Somebody has to give the role a schema of its own: less is refused at the start, by the server's words and a statement."""
    role = f"r{uuid.uuid4().hex[:12]}"
    shared_postgres.execute(f"CREATE ROLE {role} LOGIN")
    url = shared_postgres.url(user=role)
    with pytest.raises(StoreUnavailable, match=f"there is no schema '{url.schema}'") as refused:
        await PostgresStore(url).open()
    assert f"CREATE SCHEMA {url.schema} AUTHORIZATION {role};" in refused.value.next_step
    store = PostgresStore(shared_postgres.url(schema=url.schema))
    await store.open()
    await store.close()
    for given in ("SELECT 1", f"GRANT USAGE ON SCHEMA {{}} TO {role}", f"GRANT SELECT ON ALL TABLES IN SCHEMA {{}} TO {role}"):
        shared_postgres.execute(given.format(url.schema))
        with pytest.raises(StoreUnavailable, match="permission denied for") as refused:
            await PostgresStore(url).open()
        assert f"ALTER SCHEMA {url.schema} OWNER TO" in refused.value.next_step
    # Nobody has it by that: who may goes on.
    await store.open()
    await store.save([workflow("w")], [])
    await store.close()


async def test_two_names_of_one_schema(shared_postgres: PostgresServer) -> None:
    """A schema is the same store by whatever socket, address and role: one identity, and one process at a time."""
    role = f"r{uuid.uuid4().hex[:12]}"
    shared_postgres.execute(f"CREATE ROLE {role} LOGIN IN ROLE postgres")
    by_socket = shared_postgres.url()
    schema, port = by_socket.schema, shared_postgres.port
    names = [f"postgres@127.0.0.1:{port}/postgres?", f"{role}@localhost:{port}/postgres?application_name=other&"]
    first = PostgresStore(by_socket)
    await first.open()
    await first.save([workflow("w")], [])
    identity = first.identity
    others = [PostgresStore(PostgresUrl.read(f"postgresql://{name}schema={schema}")) for name in names]
    for other in others:
        with pytest.raises(StoreLocked, match="is in use by"):
            await other.open()
    await first.save([workflow("x")], [])
    await first.close()
    for other in others:
        await other.open()
        assert other.identity == identity
        assert other.setback == ""
        assert await other.record("x") is not None
        await other.close()


async def test_role_that_lost_its_rights(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """A role that may not write any more is weather: the same turn goes through when somebody has mended it."""
    await store.save([workflow("w")], [])
    shared_postgres.execute(f"ALTER TABLE {url.schema}.nodes RENAME TO elsewhere")
    with pytest.raises(StoreUnavailable, match='relation "nodes" does not exist'):
        await store.save([], [node("w", 0)])
    shared_postgres.execute(f"ALTER TABLE {url.schema}.elsewhere RENAME TO nodes")
    await store.save([], [node("w", 0)])
    assert store.statistics().failures == 1


async def test_role_with_settings_of_its_own(shared_postgres: PostgresServer) -> None:
    """What somebody has set for a role or a database changes neither what is written nor what is read."""
    database = shared_postgres.make_database()
    for name, value in (
        ("array_nulls", "off"),
        ("transform_null_equals", "on"),
        ("bytea_output", "escape"),
        ("extra_float_digits", "-15"),
        ("standard_conforming_strings", "off"),
        ("DateStyle", "German"),
        ("default_transaction_isolation", "serializable"),
        ("idle_in_transaction_session_timeout", "1ms"),
    ):
        shared_postgres.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
    store = PostgresStore(shared_postgres.url(database))
    await store.open()
    record = workflow("w", created_at=1_700_000_000.123456)
    await store.save([record], [node("w", 0)])
    loaded = await store.load("w")
    assert loaded is not None
    assert loaded.record.created_at == record.created_at
    assert [*loaded.nodes] == [node("w", 0)]
    await store.close()


async def test_what_can_never_be_written(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """A row that the server refuses for good is told apart from weather, nothing of its turn is kept, and others go on."""
    shared_postgres.execute(f"ALTER TABLE {url.schema}.nodes ADD CONSTRAINT odd CHECK (node <> 7)")
    await store.save([workflow("w")], [])
    with pytest.raises(InvariantBroken, match='violates check constraint "odd"'):
        await store.save([workflow("x")], [node("w", 0), node("w", 7)])
    too_large: NodeRecord = node("w", 2**40)
    with pytest.raises(InvariantBroken):
        await store.save([workflow("x")], [too_large])
    await store.save([workflow("y")], [node("w", 1)])
    assert await store.record("x") is None
    loaded = await store.load("w")
    assert loaded is not None
    assert [row.node for row in loaded.nodes] == [1]


async def test_server_that_may_lose_what_it_answered(shared_postgres: PostgresServer) -> None:
    """A commit that is not waited for breaks the promise of every answer: that is a problem, and told as long as it is so."""
    database = shared_postgres.make_database()
    shared_postgres.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    store = PostgresStore(shared_postgres.url(database))
    await store.open()
    assert store.statistics().problem.startswith("`synchronous_commit` of the server of 'postgresql://")
    await store.close()
    shared_postgres.execute(f"ALTER DATABASE {database} RESET synchronous_commit")
    await store.open()
    assert store.statistics().problem == ""
    await store.close()


async def test_who_stops_waiting(url: PostgresUrl, store: PostgresStore) -> None:
    """A reader that is cancelled leaves no half answer behind for the next one."""
    link = Link(url, query_max_s=30)
    await link.open()
    with anyio.move_on_after(0.05):
        await link.fetch("SELECT pg_sleep(20)")
    with anyio.fail_after(10):
        assert await link.fetch("SELECT 7") == [(7,)]
    link.close()
    with pytest.raises(StoreUnavailable, match="is not open"):
        await link.fetch("SELECT 7")


async def _listed_often(store: PostgresStore) -> None:
    """A quick machine may be quick enough once."""
    for _ in range(20):
        await store.list(Selection(labels={"none": "such"}, limit=5000))


async def test_listing_ends_in_time(url: PostgresUrl) -> None:
    """A listing that has to look at too much is given up, with what to do."""
    store = PostgresStore(url, listing_max_s=0.001)
    await store.open()
    await store.save([workflow(f"w{number}", labels={str(each): "x" for each in range(50)}) for number in range(3000)], [])
    with pytest.raises(ListingTooLong):
        await _listed_often(store)
    await store.close()


async def test_server_that_hangs(postgres_server: PostgresServer) -> None:
    """A server whose kernel answers and nobody else is given up in time, with what to look at."""
    url = PostgresUrl.read(f"{postgres_server.conninfo()}&tcp_user_timeout=500&connect_timeout=2")
    store = PostgresStore(url)
    await store.open()
    await store.save([workflow("w")], [])
    postgres_server.hang()
    with pytest.raises(StoreUnavailable, match=r"the server has not answered for 0\.5 s") as refused:
        await store.save([], [node("w", 0)])
    assert "a synchronous replica that is gone" in refused.value.next_step
    with pytest.raises(StoreUnavailable, match="connection timeout expired"):
        await store.save([], [node("w", 0)])
    postgres_server.go_on()
    await store.save([], [node("w", 0)])
    loaded = await store.load("w")
    assert loaded is not None
    assert [row.node for row in loaded.nodes] == [0]
    await store.close()


async def test_slow_transaction_gets_through(postgres_server: PostgresServer) -> None:
    """One that takes longer than a server may usually take for an answer is waited for longer each time."""
    url = PostgresUrl.read(f"{postgres_server.conninfo()}&tcp_user_timeout=300")
    store = PostgresStore(url)
    await store.open()
    postgres_server.execute(
        f"CREATE FUNCTION {url.schema}.slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NEW; END'"
    )
    await store.save([workflow("w")], [])
    postgres_server.execute(
        f"CREATE TRIGGER slow AFTER INSERT ON {url.schema}.nodes FOR EACH ROW EXECUTE FUNCTION {url.schema}.slowly()"
    )
    for _ in range(10):
        with contextlib.suppress(StoreUnavailable):
            await store.save([], [node("w", 0)])
            break
    else:
        raise AssertionError("it was never saved")
    assert store.statistics().failures == 2
    await store.close()


_ENTRY: Final = JournalEntry("w", 1700000000.5, "hold", "somebody", "first", ("a",), 1)


@contextlib.contextmanager
def _waiting_for_a_replica(server: PostgresServer) -> Iterator[None]:
    """Have each commit wait for a replica that is not there."""
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.execute("SHOW synchronous_standby_names") == [("nobody",)])
    try:
        yield
    finally:
        _want_no_replica(server)


def _want_no_replica(server: PostgresServer) -> None:
    server.execute("ALTER SYSTEM RESET synchronous_standby_names")
    server.execute("SELECT pg_reload_conf()")


def _waits_for_the_replica(server: PostgresServer) -> list[tuple[Any, ...]]:
    return server.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")


def _cancel_a_wait(server: PostgresServer) -> None:
    """Cancel the next wait for a replica, as somebody does who does not know what it is."""
    found: list[tuple[Any, ...]] = []

    def is_found() -> bool:
        found[:] = _waits_for_the_replica(server)
        return bool(found)

    wait_until(is_found)
    server.execute("SELECT pg_cancel_backend(%s)", *found[0])


async def test_wait_for_the_replica_is_cancelled(postgres_server: PostgresServer) -> None:
    """What was committed without the replica's word is not answered for, and is written once when it has been waited for."""
    url = PostgresUrl.read(f"{postgres_server.conninfo()}&schema=alone")
    store = PostgresStore(url)
    await store.open()
    with _waiting_for_a_replica(postgres_server):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, _cancel_a_wait, postgres_server)
            with pytest.raises(StoreUnavailable, match="wait for the synchronous replica was cancelled") as refused:
                await store.save([workflow("w")], [], [_ENTRY])
        assert "synchronous_standby_names" in refused.value.next_step
        async with anyio.create_task_group() as tasks:
            # The wait that tells what became of it is no more use if it is cancelled, too.
            tasks.start_soon(anyio.to_thread.run_sync, _cancel_a_wait, postgres_server)
            with pytest.raises(StoreUnavailable, match="wait for the synchronous replica was cancelled"):
                await store.save([workflow("w")], [], [_ENTRY])
    await store.save([workflow("w")], [], [_ENTRY])
    assert await store.journal("w") == [_ENTRY]
    await store.close()


async def test_letter_waits_for_the_replica(postgres_server: PostgresServer) -> None:
    """A letter whose wait for the replica was cancelled is left again, and waited for again."""
    url = PostgresUrl.read(f"{postgres_server.conninfo()}&schema=alone")
    store, box, left = PostgresStore(url), PostgresMailbox(url), list[Letter]()
    await store.open()

    async def leave() -> None:
        left.append(await box.leave(Letter("t", LetterKind.SUBMIT, b"{}", "w", host="app1")))

    with _waiting_for_a_replica(postgres_server):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await anyio.to_thread.run_sync(_cancel_a_wait, postgres_server)
            await anyio.to_thread.run_sync(wait_until, lambda: left or _waits_for_the_replica(postgres_server))
            assert left == []
            _want_no_replica(postgres_server)
    assert [letter.token for letter in await store.mailbox.take([], limit=9, bytes_max=99)] == ["t"]
    await box.close()
    await store.close()
