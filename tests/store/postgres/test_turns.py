"""One transaction a turn, by one process, each exactly once, whatever becomes of connections and servers."""

from pathlib import Path

import anyio
import psycopg
import pytest

from dyrygentd.core.records import JournalEntry
from dyrygentd.errors import Fenced, StoreLocked, StoreUnavailable
from dyrygentd.ports import Store
from dyrygentd.ports.facts import CLOSED_NOTE, SETBACK_NOTE, Holder, Selection
from dyrygentd.store.continuity import WentBack
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.store.records import finished, node, workflow
from tests.support.directories import short_directory
from tests.support.postgres import LaggingReplica, PostgresServer, programs_or_skip
from tests.support.proxy import CuttingProxy

pytestmark = [pytest.mark.anyio, pytest.mark.long]


def _entry(workflow_id: str, why: str) -> JournalEntry:
    return JournalEntry(workflow_id, 1700000000.5, "hold", "somebody", why, ("a",), 1)


async def _saved(store: Store, *args: object) -> None:
    """Save, as often as it takes."""
    for _ in range(100):
        try:
            await store.save(*args)  # type: ignore[arg-type]
        except StoreUnavailable:
            await anyio.sleep(0.05)
        else:
            return
    raise AssertionError("it was never saved")


async def test_second_process_is_refused(url: PostgresUrl, store: PostgresStore) -> None:
    """A second daemon on the same schema is told who has it, and changes nothing; on another schema it is welcome."""
    second = PostgresStore(url)
    with pytest.raises(StoreLocked, match=r"is in use by process \d+ on"):
        await second.open()
    await store.save([workflow("w")], [])
    other = PostgresStore(PostgresUrl(url.conninfo, f"{url.schema}_other"))
    await other.open()
    assert other.identity != store.identity
    assert await other.list(Selection()) == []
    await other.close()
    await store.close()
    await second.open()
    assert await second.record("w") is not None
    await second.close()


async def test_lost_answer(by_proxy: PostgresUrl, proxy: CuttingProxy, shared_postgres: PostgresServer) -> None:
    """A turn that was committed and whose answer was lost is not done again when it is repeated with more."""
    store = PostgresStore(by_proxy, history_max=2)
    await store.open()
    await store.save([workflow("w"), workflow("x")], [node("w", 0)], [_entry("w", "first")])
    proxy.cut_reply_to("cut here")
    turn = [finished(workflow("x"))], [node("w", 1)], [_entry("w", "cut here"), _entry("w", "cut here")]
    with pytest.raises(StoreUnavailable, match="cannot write the database"):
        await store.save(*turn)
    assert proxy.cuts == 1
    # As the scheduler does: what happened meanwhile comes with it.
    await _saved(store, turn[0], [*turn[1], node("w", 2)], [*turn[2], _entry("w", "later")])
    assert [entry.why for entry in await store.journal("w")] == ["first", "cut here", "cut here", "later"]
    loaded = await store.load("w")
    assert loaded is not None
    assert sorted(row.node for row in loaded.nodes) == [0, 1, 2]
    assert store.statistics().finished_workflows == 1
    await store.save([], [], [_entry("w", "cut here")])
    assert len(await store.journal("w")) == 5
    (turns,) = shared_postgres.execute(f"SELECT turn FROM {by_proxy.schema}.owner")
    assert turns == (4,)
    await store.close()


async def test_lost_answer_to_a_workflow_that_went_at_once(by_proxy: PostgresUrl, proxy: CuttingProxy) -> None:
    """The answer may have told of a deletion, too; the repetition makes nothing of what is gone that belongs to nobody."""
    store = PostgresStore(by_proxy, history_max=0)
    await store.open()
    await store.save([workflow("w")], [node("w", 0)])
    proxy.cut_reply_to("cut here")
    turn = [finished(workflow("w"))], [node("w", 1, error="cut here")], [_entry("w", "x")]
    with pytest.raises(StoreUnavailable):
        await store.save(*turn)
    await _saved(store, *turn)
    assert await store.record("w") is None
    assert await store.journal("w") == []
    assert await store.unfinished_count() == 0
    await store.close()


