"""The scheduler as programs see it: the parts put together, begun and ended.

Theory of operation
===================
*The idea.* One task owns the engine. Everybody else (the watcher, the publisher, callers of `submit` and `cancel`) only puts
events into the inbox. A turn takes what is in the inbox, feeds the engine with it, all with one ``now`` and without awaiting, and
has the batch that comes back carried out: `dyrygentd.scheduler.carrying` has the order.

*Publishing* is a task of its own, so a turn does not wait for the broker. It repeats a slice until the dispatcher
accepts it: the intent is on disk, the task id is fixed, and where the broker can, a marker makes a repetition harmless.

*When the disk refuses*, results go on being read, and new submissions are refused. The work that can pile up is bounded by what
is in flight.

*What could go wrong.* A crash at any point: what is on disk decides (see `dyrygentd.core.checkpoint`). A caller that is
cancelled while it waits: its event is in the inbox already, and happens. Cancelling this task: a transaction that has begun is
awaited, since SQLite's thread would finish it anyway.

*Tried and rejected.* Publishing inside the turn: 500 messages take 100 ms, during which no result would be seen.
"""

import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from dyrygentd import __version__, canvas, metrics, wire
from dyrygentd.core.absence import Absence
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import WorkflowRecovered
from dyrygentd.core.for_people import people_wanted
from dyrygentd.core.graph import Definition
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.pools import Pools
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.states import NodeState
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import OutsideError
from dyrygentd.ports import Clock, Dispatcher, Inspector, OutcomeKeeper, ReportReader, ResultWatcher, Store
from dyrygentd.ports.facts import CLOSED_NOTE, JOURNAL_MAX, REPORTS_NOTE, ReportsStatistics, Selection
from dyrygentd.scheduler import adapters
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.carrying import Carrying
from dyrygentd.scheduler.census import Census
from dyrygentd.scheduler.courier import Courier
from dyrygentd.scheduler.door import Door
from dyrygentd.scheduler.doubts import Doubt
from dyrygentd.scheduler.expiry import Expiry
from dyrygentd.scheduler.explanations import Explanations, Surroundings
from dyrygentd.scheduler.foreign import refuse_foreign
from dyrygentd.scheduler.handle import Handle
from dyrygentd.scheduler.hindsight import Hindsight
from dyrygentd.scheduler.inbox import Inbox
from dyrygentd.scheduler.large_verbs import PART, ask_in_parts
from dyrygentd.scheduler.limits import SchedulerLimits, SystemClock
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.lost import LostTasks, empty_statistics
from dyrygentd.scheduler.outages import Outages
from dyrygentd.scheduler.overview import Overviews
from dyrygentd.scheduler.queries import Queries
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.sentinel import Sentinel
from dyrygentd.scheduler.still_running import StillRunning
from dyrygentd.scheduler.submissions import Submissions
from dyrygentd.scheduler.turns import Turns
from dyrygentd.scheduler.unrun import UnrunResults
from dyrygentd.scheduler.verbs import Verbs
from dyrygentd.tasks.current import current_parent_task
from dyrygentd.witnesses import Roster

logger = logging.getLogger("dyrygentd")


