"""The parts of a scheduler, put together. What each does is told in its own file; here is who is told what, by whom."""

import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from anyio.abc import TaskGroup

from dyrygentd.core.absence import Absence
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import LimitsChanged
from dyrygentd.core.graph import Graph
from dyrygentd.core.pools import Pools
from dyrygentd.core.states import NodeState
from dyrygentd.errors import Fenced
from dyrygentd.ports import GatheringWatcher
from dyrygentd.ports.facts import CLOSED_NOTE, REPORTS_NOTE
from dyrygentd.scheduler.adapters import Adapters
from dyrygentd.scheduler.answers import answers_of
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.carrying import Carrying
from dyrygentd.scheduler.census import Census
from dyrygentd.scheduler.children import Beginnings
from dyrygentd.scheduler.courier import Courier
from dyrygentd.scheduler.door import Door
from dyrygentd.scheduler.doubts import Doubt
from dyrygentd.scheduler.estimates import Estimates
from dyrygentd.scheduler.expiry import Expiry
from dyrygentd.scheduler.explanations import Sources
from dyrygentd.scheduler.folds import Folds
from dyrygentd.scheduler.hindsight import Hindsight
from dyrygentd.scheduler.inbox import Inbox
from dyrygentd.scheduler.item_lists import ItemLists
from dyrygentd.scheduler.letters import Letters
from dyrygentd.scheduler.limits import Pace, SchedulerLimits
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.lost import LostTasks
from dyrygentd.scheduler.outages import Outages
from dyrygentd.scheduler.reception import Reception
from dyrygentd.scheduler.recovery import Recovery
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.sentinel import Sentinel
from dyrygentd.scheduler.series_ends import SeriesEnds
from dyrygentd.scheduler.spilling import Spilling
from dyrygentd.scheduler.still_running import StillRunning
from dyrygentd.scheduler.submissions import Submissions
from dyrygentd.scheduler.tenure import Tenure
from dyrygentd.scheduler.troubles import Troubles
from dyrygentd.scheduler.turns import Turns
from dyrygentd.scheduler.unrun import UnrunResults
from dyrygentd.scheduler.verbs import Verbs
from dyrygentd.witnesses import Roster

logger = logging.getLogger("dyrygentd")


