"""Keeps large values out of memory and out of the database: they are written elsewhere before the engine hears of them.

Theory of operation
===================
*The idea.* The end of a task with a large value stops here on its way to the inbox. The value is written, in a thread, under a
name that was never used before, and synced; then the end goes on with a reference in its place (`dyrygentd.core.references`). So
nothing of a large value is in a turn, in a transaction or in memory, and what a saved row names is there.

*Who lets go.* The engine counts who needs a value, as it does with those in memory, and its batch names what nobody needs any
more; that is deleted once the batch is durable. Values of a workflow that is not in the database any more are deleted by a look
each minute. What a crash has left between writing and saving is found at the start: nobody names it.

*Bounded.* What waits to be written has `values_waiting_bytes_max` bytes at most. A value beyond that is dropped, and its result
read anew from the backend when there is room. All that is kept has a bound, too.

*When it cannot be written* a value goes the way of a small one, into memory and database, with their bounds, and that is told. A
full disk must not fail what would fit into memory, and must not hold up what is small.

*Tried and rejected.* Writing within the turn: five hundred results of 10 MB would hold all others up for half a minute. Rows of
their own in the database: they would share its log, its cache and its copies with states that are needed at once. Having workers
write them: each fleet would need the store and its rights, and what Celery keeps of a result is there in any case.
"""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from dyrygentd.core.engine import Engine
from dyrygentd.core.events import TaskEvent, TaskSucceeded
from dyrygentd.core.references import OPEN, Reference
from dyrygentd.core.values import INLINE_BYTES
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import OutsideError, StoreUnavailable
from dyrygentd.ports import Emit, Store
from dyrygentd.ports.values import ValuesStatistics, ValueStore
from dyrygentd.scheduler.adapters import Adapters
from dyrygentd.scheduler.limits import SchedulerLimits

logger = logging.getLogger("dyrygentd")

#: How many are written at one time: a disk that syncs has use for two.
_WRITTEN_AT_ONCE: Final = 2
#: Tries to write one, and the pause before the next.
_TRIES: Final = 3
_PAUSE_S: Final = 0.2
#: Between two looks for values of workflows that are gone, and workflows that are asked for in one look.
_LOOK_EVERY_S: Final = 60.0
_LOOKED_AT_MAX: Final = 1000
#: Names that are deleted in one go.
_DELETED_AT_ONCE: Final = 100


