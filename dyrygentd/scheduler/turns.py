"""The turns: events in, a batch out, saved before anything of it is carried out."""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from dyrygentd.core.effects import Batch
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import DrainRequested, Event, TaskEvent, TaskReported
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DaemonUnreachable, StoreUnavailable
from dyrygentd.ports import REPORTS_NOTE, Clock, Store
from dyrygentd.scheduler.limits import RETRY_FIRST_S, RETRY_MAX_S, SchedulerLimits

logger = logging.getLogger("dyrygentd")


class Turns:
    """Owns the engine. Guards: nothing of a batch is carried out before all of it is durable.

    Args:
        carry_out: Does the rest of a batch that is durable, without waiting.
        reports_kept: Told up to where the workers' reports need not be read again.

    Attributes:
        engine: Asked by everybody, changed by `run` alone.
        problem: Why the store cannot be written, empty if it can.
        count: Turns that had work to do.
        has_ended: Nothing will happen any more in this process.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        clock: Clock,
        limits: SchedulerLimits,
        *,
        carry_out: Callable[[Batch], None],
        reports_kept: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.engine = engine
        self.problem = ""
        self.count = 0
        self.has_ended = False
        self._store = store
        self._clock = clock
        self._limits = limits
        self._carry_out = carry_out
        self._reports_kept = reports_kept
        self._inbox: deque[Event] = deque()
        self._awake = anyio.Event()
        self._finishing: dict[str, RunningWorkflow] = {}
        self._has_landed = True
        self._idle = anyio.Event()

    # --- for everybody ----------------------------------------------------------------------------------------------

    def post(self, *events: Event) -> None:
        """Put events into the inbox."""
        self._inbox.extend(events)
        self._awake.set()

    def post_results(self, events: Sequence[TaskEvent]) -> None:
        """Take events from the watcher; under overload the reports that decide nothing are dropped."""
        if len(self._inbox) > self._limits.inbox_max:
            events = [event for event in events if not isinstance(event, TaskReported)]
        self._inbox.extend(events)
        self._awake.set()

    def live(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow whose end is not on disk yet."""
        return self.engine.workflows.get(workflow_id) or self._finishing.get(workflow_id)

    def is_finishing(self, workflow_id: str) -> bool:
        """Tell whether a workflow has ended, and its end is not on disk yet."""
        return workflow_id in self._finishing

    def end(self) -> None:
        """Note that no turn will follow."""
        self.has_ended = True

    def refuse_if_ended(self, workflow_id: str) -> None:
        """Raise `DaemonUnreachable` if what somebody waits for will not happen any more."""
        if self.has_ended:
            raise DaemonUnreachable(
                f"the scheduler has ended before workflow '{workflow_id}'",
                next_step="what is on disk goes on when a scheduler is started with the same database",
            )

    @property
    def inbox_size(self) -> int:
        """Events that wait for the next turn."""
        return len(self._inbox)

    async def drain(self, timeout_s: float) -> bool:
        """Dispatch nothing more and wait for what is in flight; tell whether all of it landed in time."""
        self.post(DrainRequested())
        with anyio.move_on_after(timeout_s):
            while not (self.engine.draining and self._is_quiet()):
                if self._idle.is_set():
                    self._idle = anyio.Event()
                await self._idle.wait()
        return self._is_quiet()

    # --- the turn ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take turns until cancelled."""
        while True:
            await self._wait_for_events()
            now = self._clock.now()
            self._feed(now)
            deadline = self.engine.next_deadline()
            if deadline is not None and deadline <= now:
                batch = self._take_batch(now)
                if batch:
                    self.count += 1
                    await self._save(batch)
                    for workflow in batch.finished:
                        self._finishing.pop(workflow.workflow_id, None)
                    self._carry_out(batch)
                    if batch.reports_read:
                        await self._remember_reports(batch.reports_read)
                self._has_landed = True
            if self.engine.draining and self._is_quiet():
                self._idle.set()

    async def _wait_for_events(self) -> None:
        """Wait for something in the inbox, or for the engine's deadline."""
        deadline = self.engine.next_deadline()
        pause_s = None if deadline is None else deadline - self._clock.now()
        if self._inbox or (pause_s is not None and pause_s <= 0):
            await anyio.lowlevel.checkpoint()
            return
        self._awake = anyio.Event()
        with anyio.move_on_after(pause_s):
            await self._awake.wait()

    def _feed(self, now: float) -> None:
        if self._inbox:
            self._has_landed = False
        for _ in range(min(len(self._inbox), self._limits.turn_events_max)):
            self.engine.handle(self._inbox.popleft(), now)

    def _take_batch(self, now: float) -> Batch:
        batch = self.engine.take_batch(now)
        for workflow in batch.finished:
            self._finishing[workflow.workflow_id] = workflow
        return batch

    async def _save(self, batch: Batch) -> None:
        """Make a batch durable, however long it takes; what happens meanwhile is merged into it."""
        pause_s = RETRY_FIRST_S
        while batch.row_count:
            try:
                with anyio.CancelScope(shield=True):
                    await self._store.save(batch.save_workflows.values(), batch.save_nodes.values(), batch.journal)
                break
            except StoreUnavailable as error:
                if not self.problem:
                    logger.error("nothing is dispatched until the database can be written: %s", error)
                self.problem = str(error)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
            now = self._clock.now()
            self._feed(now)
            batch.merge(self._take_batch(now))
        if self.problem:
            logger.warning("the database can be written again")
            self.problem = ""

    async def _remember_reports(self, offset: str) -> None:
        """Note up to where the reports are worked in. If that fails they are read again after a restart, which is harmless."""
        try:
            with anyio.CancelScope(shield=True):
                await self._store.remember(REPORTS_NOTE, offset)
        except StoreUnavailable as error:
            # Whether the database can be written is told by the next transaction.
            logger.info("how far the workers' reports were read is not noted: %s", error)
        else:
            self._reports_kept(offset)

    def _is_quiet(self) -> bool:
        """Tell whether nothing is in flight and what came of it is on disk."""
        return self._has_landed and not self._inbox and not self.engine.in_flight_count
