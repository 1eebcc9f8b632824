"""Looking at a database on PostgreSQL beside a daemon, and claiming it without one."""

import pytest

from dyrygentd.errors import StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import CLAIM_NOTE
from dyrygentd.store.postgres.care import claim, look
from dyrygentd.store.postgres.migrations import VERSION
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.store.records import workflow
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]


async def test_look(url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """What is there is told whoever has it, and nothing is made by looking."""
    assert (await look(url)).version == 0
    assert shared_postgres.execute("SELECT to_regnamespace(%s)", url.schema) == [(None,)]
    store = PostgresStore(url)
    await store.open()
    await store.save([workflow("w"), workflow("x")], [])
    found = await look(url)
    assert (found.version, found.workflows) == (VERSION, {"running": 2})
    assert found.holder.startswith("process ")
    assert found.table_bytes > 0
    await store.close()
    assert (await look(url)).holder == ""
    with pytest.raises(StoreUnavailable, match="cannot look at"):
        await look(PostgresUrl.read(f"{url.conninfo.replace('/postgres?', '/nowhere?')}"))


async def test_claim(url: PostgresUrl) -> None:
    """The next start is told that it may take over; while a daemon runs, or where there is nothing, it is refused."""
    with pytest.raises(StoreIncompatible, match="is not of this version"):
        await claim(url, at=1700000000.0)
    store = PostgresStore(url)
    await store.open()
    with pytest.raises(StoreLocked):
        await claim(url, at=1700000000.0)
    assert await store.recall(CLAIM_NOTE) is None
    await store.close()
    await claim(url, at=1700000000.0)
    await store.open()
    assert await store.recall(CLAIM_NOTE) == "claimed at 2023-11-14 22:13:20 UTC"
    await store.close()
