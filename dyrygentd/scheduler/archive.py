"""Workflows read back from the store: all unfinished ones at the start, finished ones when somebody asks."""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

import anyio

from dyrygentd import wire
from dyrygentd.beside import giving_way, in_thread
from dyrygentd.core.checkpoint import restore
from dyrygentd.core.effects import Revoke
from dyrygentd.core.given_up import given_up_by
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.records import WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.verbs import Verb
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DyrygentError, OutsideError, StoreIncompatible, WorkflowNotFound
from dyrygentd.ports import Clock, Store
from dyrygentd.ports.facts import Listed, Selection, Stored
from dyrygentd.ports.values import ValueStore
from dyrygentd.scheduler.value_reading import ValueReading

logger = logging.getLogger("dyrygentd")

#: Documents longer than this are built and parsed in a thread; for shorter ones the hop costs more than the work.
_INLINE_BYTES: Final = 16_384
#: The same at the start, when nobody waits for the loop yet but a program around it: ten milliseconds.
_INLINE_AT_START_BYTES: Final = 262_144
#: The list of a map is so much shorter than a definition with the nodes that are made of it.
EXPANSION: Final = 20
#: Finished workflows kept unpacked for paging through their nodes.
_UNPACKED_MAX: Final = 2
#: Cancelled workflows that are looked through for tasks to revoke after a start.
_GIVEN_UP_MAX: Final = 200

T = TypeVar("T")


