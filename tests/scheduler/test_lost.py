"""The search for lost tasks, on the fakes: who is looked for, when, and what is decided."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.ports.facts import Inspection, TaskPlace
from dyrygentd.scheduler import Scheduler
from dyrygentd.testing import FakeBroker, FakeInspector, MemoryStore
from tests.scheduler.support import definition, limits, published, scheduler, settle, until

pytestmark = pytest.mark.anyio

_QUICK = {"lost_after_s": 0.05, "lost_confirm_s": 0.05}


class _Watched(FakeInspector):
    """Notes what is looked for; workers may be silent, or heard and not answering."""

    def __init__(self, broker: FakeBroker) -> None:
        super().__init__(broker)
        self.looked_for: list[list[str]] = []
        self.listening = 0
        self.heard_names: frozenset[str] | None = frozenset()
        self.workers: Sequence[str] | None = None

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        self.looked_for.append([task.task_id for task in tasks])
        found = await super().trace(tasks)
        workers = found.workers if self.workers is None else self.workers
        return replace(found, workers=workers, listening=len(workers or ()) + self.listening)

    async def heard(self, *, listen_s: float) -> frozenset[str] | None:
        return self.heard_names


def _scheduler(broker: FakeBroker, inspector: FakeInspector, store: MemoryStore | None = None, **bounds: Any) -> Scheduler:
    return scheduler(broker, store, inspector=inspector, limits=limits(**(_QUICK | bounds)))


async def _state(running: Scheduler, workflow_id: str, name: str) -> str:
    return (await running.node(workflow_id, name)).state


async def test_lost_task_follows_its_policy() -> None:
    """What is found nowhere twice is tried again, failed, or held, and what still runs is left alone."""
    broker = FakeBroker(holds=True)
    inspector = _Watched(broker)
    async with _scheduler(broker, inspector) as running:
        text = "again on_lost=retry retry=2 backoff=0.01; fails on_lost=fail; asks; runs"
        handle = await running.submit(definition(text, prefix="p"))
        await until(lambda: len(broker.published) == 4)
        for name in ("again", "fails", "asks"):
            broker.lose(f"p/{name}")
        await until(lambda: published(broker).count("again") == 2)
        await until(lambda: running.statistics().engine["counters"]["lost"] == 3)
        states = {name: await _state(running, handle.id, name) for name in ("fails", "asks", "runs")}
        assert states == {"fails": "failed", "asks": "held", "runs": "dispatched"}
        node = await running.node(handle.id, "asks")
        assert node.hold == "lost"
        assert "its task is lost: " in str(node.error)
        explanation = await running.explain(handle.id, "asks")
        assert "retry" in explanation.next_step
        assert sum("p/runs" in looked for looked in inspector.looked_for) >= 1
        await handle.retry("asks")
        broker.let_go()
        await until(lambda: published(broker).count("asks") == 2)
        await settle()
        broker.let_go()
        assert (await handle.wait(timeout_s=5)).state == "failed"


async def test_nothing_is_looked_for_that_ends_in_time() -> None:
    """Tasks that end before they are overdue cost nothing, whatever there are of them."""
    broker = FakeBroker()
    inspector = _Watched(broker)
    async with _scheduler(broker, inspector, lost_after_s=30.0) as running:
        handle = await running.submit(definition("; ".join(f"n{number}" for number in range(100))))
        await handle.wait(timeout_s=5)
    assert not inspector.looked_for


@pytest.mark.parametrize("who", ["listening", "heard", "nobody to listen to", "vanished"])
async def test_silent_worker_may_have_it(who: str) -> None:
    """While a worker that may have the task says nothing, nothing is decided; once all have answered, it is."""
    broker = FakeBroker(holds=True)
    inspector = _Watched(broker)
    # A worker that vanished is waited for as long as another round takes.
    async with _scheduler(broker, inspector, lost_confirm_s=0.3 if who == "vanished" else 0.05) as running:
        handle = await running.submit(definition("a", prefix="p"))
        await until(lambda: len(broker.published) == 1)
        if who == "vanished":
            inspector.workers = ["fake@worker", "other@worker"]
            await until(lambda: len(inspector.looked_for) >= 1)
            inspector.workers = None
        inspector.listening = int(who == "listening")
        inspector.heard_names = {"heard": frozenset({"mute@worker"}), "nobody to listen to": None}.get(who, frozenset())
        broker.lose("p/a")
        looks = len(inspector.looked_for)
        if who != "vanished":
            await until(lambda: len(inspector.looked_for) >= looks + 4)
            assert await _state(running, handle.id, "a") == "dispatched"
        assert not running.statistics().engine["counters"]["lost"]
        inspector.listening, inspector.heard_names = 0, frozenset()
        await until(lambda: running.statistics().engine["counters"]["lost"] == 1)


async def test_late_end_of_a_lost_task_counts_after_a_restart() -> None:
    """What is held as lost is watched on, also by the next process, and its success makes the node succeed."""
    broker, store = FakeBroker({"tasks.b": lambda n: n + 1}, holds=True), MemoryStore()
    async with _scheduler(broker, _Watched(broker), store) as running:
        handle = await running.submit(definition("a; b < a", prefix="p", output="b"))
        await until(lambda: len(broker.published) == 1)
        broker.lose("p/a")
        await until(lambda: running.statistics().engine["counters"]["lost"] == 1)
        await until(lambda: store.statistics().commits >= 3)
        workflow_id = handle.id
    broker.holds = False
    broker.results["p/a"] = TaskSucceeded("p/a", b"41")
    async with _scheduler(broker, _Watched(broker), store) as running:
        outcome = await running.outcome(workflow_id, timeout_s=5)
        assert (outcome.state, outcome.result) == ("succeeded", 42)
        assert running.statistics().engine["counters"]["turned_up"] == 1


async def test_doubting_all_looks_at_once() -> None:
    """When the broker has lost its memory, nobody waits for tasks to become overdue."""
    broker = FakeBroker(holds=True)
    inspector = _Watched(broker)
    async with _scheduler(broker, inspector, lost_after_s=3600.0) as running:
        handle = await running.submit(definition("a; b", prefix="p"))
        await until(lambda: len(broker.published) == 2)
        assert running._parts.lost is not None
        broker.lose("p/a")
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 2)
        running._parts.lost.doubt_all("the broker was emptied")
        await until(lambda: running.statistics().engine["counters"]["lost"] == 1)
        assert await _state(running, handle.id, "b") == "dispatched"


async def test_doubt_is_not_dropped_for_a_silent_worker() -> None:
    """Who does not answer the first look after the broker's loss is asked again soon, not when the task is overdue."""
    broker = FakeBroker(holds=True)
    inspector = _Watched(broker)
    async with _scheduler(broker, inspector, lost_after_s=3600.0) as running:
        await running.submit(definition("a", prefix="p"))
        await until(lambda: len(broker.published) == 1)
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 1)
        assert running._parts.lost is not None
        inspector.listening = 1
        broker.lose("p/a")
        running._parts.lost.doubt_all("the broker was emptied")
        await until(lambda: len(inspector.looked_for) >= 2)
        assert not running.statistics().engine["counters"]["lost"]
        inspector.listening = 0
        await until(lambda: running.statistics().engine["counters"]["lost"] == 1)


