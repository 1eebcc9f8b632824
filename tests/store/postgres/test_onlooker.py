"""A database that is read by a process that does not lead."""

import pytest

from dyrygentd.core.graph import Definition
from dyrygentd.errors import StoreIncompatible, StoreUnavailable
from dyrygentd.ports.facts import Holder, Retention, Selection
from dyrygentd.ports.mailbox import NotLeader
from dyrygentd.store.choice import onlooker_of
from dyrygentd.store.postgres.onlooker import PostgresOnlooker
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, scheduler
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio


async def test_it_reads_what_the_writer_reads(url: PostgresUrl) -> None:
    """All that is asked is answered as by the store that is written."""
    broker, store = FakeBroker(), PostgresStore(url)
    async with scheduler(broker, store) as leader:
        found: Definition = definition("a; b < a", name="one", key="k")
        workflow_id = (await leader.submit_definition(found)).id
        await leader.wait(workflow_id)
        await leader.submit_definition(definition("g gate=1", name="two"))
        onlooker = onlooker_of(url)
        await onlooker.open()
        assert onlooker.identity == store.identity != ""
        assert (onlooker.setback, onlooker.lease) == ("", None)
        assert onlooker.mailbox is not None
        for reader in (store, onlooker):
            assert await reader.find_key("k") == workflow_id
        assert await onlooker.record(workflow_id) == await store.record(workflow_id)
        assert await onlooker.load(workflow_id) == await store.load(workflow_id)
        assert await onlooker.list(Selection()) == await store.list(Selection())
        assert await onlooker.find("one") == [workflow_id]
        assert await onlooker.journal(workflow_id) == await store.journal(workflow_id)
        assert await onlooker.last_entry(workflow_id, "pause") is None
        assert await onlooker.audit(None, limit=5) == await store.audit(None, limit=5)
        assert await onlooker.recall("identity") == store.identity
        assert await onlooker.term() == await store.term()
        assert await onlooker.unfinished_count() == 1
        assert [stored.record.name async for stored in onlooker.unfinished()] == ["two"]
        assert onlooker.statistics().commits == 0
        await onlooker.close()
        await onlooker.close()
        with pytest.raises(StoreUnavailable, match="not open"):
            await onlooker.record(workflow_id)


async def test_it_writes_nothing(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """Its sessions are read only, and what would write says who may."""
    onlooker = PostgresOnlooker(url)
    await onlooker.open()
    for write in (
        onlooker.save([], []),
        onlooker.remember("name", "value"),
        onlooker.raise_term(Holder("here", 1, 0.0)),
        onlooker.expire(Retention(), limit=1),
        onlooker.load("w", to_reopen=True),
    ):
        with pytest.raises(NotLeader):
            await write
    with pytest.raises(StoreUnavailable, match="read-only transaction"):
        await onlooker._reader.number("DELETE FROM notes RETURNING 1")
    await onlooker.close()


async def test_it_may_be_there_before_the_leader_is(url: PostgresUrl) -> None:
    """A standby that is started first waits for the schema, and reads it when it is there."""
    onlooker = PostgresOnlooker(url)
    await onlooker.open()
    assert onlooker.identity == ""
    with pytest.raises(StoreUnavailable, match="does not exist"):
        await onlooker.unfinished_count()
    store = PostgresStore(url)
    await store.open()
    assert await onlooker.unfinished_count() == 0
    await store.close()
    await onlooker.close()


async def test_server_that_is_away_is_waited_for(postgres_server: PostgresServer) -> None:
    """It may be opened while the server is away, and reads when that is back."""
    url = postgres_server.url()
    store = PostgresStore(url)
    await store.open()
    await store.close()
    postgres_server.stop()
    onlooker = PostgresOnlooker(url)
    await onlooker.open()
    with pytest.raises(StoreUnavailable):
        await onlooker.unfinished_count()
    postgres_server.start()
    assert await onlooker.unfinished_count() == 0
    await onlooker.close()


async def test_newer_schema_is_refused(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """A gateway that is older than the leader says what to do."""
    shared_postgres.execute(f'UPDATE "{url.schema}".about SET version = 999')
    with pytest.raises(StoreIncompatible, match=r"newer dyrygentd \(schema 999,") as error:
        await PostgresOnlooker(url).open()
    assert error.value.next_step == "install that version here, too, or name another schema"
