"""Who took from a queue is known when its last worker has died, although nobody asked while it lived."""

from collections.abc import Callable
from functools import partial

import pytest

from dyrygentd.ports import Store
from dyrygentd.ports.facts import Inspection
from dyrygentd.scheduler import Scheduler
from dyrygentd.scheduler.limits import Pace
from dyrygentd.testing import FakeBroker, FakeInspector
from dyrygentd.witnesses import Roster
from tests.scheduler import support
from tests.scheduler.support import definition, limits, settle, until

pytestmark = pytest.mark.anyio

_SEEN = "; the last that said to consume it is fake@worker, asked "


class _Counting(FakeInspector):
    """Counts how often the workers are asked unbidden."""

    count = 0

    async def census(self) -> Inspection:
        self.count += 1
        return await super().census()


#: Looks often whether the workers are to be asked.
scheduler = partial(support.scheduler, pace=Pace(look_at_census_s=0.001))


async def _said_of_a_queue_without_workers(running: Scheduler, broker: FakeBroker) -> str:
    broker.has_worker = False
    handle = await running.submit(definition("b"))
    await until(lambda: bool(broker.queued))
    return (await handle.explain("b")).verdict


async def test_last_consumer_is_known_without_a_question(store: Store, reopen: Callable[[], Store]) -> None:
    """One broadcast while something is in flight is enough, and a restart forgets nothing."""
    broker = FakeBroker(holds=True)
    inspector = _Counting(broker)
    async with scheduler(broker, store, inspector=inspector) as running:
        await settle()
        assert inspector.count == 0
        await running.submit(definition("a"))
        await until(lambda: inspector.count == 1)
        await settle()
        assert inspector.count == 1
        assert _SEEN in await _said_of_a_queue_without_workers(running, broker)
    broker.queued.clear()
    async with scheduler(broker, reopen(), inspector=inspector) as running:
        assert _SEEN in await _said_of_a_queue_without_workers(running, broker)


async def test_nobody_is_asked_in_vain(store: Store) -> None:
    """Not where someone has asked already, not while the broker is away, and not where tasks are not looked for."""
    broker = FakeBroker(holds=True)
    inspector = _Counting(broker)
    async with scheduler(broker, store, inspector=inspector, pace=Pace(look_at_census_s=3600.0)) as running:
        handle = await running.submit(definition("a"))
        asked = running._parts.census
        assert asked is not None
        await until(asked._is_due)
        await handle.explain()
        assert not asked._is_due()
    async with scheduler(FakeBroker(), inspector=inspector, limits=limits(lost_after_s=0)) as running:
        assert running._parts.census is None


def test_note_of_a_roster() -> None:
    """What is written is bounded, and what cannot be read is nothing."""
    roster = Roster()
    for number in range(300):
        roster.note(Inspection(workers=["w"], consumed={f"q{number}": ["w"]}), float(number))
    again = Roster()
    again.note(Inspection(workers=["x"], consumed={"q299": ["x"]}), 400.0)
    again.read(roster.written())
    assert (len(again.last_consumed), again.last_consumed["q298"], again.last_consumed["q299"]) == (
        200,
        ("w", 298.0),
        ("x", 400.0),
    )
    for nonsense in (None, "", "{", "[1]", '{"q": 1}', '{"q": ["w", "x"]}'):
        fresh = Roster()
        fresh.read(nonsense)
        assert not fresh.last_consumed
