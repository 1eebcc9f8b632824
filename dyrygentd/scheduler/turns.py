"""The turns: events in, a batch out, which `dyrygentd.scheduler.carrying` carries out.

*When the clock is set*, the engine is told, before anything that is due by it.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from copy import copy

import anyio

from dyrygentd.core.effects import Batch
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import ClockStepped, DrainRequested, Event, VerbRequested
from dyrygentd.core.tally import Tally
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DaemonUnreachable, Fenced
from dyrygentd.ports import Clock, SteadyClock, Store
from dyrygentd.scheduler.inbox import Inbox
from dyrygentd.scheduler.limits import CLOCK_STEP_S
from dyrygentd.scheduler.saving import Saving
from dyrygentd.scheduler.taking_turns import in_steps

logger = logging.getLogger("dyrygentd")


class Turns:
    """Owns the engine. Guards: one turn at a time, and one is over only when all that it has decided is carried out.

    Attributes:
        engine: Asked by everybody. Workflows are changed by `run` alone, once they are recovered; who claims task ids, and which
            tasks are suspected to have been given out twice, is changed beside it, also while a turn awaits between two steps.
        inbox: Takes what happens.
        saving: Makes durable what a turn has decided.
        count: Turns that had work to do.
        turn_seconds: How long a turn took, its transaction left aside.
        has_ended: Nothing will happen any more in this process.
        fenced: Why, if it is because another process has taken over.
        is_at_disk: Something is being carried out, which waits for the disk.
    """

    def __init__(self, engine: Engine, store: Store, *, clock: Clock, inbox: Inbox, look_at_clock_s: float) -> None:
        self.engine = engine
        self.inbox = inbox
        self.saving = Saving(store, clock, inbox=inbox, meanwhile=self._meanwhile)
        self.count = 0
        self.turn_seconds = Tally()
        self.has_ended = False
        self.fenced: Fenced | None = None
        self.is_at_disk = False
        self._clock = clock
        self._look_at_clock_s = look_at_clock_s
        self._idle = anyio.Event()
        self._looked_at = time.monotonic()
        self._steady = clock.steady if isinstance(clock, SteadyClock) else clock.now
        self._clock_offset = clock.now() - self._steady()

    def __repr__(self) -> str:
        return f"<Turns count={self.count} {self.engine!r} {self.inbox!r} {self.saving!r}>"

    # --- for everybody ----------------------------------------------------------------------------------------------

    async def look(self, *workflow_ids: str) -> None:
        """Do nothing: what is in memory is how things stand."""

    async def look_at_all(self) -> None:
        """Do nothing, as `look`."""

    def live(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow whose end is not on disk yet."""
        return self.engine.workflows.get(workflow_id) or self.saving.finishing(workflow_id)

    def end(self, fenced: Fenced | None = None) -> None:
        """Note that no turn will follow."""
        self.has_ended = True
        self.fenced = self.fenced or fenced

    def refuse_if_ended(self, workflow_id: str) -> None:
        """Raise `DaemonUnreachable` or `Fenced` if what somebody waits for will not happen any more."""
        if self.fenced is not None:
            raise copy(self.fenced)
        if self.has_ended:
            raise DaemonUnreachable(
                f"the scheduler has ended before workflow '{workflow_id}'",
                next_step="what is on disk goes on when a scheduler is started with the same database",
            )

    @property
    def stalled_s(self) -> float:
        """For how long there has been work that no turn took up, though it is not the disk that a turn waits for."""
        if self.is_at_disk:
            return 0.0
        deadline = self.engine.next_deadline()
        due_s = 0.0 if deadline is None else self._clock.now() - deadline
        # Without work no turn is taken either, and that may be long ago.
        return max(min(time.monotonic() - self._looked_at, max(self.inbox.waiting_s, due_s)), 0.0)

    async def drain(self, timeout_s: float) -> bool:
        """Dispatch nothing more and wait for what is in flight; tell whether all of it landed in time."""
        self.inbox.post(DrainRequested())
        with anyio.move_on_after(timeout_s):
            while not (self.engine.draining and self._is_quiet()):
                if self._idle.is_set():
                    self._idle = anyio.Event()
                await self._idle.wait()
        return self._is_quiet()

    # --- the turn ---------------------------------------------------------------------------------------------------

    async def run(self, carry_out: Callable[[Batch, float | None], Awaitable[None]]) -> None:
        """Take turns until cancelled.

        Args:
            carry_out: Carries out what a turn has decided, given when the turn's first event came.
        """
        while True:
            await self.inbox.wait(self._due_s)
            begun = self._looked_at = time.monotonic()
            now = self._now()
            await self._feed_in_steps(now)
            deadline = self.engine.next_deadline()
            if deadline is not None and deadline <= now:
                since = self.inbox.take_first_post()
                batch = await self._take_batch_in_steps(now)
                if batch:
                    self.count += 1
                    self.turn_seconds.add(time.monotonic() - begun)
                    self.is_at_disk = True
                    await carry_out(batch, since)
                    self.is_at_disk = False
                self.inbox.landed()
            if self.engine.draining and self._is_quiet():
                self._idle.set()

    def _due_s(self) -> float:
        """Return in how many seconds a turn is due if nothing happens; the clock may be set meanwhile, so that is looked at."""
        deadline = self.engine.next_deadline()
        return math.inf if deadline is None else min(deadline - self._clock.now(), self._look_at_clock_s)

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

    async def _feed_in_steps(self, now: float) -> None:
        """Work events in; in a verb on very many nodes others in this process have their turn now and then."""
        for event in self.inbox.take():
            if not isinstance(event, VerbRequested):
                self.engine.handle(event, now)
                continue
            await in_steps(self.engine.verb_in_steps(event, now), after_step=self._note_look)

    async def _take_batch_in_steps(self, now: float) -> Batch:
        """Take a batch; if very many nodes have changed, others in this process have their turn now and then."""
        return await in_steps(self.engine.batch_in_steps(now), after_step=self._note_look)

    def _note_look(self) -> None:
        """Note that the loop goes on, however long the turn takes."""
        self._looked_at = time.monotonic()

    def _meanwhile(self, *events: Event) -> Batch:
        """Work in these events and what has come while a batch waits for the disk, and return what follows from it."""
        now = self._now()
        for event in (*events, *self.inbox.take()):
            self.engine.handle(event, now)
        return self.engine.take_batch(now)

    def _is_quiet(self) -> bool:
        """Tell whether nothing is in flight and what came of it is on disk."""
        return self.inbox.is_saved and not self.engine.flights.in_flight_count
