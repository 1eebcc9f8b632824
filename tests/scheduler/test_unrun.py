"""Whoever has a Celery result of a task that never ran learns how it ended, through outages and crashes."""

import anyio
import pytest

from dyrygentd.core.unrun import StoreOutcome, Told, outcome_of
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.ports import Store
from dyrygentd.scheduler import unrun
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import Refusing, definition, limits, published, scheduler, until

pytestmark = pytest.mark.anyio


def _fail(*_: object) -> None:
    raise ValueError("no")


def _told(broker: FakeBroker) -> dict[str, str]:
    return {task_id: outcome.told.value for task_id, outcome in broker.keeper.told.items()}


async def test_what_was_blocked_and_refused_is_told(store: Store) -> None:
    """In a chain the failure is handed on, behind a join with the dependency's name; what ran is left to its worker."""
    broker = FakeBroker({"tasks.a": _fail})
    async with scheduler(broker, store, keeper=broker.keeper, dispatcher=Refusing(broker)) as running:
        handle = await running.submit(definition("a; b < a; c; &j < a c; d < j; bad; h! hook=success", prefix="p"))
        await handle.wait(timeout_s=5)
        await until(lambda: len(broker.keeper.told) == 3)
    told = broker.keeper.told
    assert set(told) == {"p/b", "p/d", "p/bad"}
    assert told["p/b"][1:5] == (Told.FAILURE, "ValueError: no", "p/a", False)
    assert told["p/d"][1:5] == (Told.FAILURE, "ValueError: no", "p/a", True)
    assert told["p/bad"][1:3] == (Told.FAILURE, "not dispatched: too large")


async def test_a_retry_runs_under_the_same_id(store: Store) -> None:
    """What was blocked runs under the id that somebody waits for, and its result takes the place of what was told."""
    broker = FakeBroker({"tasks.a": _fail, "tasks.b": lambda _: 5})
    async with scheduler(broker, store, keeper=broker.keeper) as running:
        handle = await running.submit(definition("a; b < a", prefix="p"))
        await handle.wait(timeout_s=5)
        await until(lambda: "p/b" in broker.keeper.told)
        broker.tasks["tasks.a"] = lambda: 1
        await running.perform(handle.id, VerbRequest(Verb.RETRY))
        outcome = await handle.wait(timeout_s=5)
    assert outcome.result == 5
    assert broker.published[-1].task_id == "p/b"
    assert _told(broker) == {}