async def test_nobody_is_asked_during_an_outage() -> None:
    """While the broker is away, or the daemon is stopping, nothing is looked for: the answer would be that nobody knows."""
    broker = FakeBroker(holds=True)
    inspector = _Watched(broker)
    async with _scheduler(broker, inspector) as running:
        await running.submit(definition("a", prefix="p"))
        await until(lambda: len(broker.published) == 1)
        broker.broken = "gone"
        await running.submit(definition("b", prefix="q"))
        await until(lambda: running.health().status == "degraded")
        looks = len(inspector.looked_for)
        # Rounds go by without a look, and so without a trace: that nothing happens in this time is what is shown.
        await anyio.sleep(0.2)
        assert len(inspector.looked_for) <= looks + 1
        broker.broken = ""
        await until(lambda: len(inspector.looked_for) > looks + 1)


async def test_cancelled_while_lost() -> None:
    """A workflow that waits for a decision about a lost task can be cancelled, and what it does later is shown as late."""
    broker = FakeBroker(holds=True)
    async with _scheduler(broker, _Watched(broker)) as running:
        handle = await running.submit(definition("a", prefix="p"))
        await until(lambda: len(broker.published) == 1)
        broker.lose("p/a")
        await until(lambda: running.statistics().engine["counters"]["lost"] == 1)
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        broker.results["p/a"] = TaskSucceeded("p/a", b"1")
        broker.watcher.stored("p/a")
        await settle()
        view = await running.view(handle.id)
        assert view.state == "cancelled"
