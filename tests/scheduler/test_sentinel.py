"""A broker that has lost its memory: noticed before anything is pushed into it, and nothing is sent twice because of it."""

from collections.abc import Sequence
from functools import partial

import pytest

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.ports import Store
from dyrygentd.scheduler.limits import Pace
from dyrygentd.testing import FakeBroker, FakeWatcher, MemoryStore
from tests.scheduler import support
from tests.scheduler.support import Ambiguous, definition, limits, published, settle, until

pytestmark = pytest.mark.anyio

_QUICK = limits(lost_after_s=60.0, lost_confirm_s=0.05)


#: Looks at the broker often.
scheduler = partial(support.scheduler, pace=Pace(look_at_broker_s=0.01))


async def test_first_start_raises_no_alarm(store: Store) -> None:
    """A broker that never had a token gets one, and so it has after a restart."""
    broker = FakeBroker()
    for _ in range(2):
        async with scheduler(broker, store) as running:
            await until(lambda: bool(broker.marks))
            assert (await (await running.submit(definition("a"))).wait(timeout_s=5)).state == "succeeded"
            assert running.statistics().engine["broker_emptied"] == 0
            assert running.health().notices == []


async def test_emptied_while_nothing_is_published(store: Store) -> None:
    """What was in flight is looked for at once: what a worker has goes on, what nobody has is lost."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, inspector=broker.inspector, limits=_QUICK) as running:
        handle = await running.submit(definition("gone; has", prefix="p"))
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 2)
        await until(lambda: bool(broker.marks))
        broker.lose("p/gone")
        broker.empty()
        await until(lambda: running.statistics().engine["counters"]["lost"] == 1)
        assert running.statistics().engine["broker_emptied"] == 1
        assert "emptied" in running.health().notices[0]
        assert running.health().status == "ok"
        node = await running.node(handle.id, "gone")
        assert (node.state, node.hold) == ("held", "lost")
        broker.let_go("p/has")
        await handle.retry("gone")
        await until(lambda: len(broker.published) == 3)
        broker.let_go()
        assert (await handle.wait(timeout_s=5)).state == "succeeded"


async def test_emptied_before_a_push(store: Store) -> None:
    """The push itself notices, whatever the looks do; what was never sent is sent into the broker that has a token again."""
    broker = FakeBroker()
    async with scheduler(broker, store, limits=_QUICK, pace=Pace(look_at_broker_s=3600.0)) as running:
        assert (await (await running.submit(definition("a"))).wait(timeout_s=5)).state == "succeeded"
        broker.empty()
        assert (await (await running.submit(definition("b"))).wait(timeout_s=5)).state == "succeeded"
        assert running.statistics().engine["broker_emptied"] == 1
    assert published(broker) == ["a", "b"]


async def test_emptied_while_no_daemon_ran(store: Store, reopen: object) -> None:
    """A daemon that starts on an emptied broker knows, since the token is on its disk."""
    broker = FakeBroker(holds=True, has_worker=False)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a", prefix="p"))
        await until(lambda: bool(broker.marks) and running.statistics().engine["nodes"]["dispatched"] == 1)
        await settle()
        workflow_id = handle.id
    broker.empty()
    broker.watcher = FakeWatcher(broker)
    assert callable(reopen)
    async with scheduler(broker, reopen(), inspector=broker.inspector, limits=_QUICK) as running:
        await until(lambda: running.statistics().engine["counters"]["lost"] == 1)
        assert (await running.node(workflow_id, "a")).hold == "lost"


async def test_another_broker_has_lost_nothing(store: Store, reopen: object, caplog: pytest.LogCaptureFixture) -> None:
    """With nothing in flight another address is a line in the log: no alarm, no notice, and nothing is looked for."""
    assert callable(reopen)
    broker, other = FakeBroker(), FakeBroker()
    other.place = "fake://other"
    for each, changed in ((broker, 0), (other, 1), (broker, 1)):
        async with scheduler(each, reopen(), inspector=each.inspector, limits=_QUICK) as running:
            handle = await running.submit(definition("a"))
            assert (await handle.wait(timeout_s=5)).state == "succeeded"
            await until(lambda place=each.place: running._parts.sentinel._place == place)  # type: ignore[misc]
            engine = running.statistics().engine
            assert (engine["broker_emptied"], engine["broker_went_back"], engine["setbacks"]) == (0, 0, 0)
            assert engine["broker_changed"] == changed
            assert running.health().notices == []
        each.watcher = FakeWatcher(each)
    assert "the broker is another one, fake://other instead of fake://broker; nothing was in flight" in caplog.text
    assert "emptied" not in caplog.text


@pytest.mark.parametrize(("shape", "count", "told"), [("a; b", 2, "2 tasks in flight are"), ("a", 1, "1 task in flight is")])
async def test_what_is_in_flight_at_the_broker_before_is_told(
    store: Store, reopen: object, shape: str, count: int, told: str
) -> None:
    """How much it is, where it is, what becomes of it, and how to have it finished there; nothing says that data was lost."""
    assert callable(reopen)
    broker, other = FakeBroker(holds=True, has_worker=False), FakeBroker(holds=True, has_worker=False)
    other.place = "fake://other"
    async with scheduler(broker, reopen()) as running:
        workflow_id = (await running.submit(definition(shape, prefix="p"))).id
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == count)
        await until(lambda: running._parts.sentinel._place == broker.place)
        await settle()
    async with scheduler(other, reopen(), inspector=other.inspector, limits=_QUICK) as running:
        await until(lambda: running.statistics().engine["counters"]["lost"] == count)
        assert (await running.node(workflow_id, "a")).hold == "lost"
        [notice] = running.health().notices
        assert "the broker is another one, fake://other instead of fake://broker" in notice
        assert f"{told} at the one before: workers that still read it carry them out" in notice
        assert "configure the one before again" in notice
        assert running.statistics().engine["broker_emptied"] == 0
        assert running.statistics().engine["broker_changed"] == 1


@pytest.mark.parametrize("brokers_gone", [1, 2])
async def test_what_was_never_sent_is_at_no_broker(store: Store, reopen: object, brokers_gone: int) -> None:
    """A broker that could not be reached between two others has got nothing: what waited for it is sent to the next one."""
    assert callable(reopen)
    broker, gone, other = FakeBroker(), FakeBroker(), FakeBroker()
    gone.place, other.place, gone.broken = "fake://gone", "fake://other", "refused"
    async with scheduler(broker, reopen()) as running:
        await until(lambda: running._parts.sentinel._place == broker.place)
    ids = []
    for number in range(1, brokers_gone + 1):
        async with scheduler(gone, reopen()) as running:
            ids.append((await running.submit(definition("a"))).id)
            await until(lambda count=number: running.statistics().engine["nodes"]["dispatching"] == count)  # type: ignore[misc]
    async with scheduler(other, reopen(), inspector=other.inspector, limits=_QUICK) as running:
        for workflow_id in ids:
            assert (await running.wait(workflow_id, timeout_s=5)).state == "succeeded"
        assert running.health().notices == []
        assert running.statistics().engine["broker_changed"] == 1
    assert (len(gone.published), len(other.published)) == (0, len(ids))


async def test_what_may_have_been_sent_is_not_sent_to_another_broker(store: Store, reopen: object) -> None:
    """A push without an answer may have arrived: the next broker does not get it unasked, as it could run twice."""
    assert callable(reopen)
    broker, other = FakeBroker(), FakeBroker()
    other.place = "fake://other"
    async with scheduler(broker, reopen()) as running:
        await until(lambda: running._parts.sentinel._place == broker.place)
        broker.broken = "cut off"
        workflow_id = (await running.submit(definition("a"))).id
        await until(lambda: running.statistics().engine["nodes"]["dispatching"] == 1)
    async with scheduler(other, reopen(), inspector=other.inspector, limits=_QUICK) as running:
        await until(lambda: running.statistics().engine["counters"]["lost"] == 1)
        assert (await running.node(workflow_id, "a")).hold == "lost"
        assert "1 task in flight is at the one before" in running.health().notices[0]
    assert other.published == []


async def test_broker_with_its_data_at_another_address(store: Store, reopen: object, caplog: pytest.LogCaptureFixture) -> None:
    """A server that was moved with what it had is the same broker."""
    assert callable(reopen)
    caplog.set_level("INFO")
    broker = FakeBroker(holds=True)
    async with scheduler(broker, reopen()) as running:
        handle = await running.submit(definition("a", prefix="p"))
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 1)
        await until(lambda: running._parts.sentinel._place == broker.place)
        await settle()
    broker.place, broker.watcher = "fake://moved", FakeWatcher(broker)
    async with scheduler(broker, reopen(), inspector=broker.inspector, limits=_QUICK) as running:
        await until(lambda: "is at fake://moved from now on; it was at fake://broker" in caplog.text)
        assert running.statistics().engine["broker_changed"] == 0
        broker.let_go()
        assert (await running.wait(handle.id, timeout_s=5)).state == "succeeded"


async def test_push_whose_answer_was_cut_before_the_emptying_is_not_repeated() -> None:
    """A message that was perhaps sent before the broker lost its memory is looked for, and not sent again."""
    broker = FakeBroker(holds=True)
    dispatcher = _CutThenEmptied(broker)
    async with scheduler(broker, MemoryStore(), dispatcher=dispatcher, inspector=broker.inspector, limits=_QUICK) as running:
        await until(lambda: bool(broker.marks))
        handle = await running.submit(definition("a", prefix="p"))
        await until(lambda: running.statistics().engine["broker_emptied"] == 1)
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 1)
        await settle()
        broker.let_go()
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
    assert published(broker) == ["a"]


async def test_what_may_have_been_sent_counts_as_sent_before_the_broker_has_its_token_again() -> None:
    """After a crash between the two nobody would know that the broker was emptied, and all of it would be sent again.

    Found by the simulation as: crash after a push, the broker emptied while no daemon ran, and a crash of the next one before its
    first save: the third pushed a second time.
    """
    store, broker = _Watched(), FakeBroker(holds=True)
    async with scheduler(broker, store, dispatcher=Ambiguous(broker, times=1_000_000), limits=_QUICK) as running:
        await until(lambda: bool(broker.marks))
        workflow_id = (await running.submit(definition("a", prefix="p"))).id
        await until(lambda: len(broker.published) >= 1)
    assert await store.states(workflow_id) == ["dispatching"]
    broker.empty()
    broker.watcher = FakeWatcher(broker)
    store.seen.clear()
    async with scheduler(broker, store, inspector=broker.inspector, limits=_QUICK) as running:
        await until(lambda: running.statistics().engine["broker_emptied"] == 1 and bool(store.seen))
    assert store.seen == [["dispatched"]]


class _Watched(MemoryStore):
    """Notes how the nodes of all workflows stand on disk when the sentinel's token is written."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[str]] = []

    async def states(self, workflow_id: str) -> list[str]:
        stored = await self.load(workflow_id)
        assert stored is not None
        return [row.state for row in stored.nodes]

    async def remember(self, name: str, value: str) -> None:
        if name == "sentinel":
            for workflow_id in self._workflows:
                self.seen.append(await self.states(workflow_id))
        await super().remember(name, value)


class _CutThenEmptied(Ambiguous):
    """The broker takes a message, its answer is cut, and before anybody asks again it is empty."""

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        try:
            return await super().publish(messages)
        finally:
            if not self.times and not self._broker.memory:
                self._broker.empty()