async def test_cancelled_and_skipped(store: Store) -> None:
    """What was cancelled before it was sent is revoked; what was skipped has the operator's value, also if nobody takes it."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, store, keeper=broker.keeper) as running:
        handle = await running.submit(definition("a; b < a; c < a; g gate=1", prefix="p"))
        await until(lambda: len(broker.queued) == 1)
        await running.perform(handle.id, VerbRequest(Verb.SKIP, nodes=("b",), value=b"7"))
        await until(lambda: "p/b" in broker.keeper.told)
        assert broker.keeper.told["p/b"].value == b"7"
        await running.cancel(handle.id)
        # The message of the first was taken back, so no worker will say anything of it.
        await until(lambda: set(_told(broker)) == {"p/a", "p/b", "p/c"})
    assert _told(broker) == {"p/a": "REVOKED", "p/b": "SUCCESS", "p/c": "REVOKED"}


async def test_what_was_skipped_runs_under_another_id(store: Store) -> None:
    """Celery never overwrites a success, so nobody would learn of the second end."""
    broker = FakeBroker({"tasks.b": lambda: 8})
    async with scheduler(broker, store, keeper=broker.keeper) as running:
        handle = await running.submit(definition("g gate=1; b! < g", prefix="p"))
        await running.perform(handle.id, VerbRequest(Verb.SKIP, nodes=("b",), value=b"7"))
        await until(lambda: "p/b" in broker.keeper.told)
        await running.perform(handle.id, VerbRequest(Verb.RERUN, nodes=("b",)))
        await running.perform(handle.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        outcome = await handle.wait(timeout_s=5)
    assert outcome.result == 8
    assert [(message.task_id != "p/b", message.attempt) for message in broker.published] == [(True, 2)]


async def test_an_error_callback_may_look_it_up(store: Store) -> None:
    """It is told the id of a task that never ran, and what it finds under it must be there before it runs."""
    broker = FakeBroker({"tasks.a": _fail})
    seen: list[dict[str, str]] = []
    broker.tasks["tasks.e"] = lambda: seen.append(_told(broker))
    async with scheduler(broker, store, keeper=broker.keeper) as running:
        handle = await running.submit(definition("a; b < a; e! < b rule=any_failed", prefix="p"))
        await handle.wait(timeout_s=5)
    assert seen == [{"p/b": "FAILURE"}]


async def test_a_backend_that_is_away_delays_nobody_and_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks go; memory is bounded, since what finds no room is found again in the store."""
    monkeypatch.setattr(unrun, "_NODES_MAX", 3)
    monkeypatch.setattr(unrun, "RETRY_FIRST_S", 0.01)
    broker, store = FakeBroker({"tasks.a": _fail}), MemoryStore()
    broker.keeper.broken = "away"
    text = "a; " + "; ".join(f"b{number} < a" for number in range(20)) + "; e! < b0 rule=any_failed"
    async with scheduler(broker, store, keeper=broker.keeper) as running:
        handles = [await running.submit(definition(text, prefix=f"p{number}")) for number in range(3)]
        for handle in handles:
            await handle.wait(timeout_s=5)
        assert published(broker).count("e") == 3
        waiting = running.statistics().engine["unrun_waiting"]
        assert waiting <= 3
        broker.keeper.broken = ""
        await until(lambda: len(broker.keeper.told) == 60)
        assert running.statistics().engine["unrun_stored"] >= 60


@pytest.mark.parametrize("set_back_s", [0, 3600])
async def test_after_a_crash_it_is_told_once_more(store: Store, set_back_s: int) -> None:
    """A process that ended before it could tell leaves nobody waiting, also if the clock was set back since it noted the time."""
    broker = FakeBroker({"tasks.a": _fail})
    async with scheduler(broker, store, keeper=broker.keeper) as running:
        await until(lambda: not running._parts.unrun.is_behind)  # type: ignore[union-attr]
        broker.keeper.broken = "away"
        finished = await running.submit(definition("a; b < a", prefix="p"))
        await finished.wait(timeout_s=5)
        await running.submit(definition("a; b < a; g gate=1", prefix="q"))
        await until(lambda: published(broker).count("a") == 2)
        await until(lambda: "q/b" in [outcome.task_id for outcome in _waiting(running)])
        noted = await store.recall("unrun")
        assert noted is not None
        await store.remember("unrun", f"{float(noted) + set_back_s}")
    assert _told(broker) == {}
    broker.keeper.broken = ""
    async with scheduler(broker, store, keeper=broker.keeper) as running:
        await until(lambda: len(broker.keeper.told) == 2)
    assert _told(broker) == {"p/b": "FAILURE", "q/b": "FAILURE"}


def _waiting(running: object) -> list[StoreOutcome]:
    places = running._parts.unrun._waiting  # type: ignore[attr-defined]
    told = [outcome_of(workflow, node) for workflow, node, _ in places]
    return [outcome for outcome in told if outcome is not None]


async def test_it_can_be_switched_off(store: Store) -> None:
    """Some backends are paid for by the write."""
    broker = FakeBroker({"tasks.a": _fail})
    async with scheduler(broker, store, keeper=broker.keeper, limits=limits(store_unrun_results=False)) as running:
        handle = await running.submit(definition("a; b < a", prefix="p"))
        await handle.wait(timeout_s=5)
        with anyio.move_on_after(0.05):
            await anyio.sleep_forever()
    assert _told(broker) == {}
