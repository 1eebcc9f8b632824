"""What the tests of the scheduler share: definitions in a small notation, conditions with a deadline, parts that break."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.core.graph import Definition
from dyrygentd.core.limits import Limits
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.ports import Store
from dyrygentd.ports.facts import Inspection, TaskPlace
from dyrygentd.scheduler import Scheduler, SchedulerLimits
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, FakeDispatcher, FakeInspector, MemoryStore
from tests.support.conversation import parse_graph

#: Far beyond what anything here takes, so that only a hang reaches it.
DEADLINE_S = 10.0

#: Followers are not slowed down in tests.
QUICK = SchedulerLimits(follow_interval_s=0.0)

_numbers = itertools.count(1)


def definition(
    text: str,
    *,
    name: str = "test",
    key: str | None = None,
    labels: Mapping[str, str] | None = None,
    output: str | None = None,
    prefix: str | None = None,
) -> Definition:
    """A definition in the notation of `tests.support.conversation`; task ``a`` is ``tasks.a``, its id ``prefix/a``."""
    graph = parse_graph(text, prefix or f"w{next(_numbers)}", output=output)
    return Definition(graph, name, key, labels or {})


async def until(condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Let the loop go on until ``condition`` holds."""
    with anyio.fail_after(deadline_s):
        while not condition():  # noqa: ASYNC110 - most conditions have no event of their own
            await anyio.sleep(0.0005)


async def settle(passes: int = 50) -> None:
    """Let everybody who can run do so, to see that nothing happens."""
    for _ in range(passes):
        await anyio.lowlevel.checkpoint()


def scheduler(broker: FakeBroker, store: Store | None = None, **options: Any) -> Scheduler:
    """A scheduler on the fakes, not yet entered."""
    chosen: dict[str, Any] = {"store": store or MemoryStore(), "limits": QUICK}
    chosen |= {"dispatcher": broker.dispatcher, "watcher": broker.watcher}
    return Scheduler(**(chosen | options))


def limits(**bounds: Any) -> SchedulerLimits:
    """Limits of a scheduler; those of the engine by their own names."""
    engine = {name: bounds.pop(name) for name in list(bounds) if hasattr(Limits, name)}
    return replace(QUICK, engine=replace(Limits(), **engine), **bounds)


def published(broker: FakeBroker) -> list[str]:
    """Return the names of the tasks that reached the broker, in order, without ``tasks.``."""
    return [message.signature.task.removeprefix("tasks.") for message in broker.published]


class _Gate:
    """Saves that wait while the gate is shut, as on a disk that does not answer."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.waiting = 0
        self._open = anyio.Event()
        self._open.set()

    def shut(self) -> None:
        """Let no save through until `open_gate`."""
        self._open = anyio.Event()

    def open_gate(self) -> None:
        """Let saves through."""
        self._open.set()

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Save when the gate is open."""
        self.waiting += 1
        await self._open.wait()
        self.waiting -= 1
        await super().save(workflows, nodes, journal)  # type: ignore[misc]


class GatedMemory(_Gate, MemoryStore):
    """A store in memory with a gate."""


class GatedSqlite(_Gate, SqliteStore):
    """A store on disk with a gate."""


class Ambiguous(FakeDispatcher):
    """A dispatcher that sends, and then fails to hear the broker's answer, the first ``times`` times."""

    def __init__(self, broker: FakeBroker, times: int = 1) -> None:
        super().__init__(broker)
        self.times = times

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        """Send, then raise."""
        answers = await super().publish(messages)
        if self.times:
            self.times -= 1
            raise BrokerUnavailable("the answer was cut off")
        return answers


class Refusing(FakeDispatcher):
    """A dispatcher whose broker refuses ``tasks.bad`` for good."""

    async def publish(self, messages: Sequence[Publish]) -> Sequence[MessagePublished | MessageRefused]:
        """Send what is not bad."""
        good = [message for message in messages if message.signature.task != "tasks.bad"]
        refused = [MessageRefused(message.task_id, "too large") for message in messages if message not in good]
        return [*await super().publish(good), *refused]


class RetryingInspector(FakeInspector):
    """Finds that all tasks wait at a worker for their retries, after an error with a password in it."""

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        """Find them."""
        found = await super().trace(tasks)
        error = "OSError: redis://user:hunter2@host/0 is gone"
        facts: dict[str, Any] = {"worker_state": "scheduled", "worker": "w1", "stored_state": "RETRY", "stored_error": error}
        return replace(found, tasks={name: replace(task, **facts) for name, task in found.tasks.items()})
