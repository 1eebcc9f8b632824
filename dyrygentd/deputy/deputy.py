"""What a process serves that does not lead: a scheduler's answers, of what the leader has stored."""

import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Literal, Self

import anyio

from dyrygentd import __version__, metrics, wire
from dyrygentd.core.engine import Engine
from dyrygentd.core.graph import Definition
from dyrygentd.core.lines import QueueLines
from dyrygentd.core.pools import Pools
from dyrygentd.core.run_times import RunTimes
from dyrygentd.core.tally import Tally
from dyrygentd.core.user import User
from dyrygentd.core.verbs import VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.deputy.lookout import Lookout
from dyrygentd.deputy.mirror import Mirror
from dyrygentd.deputy.sending import Sending
from dyrygentd.errors import OutsideError
from dyrygentd.ports import Clock, Inspector, Lease, Store
from dyrygentd.ports.facts import DispatcherStatistics, ReportsStatistics, Selection, WatcherStatistics
from dyrygentd.ports.mailbox import NotLeader
from dyrygentd.ports.values import ValueStore
from dyrygentd.scheduler.adapters import inspector_of
from dyrygentd.scheduler.answers import Answers, answers_of
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.doubts import Doubt
from dyrygentd.scheduler.estimates import Estimates
from dyrygentd.scheduler.explanations import Sources
from dyrygentd.scheduler.folds import Folds
from dyrygentd.scheduler.letters import LettersStatistics, letter_figures
from dyrygentd.scheduler.limits import Pace, SchedulerLimits, SystemClock
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.lost import empty_statistics
from dyrygentd.scheduler.outages import Outages
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.service import Service
from dyrygentd.scheduler.still_running import StillRunning
from dyrygentd.witnesses import Roster

#: How soon it is read anew how long tasks take; the leader notes it as often.
_LEARN_S: Final = 300.0
#: How soon where nothing could be read so far.
_LEARN_FIRST_S: Final = 1.0

Role = Literal["standby", "gateway"]


