"""One process at a time has a database, also of a copy of it: the scheduler on fakes that several of them share."""

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import anyio
import pytest

from dyrygentd.errors import Fenced, StoreUnavailable
from dyrygentd.ports.facts import CLAIM_NOTE, BrokerMemory, Holder, Term
from dyrygentd.scheduler import Scheduler
from dyrygentd.scheduler.limits import Pace, SystemClock
from dyrygentd.scheduler.tenure import Tenure, unwrapped
from dyrygentd.testing import FakeBroker, FakeDispatcher, FakeWatcher, MemoryStore
from tests.scheduler import support
from tests.scheduler.support import definition, limits, published, settle, until

pytestmark = pytest.mark.anyio

_OTHER = Holder("elsewhere", 4711, 1700000000.0)
#: Looks at the broker often.
_OFTEN = Pace(look_at_broker_s=0.01)
_SELDOM = Pace(look_at_broker_s=3600.0)

scheduler = partial(support.scheduler, pace=_OFTEN)


def _another(broker: FakeBroker, store: MemoryStore, **options: object) -> Scheduler:
    """A scheduler of another process on the same broker."""
    return scheduler(broker, store, dispatcher=FakeDispatcher(broker), watcher=FakeWatcher(broker), **options)


@asynccontextmanager
async def _overtaken(made: Scheduler) -> AsyncIterator[Scheduler]:
    """Run a scheduler until another process has taken over, which has to end the statement, with what is told then."""
    try:
        async with made as running:
            yield running
            await anyio.sleep_forever()
    except Fenced as error:
        assert error.later  # noqa: PT017 - what comes before it is the caller's
    else:
        raise AssertionError


def _take_over(broker: FakeBroker, number: int) -> None:
    """Be another process that has taken the only database of this broker over."""
    [name] = broker.ledgers
    ledger = broker.ledgers[name]
    broker.ledgers[name] = BrokerMemory(ledger.token, ledger.pushes, ledger.turn, ledger.holder, term=Term(number, _OTHER))


async def _told(broker: FakeBroker, number: int) -> None:
    await until(lambda: any(each.term is not None and each.term.number == number for each in broker.ledgers.values()))


async def test_each_process_has_a_higher_term() -> None:
    """Thousands of restarts are thousands of terms, and each may follow the one before."""
    broker, store = FakeBroker(), MemoryStore()
    for number in range(1, 1001):
        async with anyio.create_task_group() as tasks:
            tenure = Tenure(store, FakeDispatcher(broker), SystemClock())
            await tenure.begin(tasks)
        assert tenure.number == number
        assert broker.ledgers[store.identity].term == tenure.term == await store.term()


async def test_term_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which term begins; statistics and health have it."""
    caplog.set_level(logging.INFO, "dyrygentd")
    broker, store = FakeBroker(), MemoryStore()
    for number in (1, 2):
        async with scheduler(broker, store) as running:
            assert running.statistics().engine["term"] == running.health().term == number
        assert f"term {number} of this database" in caplog.text


async def test_copy_takes_over() -> None:
    """The program with the first database is told who has taken over: whoever waits, whoever asks, and its own statement."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    seen: list[Fenced] = []
    async with _overtaken(scheduler(broker, store, limits=limits(in_flight_max=1))) as running:
        handle = await running.submit(definition("a; b; c", prefix="p"))
        await until(lambda: len(broker.published) == 1)
        copy = deepcopy(store)

        async def wait() -> None:
            try:
                await handle.wait(timeout_s=60)
            except Fenced as error:
                seen.append(error)

        async with anyio.create_task_group() as tasks, _another(broker, copy, limits=limits(in_flight_max=1)) as other:
            tasks.start_soon(wait)
            await anyio.sleep_forever()
    assert [(error.term, error.later) for error in seen] == [(1, 2)]
    assert f"process {os.getpid()} on" in seen[0].message
    with pytest.raises(Fenced):
        await running.submit(definition("late"))
    with pytest.raises(Fenced):
        await running.cancel(handle.id)
    assert other.statistics().engine["term"] == 2
    assert set(published(broker)) == {"a"}


async def test_nothing_is_published_by_the_older() -> None:
    """The push is refused by the broker itself, whatever the looks do."""
    broker = FakeBroker()
    async with _overtaken(scheduler(broker, MemoryStore(), pace=_SELDOM)) as running:
        assert (await (await running.submit(definition("a"))).wait(timeout_s=5)).state == "succeeded"
        _take_over(broker, 2)
        running._parts.tenure._is_told = False  # Nobody asks before the push does.
        await running.submit(definition("b"))
    assert published(broker) == ["a"]


