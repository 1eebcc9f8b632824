"""The turns: events in, a batch out, saved before anything of it is carried out.

*When the store refuses* a batch for good (a bug of ours, or a row that somebody changed), its workflows are saved one by one. The
one that it is about is set aside, with the reason as its error, and all others go on.

*When the clock is set*, the engine is told, before anything that is due by it.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import anyio
import anyio.lowlevel

from dyrygentd.core.effects import Answer, Batch
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import ClockStepped, DrainRequested, Event, SaveRefused, TaskEvent, TaskReported, VerbRequested
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.tally import ROWS, Tally
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DaemonUnreachable, StoreUnavailable
from dyrygentd.ports import Clock, SteadyClock, Store
from dyrygentd.ports.facts import REPORTS_NOTE
from dyrygentd.scheduler.limits import (
    CLOCK_STEP_S,
    LOOK_AT_CLOCK_S,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    SLOW_S,
    SchedulerLimits,
)

logger = logging.getLogger("dyrygentd")

#: A result waits for others until there is one for so many messages in the queues, and no longer than so many seconds.
_COMPANY: Final = 10
_COMPANY_S: Final = 0.01


class Turns:
    """Owns the engine. Guards: nothing of a batch is carried out before all of it is durable.

    Args:
        carry_out: Does the rest of a batch that is durable, without waiting.
        reports_kept: Told up to where the workers' reports need not be read again.
        backlog: Tells how many messages are before one that is published now, see `Dispatcher.backlog`.

    Attributes:
        engine: Asked by everybody, changed by `run` alone.
        problem: Why the store cannot be written, empty if it can or is only slow.
        count: Turns that had work to do.
        turn_seconds: How long a turn took, its transaction left aside.
        save_seconds, save_rows: How long the transaction of a turn took until it was durable, and its rows.
        react_seconds: From the first event of a turn to what follows from it being handed on.
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
        backlog: Callable[[], int] = lambda: 0,
    ) -> None:
        self.engine = engine
        self.problem = ""
        self.count = 0
        self.turn_seconds = Tally()
        self.save_seconds, self.save_rows = Tally(), Tally(ROWS)
        self.react_seconds = Tally()
        self._first_post: float | None = None
        self.has_ended = False
        self._store = store
        self._clock = clock
        self._limits = limits
        self._carry_out = carry_out
        self._reports_kept = reports_kept
        self._backlog = backlog
        self._inbox: deque[Event] = deque()
        self._awake = anyio.Event()
        self._is_urgent = False
        self._finishing: dict[str, RunningWorkflow] = {}
        self._unsaved: Batch | None = None
        self._has_landed = True
        self._idle = anyio.Event()
        self._saved = anyio.Event()
        self._saving_since: float | None = None
        self._is_at_disk = False
        self._looked_at = self._posted_at = time.monotonic()
        self._slow_until = 0.0
        self._steady = clock.steady if isinstance(clock, SteadyClock) else clock.now
        self._clock_offset = clock.now() - self._steady()

    # --- for everybody ----------------------------------------------------------------------------------------------

    def post(self, *events: Event) -> None:
        """Put events into the inbox."""
        self._take(events)
        self._is_urgent = True
        self._awake.set()

    def post_results(self, events: Sequence[TaskEvent]) -> None:
        """Take what became of tasks, which may wait for company; under overload reports that decide nothing are dropped."""
        if len(self._inbox) > self._limits.inbox_max:
            events = [event for event in events if not isinstance(event, TaskReported)]
        is_first = not self._inbox
        self._take(events)
        # The first begins the time for which the others may take to come.
        if is_first or not self._lacks_company:
            self._awake.set()

    def _take(self, events: Sequence[Event]) -> None:
        if not self._inbox:
            self._posted_at = time.monotonic()
        if self._first_post is None:
            self._first_post = self._posted_at
        self._inbox.extend(events)

    @property
    def _lacks_company(self) -> bool:
        """Tell whether what has happened may wait a moment for more, so that they share a turn and its transaction.

        It may if it is little beside what waits in the queues: what goes on because of it would wait behind that.
        """
        return not self._is_urgent and len(self._inbox) < self._backlog() // _COMPANY

    async def wait_saved(self) -> None:
        """Wait until all that was posted until now is worked in and on disk."""
        while self._inbox or not self._has_landed:
            if self._saved.is_set():
                self._saved = anyio.Event()
            await self._saved.wait()

    def wake(self) -> None:
        """Take a turn although nothing has happened: the engine may do more than before."""
        self._awake.set()

    def live(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow whose end is not on disk yet."""
        return self.engine.workflows.get(workflow_id) or self._finishing.get(workflow_id)

    def is_finishing(self, workflow_id: str) -> bool:
        """Tell whether a workflow has ended, and its end is not on disk yet."""
        return workflow_id in self._finishing

    def unsaved_answer(self, ticket: int) -> Answer | None:
        """Return what the engine has answered to somebody, if that is not on disk yet."""
        answers = () if self._unsaved is None else self._unsaved.answers
        return next((answer for answer in answers if answer.ticket == ticket), None)

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
    def saving_s(self) -> float:
        """For how long the present transaction has been waiting for the disk."""
        return 0.0 if self._saving_since is None else time.monotonic() - self._saving_since

    @property
    def slowness(self) -> str:
        """That the database is slow, empty if it is not; one slow transaction is remembered for a while."""
        if self.saving_s > SLOW_S:
            return f"the database is slow: a transaction has been waiting for {self.saving_s:.0f} s"
        return "the database is slow: transactions take seconds" if time.monotonic() < self._slow_until else ""

    @property
    def stalled_s(self) -> float:
        """For how long there has been work that no turn took up, though it is not the disk that a turn waits for."""
        if self._is_at_disk:
            return 0.0
        now, deadline = time.monotonic(), self.engine.next_deadline()
        posted_s = now - self._posted_at if self._inbox else 0.0
        due_s = 0.0 if deadline is None else self._clock.now() - deadline
        # Without work no turn is taken either, and that may be long ago.
        return max(min(now - self._looked_at, max(posted_s, due_s)), 0.0)

    async def log_slowness(self) -> None:
        """Tell the log when a transaction takes long, also one that never ends."""
        is_told = False
        while True:
            await anyio.sleep(SLOW_S / 2)
            slowness = self.slowness
            if slowness and not is_told:
                logger.warning("%s; what is sent and answered waits for it", slowness)
            elif is_told and not slowness:
                logger.warning("the database is fast again")
            is_told = bool(slowness)

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
            begun = self._looked_at = time.monotonic()
            now = self._now()
            await self._feed_in_steps(now)
            deadline = self.engine.next_deadline()
            if deadline is not None and deadline <= now:
                first_post, self._first_post = self._first_post, None
                batch = await self._take_batch_in_steps(now)
                if batch:
                    self.count += 1
                    self.turn_seconds.add(time.monotonic() - begun)
                    self._is_at_disk = True
                    self._unsaved = batch
                    await self._save(batch)
                    self._unsaved = None
                    for workflow in batch.finished:
                        self._finishing.pop(workflow.workflow_id, None)
                    self._carry_out(batch)
                    if first_post is not None:
                        self.react_seconds.add(time.monotonic() - first_post)
                    if batch.reports_read:
                        await self._remember_reports(batch.reports_read)
                    self._is_at_disk = False
                self._has_landed = True
                if not self._inbox:
                    self._saved.set()
            if self.engine.draining and self._is_quiet():
                self._idle.set()

    async def _wait_for_events(self) -> None:
        """Wait for something in the inbox that needs no more company, or for the engine's deadline."""
        company_until: float | None = None
        while True:
            deadline = self.engine.next_deadline()
            pause_s = math.inf if deadline is None else min(deadline - self._clock.now(), LOOK_AT_CLOCK_S)
            if self._inbox:
                now = anyio.current_time()
                if company_until is None:
                    company_until = now + _COMPANY_S
                pause_s = min(pause_s, company_until - now) if self._lacks_company else 0.0
            if pause_s <= 0:
                await anyio.lowlevel.checkpoint()
                return
            self._awake = anyio.Event()
            with anyio.move_on_after(pause_s):
                await self._awake.wait()
            if not (self._inbox and self._lacks_company):
                return

    def _now(self) -> float:
        """Return the time of a turn; if the clock was set since the last one, the engine knows."""
        now = self._clock.now()
        offset = now - self._steady()
        stepped_s = offset - self._clock_offset
        if abs(stepped_s) > CLOCK_STEP_S:
            logger.warning("the clock was set by %+.0f s: pauses and timeouts go on, times that were named come by it", stepped_s)
            self._clock_offset = offset
            self.engine.handle(ClockStepped(stepped_s), now)
        return now

    def _feed(self, now: float) -> None:
        for event in self._taken_events():
            self.engine.handle(event, now)

    async def _feed_in_steps(self, now: float) -> None:
        """Work events in; in a verb on very many nodes others in this process have their turn now and then."""
        for event in self._taken_events():
            if not isinstance(event, VerbRequested):
                self.engine.handle(event, now)
                continue
            for _ in self.engine.verb_in_steps(event, now):
                self._looked_at = time.monotonic()
                await anyio.lowlevel.checkpoint()

    def _taken_events(self) -> Iterator[Event]:
        if self._inbox:
            self._has_landed = False
        self._is_urgent = False
        for _ in range(min(len(self._inbox), self._limits.turn_events_max)):
            yield self._inbox.popleft()

    async def _take_batch_in_steps(self, now: float) -> Batch:
        """Take a batch; if very many nodes have changed, others in this process have their turn now and then."""
        steps = self.engine.batch_in_steps(now)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                batch: Batch = done.value
                return self._noted(batch)
            self._looked_at = time.monotonic()
            await anyio.lowlevel.checkpoint()

    def _take_batch(self, now: float) -> Batch:
        return self._noted(self.engine.take_batch(now))

    def _noted(self, batch: Batch) -> Batch:
        for workflow in batch.finished:
            self._finishing[workflow.workflow_id] = workflow
        return batch

    async def _save(self, batch: Batch) -> None:
        """Make a batch durable, however long it takes; what happens meanwhile is merged into it."""
        # What is not written yet, if it is not all of the batch.
        rest: Batch | None = None
        pause_s = RETRY_FIRST_S
        while (batch if rest is None else rest).row_count:
            try:
                if rest is None:
                    await self._write(batch)
                    break
                await self._save_apart(batch, rest)
                continue
            except StoreUnavailable as error:
                if not self.problem:
                    logger.error("nothing is dispatched until the database can be written: %s", error)
                self.problem = str(error)
            except Exception as error:
                if rest is not None:
                    raise
                # Not by the disk: trying the same again would go on for ever.
                logger.error("the database refuses a transaction, whose workflows are saved one by one: %s", error)
                rest = batch.rows()
                continue
            await self._pause(pause_s, batch, rest)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
        if self.problem:
            logger.warning("the database can be written again")
            self.problem = ""

    async def _pause(self, pause_s: float, batch: Batch, rest: Batch | None) -> None:
        """Wait before the disk is tried again. What somebody asks for meanwhile is judged at once: a refusal needs no disk."""
        end = anyio.current_time() + pause_s
        while (left_s := end - anyio.current_time()) > 0:
            self._awake = anyio.Event()
            with anyio.move_on_after(left_s):
                await self._awake.wait()
            # Results come one by one, and a merge looks at all that waits to be published: they have time.
            if self._is_urgent:
                self._merge_next(batch, rest)
        self._merge_next(batch, rest)

    async def _write(self, rows: Batch) -> None:
        self._saving_since = time.monotonic()
        self.save_rows.add(rows.row_count)
        try:
            with anyio.CancelScope(shield=True):
                await self._store.save(rows.save_workflows.values(), rows.save_nodes.values(), rows.journal)
        finally:
            self.save_seconds.add(self.saving_s)
            if self.saving_s > SLOW_S:
                self._slow_until = time.monotonic() + 10 * SLOW_S
            self._saving_since = None

    def _merge_next(self, batch: Batch, rest: Batch | None) -> None:
        now = self._now()
        self._feed(now)
        later = self._take_batch(now)
        batch.merge(later)
        if rest is not None:
            rest.merge(later)

    async def _save_apart(self, batch: Batch, rest: Batch) -> None:
        """Write what is left of a batch, each workflow in a transaction of its own; those that are refused are set aside."""
        places = [*rest.save_workflows, *(owner for owner, _ in rest.save_nodes), *(entry.workflow_id for entry in rest.journal)]
        for workflow_id in dict.fromkeys(places):
            rows = rest.take_rows(workflow_id)
            try:
                await self._write(rows)
            except StoreUnavailable:
                rest.merge(rows)
                raise
            except Exception as error:
                await self._save_end(batch, rest, rows, workflow_id, error)

    async def _save_end(self, batch: Batch, rest: Batch, rows: Batch, workflow_id: str, error: Exception) -> None:
        """Set a workflow aside whose rows are refused, and write that, if anything of it can be written."""
        story = f"the database refuses what it has become: {error}"
        logger.error("workflow %s is set aside: %s", workflow_id, story, exc_info=error)
        self.engine.handle(SaveRefused(workflow_id, story), self._clock.now())
        self._merge_next(batch, rest)
        record = rest.take_rows(workflow_id).save_workflows.get(workflow_id) or rows.save_workflows.get(workflow_id)
        if record is None:
            return  # A late note about one that has finished.
        document = next((earlier.document for earlier in rows.save_workflows.values()), None)
        ended = replace(
            record,
            state=WorkflowState.FAILED,
            finished_at=record.finished_at or self._clock.now(),
            result=None,
            error=record.error or story,
            document=record.document or document,
        )
        only_end = Batch({workflow_id: ended})
        batch.save_workflows[workflow_id] = ended
        try:
            await self._write(only_end)
        except StoreUnavailable:
            rest.merge(only_end)
            raise
        except Exception as again:
            logger.error("workflow %s is set aside in memory only; on disk it is as it was: %s", workflow_id, again)
            del batch.save_workflows[workflow_id]
            batch.refused[workflow_id] = story

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
        return self._has_landed and not self._inbox and not self.engine.flights.in_flight_count
