"""A result watcher at work, and what it told."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from dyrygentd.core.events import TaskEvent
from dyrygentd.ports import ResultWatcher
from dyrygentd.transport.meta import is_final


class Told:
    """What a watcher emitted, in order."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []
        self._changed = anyio.Event()

    def emit(self, events: Sequence[TaskEvent]) -> None:
        """Take events; the watcher is given this."""
        self.events.extend(events)
        self._changed.set()

    def final(self) -> list[str]:
        """Return the ids of the tasks that ended, once for each time that was told."""
        return [event.task_id for event in self.events if is_final(event)]

    async def wait_final(self, *task_ids: str, timeout_s: float = 30.0) -> None:
        """Wait until the ends of all these tasks were told."""
        await self.wait_until(lambda: set(task_ids) <= set(self.final()), timeout_s=timeout_s)

    async def wait_until(self, condition: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
        """Wait until the condition is true; looks again whenever something is told."""
        with anyio.fail_after(timeout_s):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()


@asynccontextmanager
async def following(watcher: ResultWatcher) -> AsyncIterator[Told]:
    """Run a watcher."""
    told = Told()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.run, told.emit)
        yield told
        tasks.cancel_scope.cancel()


async def eventually(condition: Callable[[], object], *, timeout_s: float = 30.0) -> None:
    """Wait for something that nobody announces."""
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - there is no event.
            await anyio.sleep(0.01)