class Archive:
    """Reads workflows back and keeps the last few unpacked. Guards: what is kept is as new as what is stored.

    Attributes:
        values: Reads values that are kept beside the database.
    """

    def __init__(self, store: Store, clock: Clock, *, value_bytes_max: int, values: ValueStore | None = None) -> None:
        self.values = ValueReading(values, lambda: store.identity)
        self._store = store
        self._clock = clock
        self._value_bytes_max = value_bytes_max
        self._unpacked: OrderedDict[str, RunningWorkflow] = OrderedDict()
        self._unpacking: dict[str, anyio.Event] = {}

    def __repr__(self) -> str:
        return f"<Archive unpacked={[*self._unpacked]} unpacking={len(self._unpacking)}>"

    def __len__(self) -> int:
        """Return how many are kept unpacked."""
        return len(self._unpacked)

    def kept(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow that is kept unpacked."""
        return self._unpacked.get(workflow_id)

    def drop(self, workflow_id: str) -> None:
        """Forget a workflow that has changed."""
        self._unpacked.pop(workflow_id, None)
        self._unpacking.pop(workflow_id, None)

    async def unpacked(self, workflow_id: str) -> RunningWorkflow:
        """Return a finished workflow in its unpacked form, to be read only. Raises `WorkflowNotFound`."""
        while (workflow := self._unpacked.get(workflow_id)) is None and (other := self._unpacking.get(workflow_id)) is not None:
            # Somebody reads it already; read once more, it would be in memory twice.
            await other.wait()
        if workflow is not None:
            return workflow
        mark = self._unpacking[workflow_id] = anyio.Event()
        try:
            with giving_way():
                workflow = await self.rebuilt(await self.stored(workflow_id))
        finally:
            # Without the mark it has changed meanwhile.
            mark.set()
            is_present = self._unpacking.get(workflow_id) is mark
            if is_present:
                del self._unpacking[workflow_id]
        if is_present:
            self._unpacked[workflow_id] = workflow
            while len(self._unpacked) > _UNPACKED_MAX:
                self._unpacked.popitem(last=False)
        return workflow

    async def stored(self, workflow_id: str, *, to_reopen: bool = False) -> Stored:
        """Return what is stored of a workflow. Raises `WorkflowNotFound`."""
        stored = await self._store.load(workflow_id, to_reopen=to_reopen)
        if stored is None:
            raise WorkflowNotFound(workflow_id)
        return stored

    async def rebuilt(
        self, stored: Stored, *, inline_bytes: int = _INLINE_BYTES, before: RunningWorkflow | None = None
    ) -> RunningWorkflow:
        """Build a workflow from what is stored of it, in a thread if its definition is longer than ``inline_bytes``.

        Args:
            before: The same workflow as it was, whose graph it still has.
        """
        now = self._clock.now()
        document = stored.record.document
        assert document is not None

        def rebuild() -> RunningWorkflow:
            of: RunningWorkflow | Definition | None = before
            if of is None:
                of = wire.decode_definition(document, nodes_max=NODES_MAX, node_bytes_max=0, has_good_options=False)
            return restore(
                stored.record, stored.nodes, of.graph, now=now, value_bytes_max=self._value_bytes_max, policy=of.policy
            )

        size = EXPANSION * len(document) if wire.is_expanded(document) else len(document)
        return await in_thread_if_long(rebuild, size, inline_bytes)

    async def unfinished(self) -> AsyncIterator[RunningWorkflow]:
        """Iterate over the workflows that have not finished, oldest first; those that cannot be rebuilt are set aside."""
        async for stored in self._store.unfinished():
            if stored.damage:
                await self._set_aside(stored.record, stored.damage)
                continue
            try:
                workflow = await self.rebuilt(stored, inline_bytes=_INLINE_AT_START_BYTES)
            except Exception as error:
                # Also what no check foresees: one row that was damaged must not keep all others from going on.
                await self._set_aside(stored.record, error.message if isinstance(error, DyrygentError) else repr(error))
                continue
            yield workflow

    async def given_up(self, since: float) -> list[Revoke]:
        """Return what is to be revoked again: tasks that were in flight when their workflow ended without them after ``since``.

        What was not told to the broker when the last process ended is known from the records alone. Only the newest workflows
        are looked at, those that failed so that they leave room for the others.
        """
        revokes: list[Revoke] = []
        rows: list[Listed] = []
        for state in (WorkflowState.CANCELLED, WorkflowState.FAILED):
            rows += await self._store.list(Selection(states=frozenset({state.value}), limit=_GIVEN_UP_MAX, with_children=True))
        for row in rows:
            if (row.record.finished_at or 0.0) < since:
                continue
            try:
                workflow = await self.rebuilt(await self.stored(row.record.workflow_id))
            except Exception as error:
                if isinstance(error, OutsideError) and not isinstance(error, StoreIncompatible):
                    raise
                # One that was set aside since it cannot be rebuilt is among those that failed.
                logger.warning("the tasks of workflow %s are not revoked again: %r", row.record.workflow_id, error)
                continue
            verbs = await self._store.journal(workflow.workflow_id)
            terminate = any(entry.verb == Verb.CANCEL and entry.detail for entry in verbs[-1:])
            revokes += _revokes_of(workflow, since, terminate=terminate)
        return revokes

    async def _set_aside(self, record: WorkflowRecord, error: str) -> None:
        """End a workflow that cannot be rebuilt, so that it keeps no other from going on."""
        logger.error("workflow %s %r cannot be rebuilt and is set aside: %s", record.workflow_id, record.name, error)
        ended = replace(
            record,
            document=None,
            state=WorkflowState.FAILED,
            finished_at=self._clock.now(),
            error=f"it cannot be rebuilt: {error}",
        )
        await self._store.save([ended], [])


def _revokes_of(workflow: RunningWorkflow, since: float, *, terminate: bool) -> Iterator[Revoke]:
    for task in given_up_by(workflow, since):
        signature = workflow.graph.signatures[task.node]
        assert signature is not None
        # Who cancelled has said whether what runs is ended; a deadline and a timeout always end it.
        is_ended = terminate if workflow.state is WorkflowState.CANCELLED else task.terminate
        yield Revoke(task.task_id, task.attempt, signature, is_ended, workflow.attempts.destination_of(task.node))


async def in_thread_if_long(work: Callable[[], T], size: int, inline_bytes: int = _INLINE_BYTES) -> T:
    """Do work on so many bytes, in a thread if that is worth the hop."""
    return work() if size <= inline_bytes else await in_thread(work)
