"""What `systemctl status` shows in its one line."""

import pytest

from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.daemon.status import status_line
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import definition, scheduler, settle, until
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio


async def test_status_counts_what_waits_for_a_person() -> None:
    """A gate that nobody opens is otherwise found by opening each workflow."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        assert status_line(running) == "0 workflows, 0 tasks in flight"
        await running.submit(definition("g gate=1; a!"))
        paused = await running.submit(definition("b!"))
        await running.perform(paused.id, VerbRequest(Verb.PAUSE))
        await until(lambda: len(broker.published) >= 1)
        await settle()
        line = status_line(running)
        assert line.startswith("2 workflows, ")
        assert line.endswith(" in flight; waits for a person: 1 at a gate, 1 paused")


async def test_term_and_standbys_are_told_where_a_lease_decides(shared_postgres: PostgresServer) -> None:
    """Who looks at a host sees whether it leads, and whether anybody would take over."""
    broker, store = FakeBroker(), PostgresStore(shared_postgres.url())
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        assert status_line(running) == "leads in term 1, 0 standbys; 0 workflows, 0 tasks in flight"


async def test_what_is_broken_stands_first() -> None:
    """The line is cut at the width of the terminal."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        await running.submit(definition("a!; b!"))
        await until(lambda: len(broker.published) == 2)
        store.broken = "disk is full"
        broker.let_go(broker.published[0].task_id)
        await until(lambda: bool(running.health().problems))
        assert status_line(running).startswith("1 problem: ")
        store.broken = ""