@pytest.mark.parametrize("what", ["cancel", "pause", "submit"])
async def test_no_success_is_answered_by_the_older(what: str) -> None:
    """What is on disk here does not count any more, so nobody is told that it was done."""
    broker = FakeBroker(holds=True)
    refused = False
    async with _overtaken(scheduler(broker, MemoryStore(), pace=_SELDOM)) as running:
        handle = await running.submit(definition("a"))
        await until(lambda: len(broker.published) == 1)
        _take_over(broker, 2)
        with anyio.CancelScope(shield=True):
            try:
                await (running.submit(definition("b")) if what == "submit" else getattr(handle, what)())
            except Fenced:
                refused = True
    assert refused
    assert published(broker) == ["a"]
    assert broker.revoked == broker.withdrawn == []


async def test_errands_are_refused_to_the_older() -> None:
    """Who has been overtaken revokes nothing and forgets no marker: the tasks are another's now."""
    broker = FakeBroker(has_worker=False)
    for work in ("revoke", "withdraw", "forget", "mark", "note", "publish"):
        await broker.dispatcher.raise_term("d", Term(1, _OTHER))
        other = FakeDispatcher(broker)
        await other.raise_term("d", Term(2, _OTHER))
        arguments: dict[str, Sequence[object]] = {"mark": ("d", "t"), "note": ("d", 1, "h")}
        with pytest.raises(Fenced):
            await getattr(broker.dispatcher, work)(*arguments.get(work, (["a"],)))
        broker.empty()


async def test_who_is_behind_does_not_start() -> None:
    """A database that knows nothing of the last process does not go on by itself, and stays as it is, however often tried."""
    broker, store = FakeBroker(), MemoryStore()
    async with scheduler(broker, store):
        old = deepcopy(store)
    async with scheduler(broker, store):
        pass
    for _ in range(3):
        with pytest.raises(Fenced) as caught:
            async with _another(broker, old):
                raise AssertionError
        assert (caught.value.term, caught.value.later) == (0, 2)
        assert "dyrygentd claim" in str(caught.value)
        term = await old.term()
        assert term is not None
        assert term.number == 1
    async with scheduler(broker, store) as running:
        assert running.health().term == 3


async def test_two_copies_of_one_number() -> None:
    """Two copies that have raised the same number do not both go on: the one that the broker heard of first does."""
    broker, store = FakeBroker(), MemoryStore()
    async with scheduler(broker, store):
        copy = deepcopy(store)
    broker.broken = "away"
    async with _overtaken(scheduler(broker, store)) as first, _overtaken(_another(broker, copy)) as second:
        assert first.health().term == second.health().term == 2
        _take_over(broker, 2)
        broker.broken = ""
    assert broker.ledgers[store.identity].term == Term(2, _OTHER)


async def test_claim_counts_once() -> None:
    """A database that is meant to go on takes over from whatever the broker knows, once."""
    broker, store = FakeBroker(), MemoryStore()
    async with scheduler(broker, store):
        old = deepcopy(store)
    for _ in range(5):
        async with scheduler(broker, store):
            pass
    await old.remember(CLAIM_NOTE, "somebody said so")
    async with _another(broker, old) as running:
        assert running.health().term == 7
        assert await old.recall(CLAIM_NOTE) == ""
        with pytest.raises(Fenced):
            async with scheduler(broker, store):
                raise AssertionError
    async with _another(broker, old) as running:
        assert running.health().term == 8


async def test_claim_lasts_until_the_broker_has_heard_of_it() -> None:
    """With the broker away at the start the claim is kept; the term rises once more when it is known how far."""
    broker, store = FakeBroker(), MemoryStore()
    async with scheduler(broker, store):
        old = deepcopy(store)
    for _ in range(5):
        async with scheduler(broker, store):
            pass
    await old.remember(CLAIM_NOTE, "somebody said so")
    broker.broken = "away"
    for number in (2, 3):
        async with _another(broker, old) as running:
            assert running.health().term == number
            await settle()
    async with _another(broker, old) as running:
        broker.broken = ""
        await _told(broker, 7)
        assert running.health().term == 7
        handle = await running.submit(definition("a"))
        await until(lambda: len(broker.published) == 1)
        assert handle.id


