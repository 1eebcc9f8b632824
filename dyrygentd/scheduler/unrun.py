"""Tells the result backend how tasks ended that never ran, so that nobody waits for them for ever.

*When.* After the rows of the turn are durable, in batches, in a task of its own. A node that does not stand any more as it did
then is left out: somebody has set it running again, or it comes once more. What the same turn publishes of such a workflow,
an error callback above all, waits a moment for it, since it may look the result up.

*After an outage or a crash* everything is derived from the rows again: of unfinished workflows, and of those that finished after
the time up to which everything was told, which is noted in the store now and then. Telling twice changes nothing
(`OutcomeKeeper`). So memory is bounded: what finds no room is told once the backend is back.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel

from dyrygentd.core.effects import Publish
from dyrygentd.core.engine import Engine
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.unrun import StoreOutcome, Told, is_unrun, outcome_of
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DyrygentError
from dyrygentd.ports import Clock, OutcomeKeeper, Store
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.limits import RETRY_FIRST_S, RETRY_MAX_S

logger = logging.getLogger("dyrygentd")

#: The name under which the store remembers up to when everything was told.
_NOTE: Final = "unrun"
_NOTE_EVERY_S: Final = 30.0
#: What finished shortly before a note may not have been handed over yet; it is told once more.
_MARGIN_S: Final = 60.0
#: Nodes, and workflows, that wait; those beyond are found again in the store.
_NODES_MAX, _WORKFLOWS_MAX = 100_000, 1000
_SLICE: Final = 500
_WITHDRAWN: Final = "the task was taken back before a worker had it"
#: How long a message waits for the results that its task may look up.
_HELD_S: Final = 1.0
#: Finished workflows that are looked through after a start or an outage, newest first, and so many in a page.
_FINISHED_MAX, _PAGE = 2000, 100


class _Held(NamedTuple):
    """Messages that wait until so many nodes were told, or for a time."""

    after: int
    until: float
    messages: Sequence[Publish]


class UnrunResults:
    """Follows what never ran. Guards: nothing is told before it is durable, and nothing that ran is overwritten.

    Args:
        publish: Takes messages that have waited.

    Attributes:
        stored: Results that were stored.
        problem: Why they cannot be stored, empty if they can.
    """

    def __init__(
        self,
        keeper: OutcomeKeeper,
        *,
        engine: Engine,
        store: Store,
        archive: Archive,
        clock: Clock,
        publish: Callable[[Sequence[Publish]], None],
    ) -> None:
        self.stored = 0
        self.problem = ""
        self._keeper = keeper
        self._engine = engine
        self._store = store
        self._archive = archive
        self._clock = clock
        self._publish = publish
        # With the state that is durable; what is in memory may be ahead of the disk.
        self._waiting: deque[tuple[RunningWorkflow, int, NodeState]] = deque()
        self._withdrawn: deque[str] = deque(maxlen=_NODES_MAX)
        self._workflows: dict[str, int] = {}
        self._held: deque[_Held] = deque()
        self._taken = self._done = 0
        # Until everything was looked through once.
        self._has_missed = self._is_busy = True
        self._awake, self._held_awake = anyio.Event(), anyio.Event()
        self._noted_at = 0.0

    def __repr__(self) -> str:
        return f"<UnrunResults waiting={len(self._waiting)} held={len(self._held)} stored={self.stored} problem='{self.problem}'>"

    @property
    def waiting_count(self) -> int:
        """Number of nodes that wait."""
        return len(self._waiting) + len(self._withdrawn)

    @property
    def is_behind(self) -> bool:
        """Tell whether anything is still to be told, as far as is known."""
        return self._is_busy or bool(self.waiting_count) or self._has_missed

    def take(self, unrun: Sequence[tuple[RunningWorkflow, int]], messages: Sequence[Publish]) -> Sequence[Publish]:
        """Take nodes whose ends are durable; return those of the messages of the same turn that need not wait for them."""
        if not unrun:
            return messages
        for workflow, node in unrun:
            self._take(workflow, node)
        self._awake.set()
        if self.problem or not messages:
            return messages
        owners = {workflow.workflow_id for workflow, _ in unrun}
        waiting = [message for message in messages if message.workflow_id in owners]
        if waiting:
            self._held.append(_Held(self._taken, anyio.current_time() + _HELD_S, waiting))
            self._held_awake.set()
        return [message for message in messages if message.workflow_id not in owners]

    def withdrawn(self, task_ids: Iterable[str]) -> None:
        """Take ids of cancelled tasks whose messages were taken back before a worker had them: nobody else tells their end."""
        self._withdrawn.extend(task_ids)
        self._awake.set()

    def _take(self, workflow: RunningWorkflow, node: int) -> None:
        is_new = workflow.workflow_id not in self._workflows
        if len(self._waiting) >= _NODES_MAX or (is_new and len(self._workflows) >= _WORKFLOWS_MAX):
            self._has_missed = True
            return
        self._waiting.append((workflow, node, workflow.state_of(node)))
        self._workflows[workflow.workflow_id] = self._workflows.get(workflow.workflow_id, 0) + 1
        self._taken += 1

    async def run(self) -> None:
        """Tell what there is, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._release_overdue)
            while True:
                self._is_busy = True
                if self._waiting:
                    await self._tell_slice()
                elif self._withdrawn:
                    ids = [self._withdrawn.popleft() for _ in range(min(len(self._withdrawn), _SLICE))]
                    await self._tell([StoreOutcome(task_id, Told.REVOKED, _WITHDRAWN) for task_id in ids])
                elif self._has_missed:
                    await self._look_again()
                else:
                    await self._note(self._clock.now())
                    self._is_busy = False
                    self._awake = anyio.Event()
                    await self._awake.wait()

    async def _tell_slice(self) -> None:
        size = min(len(self._waiting), _SLICE)
        places = [self._waiting.popleft() for _ in range(size)]
        found = [self._outcome_of(workflow, node) for workflow, node, state in places if workflow.state_of(node) is state]
        await self._tell([outcome for outcome in found if outcome is not None])
        for workflow, _, _ in places:
            self._workflows[workflow.workflow_id] -= 1
            if not self._workflows[workflow.workflow_id]:
                del self._workflows[workflow.workflow_id]
        self._done += size
        self._release(lambda held: held.after <= self._done)

    def _outcome_of(self, workflow: RunningWorkflow, node: int) -> StoreOutcome | None:
        """Return what is to be told of a node, nothing if its id belongs to another workflow."""
        outcome = outcome_of(workflow, node)
        if outcome is None or self._engine.flights.holder_of(outcome.task_id) not in (None, workflow.workflow_id):
            return None
        return outcome

    async def _tell(self, outcomes: Sequence[StoreOutcome]) -> None:
        """Store outcomes, again and again until the backend takes them."""
        pause_s = RETRY_FIRST_S
        # What is in flight is told by its worker; also if the id belongs to somebody else.
        while outcomes := [outcome for outcome in outcomes if not self._engine.flights.is_in_flight(outcome.task_id)]:
            try:
                self.stored += await self._keeper.store(outcomes)
                break
            except Exception as error:
                if not self.problem:
                    logger.warning("results of tasks that never ran cannot be stored, and will be later: %s", error)
                self.problem = str(error) or repr(error)
                self._release(lambda _: True)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
        if self.problem:
            logger.warning("results of tasks that never ran can be stored again")
            self.problem = ""

    # --- messages that wait -----------------------------------------------------------------------------------------

    def _release(self, is_due: Callable[[_Held], bool]) -> None:
        while self._held and is_due(self._held[0]):
            self._publish(self._held.popleft().messages)

    async def _release_overdue(self) -> None:
        while True:
            if not self._held:
                self._held_awake = anyio.Event()
                await self._held_awake.wait()
            if self._held:
                await anyio.sleep(max(0.0, self._held[0].until - anyio.current_time()))
                now = anyio.current_time()
                self._release(lambda held, now=now: held.until <= now)  # type: ignore[misc]

    # --- after a start or an outage ---------------------------------------------------------------------------------

    async def _look_again(self) -> None:
        """Find in the rows what was not told, as far as that can be."""
        self._has_missed = False
        now = self._clock.now()
        try:
            since = await self._store.recall(_NOTE)
            for workflow in list(self._engine.workflows.values()):
                if workflow.nodes.bad or workflow.nodes.count(NodeState.SKIPPED):
                    await self._tell_stored(workflow.workflow_id)
            if since is not None:
                # The clock may have been set back since that was noted.
                await self._tell_finished(min(float(since), now - _MARGIN_S))
        except DyrygentError as error:
            logger.warning("results of tasks that never ran may be missing: %s", error)
        await self._note(now, is_due=True)

    async def _tell_finished(self, since: float) -> None:
        before: int | None = None
        states = frozenset(state.value for state in WorkflowState if state.is_finished)
        for _ in range(_FINISHED_MAX // _PAGE):
            rows = await self._store.list(Selection(states=states, before=before, limit=_PAGE, with_children=True))
            for row in rows:
                if (row.record.finished_at or 0.0) < since or row.record.workflow_id in self._engine.workflows:
                    continue
                await self._tell_stored(row.record.workflow_id)
            if len(rows) < _PAGE:
                return
            before = rows[-1].cursor

    async def _tell_stored(self, workflow_id: str) -> None:
        """Tell all of a workflow as it stands in the store: only that is sure to last."""
        try:
            workflow = await self._archive.rebuilt(await self._archive.stored(workflow_id))
        except DyrygentError as error:
            logger.warning("results of tasks of workflow %s that never ran may be missing: %s", workflow_id, error)
            return
        for start in range(0, len(workflow.graph), 10 * _SLICE):
            nodes: Iterable[int] = range(start, min(start + 10 * _SLICE, len(workflow.graph)))
            places = [node for node in nodes if is_unrun(workflow, node)]
            for first in range(0, len(places), _SLICE):
                found = [self._outcome_of(workflow, node) for node in places[first : first + _SLICE]]
                await self._tell([outcome for outcome in found if outcome is not None])
            await anyio.lowlevel.checkpoint()

    async def _note(self, now: float, *, is_due: bool = False) -> None:
        """Note that everything up to here was told; seldom, since telling twice costs less than a transaction a turn."""
        if self._has_missed or (0 <= now - self._noted_at < _NOTE_EVERY_S and not is_due):
            return
        try:
            await self._store.remember(_NOTE, f"{now - _MARGIN_S:.3f}")
            self._noted_at = now
        except DyrygentError as error:
            logger.debug("it is not noted that the results of tasks that never ran are stored: %s", error)
