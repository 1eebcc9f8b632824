"""Workflows read back from the store: all unfinished ones at the start, finished ones when somebody asks."""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from dyrygentd import wire
from dyrygentd.core.checkpoint import WorkflowRecord, restore
from dyrygentd.core.effects import Revoke
from dyrygentd.core.graph import NODES_MAX
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.verbs import Verb
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DyrygentError, WorkflowNotFound
from dyrygentd.ports import Clock, Selection, Store, Stored

logger = logging.getLogger("dyrygentd")

#: Documents longer than this are built and parsed in a thread; for shorter ones the hop costs more than the work.
_INLINE_BYTES: Final = 16_384
#: The same at the start, when nobody waits for the loop yet but a program around it: ten milliseconds.
_INLINE_AT_START_BYTES: Final = 262_144
#: Finished workflows kept unpacked for paging through their nodes.
_UNPACKED_MAX: Final = 2
#: Cancelled workflows that are looked through for tasks to revoke after a start.
_GIVEN_UP_MAX: Final = 200

T = TypeVar("T")


class Archive:
    """Reads workflows back and keeps the last few unpacked. Guards: what is kept is as new as what is stored."""

    def __init__(self, store: Store, clock: Clock, *, value_bytes_max: int) -> None:
        self._store = store
        self._clock = clock
        self._value_bytes_max = value_bytes_max
        self._unpacked: OrderedDict[str, RunningWorkflow] = OrderedDict()
        self._unpacking: dict[str, object] = {}

    def __len__(self) -> int:
        """Return how many are kept unpacked."""
        return len(self._unpacked)

    def drop(self, workflow_id: str) -> None:
        """Forget a workflow that has changed."""
        self._unpacked.pop(workflow_id, None)
        self._unpacking.pop(workflow_id, None)

    async def unpacked(self, workflow_id: str) -> RunningWorkflow:
        """Return a finished workflow in its unpacked form, to be read only. Raises `WorkflowNotFound`."""
        workflow = self._unpacked.get(workflow_id)
        if workflow is not None:
            return workflow
        mark = self._unpacking[workflow_id] = object()
        try:
            workflow = await self.rebuilt(await self.stored(workflow_id))
        finally:
            # Without the mark it has changed meanwhile, or somebody else reads it as well and keeps it.
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

    async def rebuilt(self, stored: Stored, *, inline_bytes: int = _INLINE_BYTES) -> RunningWorkflow:
        """Build a workflow from what is stored of it, in a thread if its definition is longer than ``inline_bytes``."""
        now = self._clock.now()
        document = stored.record.document
        assert document is not None

        def rebuild() -> RunningWorkflow:
            definition = wire.decode_definition(document, nodes_max=NODES_MAX, has_good_options=False)
            return restore(
                stored.record,
                stored.nodes,
                definition.graph,
                now=now,
                value_bytes_max=self._value_bytes_max,
                policy=definition.policy,
            )

        return await in_thread_if_long(rebuild, len(document), inline_bytes)

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
                await self._set_aside(stored.record, str(error) if isinstance(error, DyrygentError) else repr(error))
                continue
            yield workflow

    async def given_up(self, since: float) -> list[Revoke]:
        """Return what is to be revoked again: tasks that were in flight when their workflow was cancelled after ``since``.

        What was not told to the broker when the last process ended is known from the records alone. Only the newest workflows
        are looked at.
        """
        revokes: list[Revoke] = []
        cancelled = Selection(states=frozenset({WorkflowState.CANCELLED.value}), limit=_GIVEN_UP_MAX)
        for row in await self._store.list(cancelled):
            if (row.record.finished_at or 0.0) < since:
                continue
            try:
                workflow = await self.rebuilt(await self.stored(row.record.workflow_id))
            except DyrygentError as error:
                logger.warning("the tasks of workflow %s are not revoked again: %s", row.record.workflow_id, error)
                continue
            verbs = await self._store.journal(workflow.workflow_id)
            terminate = any(entry.verb == Verb.CANCEL and entry.detail for entry in verbs[-1:])
            revokes += _revokes_of(workflow, terminate=terminate)
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


def _revokes_of(workflow: RunningWorkflow, *, terminate: bool) -> Iterator[Revoke]:
    for node in workflow.nodes_in(NodeState.CANCELLED):
        signature = workflow.graph.signatures[node]
        if signature is not None and workflow.dispatched_at[node] and node not in workflow.late:
            yield Revoke(workflow.task_id_of(node), workflow.attempt_of(node), signature, terminate)


async def in_thread_if_long(work: Callable[[], T], size: int, inline_bytes: int = _INLINE_BYTES) -> T:
    """Do work on so many bytes, in a thread if that is worth the hop."""
    return work() if size <= inline_bytes else await anyio.to_thread.run_sync(work)