class Spilling:
    """Writes large values elsewhere, and deletes them. Guards: what a durable row names is there, as long as it may be needed.

    Args:
        values: Where they are kept; None for nowhere.
        watch: Has a result read again, and told.
        is_live: Tells whether a workflow is in memory, or its end on its way to the database.
        spill_bytes: Values that are longer are kept there.
        bytes_max: Of all that is kept there.
        waiting_max: Bytes of values that wait to be written.

    Attributes:
        problem: Why a value could not be kept there, empty if the last one could.
    """

    def __init__(
        self,
        values: ValueStore | None,
        *,
        engine: Engine,
        store: Store,
        watch: Callable[[Sequence[str]], None],
        is_live: Callable[[str], bool],
        spill_bytes: int,
        bytes_max: int,
        waiting_max: int,
    ) -> None:
        self.problem = ""
        self._values = values
        self._engine = engine
        self._store = store
        self._watch = watch
        self._is_live = is_live
        # A text with a reference in it is then never taken for a short one, see `INLINE_BYTES`.
        self._spill_bytes = max(spill_bytes, INLINE_BYTES)
        self._bytes_max = bytes_max
        self._waiting_max = waiting_max
        self._kept: dict[str, dict[str, int]] = {}
        self._count = self._bytes = self._written = self._failed = 0
        self._to_write: deque[tuple[TaskSucceeded, bytes, RunningWorkflow, int, Emit]] = deque()
        self._waiting_bytes = 0
        self._put_off: deque[tuple[str, int]] = deque()
        self._to_delete: deque[str] = deque()
        self._write_awake, self._delete_awake = anyio.Event(), anyio.Event()
        self._missing = ""

    @property
    def why_here(self) -> str:
        """Return the end of what is said of a value without room: why it is not kept elsewhere, or how it would be."""
        if self._values is None:
            return "; `value_store` names a place where large values are kept instead"
        return f"; it would be kept elsewhere, but {self.problem}" if self.problem else ""

    @classmethod
    def of(cls, adapters: Adapters, engine: Engine, limits: SchedulerLimits, *, is_live: Callable[[str], bool]) -> Self:
        """Make it of what a scheduler has."""
        return cls(
            adapters.values,
            engine=engine,
            store=adapters.store,
            watch=adapters.watcher.watch,
            is_live=is_live,
            spill_bytes=limits.value_spill_bytes,
            bytes_max=limits.value_store_bytes_max,
            waiting_max=limits.values_waiting_bytes_max,
        )

    def __repr__(self) -> str:
        return f"<Spilling {self._values!r} count={self._count} bytes={self._bytes} problem={self.problem!r}>"

    def __len__(self) -> int:
        """Return how many values are to be deleted."""
        return len(self._to_delete)

    @property
    def notice(self) -> str:
        """What people should know about it, empty if nothing."""
        if self.problem:
            return f"large values are kept in memory and in the database: {self.problem}"
        return self._missing

    def statistics(self) -> ValuesStatistics:
        """Return an immutable snapshot."""
        return ValuesStatistics(
            stored_values=self._count,
            stored_value_bytes=self._bytes,
            stored_values_waiting=len(self._to_write) + len(self._put_off),
            stored_values_written=self._written,
            stored_values_failed=self._failed,
        )

    # --- on their way in --------------------------------------------------------------------------------------------

    def door(self, post: Emit) -> Emit:
        """Return what takes ends of tasks in the place of this: large values are written before they go on to it."""

        def take(events: Sequence[TaskEvent]) -> None:
            if any(
                type(event) is TaskSucceeded and event.value is not None and self._is_special(event.value) for event in events
            ):
                events = [taken for event in events if (taken := self._taken(event, post)) is not None]
            if events:
                post(events)

        return take

    def _is_special(self, value: bytes) -> bool:
        return len(value) > self._spill_bytes or OPEN in value

    def _taken(self, event: TaskEvent, post: Emit) -> TaskEvent | None:
        """Return what is posted now in the place of an event; None if it is posted later."""
        if type(event) is not TaskSucceeded or event.value is None or not self._is_special(event.value):
            return event
        size = len(event.value)
        if OPEN in event.value:
            # JSON has no such byte: a reference that somebody has made up would show another one's value.
            return replace(event, value=None, value_error="it is no JSON: a control character is in it")
        place = self._engine.flights.by_id.get(event.task_id)
        if self._values is None or place is None or size > self._engine.limits.value_bytes_max:
            return event  # What is too long is refused by name.
        workflow, node = place
        if not workflow.graph.value_uses[node]:
            return event  # Nobody takes it.
        if self._bytes + self._waiting_bytes + size > self._bytes_max:
            self._note(
                f"{self._values.where} has {self._bytes} bytes of values, and `value_store_bytes_max` is {self._bytes_max}"
            )
            self._failed += 1
            return event
        if self._waiting_bytes and self._waiting_bytes + size > self._waiting_max:
            self._put_off.append((event.task_id, size))
        else:
            self._waiting_bytes += size
            self._to_write.append((event, event.value, workflow, node, post))
            self._write_awake.set()
        return None

    async def run(self) -> None:
        """Write and delete, until cancelled."""
        if self._values is None:
            return
        async with anyio.create_task_group() as tasks:
            for _ in range(_WRITTEN_AT_ONCE):
                tasks.start_soon(self._write_all, self._values)
            tasks.start_soon(self._delete_all, self._values)
            tasks.start_soon(self._look)

    async def _write_all(self, values: ValueStore) -> None:
        while True:
            while not self._to_write:
                self._write_awake = anyio.Event()
                await self._write_awake.wait()
            event, value, workflow, node, post = self._to_write.popleft()
            name = f"{workflow.workflow_id}/{node}-{workflow.attempts.of(node)}-{secrets.token_hex(6)}"
            is_there = await self._write(values, name, value)
            if is_there:
                self._count_in(name, len(value))
                event = replace(event, value=Reference(name, len(value)).text)
            self._waiting_bytes -= len(value)
            post([event])
            # Until the next one comes it would be held.
            del event, value
            self._read_put_off()

    async def _write(self, values: ValueStore, name: str, value: bytes) -> bool:
        """Write one value, in a few tries; tell whether it is there."""
        # While it does not work one try is enough to see that: the others wait behind it.
        tries = 1 if self.problem else _TRIES
        for tried in range(1, tries + 1):
            try:
                await anyio.to_thread.run_sync(values.write, f"{self._store.identity}/{name}", value)
            except StoreUnavailable as error:
                if tried == tries:
                    self._failed += 1
                    self._note(error.message)
                    return False
                await anyio.sleep(_PAUSE_S)
            else:
                break
        self._written += 1
        if self.problem:
            logger.warning("large values are kept in %s again", values.where)
            self.problem = ""
        return True

    def _note(self, problem: str) -> None:
        if not self.problem:
            logger.warning("large values are kept in memory and in the database: %s", problem)
        self.problem = problem

    def _read_put_off(self) -> None:
        """Have results read again that were dropped since too much waited."""
        ids, size = list[str](), self._waiting_bytes
        while self._put_off and (not size or size + self._put_off[0][1] <= self._waiting_max // 2):
            task_id, own = self._put_off.popleft()
            size += own
            if self._engine.flights.is_in_flight(task_id):
                ids.append(task_id)
        if ids:
            self._watch(ids)

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _count_in(self, name: str, size: int) -> None:
        self._kept.setdefault(name.partition("/")[0], {})[name] = size
        self._count += 1
        self._bytes += size

    def _count_out(self, name: str) -> None:
        of_workflow = self._kept.get(name.partition("/")[0], {})
        size = of_workflow.pop(name, None)
        if size is not None:
            self._count -= 1
            self._bytes -= size
            if not of_workflow:
                self._kept.pop(name.partition("/")[0], None)

    async def prepare(self) -> None:
        """Count what is there, and delete what nobody names. All unfinished workflows are in memory; no task is watched yet."""
        values, database = self._values, self._store.identity
        named = {name for workflow in self._engine.workflows.values() for name in workflow.values.elsewhere}
        if values is None:
            if named:
                self._missing = (
                    f"{len(named)} values that workflows need were kept elsewhere, and `value_store` names no place now"
                )
            return
        try:
            found = await anyio.to_thread.run_sync(lambda: list(values.find(database)))
        except StoreUnavailable as error:
            self._note(error.message)
            return
        for name, size in found:
            self._count_in(name.partition("/")[2], size)
        unnamed = [
            name
            for workflow_id, names in self._kept.items()
            if workflow_id in self._engine.workflows
            for name in names
            if name not in named
        ]
        self.delete(unnamed)
        missing = sorted(named - {name for names in self._kept.values() for name in names})
        if missing:
            self._missing = (
                f"{len(missing)} values that workflows need are not in {values.where}, such as '{missing[0]}': it belongs to the"
                " database, is copied with it, and is the same for all hosts that share it"
            )

    # --- deleting ---------------------------------------------------------------------------------------------------

    def delete(self, names: Sequence[str]) -> None:
        """Delete values that no row names any more, soon."""
        if names and self._values is not None:
            for name in names:
                self._count_out(name)
            self._to_delete.extend(names)
            self._delete_awake.set()

    async def _delete_all(self, values: ValueStore) -> None:
        while True:
            while not self._to_delete:
                self._delete_awake = anyio.Event()
                await self._delete_awake.wait()
            names = [self._to_delete.popleft() for _ in range(min(len(self._to_delete), _DELETED_AT_ONCE))]
            try:
                await anyio.to_thread.run_sync(values.delete, [f"{self._store.identity}/{name}" for name in names])
            except StoreUnavailable as error:
                # What stays is found at the next start.
                logger.warning("%d values that nobody needs any more may be left behind: %s", len(names), error)

    async def _look(self) -> None:
        """Find workflows that are not in the database any more, again and again."""
        while True:
            await anyio.sleep(_LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Delete the values of workflows that are not in the database any more."""
        for workflow_id in list(self._kept)[:_LOOKED_AT_MAX]:
            names = self._kept.pop(workflow_id, {})
            # The others first, the next time.
            self._kept[workflow_id] = names
            try:
                if self._is_live(workflow_id) or await self._store.record(workflow_id) is not None:
                    continue
            except OutsideError:
                return  # Whether the database can be read is told by others.
            self.delete([*names])
            await anyio.lowlevel.checkpoint()