async def test_broker_is_away_at_the_start() -> None:
    """Submissions are taken as ever, and nothing is sent before the broker has heard of the term."""
    broker, store = FakeBroker(), MemoryStore()
    broker.broken = "away"
    async with scheduler(broker, store) as running:
        await running.submit(definition("a"))
        await settle()
        assert published(broker) == []
        broker.broken = ""
        await until(lambda: len(broker.published) == 1)
        await _told(broker, 1)


async def test_broker_that_was_away_knows_better() -> None:
    """Who has started while the broker was away, and was behind, is told at the first look, and has sent nothing."""
    broker, store = FakeBroker(), MemoryStore()
    async with scheduler(broker, store):
        pass
    broker.broken = "away"
    async with _overtaken(scheduler(broker, store)) as running:
        await running.submit(definition("a"))
        _take_over(broker, 9)
        broker.broken = ""
    assert published(broker) == []


async def test_emptied_broker_hears_of_the_term_again() -> None:
    """A broker without its memory has no term either, and is told before anything is pushed."""
    broker = FakeBroker()
    async with scheduler(broker, MemoryStore(), pace=_SELDOM) as running:
        assert (await (await running.submit(definition("a"))).wait(timeout_s=5)).state == "succeeded"
        broker.empty()
        assert (await (await running.submit(definition("b"))).wait(timeout_s=5)).state == "succeeded"
        await _told(broker, 1)


async def test_slow_broker_keeps_nobody_from_an_answer() -> None:
    """A broker that does not answer the question is no reason to keep people waiting: they are answered as ever."""

    class Deaf(FakeDispatcher):
        is_deaf = False

        async def memory(self, name: str) -> BrokerMemory | None:
            if self.is_deaf:
                await anyio.sleep_forever()
            return await super().memory(name)

    broker = FakeBroker(holds=True)
    dispatcher = Deaf(broker)
    async with scheduler(broker, MemoryStore(), dispatcher=dispatcher, pace=_SELDOM) as running:
        handle = await running.submit(definition("a"))
        await until(lambda: len(broker.published) == 1)
        dispatcher.is_deaf = True
        assert (await handle.cancel()).state == "cancelled"


async def test_many_who_ask_share_a_question() -> None:
    """Hundreds of answers at one time cost the broker few questions, and none is older than what it confirms."""

    class Counting(FakeDispatcher):
        asked = 0

        async def memory(self, name: str) -> BrokerMemory | None:
            self.asked += 1
            await anyio.sleep(0.01)
            return await super().memory(name)

    broker = FakeBroker()
    dispatcher = Counting(broker)
    async with anyio.create_task_group() as tasks:
        tenure = Tenure(MemoryStore(), dispatcher, SystemClock())
        await tenure.begin(tasks)
        dispatcher.asked = 0
        async with anyio.create_task_group() as asking:
            for _ in range(500):
                asking.start_soon(tenure.confirm)
        assert dispatcher.asked <= 2
        _take_over(broker, 5)
        with pytest.raises(Fenced):
            await tenure.confirm()
        with pytest.raises(Fenced):
            await tenure.hold(None)


async def test_database_that_cannot_be_written_is_not_taken_over() -> None:
    """Without the term on disk nothing begins, and the broker hears of none."""
    broker, store = FakeBroker(), MemoryStore()
    store.broken = "the disk is full"
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        async with scheduler(broker, store):
            raise AssertionError
    assert broker.ledgers == {}


async def test_store_that_another_has_taken_over() -> None:
    """Where the database itself knows, as a server may, it is the same as if the broker had said so."""

    class Shared(MemoryStore):
        is_lost = False

        async def save(self, *records: Any) -> None:
            if self.is_lost:
                raise Fenced(1, 2, _OTHER.words)
            await super().save(*records)

    broker, store = FakeBroker(), Shared()
    async with _overtaken(scheduler(broker, store)) as running:
        store.is_lost = True
        with anyio.CancelScope(shield=True), pytest.raises(Fenced):
            await running.submit(definition("a"))
    assert published(broker) == []


async def test_own_error_is_not_covered() -> None:
    """A program that fails by itself while another takes over gets its own error."""

    async def fail() -> None:
        async with scheduler(FakeBroker(), MemoryStore(), pace=_SELDOM) as running:
            running._parts.tenure.lose(Fenced(1, 2, _OTHER.words))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


def test_what_else_was_raised_is_not_hidden() -> None:
    """A bug that shows at the same time is told as such."""
    fenced = Fenced(1, 2, "x")
    assert unwrapped(BaseExceptionGroup("", [fenced, BaseExceptionGroup("", [fenced])])) is fenced
    both = BaseExceptionGroup("", [fenced, ValueError()])
    assert unwrapped(both) is both