class Parts:
    """All parts of one scheduler. None of them knows the whole.

    Attributes:
        started_at: Unix time of the start.
    """

    def __init__(
        self,
        adapters: Adapters,
        limits: SchedulerLimits,
        *,
        pace: Pace,
        chance: random.Random,
        app_name: str = "",
        on_recovered: Callable[[int, int], None] = lambda count, of: None,
        broker_trouble: Callable[[str], str] = str,
        refuse_tasks: Callable[[Graph], None] = lambda graph: None,
    ) -> None:
        self.adapters = adapters
        self.started_at = 0.0
        self._limits = limits
        self._refuse_tasks = refuse_tasks
        self._pace = pace
        store, clock, queue_of = adapters.store, adapters.clock, adapters.dispatcher.queue_of
        pools = Pools(limits.pools, queue_limits=limits.queue_limits, queue_of=queue_of)
        self._engine = Engine(
            limits.engine,
            pools=pools,
            chance=chance.random,
            queue_of=queue_of,
            routing=adapters.dispatcher,
            why_values_here=lambda: self.carrying.spilling.why_here,
        )
        self.listeners = Listeners()
        self.archive = Archive(store, clock, value_bytes_max=limits.engine.value_bytes_max, values=adapters.values)
        self.redaction = Redaction(limits.redact)
        self.expiry = Expiry(store, clock, lambda now: self._limits.retention(now))
        self.roster = Roster()
        self.estimates = Estimates(lambda: self._engine, store, clock)
        self._make_turns()
        self.recovery = Recovery(
            self._engine,
            store,
            archive=self.archive,
            clock=clock,
            courier=self.courier,
            sentinel=self.sentinel,
            on_recovered=on_recovered,
        )
        self.troubles = Troubles(
            store=store,
            watcher=adapters.watcher,
            saving=self.turns.saving,
            courier=self.courier,
            sentinel=self.sentinel,
            hindsight=self.hindsight,
            redaction=self.redaction,
            parts=lambda: (self.carrying.spilling.notice, self.archive.values.problem, self.beginnings.notice),
            broker_trouble=broker_trouble,
            lease_trouble=lambda: self.tenure.leadership.problem,
        )
        still_running = self._make_callers(pools, chance)
        self._make_answers(app_name, still_running)
        self._make_reception()
        self._make_seekers(app_name)

    def __repr__(self) -> str:
        return f"<Parts {self.turns!r} {self.troubles!r}>"

    def _make_turns(self) -> None:
        """Make what decides, and what is told by the broker and what it is told."""
        adapters, engine = self.adapters, self._engine
        self.inbox = Inbox(
            self.redaction,
            events_max=self._limits.inbox_max,
            turn_events_max=self._limits.turn_events_max,
            backlog=adapters.dispatcher.backlog,
            company_s=self._pace.company_s,
        )
        self.turns = Turns(
            engine, adapters.store, clock=adapters.clock, inbox=self.inbox, look_at_clock_s=self._pace.look_at_clock_s
        )
        self.hindsight = Hindsight(
            adapters.store,
            adapters.clock,
            adapters.watcher,
            workflows=engine.workflows,
            post=self.inbox.post,
            send=lambda messages: self.courier.hand_in(messages),
            revoke=lambda revokes: self.courier.revoke(revokes),
        )
        self.tenure = Tenure(
            adapters.store,
            adapters.dispatcher,
            adapters.clock,
            on_fenced=self.end,
            is_broker_away=lambda: bool(self.courier.problem or self.sentinel.problem),
        )
        self.sentinel = Sentinel(
            adapters.store,
            adapters.dispatcher,
            adapters.clock,
            on_emptied=self._emptied,
            wait_saved=self.inbox.wait_saved,
            on_setback=self.hindsight.begin,
            hold=self.tenure.hold,
            in_flight_count=self._sent_count,
            look_every_s=self._pace.look_at_broker_s,
        )
        self.courier = Courier(
            adapters.dispatcher,
            is_wanted=engine.flights.is_in_flight,
            is_live=engine.workflows.__contains__,
            post=self.inbox.post_outcomes,
            on_emptied=self.sentinel.replace,
            on_withdrawn=self._withdrawn,
            wait_examined=self.sentinel.wait_examined,
            wait_trusted=self.tenure.leadership.wait_trusted,
            values=self.archive.values,
        )
        unrun = partial(UnrunResults, engine=engine, store=adapters.store, archive=self.archive, clock=adapters.clock)
        self.unrun = None if adapters.keeper is None else unrun(adapters.keeper, publish=self.courier.hand_in)

    def _make_callers(self, pools: Pools, chance: random.Random) -> StillRunning:
        """Make what speaks for those who submit and control, and what carries out what is decided about it."""
        adapters, limits = self.adapters, self._limits
        door = Door(self._engine, adapters.watcher)
        still_running = StillRunning(
            lambda: self._engine, self.archive, inspector=adapters.inspector, clock=adapters.clock, roster=self.roster
        )
        self.submissions = Submissions(
            self.turns,
            store=adapters.store,
            archive=self.archive,
            pools=pools,
            door=door,
            chance=chance,
            submissions_max=limits.submissions_max,
            workflows_max=limits.workflows_max,
            nodes_in_memory_max=limits.nodes_in_memory_max,
            durable_timeout_s=limits.durable_timeout_s,
            confirm=self.tenure.confirm,
        )
        self.verbs = Verbs(
            self.turns,
            store=adapters.store,
            archive=self.archive,
            submissions=self.submissions,
            listeners=self.listeners,
            door=door,
            durable_timeout_s=limits.durable_timeout_s,
            refuse=still_running.refuse,
            confirm=self.tenure.confirm,
        )
        self.beginnings = Beginnings(
            self.turns,
            store=adapters.store,
            archive=self.archive,
            submissions=self.submissions,
            verbs=self.verbs,
            dispatcher=adapters.dispatcher,
            limits=lambda: self._limits,
            chance=chance,
            refuse_tasks=self._refuse_tasks,
            lists=ItemLists(adapters.files),
        )
        self.carrying = Carrying(
            saving=self.turns.saving,
            submissions=self.submissions,
            watcher=adapters.watcher,
            courier=self.courier,
            hindsight=self.hindsight,
            unrun=self.unrun,
            beginnings=self.beginnings,
            verbs=self.verbs,
            archive=self.archive,
            listeners=self.listeners,
            reports=adapters.reports,
            series_ends=SeriesEnds(adapters.store, self.turns.saving, adapters.clock),
            spilling=Spilling.of(adapters, self._engine, limits, is_live=lambda each: self.turns.live(each) is not None),
        )
        return still_running

    def _make_answers(self, app_name: str, still_running: StillRunning) -> None:
        """Make what answers those who ask."""
        adapters, troubles = self.adapters, self.troubles
        around = Sources(
            adapters.inspector,
            adapters.reports,
            problems=troubles.problems,
            outages=lambda: Outages.of(troubles.located()),
            doubt_of=self._doubt_of,
            app=app_name,
            roster=self.roster,
            still_running=still_running,
            redact=self.redaction.text,
            waits_of=lambda child_id: self.beginnings.waits.get(child_id, ""),
        )
        self.answers = answers_of(
            self.turns,
            around,
            store=adapters.store,
            clock=adapters.clock,
            archive=self.archive,
            listeners=self.listeners,
            redaction=self.redaction,
            folds=Folds(self.estimates.weights),
            estimates=self.estimates,
            troubles=troubles.located,
            notices=troubles.notices,
            limits=self._limits,
            pace=self._pace,
        )

    def _make_reception(self) -> None:
        """Make what takes submissions and verbs, and letters with such where they are left."""
        adapters = self.adapters
        self.reception = Reception(
            self.turns,
            store=adapters.store,
            dispatcher=adapters.dispatcher,
            clock=adapters.clock,
            archive=self.archive,
            submissions=self.submissions,
            verbs=self.verbs,
            queries=self.answers.queries,
            redaction=self.redaction,
            wait_parents=self.beginnings.wait_parents,
        )
        mailbox = adapters.store.mailbox
        self.letters = None if mailbox is None else Letters(mailbox, self.reception, confirm=self.tenure.confirm)

    def _make_seekers(self, app_name: str) -> None:
        """Make what looks by itself for tasks and workers, if there is something to look with."""
        adapters, limits = self.adapters, self._limits
        self.lost = self.census = None
        if adapters.inspector is None or not limits.lost_after_s:
            return
        self.census = Census(
            adapters.inspector,
            self.roster,
            store=adapters.store,
            clock=adapters.clock,
            in_flight_count=self._sent_count,
            problems=self.troubles.problems,
            look_every_s=self._pace.look_at_census_s,
        )
        self.lost = LostTasks(
            self._engine,
            adapters.inspector,
            adapters.clock,
            after_s=limits.lost_after_s,
            confirm_s=limits.lost_confirm_s,
            post=self.inbox.post,
            problems=self.troubles.problems,
            is_backend_away=lambda: not adapters.watcher.statistics().connected,
            has_ended=(lambda _: False) if adapters.reports is None else adapters.reports.has_ended,
            is_unreported=lambda: adapters.reports is not None and not adapters.reports.statistics().is_heard,
            roster=self.roster,
            app=app_name,
        )

    # --- beginning and end ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Have the database, and open it. Raises as `Store.open` does."""
        await self.tenure.leadership.begin()
        await self.adapters.store.open()

    async def prepare(self, tasks: TaskGroup) -> None:
        """Take the database over, find out what the last process has left, and read back what was unfinished.

        The store is open; ``tasks`` is a group that outlasts all parts. Raises `Fenced` or `StoreUnavailable`.
        """
        # Also while workflows are read, which may take longer than the lease holds.
        tasks.start_soon(self._unless_fenced, self.tenure.leadership.run, name="dyrygentd lease")
        await self.tenure.begin(tasks)
        store, reports = self.adapters.store, self.adapters.reports
        self.started_at = self.adapters.clock.now()
        self.roster.absence = Absence.of_note(await store.recall(CLOSED_NOTE), until=self.started_at)
        if self.census is not None:
            await self.census.prepare()
        await self.estimates.prepare()
        await self.sentinel.prepare()
        await self.hindsight.prepare()
        await self.carrying.series_ends.prepare()
        if reports is not None:
            reports.begin(store.identity, await store.recall(REPORTS_NOTE))
        await self.recovery.recover()
        await self.carrying.spilling.prepare()

    def start(self, tasks: TaskGroup) -> None:
        """Start what works by itself, each in a task that the group owns and whose end it hears.

        If another process takes over, one of them raises `Fenced`.
        """
        adapters, inbox = self.adapters, self.inbox
        emit = inbox.post_results
        if isinstance(adapters.watcher, GatheringWatcher):
            adapters.watcher.gather(inbox.gather_s)
            emit = inbox.post_gathered

        def begin(name: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
            tasks.start_soon(self._unless_fenced, work, *arguments, name=f"dyrygentd {name}")

        tasks.start_soon(self.tenure.run, name="dyrygentd term")
        spilling = self.carrying.spilling
        begin("watch", adapters.watcher.run, spilling.door(emit))
        begin("large values", spilling.run)
        if adapters.reports is not None:
            reported = spilling.door(inbox.post_results)
            begin("reports", adapters.reports.run, reported, inbox.post, self._engine.flights.is_in_flight)
        begin("publish", self.courier.publish)
        begin("sentinel", self.sentinel.run)
        begin("hindsight", self.hindsight.run)
        begin("errands", self.courier.run_errands)
        begin("turns", self.turns.run, self.carrying.carry_out)
        begin("children", self.beginnings.run)
        begin("slow disk", self.turns.saving.log_slowness)
        begin("revoke again", self.recovery.revoke_again, self.started_at)
        begin("expire", self.expiry.run)
        begin("series", self.carrying.series_ends.run)
        begin("run times", self.estimates.run)
        if self.letters is not None:
            begin("letters", self.letters.run)
        if self.unrun is not None:
            begin("unrun results", self.unrun.run)
        if self.lost is not None:
            begin("lost tasks", self.lost.run)
        if self.census is not None:
            begin("census", self.census.run)

    async def _unless_fenced(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        try:
            await work(*arguments)
        except Fenced as error:
            self.tenure.lose(error)

    def end(self, fenced: Fenced | None = None) -> None:
        """Wake everybody who waits for something that will not happen any more in this process."""
        self.turns.end(fenced)
        self.tenure.leadership.end()
        self.submissions.end()
        self.verbs.end()
        self.listeners.notify_all()

    # --- bounds -----------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> SchedulerLimits:
        """Return the bounds in force. Those of the engine are its own, and change in a turn."""
        return replace(self._limits, engine=self._engine.limits)

    def set_limits(self, limits: SchedulerLimits) -> None:
        """Take those that may change in a running scheduler from others; a part that goes by another was given it for good."""
        limits = self.limits.following(limits)
        if limits.redact != self._limits.redact:
            self.redaction.set_patterns(limits.redact)
        if limits.engine != self._engine.limits:
            self.inbox.post(LimitsChanged(limits.engine))
        self._limits = limits
        self.expiry.retention_changed()

    # --- who is told what -------------------------------------------------------------------------------------------

    def _sent_count(self) -> int:
        """Count the tasks that the broker has or may have: not those that are still to be sent."""
        return sum(
            workflow.state_of(node) is NodeState.DISPATCHED or self.courier.is_doubted(task_id)
            for task_id, workflow, node in self._engine.flights.in_flight()
        )

    def _doubt_of(self, task_id: str) -> Doubt:
        """Tell what happened to broker and result backend while a task was in flight."""
        return Doubt() if self.lost is None else self.lost.doubt_of(task_id)

    def _withdrawn(self, task_ids: Iterable[str]) -> None:
        if self.unrun is not None:
            self.unrun.withdrawn(task_ids)

    def _emptied(self, reason: str) -> None:
        """Have everything looked for that was in flight when the broker lost its memory."""
        self.courier.emptied()
        self.hindsight.broker_went_back()
        if self.lost is not None:
            self.lost.doubt_all(reason)
        else:
            logger.error("%s: what was in flight may be lost, and nobody looks for it", reason)
