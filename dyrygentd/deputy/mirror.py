"""Unfinished workflows as another process has stored them, for those who look at them here.

Theory of operation
===================
*The idea.* What answers questions about unfinished workflows goes by an engine. Here it is one that runs nothing: it has the
workflows that somebody looks at, as they were read from the store, and no batch is ever taken of it. Nothing that it has is shown
for longer than a second, or a few times as long as reading took: then all that is still looked at is read again, at once for
all who look, and goes into a new engine. Workflows of which nothing has changed stay the same objects, so what is known of
their folds and estimates stays, too.

*What it costs.* Reading a workflow costs about as much as recovering it. A look in time costs nothing, however many look; what
nobody has looked at for some seconds is let go. Who follows is woken by `run`, if anything has changed.

*What is not known here* is what only the memory of the leader has: the worker's last word about a task, how often a message was
given out, which nodes have lost their place in a pool a moment ago. Who waits for a pool is found out anew, by what is in flight.

*Tried and rejected.* One engine that follows all of the database all the time: it costs a standby what the leader costs, for
nobody. To put changed workflows into the same engine: its timers and tables have no way to let go of one that has not ended.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import anyio
import anyio.lowlevel

from dyrygentd.core.engine import Engine
from dyrygentd.core.events import WorkflowRecovered
from dyrygentd.core.notes import Hold, HoldReason
from dyrygentd.core.records import WorkflowRecord
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DaemonUnreachable, OutsideError, StoreIncompatible, WorkflowNotFound
from dyrygentd.ports import Clock, Store
from dyrygentd.ports.facts import Selection, Stored
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.listeners import Listeners

logger = logging.getLogger("dyrygentd.deputy")

#: How old what is shown may be, and how many times as long as reading took.
_FRESH_S: Final = 1.0
_REST: Final = 4
#: How long a workflow is read again after somebody looked at it last.
_KEPT_S: Final = 5.0
#: Nodes of all workflows that are looked at, some kilobytes each; a single one is looked at whatever its size.
_NODES_MAX: Final = 200_000
#: Workflows that are found by one listing.
_PAGE: Final = 500
_UNFINISHED: Final = frozenset(state.value for state in WorkflowState if not state.is_finished)


@dataclass(slots=True)
class _Seen:
    """A workflow that somebody looks at.

    Attributes:
        mark: What tells how it is stored from how it was before.
        asked_at: When somebody looked last.
    """

    workflow: RunningWorkflow
    record: WorkflowRecord
    mark: int
    asked_at: float


class Mirror:
    """What is known of unfinished workflows where they do not run. Guards: nothing older than it may be is shown.

    Args:
        listeners: Who is told of changes.
        make_engine: Makes an engine that has nothing yet.
        on_again: Told of a workflow that has changed, as it was and as it is.
        nodes_max: Nodes of all workflows that are looked at.
        fresh_s, rest: How old what is shown may be, and how many times as long as reading took.

    Attributes:
        engine: Has what is looked at; another one after each reading.
        left_out: Unfinished workflows that were not looked at when all were to be.
        readings, seconds: How often what is looked at was read, and how long that took.
    """

    def __init__(
        self,
        store: Store,
        archive: Archive,
        listeners: Listeners,
        *,
        clock: Clock,
        make_engine: Callable[[], Engine],
        on_again: Callable[[RunningWorkflow, RunningWorkflow], object] = lambda before, after: None,
        nodes_max: int = _NODES_MAX,
        fresh_s: float = _FRESH_S,
        rest: int = _REST,
    ) -> None:
        self.engine = make_engine()
        self.left_out = self.readings = 0
        self.seconds = 0.0
        self._store = store
        self._archive = archive
        self._listeners = listeners
        self._clock = clock
        self._make_engine = make_engine
        self._on_again = on_again
        self._nodes_max = nodes_max
        self._fresh_s, self._rest = fresh_s, rest
        self._seen: dict[str, _Seen] = {}
        self._good_until = self._all_good_until = 0.0
        self._one_look = anyio.Lock()
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<Mirror workflows={len(self._seen)} nodes={self.node_count} readings={self.readings}>"

    @property
    def node_count(self) -> int:
        """Number of nodes of the workflows that are looked at."""
        return sum(len(seen.workflow.graph) for seen in self._seen.values())

    # --- for everybody ----------------------------------------------------------------------------------------------

    async def look(self, *workflow_ids: str) -> None:
        """Have what is known of these be as new as it is shown. Raises `StoreUnavailable`.

        Of several no more are looked at than there is room for.
        """
        now = anyio.current_time()
        for workflow_id in workflow_ids:
            if (seen := self._seen.get(workflow_id)) is not None:
                seen.asked_at = now
        if now < self._good_until and all(map(self._seen.__contains__, workflow_ids)):
            return
        if len(workflow_ids) == 1 and not await self._is_unfinished(workflow_ids[0]):
            return
        async with self._one_look:
            if anyio.current_time() >= self._good_until:
                await self._read_again()
            count = len(self._seen)
            for workflow_id in workflow_ids:
                if workflow_id in self._seen:
                    continue
                if len(workflow_ids) == 1:
                    await self._begin(workflow_id)
                elif self.node_count < self._nodes_max:
                    with contextlib.suppress(WorkflowNotFound, StoreIncompatible):
                        await self._begin(workflow_id)
            if len(self._seen) > count:
                # Those that were there before may wait for what one of these has.
                self._have_wait_for_pools([seen.workflow for seen in self._seen.values()], self._clock.now())
            self._make_room(workflow_ids)

    async def look_at_all(self) -> None:
        """Have all that has not finished be known, as far as there is room; newer workflows first. Raises `StoreUnavailable`."""
        begun = anyio.current_time()
        if begun < self._all_good_until:
            await self.look(*self._seen)
            return
        found: list[str] = []
        before, room, self.left_out = None, self._nodes_max, 0
        while True:
            page = await self._store.list(Selection(states=_UNFINISHED, before=before, limit=_PAGE, with_children=True))
            for row in page:
                if room > 0:
                    found.append(row.record.workflow_id)
                    room -= row.record.task_count
                else:
                    self.left_out += 1
            if len(page) < _PAGE:
                break
            before = page[-1].cursor
        await self.look(*found)
        took_s = anyio.current_time() - begun
        self._all_good_until = anyio.current_time() + max(self._fresh_s, self._rest * took_s)

    def live(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow that has not finished, if somebody looks at it."""
        seen = self._seen.get(workflow_id)
        return None if seen is None else seen.workflow

    def refuse_if_ended(self, workflow_id: str) -> None:
        """Raise `DaemonUnreachable` if nobody looks any more."""
        if self._has_ended:
            raise DaemonUnreachable(
                f"this process looks no more at workflow '{workflow_id}'", next_step="ask again: it may lead now, or another one"
            )

    def end(self) -> None:
        """Wake everybody who waits for something that will not be seen any more."""
        self._has_ended = True
        self._listeners.notify_all()

    async def run(self) -> None:
        """Look again for those who follow, until cancelled."""
        while True:
            await anyio.sleep(self._fresh_s)
            async with self._one_look:
                now = anyio.current_time()
                is_asked_for = any(now - seen.asked_at <= _KEPT_S for seen in self._seen.values())
                if not self._seen or (now < self._good_until if self._listeners else is_asked_for):
                    continue
                try:
                    await self._read_again()
                except OutsideError as error:
                    logger.debug("what is followed cannot be read: %s", error)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _is_unfinished(self, workflow_id: str) -> bool:
        if workflow_id in self._seen:
            return True
        record = await self._store.record(workflow_id)
        if record is None:
            return False
        kept = self._archive.kept(workflow_id)
        if kept is not None and kept.finished_at != record.finished_at:
            # It has run again since it was read back.
            self._archive.drop(workflow_id)
        return record.finished_at is None

    async def _begin(self, workflow_id: str) -> None:
        """Look at a workflow that nobody looked at."""
        stored = await self._archive.stored(workflow_id)
        if stored.record.finished_at is not None:
            return
        workflow = await self._archive.rebuilt(stored)
        self._seen[workflow_id] = _Seen(workflow, _without_document(stored), _mark(stored), anyio.current_time())
        self.engine.handle(WorkflowRecovered(workflow), self._clock.now())

    async def _read_again(self) -> None:
        """Read what is looked at, let go what is not, and tell those who follow what has changed."""
        begun = anyio.current_time()
        seen, changed = dict[str, _Seen](), list[str]()
        for workflow_id, known in [*self._seen.items()]:
            if begun - known.asked_at > _KEPT_S and not self._listeners.count(workflow_id):
                continue
            again = await self._again(workflow_id, known)
            if again is not None:
                seen[workflow_id] = again
            else:
                self._archive.drop(workflow_id)
            if again is None or again.mark != known.mark or again.record != known.record:
                changed.append(workflow_id)
        engine, now = self._make_engine(), self._clock.now()
        workflows = [known.workflow for known in seen.values()]
        for workflow in workflows:
            engine.handle(WorkflowRecovered(workflow), now)
        # Those who were looked at first meanwhile waited for the lock.
        for workflow_id, again in seen.items():
            if again.workflow is not self._seen[workflow_id].workflow:
                self._on_again(self._seen[workflow_id].workflow, again.workflow)
        self._seen, self.engine = seen, engine
        self._have_wait_for_pools(workflows, now)
        took_s = anyio.current_time() - begun
        self._good_until = anyio.current_time() + max(self._fresh_s, self._rest * took_s)
        self.readings += 1
        self.seconds += took_s
        for workflow_id in changed:
            self._listeners.notify(workflow_id)

    async def _again(self, workflow_id: str, known: _Seen) -> _Seen | None:
        """Return a workflow as it is stored now, the same if nothing has changed; None if it has finished or is gone.

        Who waits for a pool is found out anew each time.
        """
        try:
            stored = await self._store.load(workflow_id)
            if stored is None or stored.record.finished_at is not None:
                return None
            record, mark = _without_document(stored), _mark(stored)
            holds = known.workflow.holds.values()
            if mark == known.mark and record == known.record and not any(hold.reason is HoldReason.POOL for hold in holds):
                return known
            workflow = await self._archive.rebuilt(stored, before=known.workflow)
        except StoreIncompatible as error:
            logger.warning("workflow %s cannot be read: %s", workflow_id, error)
            return None
        return _Seen(workflow, record, mark, known.asked_at)

    def _make_room(self, wanted: Sequence[str]) -> None:
        """Let go of what was looked at longest ago, if it is too much; it leaves the engine with the next reading."""
        count = self.node_count
        for workflow_id in sorted(self._seen, key=lambda each: self._seen[each].asked_at):
            if count <= self._nodes_max:
                return
            if workflow_id not in wanted and not self._listeners.count(workflow_id):
                count -= len(self._seen.pop(workflow_id).workflow.graph)
                # The engine has it still, and must not be given it again.
                self._good_until = 0.0

    # --- pools ------------------------------------------------------------------------------------------------------

    def _have_wait_for_pools(self, workflows: Sequence[RunningWorkflow], now: float) -> None:
        """Hold nodes that are ready and find no place, which nobody has stored."""
        flights, pools = self.engine.flights, self.engine.pools
        if not flights.has_pools:
            return
        for workflow in workflows:
            if workflow.state is not WorkflowState.RUNNING:
                continue
            for node in [*workflow.ready]:
                needed = flights.pools_of(workflow, node, workflow.attempts.destination_of(node))
                full = pools.full_one(needed) if needed else None
                if full is not None:
                    workflow.ready.remove(node)
                    workflow.holds[node] = Hold(HoldReason.POOL, pool=full)
                    workflow.nodes.move(node, NodeState.HELD, now)
                    pools.wait(full, workflow.workflow_id, node)


def _without_document(stored: Stored) -> WorkflowRecord:
    """Return the record without its definition, which never changes, and is kept as a graph."""
    return replace(stored.record, document=None)


def _mark(stored: Stored) -> int:
    return hash(frozenset(stored.nodes))