async def test_lost_question(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """A connection that was cut between two turns costs one failure and no row."""
    await store.save([workflow("w")], [])
    for number in range(3):
        _cut(shared_postgres, url)
        await _saved(store, [], [node("w", number)], [_entry("w", str(number))])
    assert [entry.why for entry in await store.journal("w")] == ["0", "1", "2"]
    assert store.statistics().failures == 3


async def test_reading_goes_on_over_a_cut(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """Who reads does not notice that connections were ended: a new one is made."""
    await store.save([workflow("w")], [node("w", 0)])
    _cut(shared_postgres, url)
    assert await store.record("w") is not None
    assert await store.load("w") is not None
    assert len(await store.list(Selection())) == 1


async def test_taken_over_meanwhile(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """A daemon whose session the server has ended, and whose place another one has taken, writes nothing any more and says so."""
    await store.raise_term(Holder("here", 1, 1700000000.5))
    await store.save([workflow("w")], [])
    _cut(shared_postgres, url)
    second = PostgresStore(url)
    await _opened(second)
    await second.save([], [node("w", 0)])
    await second.raise_term(Holder("there", 7, 1700000000.5))
    with pytest.raises(StoreUnavailable, match="closed the connection"):
        await store.save([], [node("w", 1)])
    for _ in range(2):
        with pytest.raises(Fenced, match=r"process \d+ on '.+' since .+ holds term 2; this one has term 1"):
            await store.save([], [node("w", 1)])
    await second.close()
    with pytest.raises(Fenced):
        await store.remember("n", "1")
    assert "holds term 2" in store.statistics().problem
    await second.open()
    loaded = await second.load("w")
    assert loaded is not None
    assert [row.node for row in loaded.nodes] == [0]
    await second.close()


async def test_late_transaction_of_a_lost_session(
    url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer
) -> None:
    """What a session that we gave up sends late, or another program with our numbers, is refused as a whole."""
    await store.save([workflow("w")], [])
    (numbers,) = shared_postgres.execute(f"SELECT session, turn FROM {url.schema}.owner")
    _cut(shared_postgres, url)
    await _saved(store, [], [node("w", 0)])
    with psycopg.connect(url.conninfo, options=f"-c search_path={url.schema}") as late:
        late.execute("DELETE FROM nodes")
        with pytest.raises(psycopg.Error) as refused:
            late.execute("SELECT take_turn(%s, %s)", numbers)
    assert refused.value.sqlstate == "DY001"
    loaded = await store.load("w")
    assert loaded is not None
    assert len(loaded.nodes) == 1


async def test_went_back(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """A server that lacks turns it has answered for is not written to, and the step says how to go on."""
    await store.save([workflow("w")], [])
    shared_postgres.execute(f"UPDATE {url.schema}.owner SET turn = turn - 1")
    for _ in range(2):
        with pytest.raises(WentBack, match="has 0 turns and has answered for 1: it went back") as refused:
            await store.save([], [node("w", 0)])
    assert "restart the daemon" in refused.value.next_step
    assert "it went back" in store.statistics().problem


async def test_place_is_another_one(url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """A schema that was restored elsewhere, or whose server failed over, is taken for older than what was done with it."""
    store = PostgresStore(url)
    await store.open()
    assert store.setback == ""
    await store.close()
    await store.open()
    assert store.setback == ""
    await store.close()
    shared_postgres.execute(f"UPDATE {url.schema}.owner SET place = '1/2/3/4'")
    await store.open()
    assert "restored from a copy" in store.setback
    assert await store.recall(SETBACK_NOTE) is not None
    await store.close()
    await store.open()
    assert store.setback == ""
    await store.close()


async def test_failover_is_known_at_once(postgres_server: PostgresServer) -> None:
    """Who leads next after a failover knows that turns may be lacking, also before the new primary's first checkpoint."""
    if not (programs_or_skip() / "pg_basebackup").exists():
        pytest.skip("NOT RUN: these programs of PostgreSQL have no pg_basebackup, as those that npm has")
    schema = "failover"
    first = PostgresStore(postgres_server.url(schema=schema))
    await first.open()
    await first.save([workflow("w")], [])
    with short_directory() as directory, LaggingReplica(directory, postgres_server) as replica:
        await first.save([workflow("lost")], [])
        await first.close()
        replica.promote()
        second = PostgresStore(replica.url(schema=schema))
        while not await second.lease.take(Holder.here(0)):  # noqa: ASYNC110 - the server's clock decides
            await anyio.sleep(0.05)
        await second.open()
        assert "a standby took over" in second.setback
        assert await second.record("w") is not None
        assert await second.record("lost") is None
        await second.close()
        await second.open()
        assert second.setback == ""
        await second.close()


async def test_when_it_was_closed(url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """A start knows until when the last process had the database, and whether it closed it."""
    store = PostgresStore(url)
    await store.open()
    assert await store.recall(CLOSED_NOTE) is None
    await store.close()
    await store.open()
    assert '"killed": false' in (await store.recall(CLOSED_NOTE) or "")
    await store.save([workflow("w")], [])
    await _abandon(store)
    second = PostgresStore(url)
    await _opened(second)
    assert '"killed": true' in (await second.recall(CLOSED_NOTE) or "")
    assert shared_postgres.execute(f"SELECT session FROM {url.schema}.owner") == [(6,)]
    await second.close()


async def test_killed_server(postgres_server: PostgresServer, short_tmp: Path) -> None:
    """A server that is killed amid turns, and started again, has every turn that was answered, and none twice."""
    url = postgres_server.url()
    store = PostgresStore(url)
    await store.open()
    await store.save([workflow("w")], [])
    answered: list[int] = []

    async def write() -> None:
        for number in range(60):
            await _saved(store, [], [node("w", number)], [_entry("w", str(number))])
            answered.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        for enough in (15, 35):
            while len(answered) < enough:  # noqa: ASYNC110 - the disk decides
                await anyio.sleep(0.001)
            await anyio.to_thread.run_sync(postgres_server.kill)
            await anyio.to_thread.run_sync(postgres_server.start)
    assert [entry.why for entry in await store.journal("w")] == [str(number) for number in range(60)]
    loaded = await store.load("w")
    assert loaded is not None
    assert len(loaded.nodes) == 60
    await store.close()


def _cut(server: PostgresServer, url: PostgresUrl) -> None:
    """End the connections of whoever has this schema; those of other tests stay."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    assert len(server.execute(query, f"dyrygentd:{url.schema}"))


async def _abandon(store: PostgresStore) -> None:
    """Let the connections go as a killed process does."""
    connection = store._turns._connection
    assert connection is not None
    connection.pgconn.finish()
    store._reader.close()
    store.lease.close()


async def _opened(store: PostgresStore) -> None:
    """Open it as soon as the lease of the last one is over."""
    for _ in range(300):
        try:
            return await store.open()
        except StoreLocked:
            await anyio.sleep(0.05)
    raise AssertionError("the lease was never over")


@pytest.mark.parametrize("is_connected", [True, False])
async def test_overtaken_while_the_server_hangs(postgres_server: PostgresServer, is_connected: bool) -> None:
    """Who hears elsewhere that it was overtaken does not wait for a server that hangs: not for its answer, nor to be let in."""
    url = PostgresUrl.read(f"{postgres_server.conninfo()}&tcp_user_timeout=600000&connect_timeout=600")
    store = PostgresStore(url)
    await store.open()
    await store.save([workflow("w")], [])
    if not is_connected:
        store._turns._lose(store._turns._connection)  # type: ignore[arg-type]
    postgres_server.hang()
    raised: list[Fenced] = []

    async def save() -> None:
        with pytest.raises(Fenced) as refused:
            await store.save([], [node("w", 0)])
        raised.append(refused.value)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save)
            await anyio.wait_all_tasks_blocked()
            store.lease.lose(Fenced(1, 2, "process 7 on 'elsewhere'"))
        with pytest.raises(Fenced):
            await store.save([], [node("w", 0)])
        await store.close()
    assert [error.by for error in raised] == ["process 7 on 'elsewhere'"]
    postgres_server.go_on()
