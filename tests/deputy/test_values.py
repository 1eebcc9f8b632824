"""Large values where several hosts share a database: whoever answers, or leads next, reads them where they were written."""

from pathlib import Path

import pytest

from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.deputy.deputy import Deputy
from dyrygentd.store.postgres.onlooker import PostgresOnlooker
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.values import DirectoryValues
from dyrygentd.testing import FakeBroker
from tests.deputy.support import FixedLease
from tests.scheduler.support import definition, limits, scheduler, until
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio

_BIG = "x" * 200_000
_LIMITS = limits(value_spill_bytes=100_000)


async def test_a_deputy_answers_with_the_result(shared_postgres: PostgresServer, tmp_path: Path) -> None:
    """From the directory that both have; one that has another one says what is missing where, and answers all else."""
    url, broker = shared_postgres.url(), FakeBroker({"tasks.a": lambda: _BIG})
    shared = DirectoryValues(tmp_path / "shared")
    async with scheduler(broker, PostgresStore(url), values=shared, limits=_LIMITS) as leader:
        handle = await leader.submit(definition("a", output="a"))
        assert (await handle.wait()).result == _BIG
        onlooker, lease = PostgresOnlooker(url), FixedLease(599.0, ttl_s=600.0)
        await onlooker.open()
        try:
            async with Deputy(store=onlooker, lease=lease, values=shared) as deputy:
                assert (await deputy.view(handle.id, with_result=True)).result == _BIG
            async with Deputy(store=onlooker, lease=lease, values=DirectoryValues(tmp_path / "own")) as deputy:
                view = await deputy.view(handle.id, with_result=True)
                assert (view.state, view.result_text) == ("succeeded", None)
                assert f"is not in the directory '{tmp_path}/own'" in view.error
        finally:
            await onlooker.close()


async def test_the_next_leader_goes_on(shared_postgres: PostgresServer, tmp_path: Path) -> None:
    """With the directory that is shared it hands the value on; with another one it says so before any node fails."""
    url, seen = shared_postgres.url(), list[str]()
    broker = FakeBroker({"tasks.a": lambda: _BIG, "tasks.b": lambda values: seen.append(values[0])})
    shared = DirectoryValues(tmp_path / "shared")
    async with scheduler(broker, PostgresStore(url), values=shared, limits=_LIMITS) as leader:
        handle = await leader.submit(definition("a; g gate=1; b < a g"))
        await until(lambda: leader.statistics().engine["stored_values"] == 1 and not leader.in_flight_count)
        await leader._parts.inbox.wait_saved()
    async with scheduler(broker, PostgresStore(url), values=DirectoryValues(tmp_path / "own"), limits=_LIMITS) as other:
        assert other.health().notices[0].startswith(f"1 values that workflows need are not in the directory '{tmp_path}/own'")
    async with scheduler(broker, PostgresStore(url), values=shared, limits=_LIMITS) as leader:
        await leader.perform(handle.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        assert (await leader.outcome(handle.id)).state == "succeeded"
    assert seen == [_BIG]
