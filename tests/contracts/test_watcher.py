"""What every result watcher promises, see `dyrygentd.ports.ResultWatcher`.

It may repeat itself, so events are compared as sets.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskSucceeded
from tests.contracts.adapters import WatcherSetup

pytestmark = pytest.mark.anyio

#: Long enough for an adapter that polls.
_DEADLINE_S = 30.0


class _Inbox:
    """What the watcher emitted."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []
        self._changed = anyio.Event()

    def emit(self, events: Sequence[TaskEvent]) -> None:
        self.events.extend(events)
        self._changed.set()

    async def wait_for(self, *expected: TaskEvent) -> None:
        await self.wait_until(lambda: set(expected) <= set(self.events))

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(_DEADLINE_S):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()


@asynccontextmanager
async def _running(receiving: WatcherSetup) -> AsyncIterator[_Inbox]:
    inbox = _Inbox()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receiving.watcher.run, inbox.emit)
        yield inbox
        tasks.cancel_scope.cancel()


@pytest.mark.long
async def test_result_after_watching(receiving: WatcherSetup) -> None:
    """A result stored while the watcher listens is emitted, value and error included."""
    async with _running(receiving) as inbox:
        receiving.watcher.watch(["a", "b"])
        await receiving.store(TaskSucceeded("a", b"[1]"))
        await receiving.store(TaskFailed("b", "ValueError: no", "ValueError", fingerprint="ValueError"))
        await inbox.wait_for(
            TaskSucceeded("a", b"[1]"), TaskFailed("b", "ValueError: no", "ValueError", fingerprint="ValueError")
        )


async def test_result_before_watching(receiving: WatcherSetup) -> None:
    """A result that was there first is found: after a restart, most are."""
    await receiving.store(TaskSucceeded("a", b"1"))
    async with _running(receiving) as inbox:
        await receiving.store(TaskSucceeded("b", b"2"))
        receiving.watcher.watch(["a", "b"])
        await inbox.wait_for(TaskSucceeded("a", b"1"), TaskSucceeded("b", b"2"))


async def test_watching_before_running(receiving: WatcherSetup) -> None:
    """What is watched before the watcher runs is not missed, whenever its result came."""
    await receiving.store(TaskSucceeded("early", b"1"))
    receiving.watcher.watch(["early", "between", "late"])
    await receiving.store(TaskSucceeded("between", b"2"))
    async with _running(receiving) as inbox:
        await receiving.store(TaskSucceeded("late", b"3"))
        await inbox.wait_for(*(TaskSucceeded(name, b"%d" % n) for n, name in enumerate(("early", "between", "late"), 1)))


async def test_what_is_stored_is_found(receiving: WatcherSetup) -> None:
    """Whether an id is free is asked before it is taken, of many ids at once, and of a watcher that does not run yet."""
    await receiving.store(TaskSucceeded("done", b"[1]"))
    await receiving.store(TaskFailed("bad", "ValueError: no", "ValueError"))
    free = [f"free-{number}" for number in range(1200)]
    found = await receiving.watcher.find_stored([*free[:600], "done", *free[600:], "bad"])
    assert found == {"done": "SUCCESS", "bad": "FAILURE"}
    assert await receiving.watcher.find_stored(free[:3]) == {}
    async with _running(receiving) as inbox:
        receiving.watcher.watch(["done"])
        await inbox.wait_for(TaskSucceeded("done", b"[1]"))


async def test_only_the_watched_are_emitted(receiving: WatcherSetup) -> None:
    """Results of tasks that nobody watches, or no longer, are not emitted: the backend is shared with everybody."""
    async with _running(receiving) as inbox:
        receiving.watcher.watch(["a", "b"])
        receiving.watcher.unwatch(["a", "stranger"])
        await receiving.store(TaskSucceeded("a", b"1"))
        await receiving.store(TaskSucceeded("foreign", b"1"))
        await receiving.store(TaskSucceeded("b", b"2"))
        await inbox.wait_for(TaskSucceeded("b", b"2"))
        assert set(inbox.events) == {TaskSucceeded("b", b"2")}


async def test_watching_again(receiving: WatcherSetup) -> None:
    """A task that is watched again after it was let go is followed like a new one."""
    async with _running(receiving) as inbox:
        receiving.watcher.watch(["a"])
        receiving.watcher.unwatch(["a"])
        await receiving.store(TaskSucceeded("a", b"1"))
        receiving.watcher.watch(["a"])
        await inbox.wait_for(TaskSucceeded("a", b"1"))


async def test_many_at_once(receiving: WatcherSetup) -> None:
    """Thousands of results are all found, however they come."""
    ids = [f"task-{number}" for number in range(2000)]
    async with _running(receiving) as inbox:
        for task_id in ids[:1000]:
            await receiving.store(TaskSucceeded(task_id, b"null"))
        receiving.watcher.watch(ids)
        for task_id in ids[1000:]:
            await receiving.store(TaskSucceeded(task_id, b"null"))
        await inbox.wait_until(lambda: {event.task_id for event in inbox.events} == set(ids))


async def test_statistics_tell_whom_it_follows(receiving: WatcherSetup) -> None:
    """The number of watched tasks follows watch and unwatch, so a leak would show."""
    async with _running(receiving) as inbox:
        receiving.watcher.watch(["a", "b"])
        assert receiving.watcher.statistics().watched == 2
        await receiving.store(TaskSucceeded("a", b"1"))
        await inbox.wait_for(TaskSucceeded("a", b"1"))
        receiving.watcher.unwatch(["a", "b"])
        statistics = receiving.watcher.statistics()
        assert statistics.watched == 0
        assert statistics.connected
        assert statistics.problem == ""
        assert statistics.pushed + statistics.read + statistics.swept >= 1


async def test_backend_away_and_back(receiving: WatcherSetup) -> None:
    """A result that was stored around a loss of the connection is found when it is back."""
    if receiving.cut is None or receiving.mend is None:
        pytest.skip("this adapter has no connection that could be cut")
    async with _running(receiving) as inbox:
        receiving.watcher.watch(["a", "b"])
        await receiving.store(TaskSucceeded("a", b"1"))
        await inbox.wait_for(TaskSucceeded("a", b"1"))
        await receiving.cut()
        await receiving.mend()
        await receiving.store(TaskSucceeded("b", b"2"))
        await inbox.wait_for(TaskSucceeded("b", b"2"))