class Scheduler:
    """Runs workflows in an asyncio program. An async context manager: entering recovers what was unfinished.

    It installs no signal handlers and keeps no state outside itself, so a program may have several, each with its own database.

    Args:
        app: The Celery app whose broker, backend and routes are used; not needed if ``dispatcher`` and ``watcher`` are given.
        database: Path of the SQLite file; it is created if it does not exist.
        limits: Bounds of everything that can grow.
        registry: A prometheus_client registry that gets this scheduler's metrics while it runs.
        store, dispatcher, watcher, inspector, reports, keeper, clock: Adapters instead of the usual ones, see `dyrygentd.ports`
            and `dyrygentd.testing`.
        chance: Makes ids and jitter; one with a seed makes a run repeatable.
        app_name: What Celery's ``-A`` takes for this app, for commands that people are given.
        on_recovered: Told on entering, after each workflow, how many of how many are there again.
        broker_trouble: Given what is seen of the broker (empty: nothing is wrong), returns what whoever runs it knows.

    Raises:
        ConfigurationError: Neither an app nor adapters were given.
        BackendUnsupported: The app's results cannot be awaited from another process.
        StoreLocked, StoreIncompatible, StoreUnavailable: On entering, if the database cannot be used.
    """

    def __init__(
        self,
        app: Any = None,
        *,
        database: str | Path | None = None,
        limits: SchedulerLimits | None = None,
        registry: metrics.Registry | None = None,
        store: Store | None = None,
        dispatcher: Dispatcher | None = None,
        watcher: ResultWatcher | None = None,
        inspector: Inspector | None = None,
        reports: ReportReader | None = None,
        keeper: OutcomeKeeper | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
        app_name: str = "",
        on_recovered: Callable[[int, int], None] = lambda count, of: None,
        broker_trouble: Callable[[str], str] = str,
    ) -> None:
        self.limits = limits or SchedulerLimits()
        self.app = app
        self._store = store or adapters.store_of(database)
        self._reports = reports or (None if app is None else adapters.reports_of(app))
        self._dispatcher = dispatcher or adapters.dispatcher_of(app, self._reports)
        self._watcher = watcher or adapters.watcher_of(app, value_bytes_max=self.limits.engine.value_bytes_max)
        self._inspector = inspector or (None if app is None else adapters.inspector_of(app))
        if self.limits.store_unrun_results and keeper is None and app is not None:
            keeper = adapters.keeper_of(app)
        self._clock = clock or SystemClock()
        self._registry = registry
        self._app_name = app_name
        self._on_recovered = on_recovered
        self._broker_trouble = broker_trouble
        pools = Pools(self.limits.pools, queue_limits=self.limits.queue_limits, queue_of=self._dispatcher.queue_of)
        chance = chance or random.SystemRandom()
        engine = Engine(
            self.limits.engine, pools=pools, chance=chance.random, queue_of=self._dispatcher.queue_of, routing=self._dispatcher
        )
        self._listeners = Listeners()
        self._archive = Archive(self._store, self._clock, value_bytes_max=self.limits.engine.value_bytes_max)
        self._redaction = Redaction(self.limits.redact)
        self._make_turns(engine, keeper)
        self._make_callers(engine, pools, chance)
        self._expiry = Expiry(self._store, self._clock, lambda now: self.limits.retention(now))
        self._noted = ""
        self._started_at = self._began = self._recovered_s = 0.0
        self._exits = AsyncExitStack()

    def _make_turns(self, engine: Engine, keeper: OutcomeKeeper | None) -> None:
        """Make what decides, and what carries the decisions out."""
        self._inbox = Inbox(
            self._redaction,
            events_max=self.limits.inbox_max,
            turn_events_max=self.limits.turn_events_max,
            backlog=self._dispatcher.backlog,
        )
        self._turns = Turns(engine, self._store, self._clock, self._inbox)
        self._hindsight = Hindsight(
            self._store,
            self._clock,
            self._watcher,
            workflows=engine.workflows,
            post=self._inbox.post,
            send=lambda messages: self._courier.hand_in(messages),
            revoke=lambda revokes: self._courier.revoke(revokes),
        )
        self._sentinel = Sentinel(
            self._store,
            self._dispatcher,
            self._clock,
            on_emptied=self._emptied,
            wait_saved=self._inbox.wait_saved,
            on_setback=self._hindsight.begin,
            in_flight_count=self._sent_count,
        )
        self._courier = Courier(
            self._dispatcher,
            is_wanted=engine.flights.is_in_flight,
            is_live=engine.workflows.__contains__,
            post=self._inbox.post_outcomes,
            on_emptied=self._sentinel.replace,
            on_withdrawn=self._withdrawn,
            wait_examined=self._sentinel.wait_examined,
        )
        self._unrun = None
        if keeper is not None and self.limits.store_unrun_results:
            self._unrun = UnrunResults(keeper, engine, self._store, self._archive, self._clock, publish=self._courier.hand_in)

    def _make_callers(self, engine: Engine, pools: Pools, chance: random.Random) -> None:
        """Make what speaks for those who ask: submissions, verbs, questions, and the search for lost tasks."""
        door = Door(engine, self._watcher)
        roster = self._roster = Roster()
        still_running = StillRunning(engine, self._archive, self._inspector, self._clock, roster)
        self._submissions = Submissions(self._turns, self._store, self._archive, pools, self.limits, door, chance=chance)
        self._verbs = Verbs(
            self._turns,
            self._store,
            self._archive,
            self._submissions,
            self._listeners,
            self.limits,
            door,
            refuse=still_running.refuse,
        )
        self._carrying = Carrying(
            self._turns.saving,
            self._submissions,
            self._watcher,
            self._courier,
            self._hindsight,
            self._unrun,
            self._verbs,
            self._archive,
            self._listeners,
            self._reports,
        )
        around = Surroundings(
            self._inspector,
            self._reports,
            problems=self._problems,
            outages=lambda: Outages.of(self._troubles()),
            doubt_of=self._doubt_of,
            app=self._app_name,
            roster=roster,
            still_running=still_running,
            redact=self._redaction.text,
        )
        self._queries = Queries(
            self._turns,
            self._store,
            self._archive,
            self._listeners,
            self._clock,
            self._redaction,
            explanations=Explanations(self._turns, self._store, self._clock, around),
            problems=self._problems,
            follow_interval_s=self.limits.follow_interval_s,
            still_running=still_running,
        )
        self._overviews = self._make_overviews(roster)
        self._make_seekers(engine, roster)

    def _make_seekers(self, engine: Engine, roster: Roster) -> None:
        """Make what looks by itself for tasks and workers, if there is something to look with."""
        self._lost = self._census = None
        if self._inspector is not None and self.limits.lost_after_s:
            self._census = Census(
                self._inspector,
                roster,
                self._store,
                self._clock,
                in_flight_count=self._sent_count,
                problems=self._problems,
            )
            self._lost = LostTasks(
                engine,
                self._inspector,
                self._clock,
                self.limits,
                post=self._inbox.post,
                problems=self._problems,
                is_backend_away=lambda: not self._watcher.statistics().connected,
                has_ended=(lambda _: False) if self._reports is None else self._reports.has_ended,
                is_unreported=self._is_unreported,
                roster=roster,
                app=self._app_name,
            )

    def _sent_count(self) -> int:
        """Count the tasks that the broker has or may have: not those that are still to be sent."""
        return sum(
            workflow.state_of(node) is NodeState.DISPATCHED or self._courier.is_doubted(task_id)
            for task_id, workflow, node in self._turns.engine.flights.in_flight()
        )

    def _doubt_of(self, task_id: str) -> Doubt:
        """Tell what happened to broker and result backend while a task was in flight."""
        return Doubt() if self._lost is None else self._lost.doubt_of(task_id)

    def _make_overviews(self, roster: Roster) -> Overviews:
        return Overviews(
            self._turns,
            self._store,
            self._clock,
            self._inspector,
            self._reports,
            troubles=self._troubles,
            notices=self._notices,
            roster=roster,
            redact=self._redaction.text,
            doubt_of=self._doubt_of,
            app=self._app_name,
        )

    def __repr__(self) -> str:
        waiting = f"inbox={len(self._inbox)} to_publish={self._courier.queue_size}"
        return f"<Scheduler {self._turns.engine!r} {waiting}>"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            exits.push_async_callback(_shielded, self._dispatcher.close)
            if self._inspector is not None:
                exits.push_async_callback(_shielded, self._inspector.close)
            await self._store.open()
            exits.push_async_callback(_shielded, self._store.close)
            exits.callback(self._redaction.close)
            self._started_at, self._began = self._clock.now(), time.monotonic()
            self._roster.absence = Absence.of_note(await self._store.recall(CLOSED_NOTE), until=self._started_at)
            if self._census is not None:
                await self._census.prepare()
            await self._sentinel.prepare()
            await self._hindsight.prepare()
            exits.push_async_callback(_shielded, self._sentinel.end)
            if self._reports is not None:
                self._reports.begin(self._store.identity, await self._store.recall(REPORTS_NOTE))
            await self._recover()
            if self._registry is not None:
                collector = metrics.register(self._registry, self.statistics)
                exits.callback(metrics.unregister, self._registry, collector)
            exits.callback(self._end)
            tasks = await exits.enter_async_context(anyio.create_task_group())
            exits.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self._watcher.run, self._inbox.post_results, name="dyrygentd watch")
            if self._reports is not None:
                is_in_flight = self._turns.engine.flights.is_in_flight
                tasks.start_soon(
                    self._reports.run, self._inbox.post_results, self._inbox.post, is_in_flight, name="dyrygentd reports"
                )
            tasks.start_soon(self._courier.publish, name="dyrygentd publish")
            tasks.start_soon(self._sentinel.run, name="dyrygentd sentinel")
            tasks.start_soon(self._hindsight.run, name="dyrygentd hindsight")
            tasks.start_soon(self._courier.run_errands, name="dyrygentd errands")
            tasks.start_soon(self._turns.run, self._carrying.carry_out, name="dyrygentd turns")
            tasks.start_soon(self._turns.saving.log_slowness, name="dyrygentd slow disk")
            tasks.start_soon(self._revoke_again, name="dyrygentd revoke again")
            tasks.start_soon(self._expiry.run, name="dyrygentd expire")
            if self._unrun is not None:
                tasks.start_soon(self._unrun.run, name="dyrygentd unrun results")
            if self._lost is not None:
                tasks.start_soon(self._lost.run, name="dyrygentd lost tasks")
            if self._census is not None:
                tasks.start_soon(self._census.run, name="dyrygentd census")
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if error is not None and not isinstance(error, anyio.get_cancelled_exc_class()):
            # Not by way of the task group, which would wrap it: callers catch what they have raised.
            await self._exits.aclose()
            return None
        return await self._exits.__aexit__(kind, error, traceback)

    # --- submitting and controlling ---------------------------------------------------------------------------------

    async def submit(self, what: Any, *, key: str | None = None, name: str | None = None) -> Handle:
        """Submit a canvas, a `Workflow` or a `Definition`; return when it is on disk.

        Args:
            key: If a workflow was submitted with this key before, that one is returned and nothing is created. With another
                definition the key is refused.

        Raises:
            NotACanvas, DefinitionError: It cannot be run.
            NotAccepting: Not now.
        """
        parent_task = current_parent_task()
        definition = await anyio.to_thread.run_sync(
            lambda: canvas.definition_of(what, name=name, key=key, calls_overrides=True, new_id=MadeIds())
        )
        if parent_task is not None and definition.parent_task is None:
            definition = replace(definition, parent_task=parent_task)
        submitted = await self.submit_definition(definition)
        return Handle(self, submitted.id, created=submitted.created)

    def knows_task(self, task: str) -> bool:
        """Tell whether the app of this process has the task, and says itself where it goes."""
        return self._dispatcher.knows(task)

    async def submit_definition(self, definition: Definition, *, owner: int | None = None) -> wire.Submitted:
        """Submit a definition; return when it is on disk.

        Args:
            owner: Number of the user for whom it is submitted.

        Raises:
            BadNode: Its result could not be read here.
            NotAccepting: Not now.
            NotStored: The disk did not answer in time. Without a key the submission is withdrawn, so that trying again does not
                run it twice.
            NotOnDiskYet: The same with a key: it is taken as soon as it can be written, and trying again finds it.
        """
        await refuse_foreign(definition, self._dispatcher)
        workflow_id, is_new = await self._submissions.submit(definition, owner)
        if is_new:
            return _submitted(workflow_id, definition)
        view = await self.view(workflow_id)
        return wire.Submitted(id=workflow_id, name=view.name, tasks=view.tasks, created=False)

    async def take_over(self, imported: wire.Imported, *, by: str = "", owner: int | None = None) -> wire.Submitted:
        """Take in a workflow that another daemon had, with its states and values; return when it is on disk.

        One that has not finished comes paused, and `resume` lets it go on.

        Args:
            imported: What `wire.decode_export` has read.
            by: Who brings it, for the journal.
            owner: Number of the user whose workflow it is from now on.

        Raises:
            NotImportable: It is here already, or goes on where it came from.
            BadRequest: It contradicts itself.
            NotAccepting: As `submit_definition`.
            NotOnDiskYet: It is taken as soon as it can be written.
        """
        imported = imported._replace(record=replace(imported.record, owner=owner))
        record = imported.record
        entry = JournalEntry(record.workflow_id, self._clock.now(), "import", by, detail=f"it came {record.state}")
        workflow_id = await self._submissions.take_over(imported, [*imported.journal[1 - JOURNAL_MAX :], entry])
        return _submitted(workflow_id, imported.definition)

    async def perform(self, workflow_id: str, request: VerbRequest) -> wire.Changed:
        """Carry out a verb on a workflow or on nodes of it; return when that is on disk.

        Verbs are idempotent: asking for what is so already changes nothing. `dyrygentd.core.verbs` has the tables of what each
        does in which state. Every change is recorded with who asked for it and why.

        Raises:
            WorkflowNotFound, NodeNotFound, CauseNotFound
            VerbRefused: Not in this state; its next step says what is possible.
            ValueGone: A node cannot run again without a value that was let go.
            NotOnDiskYet: The disk did not answer in time. It will be done as soon as it can be written.
            StoreUnavailable: The disk did not answer in time. Nothing was done.
        """
        answer = await ask_in_parts(self._verbs.ask, self._large_one, workflow_id, self._cleaned(request))
        return wire.Changed(
            id=workflow_id,
            verb=request.verb.value,
            is_changed=answer.is_changed,
            nodes=list(answer.nodes),
            workflow=await self.view(workflow_id),
        )

    async def cancel(self, workflow_id: str, *, terminate: bool = False, by: str = "", why: str = "") -> wire.Changed:
        """End a workflow: what was not dispatched never is, what is in flight is revoked. Return when that is on disk.

        Args:
            terminate: End tasks that run, too. Without it they go on, are shown as late, and change nothing.
        """
        return await self.perform(workflow_id, VerbRequest(Verb.CANCEL, by=by, why=why, terminate=terminate))

    async def perform_in_bulk(self, selection: Selection, request: VerbRequest) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit, newest first, each on its own; at most 1000 of them."""
        return await self._verbs.ask_all(selection, self._cleaned(request))

    async def _large_one(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow that has so many nodes that a verb on them may have to go in parts."""
        workflow = self._turns.live(workflow_id)
        if workflow is None:
            record = await self._store.record(workflow_id)
            if record is not None and record.task_count > PART:
                workflow = await self._archive.unpacked(workflow_id)
        return workflow

    def _cleaned(self, request: VerbRequest) -> VerbRequest:
        return replace(request, why=self._redaction.text(request.why))

    def set_limits(self, limits: SchedulerLimits) -> None:
        """Change what can be while it runs: `Limits.in_flight_max`, the bounds of the history in time and bytes, `redact`.

        Tasks that are in flight stay there, and what was kept or shown before stays as it is.
        """
        engine = self._turns.engine
        if limits.engine.in_flight_max != engine.limits.in_flight_max:
            engine.limits = replace(engine.limits, in_flight_max=limits.engine.in_flight_max)
            self._inbox.wake()
        if limits.redact != self.limits.redact:
            self._redaction.set_patterns(limits.redact)
        self.limits = replace(
            self.limits,
            engine=engine.limits,
            redact=limits.redact,
            history_s=limits.history_s,
            history_failed_s=limits.history_failed_s,
            history_bytes_max=limits.history_bytes_max,
        )
        self._expiry.retention_changed()

    def note(self, words: str) -> None:
        """Have `health` and the status tell what whoever runs the scheduler noticed; nothing takes it back."""
        self._noted = words

    async def drain(self, *, timeout_s: float = 10.0) -> bool:
        """Dispatch nothing more and wait for what is in flight; tell whether all of it landed in time.

        What is still in flight then is no loss: its results are found after the next start.
        """
        return await self._turns.drain(timeout_s)

    # --- asking -----------------------------------------------------------------------------------------------------

    async def resolve(self, reference: str) -> str:
        """Return the id for an id, a unique prefix, a name or ``@latest``.

        Raises:
            WorkflowNotFound, AmbiguousReference
        """
        return await self._queries.resolve(reference)

    async def owner(self, workflow_id: str) -> int | None:
        """Return the number of the user who submitted a workflow; None if nobody can tell. Raises `WorkflowNotFound`."""
        return await self._queries.owner(workflow_id)

    def is_at_hand(self, workflow_id: str) -> bool:
        """Tell whether a workflow is in memory and short, so that asking about its nodes costs others nothing."""
        return self._queries.is_at_hand(workflow_id)

    async def definition(self, workflow_id: str) -> bytes:
        """Return the definition of a workflow as JSON, with its arguments. Raises `WorkflowNotFound`."""
        return await self._queries.definition(workflow_id)

    async def export(self, workflow_id: str) -> bytes:
        """Return all that is stored of a workflow as JSON, for another daemon's `take_over`. Raises `WorkflowNotFound`."""
        return await self._queries.export(workflow_id)

    async def view(self, workflow_id: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view of a workflow. Raises `WorkflowNotFound`."""
        return await self._queries.view(workflow_id, with_result=with_result)

    async def list(self, selection: Selection) -> wire.WorkflowPage:
        """Return a page of workflows, newest first."""
        return await self._queries.list(selection)

    async def nodes(
        self, workflow_id: str, *, states: frozenset[str] = frozenset(), after: int = 0, limit: int = 100
    ) -> wire.NodePage:
        """Return a page of nodes in the order of the definition, joins included; ``after`` is a cursor."""
        return await self._queries.nodes(workflow_id, states=states, after=after, limit=limit)

    async def node(self, workflow_id: str, name: str, *, with_arguments: bool = True) -> wire.NodeView:
        """Return one node; its arguments are shortened, and without secrets. Raises `WorkflowNotFound` or `NodeNotFound`."""
        return await self._queries.node(workflow_id, name, with_arguments=with_arguments)

    async def causes(self, workflow_id: str) -> wire.Causes:
        """Group the failures of a workflow by what they have in common. Raises `WorkflowNotFound`."""
        return await self._queries.causes(workflow_id)

    async def journal(self, workflow_id: str) -> wire.Journal:
        """Return who did what to a workflow, when and why. Raises `WorkflowNotFound`."""
        return await self._queries.journal(workflow_id)

    async def audit(self, after: int | None = None, *, limit: int = 100) -> wire.Journal:
        """Return who did what to all workflows, oldest first: what came after a cursor, or the newest."""
        return await self._queries.audit(after, limit=limit)

    async def explain(self, workflow_id: str, node: str | None = None) -> wire.Explanation:
        """Say why a workflow, or one node, is not running, and what can be done: engine, broker, workers and backend asked.

        Raises:
            WorkflowNotFound, NodeNotFound
        """
        return await self._queries.explain(workflow_id, node)

    async def overview(self, *, most: int = 5) -> wire.Overview:
        """Say what is wrong, what waits for a person, what is stuck and what failed lately; at most so many of each kind."""
        return await self._overviews.overview(most=most)

    async def wait(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.WorkflowView:
        """Return the view of a workflow once its end is on disk.

        Raises:
            WorkflowNotFound, WaitTimeout
            DaemonUnreachable: The scheduler was left meanwhile.
        """
        return await self._queries.wait(workflow_id, timeout_s=timeout_s)

    async def outcome(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.Outcome:
        """Wait for the end and return how it ended. Raises as `wait` does."""
        return await self._queries.outcome(workflow_id, timeout_s=timeout_s)

    def follow(self, workflow_id: str) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after changes, at most one per ``follow_interval_s``, until it is finished."""
        return self._queries.follow(workflow_id)

    def statistics(self) -> wire.Statistics:
        """Return a snapshot of all parts."""
        engine = asdict(self._turns.engine.statistics(self._clock.now()))
        engine |= {
            "inbox": len(self._inbox),
            "publish_queue": self._courier.queue_size + self._hindsight.queue_size,
            "turns": self._turns.count,
            "saving_s": self._turns.saving.waiting_s,
            "errands": self._courier.errand_count,
            "asking": len(self._verbs),
            "started_at": self._started_at,
            "recovery_seconds": self._recovered_s,
            "broker_up": not (self._courier.problem or self._sentinel.problem),
            "broker_emptied": self._sentinel.emptied_count,
            "broker_changed": self._sentinel.changed_count,
            "unrun_waiting": 0 if self._unrun is None else self._unrun.waiting_count,
            "unrun_stored": 0 if self._unrun is None else self._unrun.stored,
            "broker_went_back": self._sentinel.went_back_count,
            "lost_pushes": self._sentinel.lost_pushes,
            "setbacks": self._hindsight.setback_count,
            "found_stored": self._hindsight.found_count,
        }
        watcher = asdict(self._watcher.statistics())
        return wire.Statistics(
            version=__version__,
            uptime_s=time.monotonic() - self._began,
            engine=engine,
            store=asdict(self._store.statistics()),
            dispatcher=asdict(self._dispatcher.statistics()),
            watcher={name: value for name, value in watcher.items() if name != "seen_seconds"},
            reports=asdict(ReportsStatistics() if self._reports is None else self._reports.statistics()),
            lost=empty_statistics() if self._lost is None else self._lost.statistics(),
            problems=[*self._problems()],
            notices=[*self._notices()],
            tallies=self._tallies() | {"result": watcher["seen_seconds"]},
            tasks=self._turns.engine.counting.by_task.view(),
            queues=self._turns.engine.counting.by_task.view(1),
            workflows=self._turns.engine.counting.by_workflow.view(),
        )

    def _tallies(self) -> dict[str, Any]:
        turns, engine = self._turns, self._turns.engine
        tallies = {
            "turn": turns.turn_seconds,
            "commit": turns.saving.seconds,
            "commit rows": turns.saving.rows,
            "react": self._carrying.react_seconds,
            "publish": self._courier.publish_seconds,
            "start": engine.counting.start_seconds,
            "task": engine.counting.task_seconds,
        }
        return {name: tally.view() for name, tally in tallies.items()}

    def health(self) -> wire.Health:
        """Tell whether everything works, and what does not."""
        problems = self._problems()
        status = "draining" if self._turns.engine.draining else "degraded" if problems else "ok"
        return wire.Health(status=status, version=__version__, problems=[*problems], notices=[*self._notices()])

    @property
    def workflow_count(self) -> int:
        """Number of unfinished workflows, without those whose submission was withdrawn."""
        return len(self._turns.engine.workflows) - len(self._submissions.withdrawn())

    def people_wanted(self) -> dict[str, int]:
        """Count what waits for a person: nodes that are ``lost``, a ``gate``, held by an ``operator``; ``paused`` workflows."""
        return people_wanted(self._turns.engine.workflows.values())

    @property
    def in_flight_count(self) -> int:
        """Number of tasks in the broker or at workers; nothing of a withdrawn submission was sent."""
        return self._turns.engine.flights.in_flight_count - sum(
            each.nodes.in_flight_count for each in self._submissions.withdrawn()
        )

    @property
    def stalled_s(self) -> float:
        """For how long there has been work that no turn took up, though it is not the disk that a turn waits for.

        Anything but 0 for longer than a moment is a bug of ours: a watchdog may end the process for it, and nothing is lost.
        """
        return self._turns.stalled_s

    def _is_unreported(self) -> bool:
        return self._reports is not None and not self._reports.statistics().is_heard

    def _notices(self) -> Sequence[str]:
        # What is hidden keeps nobody from work, so that it is no problem: whoever can have tasks fail could take readiness away.
        notices = (self._sentinel.notice, self._hindsight.notice, self._noted, self._redaction.problem)
        return [notice for notice in notices if notice]

    def _problems(self) -> Sequence[str]:
        return [problem for _, problem in self._troubles()]

    def _troubles(self) -> Sequence[tuple[str, str]]:
        """Return what keeps the scheduler from its work, each with where it is: disk, broker or backend."""
        found = (
            ("disk", self._turns.saving.problem),
            ("disk", self._turns.saving.slowness),
            ("disk", self._store.statistics().problem),
            ("backend", self._hindsight.problem),
            ("broker", self._broker_trouble(self._courier.problem or self._sentinel.problem)),
            ("backend", self._watcher.statistics().problem),
        )
        return [(where, problem) for where, problem in found if problem]

    # --- beginning, every turn, and the end -------------------------------------------------------------------------

    async def _recover(self) -> None:
        begun = time.monotonic()
        count, unfinished_count = 0, await self._store.unfinished_count()
        engine = self._turns.engine
        async for workflow in self._archive.unfinished():
            engine.handle(WorkflowRecovered(workflow), self._clock.now())
            count += 1
            self._on_recovered(count, unfinished_count)
            # Others in the program around have their turn.
            await anyio.lowlevel.checkpoint()
        # Whether their messages were sent is not known, and matters if the broker has lost its memory since.
        since = self._sentinel.nothing_sent_since
        self._courier.doubt(
            task_id
            for task_id, workflow, node in engine.flights.in_flight()
            if workflow.state_of(node) is NodeState.DISPATCHED or workflow.attempts.dispatched_at[node] < since
        )
        self._recovered_s = time.monotonic() - begun
        if count:
            logger.info("recovered %d unfinished workflows in %.1f s: %r", count, self._recovered_s, engine)

    async def _revoke_again(self) -> None:
        """Revoke what was cancelled shortly before the last process ended: it may not have come to that."""
        try:
            revokes = await self._archive.given_up(self._started_at - self.limits.engine.late_watch_s)
        except OutsideError as error:
            logger.warning("what was cancelled before the start is not revoked again: %s", error)
        else:
            # What was cancelled under an id that another task has now is that task's affair.
            self._courier.revoke(revoke for revoke in revokes if self._turns.engine.flights.holder_of(revoke.task_id) is None)

    def _withdrawn(self, task_ids: Iterable[str]) -> None:
        if self._unrun is not None:
            self._unrun.withdrawn(task_ids)

    def _emptied(self, reason: str) -> None:
        """Have everything looked for that was in flight when the broker lost its memory."""
        self._courier.emptied()
        self._hindsight.broker_went_back()
        if self._lost is not None:
            self._lost.doubt_all(reason)
        else:
            logger.error("%s: what was in flight may be lost, and nobody looks for it", reason)

    def _end(self) -> None:
        """Wake everybody who waits for something that will not happen any more in this process."""
        self._turns.end()
        self._submissions.end()
        self._verbs.end()
        self._listeners.notify_all()


def _submitted(workflow_id: str, definition: Definition) -> wire.Submitted:
    graph = definition.graph
    return wire.Submitted(
        id=workflow_id,
        name=definition.name,
        tasks=graph.task_count,
        created=True,
        task_id=graph.task_ids[graph.output] or None if graph.output is not None else None,
    )


async def _shielded(close: Callable[[], Awaitable[None]]) -> None:
    """Close to the end, also when the program around is being cancelled."""
    with anyio.CancelScope(shield=True):
        await close()
