"""Listings look at many rows: nobody waits for them who needs one row, and each ends."""

import asyncio
import math
from pathlib import Path

import anyio
import pytest

from dyrygentd.errors import ListingTooLong
from dyrygentd.ports.facts import Selection
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import node, workflow

pytestmark = pytest.mark.anyio

_ENDLESS = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"


async def test_nobody_waits_for_a_listing(tmp_path: Path) -> None:
    """A submission looks for its key, a turn for numbers, and what is shown is read, while somebody's listing goes on."""
    store = SqliteStore(tmp_path / "state.db")
    await store.open()
    try:
        await store.save([workflow("w", key="ticket")], [node("w", 0)])
        store._reader._listing_until = math.inf
        assert store._reader._lister is not None
        listing = asyncio.ensure_future(store._reader._lister.execute_fetchall(_ENDLESS))
        with anyio.fail_after(5):
            assert await store.find_key("ticket") == "w"
            assert await store.record("w") is not None
            assert await store.find("w") == ["w"]
            assert await store.load("w") is not None
            assert await store.journal("w") == []
            assert [row.record.workflow_id for row in await store.list(Selection(limit=1))] == ["w"]
            # It has to find the number of a workflow that this process has not seen.
            store._row_writer.sequence_of.clear()
            await store.save([], [node("w", 0)])
        assert not listing.done()
        store._reader._listing_until = 0.0
        with pytest.raises(Exception, match="interrupted"):
            await listing
    finally:
        await store.close()


async def test_listing_that_takes_too_long(tmp_path: Path) -> None:
    """It is given up with what to do instead, and the next one has its own time."""
    store = SqliteStore(tmp_path / "state.db", listing_max_s=0.0)
    await store.open()
    try:
        await store.save([workflow(f"w{number}", labels={"cluster": "gra1"}) for number in range(3000)], [])
        with pytest.raises(ListingTooLong, match="could not be looked through within 0 s") as caught:
            await store.list(Selection(labels={"cluster": "none"}))
        assert caught.value.status == 503
        assert "`history_max`" in caught.value.next_step
        assert len(await store.list(Selection(limit=2))) == 2
        store._reader._listing_max_s = 60.0
        assert await store.list(Selection(labels={"cluster": "none"})) == []
        assert len(await store.list(Selection(labels={"cluster": "gra1"}, limit=500))) == 500
    finally:
        await store.close()
