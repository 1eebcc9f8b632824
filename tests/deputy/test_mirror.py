"""Unfinished workflows where they do not run: how old they are shown, and what looking costs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import pytest

from dyrygentd.core.engine import Engine
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.deputy.mirror import Mirror
from dyrygentd.errors import DaemonUnreachable, StoreUnavailable
from dyrygentd.ports.facts import Stored
from dyrygentd.scheduler import Scheduler, SystemClock
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import definition, scheduler, until

pytestmark = pytest.mark.anyio


class CountingStore(MemoryStore):
    """A store that counts how often workflows are read whole, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.is_away = False

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Count, and read."""
        if self.is_away:
            raise StoreUnavailable("the server is away")
        self.loads += 1
        return await super().load(workflow_id, to_reopen=to_reopen)


class Looking(NamedTuple):
    """A leader, and a mirror on its store."""

    leader: Scheduler
    store: CountingStore
    broker: FakeBroker
    archive: Archive
    listeners: Listeners
    mirror: Mirror


@asynccontextmanager
async def looking(**options: Any) -> AsyncIterator[Looking]:
    """A leader whose tasks go on when a test lets them."""
    store, broker, listeners = CountingStore(), FakeBroker(holds=True), Listeners()
    archive = Archive(store, SystemClock(), value_bytes_max=10_000)
    mirror = Mirror(store, archive, listeners, clock=SystemClock(), make_engine=Engine, **options)
    async with scheduler(broker, store) as leader:
        yield Looking(leader, store, broker, archive, listeners, mirror)


async def begun(found: Looking, text: str = "a; b < a") -> str:
    """Begin a workflow, and return its id when its first task is on disk as sent."""
    count = len(found.broker.published)
    workflow_id = (await found.leader.submit_definition(definition(text))).id
    await until(lambda: len(found.broker.published) > count and found.leader._parts.inbox.is_saved)
    return workflow_id


async def test_many_looks_in_time_are_one_reading() -> None:
    """Seventy people at one workflow cost what one does."""
    async with looking(fresh_s=1000.0) as found:
        workflow_id = await begun(found)
        loads = found.store.loads
        async with anyio.create_task_group() as tasks:
            for _ in range(70):
                tasks.start_soon(found.mirror.look, workflow_id)
        workflow = found.mirror.live(workflow_id)
        assert workflow is not None
        assert workflow.nodes.counts_by_word()["waiting"] == 1
        await found.mirror.look(workflow_id)
        assert found.store.loads - loads <= 2
        assert repr(found.mirror).startswith("<Mirror workflows=1 nodes=2")


async def test_what_has_not_changed_stays_the_same_object() -> None:
    """What is known of its folds and estimates stays with it."""
    async with looking(fresh_s=0.0, rest=0) as found:
        workflow_id = await begun(found)
        await found.mirror.look(workflow_id)
        before = found.mirror.live(workflow_id)
        await found.mirror.look(workflow_id)
        assert found.mirror.live(workflow_id) is before
        await found.leader.perform(workflow_id, VerbRequest(Verb.PAUSE))
        await found.mirror.look(workflow_id)
        after = found.mirror.live(workflow_id)
        assert after is not None
        assert after is not before
        assert after.state == "paused"
        assert before is not None
        assert after.graph is before.graph
        assert found.mirror.engine.workflows[workflow_id] is after


async def test_what_has_finished_is_not_looked_at_any_more() -> None:
    """It is read back from the history; one that ran again since is read anew."""
    async with looking(fresh_s=0.0, rest=0) as found:
        workflow_id = await begun(found, "a")
        await found.mirror.look(workflow_id)
        found.broker.let_go()
        await found.leader.wait(workflow_id)
        await found.mirror.look(workflow_id)
        assert found.mirror.live(workflow_id) is None
        first = await found.archive.unpacked(workflow_id)
        await found.leader.perform(workflow_id, VerbRequest(Verb.RERUN, nodes=("a",)))
        await until(lambda: len(found.broker.published) == 2)
        await found.mirror.look(workflow_id)
        assert found.mirror.live(workflow_id) is not None
        found.broker.let_go()
        await found.leader.wait(workflow_id)
        await found.mirror.look(workflow_id)
        assert found.mirror.live(workflow_id) is None
        assert await found.archive.unpacked(workflow_id) is not first


async def test_no_more_is_looked_at_than_there_is_room_for() -> None:
    """Of all that is unfinished the newest are looked at, and it is told how many are not; one that is asked for always is."""
    async with looking(fresh_s=0.0, rest=0, nodes_max=4) as found:
        ids = [await begun(found) for _ in range(4)]
        await found.mirror.look_at_all()
        assert found.mirror.left_out == 2
        assert sorted(found.mirror.engine.workflows) == sorted(ids[2:])
        await found.mirror.look(ids[0])
        assert found.mirror.live(ids[0]) is not None
        await found.mirror.look(ids[0])
        assert found.mirror.node_count <= 4
        assert set(found.mirror.engine.workflows) == set(found.mirror._seen)


async def test_all_is_looked_at_once_for_all_who_ask() -> None:
    """What was looked through a moment ago is shown again."""
    async with looking(fresh_s=1000.0) as found:
        ids = [await begun(found) for _ in range(3)]
        await found.mirror.look_at_all()
        loads = found.store.loads
        await found.mirror.look_at_all()
        assert found.store.loads == loads
        assert sorted(found.mirror.engine.workflows) == sorted(ids)
        assert found.mirror.engine.flights.in_flight_count == 3


async def test_who_follows_is_woken_by_changes_alone() -> None:
    """Nobody is told anew what they know; and what nobody looks at any more is let go."""
    async with looking(fresh_s=0.001) as found:
        workflow_id = await begun(found)
        await found.mirror.look(workflow_id)
        woken = 0

        async def follow() -> None:
            nonlocal woken
            with found.listeners.to(workflow_id) as listener:
                while found.mirror.live(workflow_id) is not None:
                    await listener.wait()
                    woken += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(found.mirror.run)
            tasks.start_soon(follow)
            readings = found.mirror.readings
            await until(lambda: found.mirror.readings > readings + 3)
            assert woken == 0
            # While the store is away nothing is seen, and nobody is let go.
            found.store.is_away = True
            await anyio.sleep(0.02)
            found.store.is_away = False
            found.broker.let_go()
            await until(lambda: woken > 0)
            await until(lambda: len(found.broker.published) == 2)
            found.broker.let_go()
            await until(lambda: not found.listeners)
            await until(lambda: not found.mirror.node_count)
            tasks.cancel_scope.cancel()


async def test_who_waits_is_told_of_the_end() -> None:
    """When it looks no more whoever waits has to ask again."""
    async with looking() as found:
        found.mirror.refuse_if_ended("w")
        with found.listeners.to("w") as listener:
            found.mirror.end()
            await listener.wait()
        with pytest.raises(DaemonUnreachable, match="looks no more at workflow 'w'"):
            found.mirror.refuse_if_ended("w")