class Deputy(Service):
    """Answers beside a leader, on the same database. An async context manager; the store is open, and stays so.

    Guards: nothing but letters is written to the store, and the broker is only asked.

    Args:
        app: The Celery app whose broker and workers are asked where tasks are; without one nobody is asked.
        store: Is read alone, see `dyrygentd.store.choice.onlooker_of`.
        lease: Tells who leads.
        role: What this process is.
        limits, pace: As the leader's should be; pools and redaction go by them.
        inspector, clock: Adapters instead of the usual ones.
        registry: A prometheus_client registry that gets this deputy's metrics while it runs.
        app_name: What Celery's ``-A`` takes for this app, for commands that people are given.
        host: Which host this is, on letters; by default its own name.
        values: Where the leader keeps large values.
    """

    def __init__(
        self,
        app: Any = None,
        *,
        store: Store,
        lease: Lease | None = None,
        role: Role = "standby",
        limits: SchedulerLimits | None = None,
        pace: Pace | None = None,
        inspector: Inspector | None = None,
        clock: Clock | None = None,
        registry: metrics.Registry | None = None,
        app_name: str = "",
        host: str = "",
        values: ValueStore | None = None,
    ) -> None:
        self.app = app
        self.role = role
        self.limits = limits or SchedulerLimits()
        self._store = store
        self._clock = clock or SystemClock()
        self._inspector = inspector or (None if app is None else inspector_of(app))
        self._began, self._started_at = time.monotonic(), self._clock.now()
        self._run_times, self._lines = RunTimes(), QueueLines()
        self._has_learned = False
        self._redaction = Redaction(self.limits.redact)
        self._listeners = Listeners()
        self._archive = Archive(store, self._clock, value_bytes_max=self.limits.engine.value_bytes_max, values=values)
        self._lookout = Lookout(lease, store)
        self._estimates = Estimates(lambda: self._mirror.engine, store, self._clock)
        self._folds = Folds(self._estimates.weights)
        self._mirror = Mirror(
            store,
            self._archive,
            self._listeners,
            clock=self._clock,
            make_engine=self._make_engine,
            on_again=self._pass_on,
        )
        mailbox = store.mailbox
        self._sending = None if mailbox is None else Sending(store, mailbox, self._clock, host=host or socket.gethostname())
        self._answer_by(self._make_answers(app_name, pace or Pace()))
        self._registry = registry
        self._exits = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Deputy {self.role} {self._mirror!r} {self._lookout!r}>"

    def _make_engine(self) -> Engine:
        """Make an engine that has no workflows, and knows how long tasks take."""
        pools = Pools(self.limits.pools, queue_limits=self.limits.queue_limits)
        engine = Engine(self.limits.engine, pools=pools)
        engine.counting.run_times, engine.counting.lines = self._run_times, self._lines
        return engine

    def _pass_on(self, before: RunningWorkflow, after: RunningWorkflow) -> None:
        """Keep what was made of a graph, which takes longer than to read a workflow."""
        self._folds.pass_on(before, after)
        self._estimates.pass_on(before, after)

    def _make_answers(self, app_name: str, pace: Pace) -> Answers:
        """Put the scheduler's parts together that answer."""
        mirror, roster = self._mirror, Roster()
        still_running = StillRunning(
            lambda: mirror.engine, self._archive, inspector=self._inspector, clock=self._clock, roster=roster
        )
        around = Sources(
            self._inspector,
            None,
            problems=self._problems,
            outages=Outages,
            doubt_of=lambda _: Doubt(),
            app=app_name,
            roster=roster,
            still_running=still_running,
            redact=self._redaction.text,
        )
        return answers_of(
            mirror,
            around,
            store=self._store,
            clock=self._clock,
            archive=self._archive,
            listeners=self._listeners,
            redaction=self._redaction,
            folds=self._folds,
            estimates=self._estimates,
            troubles=lambda: [("daemon", problem) for problem in self._problems()],
            notices=self._notices,
            limits=self.limits,
            pace=pace,
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            exits.callback(self._redaction.close)
            if self._inspector is not None:
                exits.push_async_callback(self._inspector.close)
            await self._lookout.look_first()
            if self.can_look:
                await self._learn()
            if self._registry is not None:
                collector = metrics.register_deputy(self._registry, self.statistics)
                exits.callback(metrics.unregister, self._registry, collector)
            exits.callback(self._mirror.end)
            tasks = await exits.enter_async_context(anyio.create_task_group())
            exits.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self._lookout.run, name="dyrygentd lookout")
            if self._store.mailbox is not None:
                tasks.start_soon(self._store.mailbox.run, name="dyrygentd mailbox")
            tasks.start_soon(self._mirror.run, name="dyrygentd mirror")
            tasks.start_soon(self._learn_again, name="dyrygentd run times")
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    async def _learn(self) -> None:
        """Read how long tasks take, as the leader has noted it."""
        learning = Engine()
        # The lookout tells if nothing can be read, and estimates are made without.
        with suppress(OutsideError):
            await Estimates(lambda: learning, self._store, self._clock).prepare()
            self._has_learned = True
            self._run_times, self._lines = learning.counting.run_times, learning.counting.lines

    async def _learn_again(self) -> None:
        while True:
            await anyio.sleep(_LEARN_S if self._has_learned else _LEARN_FIRST_S)
            if self.can_look:
                await self._learn()

    # --- how it stands ----------------------------------------------------------------------------------------------

    @property
    def vantage(self) -> str:
        """Return what is said to whoever is answered by this process: what it is, who leads, how old what it shows may be."""
        return f"answered by a {self.role}, from what is stored: {self.who_leads}"

    @property
    def who_leads(self) -> str:
        """Say who leads, as far as this process knows."""
        return wire.who_leads(self._lookout.leader, self._lookout.lag_s, is_blind=not self.can_look)

    @property
    def can_look(self) -> bool:
        """Whether the database was seen when it was looked at last."""
        return not self._lookout.problem

    def _problems(self) -> Sequence[str]:
        if self._lookout.problem:
            return [self._lookout.problem]
        return [wire.NOBODY_LEADS] if self._lookout.is_leaderless else []

    def _notices(self) -> Sequence[str]:
        left_out = self._mirror.left_out
        unseen = f"{left_out:,} unfinished workflows are not looked at here; the leader's own answer has all of them"
        return [notice for notice in (unseen if left_out else "", self._redaction.problem) if notice]

    def health(self) -> wire.Health:
        """Tell who leads, and what keeps this process from its work, or the leader from its."""
        problems = self._problems()
        return wire.Health(
            status="degraded" if problems else "ok",
            version=__version__,
            problems=[*problems],
            notices=[*self._notices()],
            term=self._lookout.term,
            role=self.role,
            leader=self._lookout.leader,
            lag_s=self._lookout.lag_s,
            lease_left_s=self._lookout.left_s,
            standbys=self._lookout.standbys,
        )

    def statistics(self) -> wire.Statistics:
        """Return what this process does, and how many workflows are unfinished; what the leader counts is told by it alone."""
        health, mirror = self.health(), self._mirror
        nothing = {entry.key: 0 for entry in metrics.CATALOGUE if entry.part == "engine"}
        nothing |= asdict(self._make_engine().statistics(self._clock.now()))
        watcher = asdict(WatcherStatistics())
        watcher.pop("seen_seconds")
        letters = letter_figures(LettersStatistics())
        around = letters | {"workflows": self._lookout.workflow_count, "term": self._lookout.term, "broker_up": True}
        around["started_at"] = self._started_at
        looking = {"looked_at": mirror.node_count, "looks": mirror.readings, "look_seconds": mirror.seconds}
        return wire.Statistics(
            version=__version__,
            uptime_s=time.monotonic() - self._began,
            engine=nothing | around | looking | self._faces.statistics(),
            store=asdict(self._store.statistics()),
            dispatcher=asdict(DispatcherStatistics()),
            watcher=watcher,
            reports=asdict(ReportsStatistics()),
            lost=empty_statistics(),
            problems=health.problems,
            notices=health.notices,
            tallies={step: Tally().view() for step in (*metrics.STEPS, "commit rows")},
            role=health.role,
            leader=health.leader,
            lag_s=health.lag_s,
            term=health.term,
            lease_left_s=health.lease_left_s,
            standbys=health.standbys,
        )

    # --- submitting and controlling ---------------------------------------------------------------------------------

    def knows_task(self, task: str) -> bool:
        """Tell whether the app of this process has the task."""
        return self.app is not None and task in self.app.tasks

    async def submit_definition(self, definition: Definition, *, owner: User | None = None) -> wire.Submitted:
        """Leave a submission for whoever leads; return when it is durable. Raises as `Sending.submit`."""
        return await self._letters.submit(definition, owner)

    async def take_over(self, imported: wire.Imported, *, by: str = "", owner: User | None = None) -> wire.Submitted:
        """Leave an import for whoever leads; return when it is durable. Raises as `Sending.take_over`."""
        return await self._letters.take_over(imported, by=by, owner=owner)

    async def perform(self, workflow_id: str, request: VerbRequest) -> wire.Changed:
        """Leave a verb for whoever leads; return when it is carried out. Raises as `Sending.perform`."""
        return await self._letters.perform(workflow_id, request)

    async def perform_in_bulk(self, selection: Selection, request: VerbRequest) -> wire.BulkChanged:
        """Leave a verb for whoever leads, who carries it out on all workflows that fit. Raises as `Sending.perform_in_bulk`."""
        return await self._letters.perform_in_bulk(selection, request)

    @property
    def _letters(self) -> Sending:
        if self._sending is None:
            raise NotLeader(self._lookout.leader)
        return self._sending
